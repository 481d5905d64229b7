"""What a result shows of itself in a notebook."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.evaluation.result import Comparison
from compress.report.table import notebook, overview
from compress.result import Result
from tests.support import runs
from tests.support.parsed_page import Parsed


def test_a_result_shows_its_table_and_the_whole_page_in_a_frame(manifest: dict[str, Any]) -> None:
    result = Result(Path("runs/mine"), runs.of_atlas(answer=runs.HOSTILE), manifest)
    shown = result._repr_html_()
    parsed = Parsed(shown)
    assert not parsed.open
    assert "atlas: dense vs compressed (spqr)" in parsed.text and "KL to dense, mean" in parsed.text
    framed = parsed.values("srcdoc")
    assert framed == [result.page()]
    assert framed[0].startswith("<!doctype html>") and html.escape(runs.HOSTILE) in framed[0]


def test_a_result_shows_a_picture_and_sample_answers(manifest: dict[str, Any]) -> None:
    shown = Result(Path("runs/mine"), runs.of_atlas(answer=runs.HOSTILE), manifest)._repr_html_()
    outside = Parsed(re.sub(r'srcdoc="[^"]*"', "", shown))
    (picture,) = [attributes for tag, attributes in outside.tags if tag == "svg"]
    assert str(picture["aria-label"]).startswith("factoid: dense 100.0 %, compressed 33.3 %; multiple choice")
    bars = [float(str(a["width"])) for tag, a in outside.tags if tag == "rect"]
    assert bars[2:4] == [300.0, 100.0], "of the first family, after the key"
    assert "Sample answers question dense compressed Question: " in outside.text and runs.HOSTILE in outside.text


def test_an_evaluation_without_questions_has_no_picture(manifest: dict[str, Any]) -> None:
    plain = replace(runs.of_atlas(), families={}, comparison=Comparison({}))
    shown = Result(Path("runs/mine"), replace(plain, baseline=replace(plain, comparison=None)), manifest)
    assert "<svg" not in re.sub(r'srcdoc="[^"]*"', "", shown._repr_html_())


def test_nothing_of_the_page_reaches_the_notebook(manifest: dict[str, Any]) -> None:
    shown = Result(Path("x"), None, manifest)._repr_html_()
    outside = re.sub(r'srcdoc="[^"]*"', "", shown)
    assert not re.findall(r"<(?:script|style|link)", shown)
    assert "sandbox='allow-scripts'" in outside and "Theme:" not in outside


def test_without_a_page_there_is_no_frame(manifest: dict[str, Any]) -> None:
    assert "iframe" not in notebook.render(overview.of_checkpoint(None, manifest, None))
