"""Parts of the page beside the figures: verdict, day, command, notes, downloads, tables that scroll, words."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from compress.report.charts import palette
from compress.report.page import content, downloads, markdown, notes, page
from compress.report.page.sources import Run, Sources
from compress.report.table import overview
from tests.support import runs
from tests.support.parsed_page import Parsed
from tests.support.results import point

RECORD = {
    "finished": "2026-03-01T12:34:56Z",
    "seconds": 401.2,
    "machine": {"processor": "Processor <X>", "cores": 8, "memory_bytes": 16_000_000_000, "system": "Linux x86_64"},
    "settings": {"model": "path/to/atlas", "tier": "pr"},
}


def content_of(*shown: Run, **more: Any) -> dict[str, Any]:
    return content.build(Sources(shown), **more)


def verdict(word: str) -> dict[str, Any]:
    return {"verdict": word, "reasons": ["factoid lost too much"], "families": {}}


def test_day_machine_and_command_stand_in_both_forms(manifest: dict[str, Any]) -> None:
    made = content_of(Run("run", manifest, runs.of_atlas(), record=RECORD))
    for said in (Parsed(page.render(made)).text, markdown.render(made).replace("\\_", "_").replace("&lt;", "<")):
        assert "2026-03-01 12:34 UTC" in said
        assert "Processor <X>, 8 cores, 16 GB of memory, Linux x86_64; took 6:41" in said
        assert "compress run path/to/atlas --method spqr --tier pr" in said
    assert '<time datetime="2026-03-01T12:34:56Z">' in page.render(made)


def test_the_command_has_a_button_that_needs_the_script(manifest: dict[str, Any]) -> None:
    tags = Parsed(page.render(content_of(Run("run", manifest, None)))).tags
    buttons = [attributes for tag, attributes in tags if tag == "button" and attributes.get("class") == "copy"]
    assert [("hidden" in each, each["aria-label"]) for each in buttons] == [(True, "Copy the command")]


@pytest.mark.parametrize("word", ["pass", "fail", "inconclusive"])
def test_the_verdict_is_a_badge(manifest: dict[str, Any], word: str) -> None:
    html = page.render(content_of(Run("run", manifest, runs.of_atlas(), verdict(word))))
    assert f'<span class="pill {word}">gate: {word}</span>' in html
    assert "was not asked" not in html
    both = page.render(content_of(*(Run(name, manifest, runs.of_atlas(), verdict(word)) for name in "ab")))
    assert both.count(f'<span class="pill {word}">') == 4, "in the comparison and at each run"


def test_without_a_verdict_the_page_names_the_command(manifest: dict[str, Any]) -> None:
    made = content_of(Run("run", manifest, runs.of_atlas()))
    for said in (Parsed(page.render(made)).text, markdown.render(made)):
        assert "gate: not asked" in said and "compress gate FOLDER -o FOLDER" in said
    assert "gate" not in Parsed(page.render(content_of(Run("run", manifest, None)))).text.partition("How to read")[0]


def test_notes_are_markdown_without_html_scripts_or_pictures(manifest: dict[str, Any]) -> None:
    text = "# Why\n\n*Because* <script>x</script> [a](javascript:x) ![p](http://e.org/p.png)\n\n|a|b|\n|-|-|\n|1|2|\n"
    html = notes.render(text)
    assert "<h3>Why</h3>" in html and "<em>Because</em>" in html and "<td>1</td>" in html
    assert not re.search(r"<script|<img|href=\"javascript", html)
    made = content_of(Run("run", manifest, None, notes="Of the *run*."), notes="Of **all**.", title="My report")
    parsed = Parsed(page.render(made))
    assert not parsed.open and "My report Of all ." in parsed.text and "Of the run ." in parsed.text
    assert "# My report\n\nOf **all**." in markdown.render(made) and "Of the *run*." in markdown.render(made)


def test_downloads_hold_the_figures_of_the_page(manifest: dict[str, Any]) -> None:
    frontier = {
        "schema_version": 1, "model": "m", "suite": {"name": "s"}, "limit": 40,
        "dense": {"perplexity": 2.0, "scores": {"factoid": 0.95}}, "points": [point("rtn", "3 bits", 3.1, 0.05)],
    }  # fmt: skip
    shown = Run("run", manifest, runs.of_atlas(), verdict("fail"), speed=runs.speed())
    made = content.build(Sources((shown,), (frontier,)))
    files = {file.name: base64.b64decode(file.href.partition(",")[2]).decode() for file in downloads.downloads(made)}
    assert json.loads(files["report.json"]) == made
    tables = {name: list(csv.DictReader(io.StringIO(text))) for name, text in files.items() if name.endswith(".csv")}
    assert [(name, len(rows)) for name, rows in tables.items()] == [
        ("figures.csv", 1), ("families.csv", 3), ("layers.csv", 2), ("frontier.csv", 1),
    ]  # fmt: skip
    assert tables["figures.csv"][0]["kl_mean"] == "0.05" and tables["figures.csv"][0]["same_top1"] == "0.9"
    assert (tables["figures.csv"][0]["tokens_per_s"], tables["figures.csv"][0]["gate"]) == ("30.0", "fail")
    factoid = tables["families.csv"][0]
    assert (factoid["family"], factoid["dense"], factoid["lost"]) == ("factoid", "1.0", "2")
    assert tables["layers.csv"][1]["name"] == "model.layers.0.mlp.down_proj"
    assert tables["frontier.csv"][0]["kl_mean"] == "0.05"
    tags = Parsed(page.render(made)).tags
    assert [a["download"] for tag, a in tags if "download" in a] == list(files)


def test_tables_that_scroll_are_named_and_reached_by_keyboard(manifest: dict[str, Any]) -> None:
    made = content_of(*(Run(name, manifest, runs.of_atlas(), speed=runs.speed()) for name in "ab"))
    boxes = [attributes for _, attributes in Parsed(page.render(made)).tags if attributes.get("class") == "scroll"]
    assert len(boxes) > 8
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in boxes)
    assert "shade" in palette.LIGHT and "shade" in palette.DARK


def test_the_page_has_the_words_of_the_terminal(manifest: dict[str, Any]) -> None:
    evaluation = runs.of_atlas()
    table = overview.of_checkpoint(None, manifest, evaluation)
    names = [row[0] for section in table.sections for row in section]
    both = content_of(*(Run(name, manifest, evaluation) for name in "ab"))
    said = Parsed(page.render(both)).text
    assert "same top-1 token" in names
    assert not [name for name in names if name not in said and name != "bits/weight, model"]


def test_several_runs_have_a_picture_of_size_against_quality(manifest: dict[str, Any]) -> None:
    larger = {**manifest, "shards": [{**manifest["shards"][0], "size_bytes": 9999}]}
    shown = (Run("a", manifest, runs.of_atlas()), Run("b", larger, runs.of_atlas("x")))
    parsed = Parsed(page.render(content_of(*shown)))
    labels = [str(attributes.get("aria-label")) for tag, attributes in parsed.tags if tag == "svg"]
    charts = [label for label in labels if "size on disk" in label]
    assert len(charts) == 2
    assert "KL to dense against size on disk, MB. A spqr: 0.0 MB, KL 0.0500; B spqr: 0.0 MB" in charts[0]
    assert charts[1].startswith("mean score of 3 families against size on disk")
    other = replace(runs.of_atlas(), suite={"name": "mine", "version": 1, "items_sha256": "1" * 64})
    mixed = page.render(content_of(shown[0], Run("b", larger, other)))
    assert "mean score" not in mixed, "scores of other questions are not drawn together"
