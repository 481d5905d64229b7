"""The speed of a checkpoint in every form of the report, and what stands there where nothing was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.errors import FormatError
from compress.format.manifest import fingerprint
from compress.report.page import content, markdown, page, sources, speed
from compress.report.page.sources import Run, Sources
from compress.result import Result
from tests.support import runs
from tests.support.parsed_page import Parsed


def of(*found: Run) -> dict[str, Any]:
    return content.build(Sources(found))


def test_the_headline_compares_the_fastest_of_both(manifest: dict[str, Any]) -> None:
    made = of(Run("run", manifest, None, speed=runs.speed()))
    assert json.loads(json.dumps(made)) == made
    speed = made["runs"][0]["speed"]
    assert (speed["dtype"], speed["dense_dtype"], speed["times_faster"]) == ("bfloat16", "bfloat16", 3.0)
    parsed = Parsed(page.render(made))
    for text in (
        "Tokens per second 30 3× dense (10 in bfloat16)", "Time to load 0.25 s dense 0.25 s",
        "Memory in use 400 MB dense 400 MB", "compressed float32 25 1,234", "Speed",
        "Processor <X>, 2 threads; batch 1, 16 tokens after a prompt of 64, medians of 3 rounds",
    ):  # fmt: skip
        assert text in parsed.text, text
    chart = next(a["aria-label"] for tag, a in parsed.tags if tag == "svg" and "tokens" in str(a.get("aria-label")))
    assert chart == (
        "Decoded tokens per second: dense in bfloat16 10; dense in float32 5; compressed in bfloat16 30; "
        "compressed in float32 25"
    )


def test_without_a_dense_model_nothing_is_compared(manifest: dict[str, Any]) -> None:
    made = of(Run("run", manifest, None, speed=replace(runs.speed(), dense={})))
    assert made["runs"][0]["speed"]["times_faster"] is None
    said = Parsed(page.render(made)).text
    assert "Tokens per second 30 in bfloat16" in said and "dense (" not in said


def test_what_was_not_measured_is_said_with_the_command(manifest: dict[str, Any]) -> None:
    made = of(Run("run", manifest, None))
    assert "Speed was not measured: compress bench FOLDER does that" in Parsed(page.render(made)).text
    assert speed.NOT_MEASURED in markdown.render(made)
    measured = of(Run("run", manifest, None, speed=runs.speed()))
    assert "not measured" not in page.render(measured) + markdown.render(measured)


def test_several_runs_are_compared_by_speed_where_any_has_one(manifest: dict[str, Any]) -> None:
    plain, fast = Run("a", manifest, None), Run("b", manifest, None, speed=runs.speed())
    both = of(plain, fast)
    assert "tokens/s" in markdown.render(both).splitlines()[2]
    assert "| 30 (3× dense) |" in markdown.render(both)
    assert "30 3× dense" in Parsed(page.render(both)).text
    neither = markdown.render(of(plain, replace(plain, name="b")))
    assert "tokens/s" not in neither


def test_it_is_read_from_the_folder_of_the_run(tmp_path: Path, manifest: dict[str, Any]) -> None:
    folder = runs.write(tmp_path / "run", manifest, None)
    assert sources.read([folder]).runs[0].speed is None
    runs.speed().write(folder)
    assert sources.read([folder]).runs[0].speed == runs.speed()
    assert sources.read([folder]).runs[0].warnings == ()
    replace(runs.speed(), fingerprint="f" * 64).write(folder)
    assert sources.read([folder]).runs[0].warnings == (
        "speed.json was made with another checkpoint than the one beside it",
    )
    (folder / "speed.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FormatError, match=r"speed\.json is damaged"):
        sources.read([folder])


def test_the_page_of_a_result_warns_of_a_speed_that_another_checkpoint_had(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    folder = runs.write(tmp_path / "run", manifest, None)
    warning = "speed.json was made with another checkpoint"
    for measured, warned in ((fingerprint(folder), False), ("f" * 64, True)):
        replace(runs.speed(), fingerprint=measured).write(folder)
        said = Parsed(Result.read(folder, None).page()).text
        assert "Tokens per second 30" in said and (warning in said) == warned


@pytest.mark.parametrize(("value", "shown"), [(12_345.6, "12,346"), (99.96, "100"), (30.0, "30"), (0.5123, "0.512")])
def test_rates_have_three_digits_or_all_before_the_point(value: float, shown: str) -> None:
    assert speed.rate(value) == shown
