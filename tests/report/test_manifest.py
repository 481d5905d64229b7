"""Informational fields of a manifest may be missing or of any type: every form of the report is made all the same."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compress.report import json_output
from compress.report import manifest as manifests
from compress.report.page import content, markdown, page
from compress.report.page.sources import Run, Sources
from compress.report.table import layers, overview, terminal
from compress.report.table import markdown as table_markdown

NEEDED = {"format_version", "tensors", "shards", "structure"}
NAME = "model.layers.0.self_attn.q_proj"


def rich_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns the manifest with every informational field that docs/FORMAT.md names."""
    source = {"model": "atlas", "revision": "main", "fingerprint": "0" * 64, "size_bytes": 16384, "parameters": 8192}
    recipe = {
        "stages": [{"method": "rtn", "options": {"bits": 4}, "tune": "block", "target_bits": 3.5}],
        "calibration": {"source": "bundled", "samples": 4, "seq_len": 32, "seed": 0},
        "skip": ["*.k_proj"],
    }
    return copy.deepcopy(manifest) | {
        "source": source,
        "history": [copy.deepcopy({"source": source, "recipe": recipe})],
        "teacher": "1" * 64,
        "pruning": {"ratio": 0.5, "units": {"mlp": {"before": 8, "after": 4, "importance_lost": 0.1}}},
        "training": {"before": 2.0, "after": 1.0},
        "tuning": {"did": {"model.layers.0": {"before": 2.0, "after": 1.0}}},
        "allocation": {"target_bits": 3.5},
        "recipe": recipe,
        "recipe_hash": "2" * 64,
        "libraries": {"torch": "2.0"},
        "coverage": manifest["coverage"] | {"removed_parameters": 64, "share_removed": 0.1},
        "warnings": ["an expert saw no token"],
    }


def render_all(manifest: dict[str, Any]) -> str:
    """Returns every form of the report on a run that has a manifest alone, which must not raise."""
    data = content.build(Sources((Run("run", manifest, None),)))
    text = page.render(data) + markdown.render(data) + json.dumps(data, allow_nan=False)
    text += json.dumps(json_output.of_checkpoint(Path("run"), manifest, None), allow_nan=False)
    table = overview.of_checkpoint(Path("run"), manifest, None)
    text += table_markdown.render(table)
    checked, stream = manifests.checked(manifest), io.StringIO()
    console = Console(file=stream, width=120)
    for shown in (terminal.render(table), layers.layer_table(checked), layers.pruned_table(checked) or ""):
        console.print(shown)
    console.print("\n".join(layers.remarks(checked)), markup=False)
    return text + stream.getvalue()


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every informational field, and of every field and element inside one."""
    if path[:1] == ("tensors",) and path[2:3] and path[2] in ("scheme", "shape", "bias"):
        return
    if path and path != ("tensors",) and not (path[0] == "tensors" and len(path) == 2):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if path or key not in NEEDED - {"tensors"}:
            yield from paths(item, (*path, key))


def changed(manifest: dict[str, Any], path: tuple[Any, ...], *replacement: Any) -> dict[str, Any]:
    """Returns a copy in which the field is another value, or is missing."""
    result = copy.deepcopy(manifest)
    holder = result
    for key in path[:-1]:
        holder = holder[key]
    if replacement:
        holder[path[-1]] = replacement[0]
    else:
        del holder[path[-1]]
    return result


def test_any_field_may_be_missing_or_of_any_type(manifest: dict[str, Any]) -> None:
    """Most unusable values leave the same manifest behind, which is rendered once."""
    whole = rich_manifest(manifest)
    fields, rendered = list(paths(whole)), set[str]()
    assert len(fields) > 60 and ("tensors", NAME, "outliers") in fields
    for path in fields:
        values: tuple[Any, ...] = (None, -1, 1.5, float("nan"), "text", [[]], {"a": [None]})
        for variant in (changed(whole, path), *(changed(whole, path, value) for value in values)):
            checked = json.dumps(manifests.checked(variant) | {"warnings": []}, sort_keys=True)
            if checked not in rendered:
                rendered.add(checked)
                render_all(variant)


def test_what_is_left_out_is_named(manifest: dict[str, Any]) -> None:
    whole = rich_manifest(manifest)
    assert manifests.checked(whole) == whole
    assert "left out" not in render_all(whole)
    for path, value, told in (
        (("source", "size_bytes"), "big", "source.size_bytes ('big' is not a whole number)"),
        (("coverage",), [], "coverage ([] is not an object)"),
        (("libraries", "torch"), 2, "libraries.torch (2 is not a text)"),
        (("tensors", NAME, "outliers"), -1, f"tensors.{NAME}.outliers (-1 is not a whole number)"),
        (("recipe", "stages", 0), {}, "recipe.stages[0] (it has no method)"),
        (("training", "before"), float("nan"), "training ({"),
    ):
        broken = changed(whole, path, value)
        assert f"warning: compress.json: left out {told}" in "\n".join(layers.remarks(manifests.checked(broken)))
        assert manifests.checked(manifests.checked(broken)) == manifests.checked(broken)


def test_a_manifest_of_nothing_but_what_is_needed(manifest: dict[str, Any]) -> None:
    bare = {key: value for key, value in manifest.items() if key in NEEDED}
    bare["tensors"] = {
        name: {key: entry[key] for key in ("scheme", "shape", "bias")} for name, entry in manifest["tensors"].items()
    }
    text = render_all(bare)
    assert "model: dense vs compressed ()" not in text
    assert "model: dense vs compressed" in text and "2.11 kB" in text


@pytest.mark.parametrize("missing", ["share_of_linears", "share_of_model", "left_dense", "total_parameters"])
def test_a_part_of_the_coverage_is_shown_without_the_others(manifest: dict[str, Any], missing: str) -> None:
    manifest["coverage"].pop(missing)
    lines = "\n".join(layers.remarks(manifest))
    assert ("left dense" in lines) == (missing != "left_dense")
    assert ("of the decoder's linear parameters" in lines) == (missing != "share_of_linears")
    assert ("of all" in lines) == (missing != "share_of_model")
    assert ("of all 8,192" in lines) == (missing not in ("share_of_model", "total_parameters"))
