"""Progress in its three forms: what stands in a log, on a terminal and in a notebook."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from compress.progress import DETAIL, Detail
from compress.report import progress_bars
from compress.report.progress_bars import Bars, Lines, Notebook, Watcher, watch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which tests set by hand."""
    now = [0.0]
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: now[0])
    return now


def walk(watcher: Watcher, clock: list[float], steps: int, seconds: float) -> None:
    with watcher.stage("compress", steps) as stage:
        for index in range(steps):
            clock[0] += seconds
            stage.advance(note=f"model.layers.{index}")


def test_a_quick_stage_is_two_lines_in_a_log(clock: list[float]) -> None:
    stream = io.StringIO()
    walk(Lines(stream), clock, steps=100, seconds=0.02)
    assert stream.getvalue().splitlines() == ["compress ...", "compress 100/100 in 0:02"]


def test_a_slow_stage_says_now_and_then_how_long_it_will_take(clock: list[float]) -> None:
    stream = io.StringIO()
    walk(Lines(stream, every=10), clock, steps=8, seconds=6)
    assert stream.getvalue().splitlines() == [
        "compress ...",
        "compress 2/8 model.layers.1 (0:12, 0:36 left)",
        "compress 4/8 model.layers.3 (0:24, 0:24 left)",
        "compress 6/8 model.layers.5 (0:36, 0:12 left)",
        "compress 8/8 in 0:48",
    ]


def test_a_log_has_no_control_characters_and_keeps_notes(clock: list[float]) -> None:
    stream = io.StringIO()
    watcher = Lines(stream)
    watcher.note("2 linears fell back")
    walk(watcher, clock, steps=3, seconds=30)
    assert stream.getvalue().startswith("2 linears fell back\n")
    assert stream.getvalue().isprintable() or stream.getvalue().replace("\n", "").isprintable()


def test_the_detail_asked_for_decides_what_is_shown(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for detail in Detail:
        before = DETAIL.set(detail)
        try:
            watcher = watch()
        finally:
            DETAIL.reset(before)
        watcher.note("Warning: an expert saw no token")
        watcher.note("Opening atlas ...")
        walk(watcher, clock, steps=3, seconds=1)
        shown[detail] = capsys.readouterr().err.splitlines()
        assert watcher.position() == " at compress 3/3 (model.layers.2)"
    assert shown[Detail.QUIET] == ["Warning: an expert saw no token"]
    assert shown[Detail.NORMAL][1:] == ["Opening atlas ...", "compress ...", "compress 3/3 in 0:03"]
    assert [line.split(" (")[0] for line in shown[Detail.VERBOSE][2:]] == [
        "compress ...",
        "compress 1/3 model.layers.0",
        "compress 2/3 model.layers.1",
        "compress 3/3 in 0:03",
    ]


def test_bars_fit_80_columns_and_show_the_note_of_a_long_layer_name() -> None:
    stream = io.StringIO()
    bars = Bars(Console(file=stream, force_terminal=True, width=80, color_system=None))
    with bars.stage("compress", 16) as stage:
        stage.advance(3, "model.layers.3.mlp.experts.q_gate_up_proj.127")
        bars.note("model.layers.2 fell back")
        with bars.stage("experts", 2) as inner:
            inner.advance(2)
    shown = stream.getvalue()
    assert "model.layers.2 fell back" in shown
    frames = [line for part in shown.split("\x1b[2K") for line in part.splitlines() if "compress" in line]
    assert any("3/16" in frame and "model.layers.3" in frame for frame in frames)
    assert all(len(frame.strip("\r")) <= 80 for frame in frames)
    assert "\x1b[?25h" in shown, "the cursor is shown again"


def test_bars_are_put_away_when_the_work_fails() -> None:
    stream = io.StringIO()
    bars = Bars(Console(file=stream, force_terminal=True, width=80))
    with pytest.raises(ValueError, match="broken"), bars.stage("compress", 2):
        raise ValueError("broken")
    assert "\x1b[?25h" in stream.getvalue()
    with bars.stage("again", 1) as stage:
        stage.advance()


def test_a_notebook_gets_one_display_per_stage_that_is_updated(clock: list[float]) -> None:
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append(data)

    def display(data: dict[str, str], **_: Any) -> Handle:
        shown.append(data)
        return Handle()

    walk(Notebook(display), clock, steps=2, seconds=1)
    assert "0/2" in shown[0]["text/html"]
    assert "2/2" in shown[-1]["text/html"]
    assert "left" not in shown[-1]["text/html"]


def test_the_position_tells_where_an_interrupted_run_stood(clock: list[float]) -> None:
    watcher = Lines(io.StringIO())
    assert watcher.position() == ""
    with pytest.raises(KeyboardInterrupt), watcher.stage("compress", 16) as stage:
        stage.advance(3, "model.layers.3")
        raise KeyboardInterrupt
    assert watcher.position() == " at compress 3/16 (model.layers.3)"


def test_no_terminal_means_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(progress_bars.watch(), Lines)
