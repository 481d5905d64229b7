"""What mixed precision has allotted, as text: one line per kind of linear, one figure per block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PER_LINE = 16


def render(allocation: Mapping[str, Any]) -> str:
    """Returns the bits per weight of each kind of linear over the blocks; of experts, the least to the greatest.

    A block that has no linear of the kind, or one that stays dense, shows a dash.
    """
    kinds: dict[str, dict[str, list[float]]] = {}
    for one in allocation["sets"]:
        block, kind = _place(one["linears"])
        kinds.setdefault(kind, {}).setdefault(block, []).append(one["bits_per_weight"])
    width = max(map(len, kinds))
    every = list(dict.fromkeys(_place(one["linears"])[0] for one in allocation["sets"]))
    lines = [
        f"Allotted {allocation['bits_per_weight']:.3f} bits per weight (target {allocation['target_bits']:g}), "
        f"predicted divergence {allocation['predicted_loss']:.2g} nats per token. Bits by block:"
    ]
    for kind, blocks in kinds.items():
        cells = [_cell(blocks[block]) if block in blocks else "-" for block in every]
        for start in range(0, len(cells), _PER_LINE):
            lines.append(f"  {'' if start else kind:<{width}}  " + " ".join(cells[start : start + _PER_LINE]))
    return "\n".join(lines)


def _place(names: list[str]) -> tuple[str, str]:
    """Returns the block, up to the first number of a name, and what the linears are called in it without experts'."""
    parts = names[0].split(".")
    first = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    short = [".".join(part for part in name.split(".")[first + 1 :] if not part.isdigit()) for name in names]
    return ".".join(parts[: first + 1]), " ".join([short[0], *(name.rpartition(".")[2] for name in short[1:])])


def _cell(bits: list[float]) -> str:
    return f"{bits[0]:.2f}" if min(bits) == max(bits) else f"{min(bits):.2f}-{max(bits):.2f}"
