"""The verdict on a terminal, as markdown, as JUnit XML; and that nothing in a file's names breaks out of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from compress.errors import OutputError
from compress.evaluation.gate.decide import gate
from compress.evaluation.gate.result import GateReport, unusable
from compress.report.gate import files, junit, markdown, table
from tests.support.gate_results import divergence, family, result, shares


def report(lost: int = 2) -> GateReport:
    dense = result(family(), family("multiple_choice"), shares(n=72, spread=0.0), suite="kick")
    candidate = result(
        family(lost=lost, gained=1), family("multiple_choice"), shares(n=72), suite="kick", name="packed",
        divergence=divergence(),
    )  # fmt: skip
    return gate(dense, candidate)


def on_terminal(found: GateReport, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(table.render(found))
    return out.getvalue()


def cases(found: GateReport) -> dict[str | None, ElementTree.Element]:
    root = ElementTree.fromstring(junit.render(found))
    return {case.get("name"): case for case in root.iter("testcase")}


def test_the_table_fits_100_columns_and_holds_every_figure() -> None:
    shown = on_terminal(report())
    assert "PASS: packed against dense on kick" in shown
    row = next(line for line in shown.splitlines() if line.startswith("✓  factoid"))
    assert row.split() == ["✓", "factoid", "400", "80.0", "%", "79.8", "%", "−0.2", "[−1.3,", "+0.7]", "5", "2/1"]
    assert any(line.startswith("·  summarisation") for line in shown.splitlines())
    assert "same top-1 token 98.0 %" in shown.replace("\n", " ")
    assert "McNemar mid-p" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_the_reason_stands_below_the_table() -> None:
    assert "factoid: lost more than 5 points" in on_terminal(report(lost=60), width=200)


def test_every_reason_has_the_sign_of_its_own_family() -> None:
    dense = result(family(), family("multiple_choice"), suite="kick")
    packed = result(family(lost=60), family("multiple_choice", lost=24), suite="kick", divergence=divergence())
    found = gate(dense, packed, max_kl=1e-9)
    starts = [line[:20] for line in on_terminal(found, width=200).splitlines() if ": " in line and line[1:2] == " "]
    assert starts == ["✗ factoid: lost more", "? multiple_choice: 4", "✗ divergence: 0.0100"]
    broken = gate(dense, result(family(outcome=float("nan")), family("multiple_choice"), suite="kick"))
    assert "✗ the candidate gives no usable scores" in on_terminal(broken, width=200)


@pytest.mark.parametrize(("lost", "verdict"), [(2, "pass"), (24, "inconclusive"), (60, "fail")])
def test_the_markdown_is_a_table_with_its_verdict(lost: int, verdict: str) -> None:
    text = markdown.render(report(lost))
    assert text.splitlines()[0].endswith(f"{verdict.upper()}: packed against dense on kick")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert {row.count("|") for row in rows} == {9}
    assert ("- factoid: " in text.split("|")[0]) == (verdict != "pass")


def test_junit_has_a_case_for_the_inputs_and_for_every_family() -> None:
    found = cases(report(lost=60))
    assert list(found) == ["inputs", "factoid", "multiple_choice", "summarisation", "divergence"]
    assert [child.tag for child in found["factoid"]] == ["failure", "system-out"]
    assert [child.tag for child in found["multiple_choice"]] == ["system-out"]
    assert [child.tag for child in found["summarisation"]] == ["skipped", "system-out"]
    root = ElementTree.fromstring(junit.render(report(lost=60)))
    assert [root.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["5", "1", "0", "2"]
    row = json.loads(found["factoid"].findtext("system-out") or "")
    assert row["lost"] == 60


def test_an_open_verdict_is_a_skipped_case() -> None:
    skipped = cases(report(lost=24))["factoid"].find("skipped")
    assert skipped is not None
    assert "inconclusive" in (skipped.get("message") or "")


def test_unusable_inputs_are_an_error_and_a_broken_candidate_a_failure() -> None:
    assert cases(unusable("other items", {}, "a", "b"))["inputs"].find("error") is not None
    broken = result(family(outcome=float("nan")))
    assert cases(gate(result(family()), broken))["inputs"].find("failure") is not None


def test_names_from_files_stay_names() -> None:
    bad = "a|b\n<script>\x00\x1b[2J"
    found = gate(result(family(name=bad)), result(family(name=bad), name=bad))
    text = markdown.render(found)
    assert "<script>" not in text
    assert {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("|")} == {9}
    assert bad.replace("\x00", "�").replace("\x1b", "�") in cases(found)
    assert not {"\x00", "\x1b"} & set(on_terminal(found))


def test_the_files(tmp_path: Path) -> None:
    folder = files.write(report(), tmp_path / "deep/gate")
    assert sorted(path.name for path in folder.iterdir()) == ["gate.json", "gate.md", "junit.xml"]
    assert json.loads((folder / "gate.json").read_text(encoding="utf-8"))["verdict"] == "pass"
    assert ElementTree.parse(folder / "junit.xml").getroot().tag == "testsuites"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        files.write(report(), tmp_path / "file")
