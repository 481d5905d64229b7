"""Writes README.md of an export: where it comes from, what was done, how it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.exports.target import TARGETS

if TYPE_CHECKING:
    from compress.exports.plan import Plan


def text(plan: Plan) -> str:
    """Returns the text; paths of this machine are not in it."""
    manifest = plan.checkpoint.manifest
    model = manifest.get("source", {}).get("model", "a model")
    stages = [stage["method"] for stage in manifest.get("recipe", {}).get("stages", [])]
    bits = manifest.get("bits_per_weight")
    lines = [f"# {model}, {' + '.join(stages) or 'compressed'}", ""]
    lines.append(f"{model} compressed by `compress` and exported to **{plan.to}**, for {TARGETS[plan.to]}.")
    if bits:
        lines.append(f"The linears have {bits:.2f} stored bits per weight.")
    lines += ["", "| | |", "| :-- | :-- |"]
    lines += [f"| {label} | {words} |" for label, words in plan.lines() if label != "source"]
    lines += [
        "",
        f"Weights: manifest sha256 `{plan.fingerprint}`. What became of each tensor is in `compress_export.json`.",
    ]
    return "\n".join(lines) + "\n"
