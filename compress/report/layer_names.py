"""Splits the name of a linear into its decoder block and its place inside."""

from __future__ import annotations


def block_and_kind(name: str) -> tuple[str, str]:
    """Returns the block, up to the first number of the name, and the rest without numbers (of layers and experts).

    `model.layers.3.mlp.experts.q_down_proj.0` gives `model.layers.3` and `mlp.experts.q_down_proj`. A name without a
    number gives `model` and the name.
    """
    parts = name.split(".")
    first = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    if first is None:
        return "model", name
    rest = [part for part in parts[first + 1 :] if not part.isdigit()]
    return ".".join(parts[: first + 1]), ".".join(rest) or parts[0]
