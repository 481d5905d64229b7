"""The page as text: whole, closed, self-contained, escaped, the same twice, and readable by contrast and by ear."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.report.charts import palette
from compress.report.page import content, markdown, page, sources
from compress.report.page.sources import Run, Sources
from tests.support import runs
from tests.support.parsed_page import Parsed
from tests.support.results import dense_and_packed, point


@pytest.fixture
def frontier() -> dict[str, Any]:
    return {
        "schema_version": 1, "model": "m", "suite": {"name": "s"}, "limit": 40,
        "dense": {"perplexity": 2.0, "scores": {"factoid": 0.95}},
        "points": [point("rtn", "3 bits", 3.1, 0.05), point("rtn", "4 bits", 4.1, 0.01),
                   point("spqr", "3 bits", 3.3, 0.0),
                   {"label": "gptq", "column": "4 bits", "refused": "group_size=7 does not divide"}],
    }  # fmt: skip


def content_of(*found: Run, frontiers: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return content.build(Sources(tuple(found), frontiers))


@pytest.fixture
def one(manifest: dict[str, Any]) -> dict[str, Any]:
    return content_of(Run("run", manifest, runs.of_atlas()))


@pytest.fixture
def several(manifest: dict[str, Any], frontier: dict[str, Any]) -> dict[str, Any]:
    cut = {**manifest, "tensors": {}, "bits_per_weight": None, "warnings": ["nothing was packed"]}
    verdict = {"verdict": "fail", "reasons": ["factoid lost too much"], "families": {}}
    found = (
        Run("a", runs.of_layers(manifest, 40, experts=2), runs.of_atlas(), verdict),
        Run("b", cut, None),
        Run("c", None, dense_and_packed()[0]),
        Run("d", manifest, dense_and_packed()[1]),
    )
    return content_of(*found, frontiers=(frontier,))


@pytest.mark.parametrize("name", ["one", "several"])
def test_the_page_is_whole_and_loads_nothing(name: str, request: pytest.FixtureRequest) -> None:
    html = page.render(request.getfixturevalue(name))
    parsed = Parsed(html)
    assert not parsed.open
    assert not re.findall(r"https?:|//\w|@import|url\(", html)
    loaded = [(tag, a) for tag, a in parsed.tags if tag in ("img", "iframe", "object") or a.get("src") or tag == "link"]
    assert loaded == [("link", {"rel": "icon", "href": "data:,"})]
    assert all(href.startswith(("#", "data:")) for href in parsed.values("href"))
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    assert set(parsed.values("aria-labelledby")) <= set(ids)
    assert {target.removeprefix("#") for target in parsed.values("href") if target.startswith("#")} <= set(ids)
    charts = [attributes for tag, attributes in parsed.tags if tag == "svg"]
    assert charts and all(a.get("aria-label") or a.get("aria-hidden") for a in charts)
    assert [tag for tag, _ in parsed.tags].count("h1") == 1


def test_the_same_content_gives_the_same_page(several: dict[str, Any]) -> None:
    assert page.render(several) == page.render(json.loads(json.dumps(several)))


def test_what_a_run_was_and_cost_stands_there(one: dict[str, Any]) -> None:
    said = Parsed(page.render(one)).text
    for text in (
        "atlas, compressed by spqr", "4.12 bits per weight in its linears", "Size on disk 2.11 kB",
        "KL to dense 0.0500", "Items lost 4 of 9; 0 gained", "100.0 % → 33.3 %", "2 lost, 0 gained of 3",
        "Windside is a village", "Relative error", "Left dense: embedding 4,096", "spqr", "compress 0.1.0, format 1",
    ):  # fmt: skip
        assert text in said, text


def test_sections_are_there_where_there_is_something_to_say(manifest: dict[str, Any]) -> None:
    def sections(run: Run) -> list[str]:
        tags = Parsed(page.render(content_of(run))).tags
        return [str(attributes["id"]) for tag, attributes in tags if tag == "section"]

    whole = ["headline", "knowledge", "answers", "lost", "text", "layers", "made", "downloads", "reading"]
    assert sections(Run("x", manifest, runs.of_atlas())) == whole
    assert sections(Run("x", manifest, None)) == ["headline", "layers", "made", "downloads", "reading"]
    assert sections(Run("x", None, dense_and_packed()[0])) == [
        "headline", "knowledge", "text", "downloads", "reading",
    ]  # fmt: skip


def test_an_evaluation_alone_is_called_by_its_model_and_suite() -> None:
    packed = dense_and_packed()[1]
    text = replace(packed.text, nll_per_token=9.0)
    said = Parsed(page.render(content_of(Run("eval.json", None, replace(packed, text=text))))).text
    assert said.startswith("runs/atlas-spqr on kick-atlas")
    assert "Perplexity 8,103 dense 2.718" in said


def test_the_headline_claims_no_more_than_the_intervals(manifest: dict[str, Any]) -> None:
    wide = Parsed(page.render(content_of(Run("x", manifest, dense_and_packed()[1])))).text
    assert (
        "No loss is shown: in every family the 95 % interval of the difference includes zero (n = 10 or more)" in wide
    )
    packed = dense_and_packed()[1]
    assert packed.comparison is not None
    families = dict(packed.comparison.families)
    families["factoid"] = replace(families["factoid"], high=-0.01)
    clear = replace(packed, comparison=replace(packed.comparison, families=families))
    assert (
        "Most was lost in factoid: −20.0 points (95 % interval −55.1 to −1.0); the interval excludes zero in 1 of 2"
        in (Parsed(page.render(content_of(Run("x", manifest, clear)))).text)
    )


def test_nothing_that_a_model_or_a_file_says_is_markup(manifest: dict[str, Any]) -> None:
    manifest["source"]["model"] = runs.HOSTILE
    manifest["warnings"] = [runs.HOSTILE]
    manifest["libraries"] = {"torch": runs.HOSTILE}
    manifest["tensors"][f"model.layers.0.{runs.HOSTILE}"] = manifest["tensors"].pop("model.layers.0.mlp.down_proj")
    verdict = {"verdict": '"><script>', "reasons": [runs.HOSTILE], "families": {}}
    plain = content_of(Run("x", manifest, runs.of_atlas(), verdict))
    hostile = content_of(
        Run(runs.HOSTILE, manifest, runs.of_atlas(answer=runs.HOSTILE), verdict), Run("y", manifest, None)
    )
    for made in (plain, hostile):
        parsed = Parsed(page.render(made))
        assert not parsed.open
        assert [tag for tag, _ in parsed.tags].count("script") == 1
        assert "</td><script>alert(1)</script> & | `*" in parsed.text
    written = markdown.render(hostile)
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", written, flags=re.MULTILINE | re.DOTALL)
    assert outside.count("## B: y") == 1, "no block of code is left open"
    assert "<" not in outside.replace("<br>", "")


def test_the_policy_allows_the_one_script_and_nothing_else(one: dict[str, Any]) -> None:
    html = page.render(one)
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)[0].replace("&#39;", "'")
    assert len(script) == 1
    assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{digest}'" in policy


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.1."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("name", "theme"), [("light", palette.LIGHT), ("dark", palette.DARK)])
def test_text_and_shapes_stand_out_in_both_themes(name: str, theme: dict[str, str]) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    text = [(ink, back) for ink in ("ink", "quiet", "link") for back in ("paper", "card")]
    text += [("loss", "card"), ("gain", "card"), ("warn", "warn-back"), ("ink", "warn-back")]
    text += [("ink", "loss-back"), ("ink", "gain-back")]
    on = palette.on_heat(name, theme)
    heat = [(colour, theme[f"heat-{step}"]) for step, colour in enumerate(on)]
    badges = [(theme["card"], theme[f"run-{run}"]) for run in range(palette.RUNS)]
    low = {pair: ratio for pair in [*((theme[a], theme[b]) for a, b in text), *heat, *badges]
           if (ratio := contrast(*pair)) < 4.5}  # fmt: skip
    assert not low
    shapes = ["dense", "packed", "loss", "gain", *(f"run-{run}" for run in range(palette.RUNS))]
    assert not {name for name in shapes if contrast(theme[name], theme["card"]) < 3}


def test_markdown_has_the_same_figures_in_tables_that_are_whole(several: dict[str, Any]) -> None:
    text = markdown.render(several)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) >= 6
    for table in tables:
        assert len({re.sub(r"\\.", "", line).count("|") for line in table.splitlines()}) == 1, table
    for words in (
        "# atlas and m: 4 compressed models",
        "## A: a",
        "**Gate: fail**",
        "33.3 %",
        "nothing was packed",
        "refused",
    ):
        assert words in text, words


def test_runs_of_other_models_or_suites_are_told_apart(manifest: dict[str, Any]) -> None:
    other = replace(dense_and_packed()[1], suite={"name": "questions", "version": 1, "items_sha256": "1" * 64})
    same, mixed = (content_of(Run("a", manifest, runs.of_atlas()), Run("b", manifest, found))
                   for found in (runs.of_atlas(), other))  # fmt: skip
    warned = "compare differences, not scores"
    assert warned in Parsed(page.render(mixed)).text and "atlas, questions" in Parsed(page.render(mixed)).text
    assert "(atlas, questions)" in markdown.render(mixed)
    assert warned not in Parsed(page.render(same)).text and "(atlas, kick-atlas)" not in markdown.render(same)


def test_a_frontier_alone_is_a_page(frontier: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "frontier.json").write_text(json.dumps(frontier), encoding="utf-8")
    made = content.build(sources.read([tmp_path]))
    said = Parsed(page.render(made)).text
    assert "What each bit buys" in said and "gptq, 4 bits: refused. group_size=7 does not divide" in said
    assert "spqr" in markdown.render(made)
