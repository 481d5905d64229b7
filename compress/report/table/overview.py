"""Collects the table *dense vs compressed* as cells of text, which the terminal, markdown and notebook forms draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.engines import ENGINES
from compress.report import formatting
from compress.report import manifest as manifests
from compress.report.formatting import NOTHING, signed, size
from compress.report.table import suite
from compress.report.table.layers import remarks
from compress.report.table.suite import Cells

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult


@dataclass(frozen=True, slots=True)
class Overview:
    """One table and the remarks below it."""

    title: str
    header: Cells
    sections: tuple[tuple[Cells, ...], ...]
    """Groups of rows, each row as long as the header."""
    remarks: tuple[str, ...]


def of_checkpoint(checkpoint: Path | None, manifest: Mapping[str, Any], evaluation: EvalResult | None) -> Overview:
    """Returns the table *dense vs compressed* of a finished run; without an evaluation it has only the sizes.

    Without `checkpoint` the remarks do not say where the result is.
    """
    manifest = manifests.checked(manifest)
    sections = [_sizes(manifest)]
    header: Cells = ("", "dense", "compressed", "difference", "")
    notes = remarks(manifest)
    if evaluation is not None:
        sections += suite.paired(evaluation, metrics=False)
        header = (*header[:3], suite.difference_header(evaluation), "lost/gained")
        notes = [*suite.remarks(evaluation), *notes]
    location = _location(checkpoint, manifest) if checkpoint else ()
    stages = methods(manifest)
    title = f"{manifests.origin(manifest).get('model', 'model')}: dense vs compressed"
    return Overview(
        title=f"{title} ({stages})" if stages else title,
        header=header,
        sections=tuple(sections),
        remarks=(*notes, *location),
    )


def _location(checkpoint: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns where the result is, and the commands that load it or export it to the engine it was made for."""
    engine = manifest.get("recipe", {}).get("engine")
    known = ENGINES.get(engine) if isinstance(engine, str) else None
    export = (f"for {engine}: compress export {checkpoint} --to {known.target}",) if known else ()
    return (f"result: {checkpoint}", f"load it: compress.load({str(checkpoint)!r})", *export)


def of_evaluation(evaluation: EvalResult) -> Overview:
    """Returns the table of an evaluation alone, with all metrics: against its baseline if it has one."""
    name, notes = str(evaluation.model["name"]), tuple(suite.remarks(evaluation))
    asked = evaluation.suite["name"]
    if evaluation.comparison is None:
        sections = suite.alone(evaluation, metrics=True)
        return Overview(f"{name} on {asked}", ("", "score", "items"), sections, notes)
    baseline = "its baseline" if evaluation.baseline is None else str(evaluation.baseline.model["name"])
    return Overview(
        title=f"{name} on {asked}, against {baseline}",
        header=("", "baseline", "model", suite.difference_header(evaluation), "lost/gained"),
        sections=suite.paired(evaluation, metrics=True),
        remarks=notes,
    )


def methods(manifest: Mapping[str, Any]) -> str:
    """Returns the stages with the options that are not the default: `llm_pruner ratio=0.2 → spqr bits=4`."""
    stages = manifests.stages(manifest)
    return " → ".join(formatting.stage(stage["method"], stage["unusual"]) for stage in stages)


def _sizes(manifest: Mapping[str, Any]) -> tuple[Cells, ...]:
    sizes = manifests.sizes(manifest)
    dense, times = sizes["dense_bytes"], sizes["times_smaller"]
    dense_bits = _bits(sizes["dense_bits_per_weight"])
    return (
        (
            "size on disk",
            NOTHING if dense is None else size(dense),
            size(sizes["bytes"]),
            "" if times is None else f"{times:.1f}× smaller",
            "",
        ),
        *_parameters(sizes["dense_parameters"], sizes["parameters"]),
        ("bits/weight, linears", dense_bits, _bits(sizes["bits_per_weight_linears"]), "", ""),
        ("bits/weight, model", dense_bits, _bits(sizes["bits_per_weight_model"]), "", ""),
    )


def _bits(bits_per_weight: float | None) -> str:
    return NOTHING if bits_per_weight is None else f"{bits_per_weight:.2f}"


def _parameters(before: int | None, after: int | None) -> tuple[Cells, ...]:
    """Returns the row of the parameter counts, for a model that was pruned."""
    if not before or after is None or after == before:
        return ()
    return (("parameters", f"{before:,}", f"{after:,}", f"{signed(100 * (after / before - 1))} %", ""),)
