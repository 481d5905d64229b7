"""Shows the plan of a run as text, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.report import calibration_text, evaluation_suite
from compress.report import coverage as covered
from compress.report.formatting import clock, label, size


def render(plan: Mapping[str, Any]) -> str:
    """Returns the fields of a plan (`dataclasses.asdict` of it) as aligned lines."""
    options = ", ".join(f"{name}={value}" for name, value in plan["options"].items()) or "defaults"
    data, coverage, asked = plan["calibration"], plan["coverage"], plan["evaluation"]
    smaller = f", {plan['source_bytes'] / plan['output_bytes']:.1f}× smaller" if plan["output_bytes"] else ""
    warnings = [*(data or {}).get("warnings", ()), *(asked or {}).get("warnings", ())]
    facts = {
        "model": f"{plan['model']}, {plan['blocks']} blocks, {size(plan['source_bytes'])}",
        "method": f"{plan['method']} ({options})",
        "for": plan["engine"],
        "linears": f"{plan['linears']}{_share(coverage)}",
        "kept": f"the codes of {plan['kept']} linears" if plan["kept"] else None,
        "outside": None if coverage is None else covered.outside(coverage),
        "left dense": _left_dense(coverage),
        "calibration": calibration_text.described(data) if data else "none needed",
        "bits/weight": _bits(plan),
        "output": f"{plan['output']}, about {size(plan['output_bytes'])}{smaller}",
        "peak memory": _memory(plan),
        "then": ", then ".join(plan["then"]) or None,
        "evaluation": "none" if asked is None else evaluation_suite.described(asked),
        "left out": _left_out(plan),
        "warning": "; ".join(warnings) or None,
        "time": None if plan["seconds"] is None else f"about {clock(plan['seconds'])}, without the evaluation",
        "figures": _origins(plan),
    }
    return "\n".join(f"{name:<13}{value}" for name, value in facts.items() if value is not None)


_LABELS = {
    "bits_per_weight": "bits/weight", "output_bytes": "output", "peak_memory_bytes": "peak memory", "seconds": "time",
}  # fmt: skip
"""Fields of the plan that are estimates -> their names in the table."""


def _origins(plan: Mapping[str, Any]) -> str:
    """Where the estimates come from."""
    return "; ".join(f"{_LABELS[name]} {origin}" for name, origin in plan["figures"].items())


def _memory(plan: Mapping[str, Any]) -> str:
    """The peak of the run, and of each of its phases."""
    batches = f"micro-batches of {plan['micro_batch']}" if plan["calibration"] else None
    parts = []
    for phase in plan["phases"]:
        how = batches if phase["name"] == "compression" else "block by block" if phase["by_block"] else "in memory"
        parts.append(f"{phase['name']} {size(phase['peak_bytes'])}{f' ({how})' if how else ''}")
    return f"about {size(plan['peak_memory_bytes'])}{': ' if parts else ''}{', '.join(parts)}"


def _left_out(plan: Mapping[str, Any]) -> str | None:
    """The families that models would have to be in memory for."""
    for phase in plan["phases"]:
        if phase["left_out"]:
            names = ", ".join(label(name) for name in phase["left_out"])
            return (
                f"{names}: models that do not fit into memory write no answers (about {size(phase['in_memory_bytes'])})"
            )
    return None


def _share(coverage: Mapping[str, Any] | None) -> str:
    shares = None if coverage is None else covered.compressed(coverage, total=False)
    return "" if shares is None else f", {shares}"


def _left_dense(coverage: Mapping[str, Any] | None) -> str | None:
    """The matrices of decoder blocks that stay dense unasked."""
    entries = [] if coverage is None else coverage.get("dense_matrices", ())
    texts = [
        f"{entry['reason']}, {entry['parameters']:,} in {entry['matrices']} × {entry['module']}" for entry in entries
    ]
    return "; ".join(texts) or None


def _bits(plan: Mapping[str, Any]) -> str | None:
    allotted = plan["allotted"]
    if plan["bits_per_weight"] is None:
        return None
    if allotted is None:
        return f"about {plan['bits_per_weight']:.2f}"
    return (
        f"{plan['bits_per_weight']:g} on average or less: measured first, then one of {allotted['candidates']} "
        f"candidates for each set of linears ({allotted['least_bits']:.2f} at the least)"
    )
