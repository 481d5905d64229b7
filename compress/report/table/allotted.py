"""Shows the bits that mixed precision chose, as text: a line per kind of linear, a figure per block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.layer_names import block_and_kind

_PER_LINE = 16


def render(allocation: Mapping[str, Any]) -> str:
    """Returns the bits per weight of each kind of linear over the blocks; of experts, the range over all of them.

    A block without a linear of the kind, or with one that stays dense, shows a dash.
    """
    kinds: dict[str, dict[str, list[float]]] = {}
    blocks: list[str] = []
    for linear_set in allocation["sets"]:
        block, kind = _block_and_kinds(linear_set["linears"])
        kinds.setdefault(kind, {}).setdefault(block, []).append(linear_set["bits_per_weight"])
        blocks += [block] if block not in blocks else []
    width = max(map(len, kinds))
    lines = [
        f"Allotted {allocation['bits_per_weight']:.3f} bits per weight (target {allocation['target_bits']:g}), "
        f"predicted divergence {allocation['predicted_loss']:.2g} nats per token. Bits by block:"
    ]
    for kind, bits in kinds.items():
        cells = [_cell(bits[block]) if block in bits else "-" for block in blocks]
        for start in range(0, len(cells), _PER_LINE):
            lines.append(f"  {'' if start else kind:<{width}}  " + " ".join(cells[start : start + _PER_LINE]))
    return "\n".join(lines)


def _block_and_kinds(names: Sequence[str]) -> tuple[str, str]:
    """Returns the block of a set of linears, and their names in it, from the second on only the last part of each."""
    block, first = block_and_kind(names[0])
    others = (block_and_kind(name)[1].rpartition(".")[2] for name in names[1:])
    return block, " ".join([first, *others])


def _cell(bits: Sequence[float]) -> str:
    low, high = min(bits), max(bits)
    return f"{low:.2f}" if low == high else f"{low:.2f}-{high:.2f}"
