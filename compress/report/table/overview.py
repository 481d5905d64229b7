"""Dense against compressed as cells of text: made once here, drawn by the terminal, markdown and notebook forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.methods import registry
from compress.report.formatting import signed, size
from compress.report.table import overview_suite
from compress.report.table.layers import remarks
from compress.report.table.overview_suite import NOTHING, Cells

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult


@dataclass(frozen=True, slots=True)
class Overview:
    """One table with what belongs below it."""

    title: str
    header: Cells
    sections: tuple[tuple[Cells, ...], ...]
    """Groups of rows, each row as long as the header."""
    remarks: tuple[str, ...]


def of_checkpoint(checkpoint: Path | None, manifest: Mapping[str, Any], evaluation: EvalResult | None) -> Overview:
    """Returns the table *dense vs compressed* of a finished run; without an evaluation it has the sizes alone.

    Without `checkpoint` it does not say where the result lies.
    """
    sections = [_sizes(manifest)]
    header: Cells = ("", "dense", "compressed", "difference", "")
    notes = remarks(manifest)
    if evaluation is not None:
        sections += overview_suite.paired(evaluation, metrics=False)
        header = (*header[:3], overview_suite.difference(evaluation), "lost/gained")
        notes = [*overview_suite.remarks(evaluation), *notes]
    where = (f"result: {checkpoint}", f"load it: compress.load({str(checkpoint)!r})") if checkpoint else ()
    recipes = [*(stage["recipe"] for stage in manifest.get("history", ())), manifest.get("recipe", {})]
    stages = [stage for recipe in recipes for stage in recipe.get("stages", [])]
    methods = " → ".join(" ".join([stage["method"], *_options(stage)]) for stage in stages)
    return Overview(
        title=f"{_origin(manifest).get('model', 'model')}: dense vs compressed ({methods})",
        header=header,
        sections=tuple(sections),
        remarks=(*notes, *where),
    )


def of_evaluation(evaluation: EvalResult) -> Overview:
    """Returns the table of an evaluation alone with all metrics: against its baseline where it has one."""
    name, suite = str(evaluation.model["name"]), evaluation.suite["name"]
    notes = tuple(overview_suite.remarks(evaluation))
    if evaluation.comparison is None:
        sections = overview_suite.alone(evaluation, metrics=True)
        return Overview(f"{name} on {suite}", ("", "score", "items"), sections, notes)
    return Overview(
        title=f"{name} on {suite}, against {_baseline(evaluation)}",
        header=("", "baseline", "model", overview_suite.difference(evaluation), "lost/gained"),
        sections=overview_suite.paired(evaluation, metrics=True),
        remarks=notes,
    )


def _baseline(evaluation: EvalResult) -> str:
    return "its baseline" if evaluation.baseline is None else str(evaluation.baseline.model["name"])


def _sizes(manifest: Mapping[str, Any]) -> tuple[Cells, ...]:
    compressed = sum(shard["size_bytes"] for shard in manifest["shards"])
    origin = _origin(manifest)
    dense, linears = origin.get("size_bytes"), manifest.get("bits_per_weight")
    left = manifest.get("coverage", {}).get("total_parameters")
    before = origin.get("parameters", left)

    def bits(size_bytes: int | None, parameters: int | None) -> str:
        return NOTHING if size_bytes is None or not parameters else f"{8 * size_bytes / parameters:.2f}"

    return (
        (
            "size on disk",
            NOTHING if dense is None else size(dense),
            size(compressed),
            "" if dense is None else f"{dense / compressed:.1f}× smaller",
            "",
        ),
        *_parameters(before, left),
        ("bits/weight, linears", bits(dense, before), NOTHING if linears is None else f"{linears:.2f}", "", ""),
        ("bits/weight, model", bits(dense, before), bits(compressed, left), "", ""),
    )


def _parameters(before: int | None, left: int | None) -> tuple[Cells, ...]:
    """The row of a model that was cut."""
    if before is None or left is None or left == before:
        return ()
    return (("parameters", f"{before:,}", f"{left:,}", f"{signed(100 * (left / before - 1))} %", ""),)


def _origin(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the manifest says of the model that the first stage began with."""
    first = (*manifest.get("history", ()), manifest)[0]
    origin: Mapping[str, Any] = first.get("source") or {}
    return origin


def _options(stage: Mapping[str, Any]) -> list[str]:
    """The options of a stage that are not what its method has by default."""
    # the method of a checkpoint that was made elsewhere need not be here
    usual = registry.defaults(stage["method"]) if stage["method"] in registry.names() else {}
    return [f"{name}={value}" for name, value in stage["options"].items() if (name, value) not in usual.items()]
