"""The table *dense vs compressed*, in each of its forms."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compress.evaluation.pairing import compare
from compress.evaluation.result import EvalResult, JudgedItem, Judgement
from compress.report import json_output
from compress.report.formatting import growth, signed
from compress.report.table import markdown, notebook, overview, picture, terminal
from compress.report.table.overview import Overview
from tests.support.results import dense_and_packed


@pytest.fixture
def table(manifest: dict[str, Any]) -> Overview:
    manifest["source"]["size_bytes"] = 16384
    manifest["warnings"] = ["1 expert saw no token"]
    return overview.of_checkpoint(Path("runs/atlas-spqr"), manifest, dense_and_packed()[1])


def rows(table: Overview) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for section in table.sections for row in section}


def test_the_figures(table: Overview) -> None:
    assert rows(table) == {
        "size on disk": ("16.4 kB", "2.11 kB", "7.8× smaller", ""),
        "bits/weight, linears": ("16.00", "4.12", "", ""),
        "bits/weight, model": ("16.00", "2.06", "", ""),
        "perplexity": ("2.718", "2.858", "+5.1 %", ""),
        "KL to dense, mean": ("–", "0.0123", "[0.0101, 0.0149]", ""),
        "KL to dense, p99": ("–", "0.310", "", ""),
        "same top-1 token": ("–", "97.2 %", "", ""),
        "factoid": ("80.0 %", "60.0 %", "−20.0 [−55.1, +21.7]", "3/1"),
        "multiple choice": ("80.0 %", "60.0 %", "−20.0 [−55.1, +21.7]", "3/1"),
    }
    assert table.header == ("", "dense", "compressed", "difference [95 %]", "lost/gained")
    assert table.title == "atlas: dense vs compressed (spqr)"


def test_what_must_be_known_stands_below(table: Overview) -> None:
    below = "\n".join(table.remarks)
    assert "warning: 1 expert saw no token" in below
    assert "left dense: embedding 4,096" in below
    assert "load it: compress.load('runs/atlas-spqr')" in below


def test_without_an_evaluation_the_sizes_remain(manifest: dict[str, Any]) -> None:
    table = overview.of_checkpoint(Path("out"), manifest, None)
    assert list(rows(table)) == ["size on disk", "bits/weight, linears", "bits/weight, model"]
    assert rows(table)["size on disk"] == ("–", "2.11 kB", "", ""), "a dense size that is not known is not made up"


def test_a_figure_that_rounds_to_nothing_has_no_sign() -> None:
    assert [signed(value) for value in (-0.04, 0.04, -0.06, 0.06)] == ["0.0", "0.0", "−0.1", "+0.1"]


def test_growth_beyond_ten_times_is_told_in_times() -> None:
    assert [growth(value) for value in (0.98, 1.051, 9.5, 25.44, 254.8, 12_345.6)] == [
        "−2.0 %", "+5.1 %", "+850.0 %", "25.4×", "255×", "12,346×",
    ]  # fmt: skip


def test_an_evaluation_alone_has_scores_and_item_counts() -> None:
    dense, _ = dense_and_packed()
    table = overview.of_evaluation(dense)
    assert rows(table) == {
        "perplexity": ("2.718", ""),
        "factoid": ("80.0 %", "10"),
        "multiple choice": ("80.0 %", "10"),
    }


def with_metrics(result: EvalResult, exact: float, margin: float, **changes: Any) -> EvalResult:
    """The result with two metrics beside the outcome of its first family."""
    family = result.families["factoid"]
    items = [replace(item, metrics={**item.metrics, "exact": exact, "margin": margin}) for item in family.items]
    families = {**result.families, "factoid": replace(family, items=items, left_out=3)}
    return replace(result, families=families, **changes)


def test_metrics_stand_below_their_family_in_their_units() -> None:
    dense, packed = dense_and_packed()
    dense = with_metrics(dense, 0.5, -1.25)
    alone = rows(overview.of_evaluation(dense))
    assert (alone["  exact"], alone["  margin"]) == (("50.0 %", ""), ("−1.25", ""))
    packed = with_metrics(packed, 0.25, -2.0, baseline=dense)
    found = rows(overview.of_evaluation(replace(packed, comparison=compare(dense, packed))))
    assert found["  exact"] == ("50.0 %", "25.0 %", "−25.0 [−25.0, −25.0]", "")
    assert found["  margin"] == ("−1.25", "−2", "−0.750 [−0.750, −0.750]", "")


def test_what_was_left_out_and_warned_of_stands_below() -> None:
    dense = with_metrics(dense_and_packed()[0], 0.5, 0.0, warnings=("piqa.jsonl is not in data; left out",))
    below = overview.of_evaluation(replace(dense, settings={"tier": "pr"})).remarks
    assert below == (
        "kick-atlas, tier pr: 20 items (3 left out as too long), perplexity over 4,096 held-out tokens",
        "warning: piqa.jsonl is not in data; left out",
    )


def test_a_judge_has_a_row_and_is_named(manifest: dict[str, Any]) -> None:
    items = (JudgedItem("1", "turn_1", ("candidate", "tie")), JudgedItem("2", "turn_1", ("dense", "dense")))
    packed = replace(dense_and_packed()[1], judgement=Judgement("judge-1", "0" * 64, 1, items))
    for made in (overview.of_evaluation(packed), overview.of_checkpoint(None, manifest, packed)):
        assert rows(made)["judged wins"] == ("–", "37.5 %", "50 % is a draw", "")
        assert "judge judge-1: 2 answers, in both orders, with the same verdict twice for 50.0 %" in made.remarks


def test_agreement_of_a_model_with_itself_is_said_to_be_no_score() -> None:
    dense, _ = dense_and_packed()
    family = replace(dense.families["factoid"], name="instruction", primary="agreement")
    below = overview.of_evaluation(replace(dense, families={"instruction": family})).remarks
    assert "instruction: agreement with its own answers, so no score; give --baseline" in below


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_form_fits_and_cuts_nothing(table: Overview, width: int) -> None:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=True, color_system=None).print(terminal.render(table))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in stream.getvalue()
    for cell in ("−20.0 [−55.1, +21.7]", "7.8× smaller", "bits/weight, linears"):
        assert cell in stream.getvalue()


def test_the_markdown_form_is_one_table(table: Overview) -> None:
    lines = markdown.render(table).splitlines()
    inside = [line for line in lines if line.startswith("|")]
    assert len(inside) == 2 + sum(map(len, table.sections))
    assert len({line.count("|") for line in inside}) == 1
    assert lines[0] == "# atlas: dense vs compressed (spqr)"


def test_the_notebook_form_is_closed_html_and_escapes(manifest: dict[str, Any]) -> None:
    manifest["source"]["model"] = "<script>alert(1)</script>"
    page = notebook.render(overview.of_checkpoint(Path("out"), manifest, dense_and_packed()[1]))
    assert "<script>" not in page
    opened: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Checker().feed(page)
    assert not opened


def test_the_json_form_has_the_figures_unrounded(manifest: dict[str, Any]) -> None:
    data = json.loads(json.dumps(json_output.of_checkpoint(Path("out"), manifest, dense_and_packed()[1])))
    assert data["size_bytes"] == 2112
    assert data["evaluation"]["paired"]["factoid"]["lost"] == 3
    assert data["evaluation"]["divergence"]["mean"] == 0.0123
    assert json_output.of_checkpoint(Path("out"), manifest, None)["evaluation"] is None


def test_the_picture_loads_nothing_from_elsewhere_and_is_repeatable(table: Overview) -> None:
    first, second = (picture.svg(table, "compress run") for _ in range(2))
    assert first == second
    assert "http" not in first.replace("http://www.w3.org/2000/svg", "").replace("https://www.textualize.io", "")
    assert not re.search(r"url\((?!#)", first)
    assert "7.8×" in first.replace("&#160;", " ")


def test_a_report_that_lies_beside_the_checkpoint_does_not_say_where(manifest: dict[str, Any]) -> None:
    """The same input gives the same bytes, wherever they are written."""
    shown = markdown.render(overview.of_checkpoint(None, manifest, dense_and_packed()[1]))
    assert "result:" not in shown
    assert "compress.load" not in shown
