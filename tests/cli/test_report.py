"""`compress report`: what it writes where, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.cli import invoke
from tests.support import runs
from tests.support.imported import HEAVY, loaded_by


@pytest.fixture
def run(tmp_path: Path, manifest: dict[str, Any]) -> Path:
    return runs.write(tmp_path / "run", manifest, runs.of_atlas())


def test_the_page_of_one_run_lies_in_its_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["report", str(run)]) == 0
    assert capsys.readouterr().out.split() == [str(run / "report.html")]
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_all_formats_of_several_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "here"
    other.mkdir()
    monkeypatch.chdir(other)
    assert invoke(["report", str(run), str(run / "eval.json"), "--format", "html,md,json"]) == 0
    assert sorted(path.name for path in other.iterdir()) == ["report.html", "report.json", "report.md"]
    assert len(json.loads((other / "report.json").read_text(encoding="utf-8"))["runs"]) == 2
    assert (other / "report.md").read_text(encoding="utf-8").startswith("# atlas: 2 compressed models")


@pytest.mark.parametrize(
    ("output", "written"), [("new/", "new/report.html"), ("new", "new/report.html"), ("a/mine.htm", "a/mine.html")]
)
def test_where_it_goes(run: Path, tmp_path: Path, output: str, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["report", str(run), "-o", output]) == 0
    assert (tmp_path / written).is_file()


def test_stdout_takes_one_format(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["report", str(run), "--format", "json", "-o", "-", "--items", "1"]) == 0
    lost = json.loads(capsys.readouterr().out)["runs"][0]["lost"]["families"]
    assert [len(family["items"]) for family in lost] == [1, 1, 1]
    assert invoke(["report", str(run), "--format", "md,json", "-o", "-"]) == 2
    assert "one format" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--format", "htm"], "unknown format 'htm'; did you mean 'html'?"),
        (["--format", ","], "names no format"),
        (["nowhere"], "there is no folder nowhere"),
        (["-o", "run/compress.json/x.html"], "cannot be written"),
    ],
)
def test_mistakes(
    args: list[str], message: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    assert invoke(["report", "run", *args]) == 2
    assert message in capsys.readouterr().err
    assert not list(run.glob("report.*"))


def test_a_report_needs_no_torch(run: Path) -> None:
    assert not loaded_by("report", str(run), "--format", "html,md,json") & (HEAVY - {"jinja2", "numpy", "scipy"})
