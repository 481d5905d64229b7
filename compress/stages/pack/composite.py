"""Packs the parts of composite linears (low rank, n:m sparse), which an earlier stage made.

A low-rank linear y = L(Rx) is two linears: the inputs of R are x, those of L the outputs of the packed R. In an n:m
sparse linear the kept weights of each row belong to different inputs, so only methods without data can pack them.

Shape letters: N out features, K in features, r rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from compress.calibration.stats import LayerStats
from compress.errors import CompressError, RecipeError
from compress.format import layouts
from compress.format.layouts import low_rank, sparse_nm
from compress.methods import registry
from compress.numerics import factors

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.format.scheme import Scheme
    from compress.methods.protocol import PackMethod

_DAMPING = 1e-6
"""Damping of the refit of L, so that it stays bounded in directions that the calibration inputs do not have."""


def is_composite(packed: PackedTensor | None) -> bool:
    """Returns whether a linear is composite; `packed` is its form in the source, None for a dense one."""
    return packed is not None and layouts.is_composite(packed.scheme.layout)


def check(method: PackMethod, scheme: Scheme, shape: tuple[int, int], config: Any, *, layer: str) -> None:
    """Raises RecipeError for a composite linear of the source that `method` cannot pack, MethodError for one that these
    options cannot; nothing is read."""
    if reason := _refused(method, scheme.layout):
        raise RecipeError(
            f"the method {method.name} cannot pack a linear that the source stores as {scheme.layout}: {reason}",
            allowed=", ".join(_able(scheme.layout)),
            do="Use one of these, or run the method on the dense model",
            layer=layer,
        )
    for part, part_shape in _shapes(scheme, shape).items():
        try:
            method.check(part_shape, config)
        except CompressError as error:
            error.given = f"part {part!r} [{part_shape[0]}, {part_shape[1]}] of {scheme.layout}: {error.given}"
            if part == "left":
                error.do = "Give the earlier stage a --multiple that fits, or give other options here"
            error.layer = error.layer or layer
            raise


def solve(method: PackMethod, packed: PackedTensor, stats: LayerStats | None, config: Any) -> PackedTensor:
    """Returns the composite tensor with its parts packed by `method`.

    With `stats` (of the linear's inputs), L is fitted to the packed R if that lowers the output error, and is solved
    with the statistics of the outputs of R.
    """
    parts = layouts.parts(packed)
    if packed.scheme.layout == sparse_nm.LAYOUT:
        values_NJ = layouts.unpack(parts["values"])
        return layouts.repack(packed, {"values": method.solve(values_NJ, None, config)})
    assert packed.scheme.layout == low_rank.LAYOUT, packed.scheme.layout
    left_Nr, right_rK = layouts.unpack(parts["left"]), layouts.unpack(parts["right"])
    right = method.solve(right_rK, stats, config)
    between = None
    if stats is not None:
        packed_rK = layouts.unpack(right)
        left_Nr = _fitted(left_Nr, right_rK, packed_rK, stats)
        seen_rr = packed_rK.double() @ stats.gram_KK.double() @ packed_rK.double().T
        between = LayerStats(stats.num_tokens, ((seen_rr + seen_rr.T) / 2).float())
    return layouts.repack(packed, {"left": method.solve(left_Nr, between, config), "right": right})


def _fitted(left_Nr: torch.Tensor, right_rK: torch.Tensor, packed_rK: torch.Tensor, stats: LayerStats) -> torch.Tensor:
    """Returns the L that gives the least output error with the packed R; the original L if that is better."""
    if stats.num_tokens == 0:
        return left_Nr
    w_NK = left_Nr.double() @ right_rK.double()
    fitted_Nr = factors.refitted(w_NK, packed_rK, stats.gram_KK, _DAMPING).float()
    before, after = (
        factors.lost(w_NK, one_Nr.double() @ packed_rK.double(), stats.gram_KK) for one_Nr in (left_Nr, fitted_Nr)
    )
    return fitted_Nr if after < before else left_Nr


def _shapes(scheme: Scheme, shape: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Returns the shapes of the parts by name; empty for a plain layout, which is solved as a dense weight."""
    options = scheme.options
    if scheme.layout == low_rank.LAYOUT:
        return {"right": (options["rank"], shape[1]), "left": (shape[0], options["rank"])}
    if scheme.layout == sparse_nm.LAYOUT:
        return {"values": (shape[0], shape[1] // options["m"] * options["n"])}
    return {}


def _refused(method: PackMethod, layout: str) -> str | None:
    """Returns why `method` cannot pack the parts of `layout`, or None."""
    if not layouts.is_composite(layout):
        return None
    if method.COMPOSES:
        return "it makes parts itself, and a part cannot have parts"
    if layout == sparse_nm.LAYOUT and method.NEEDS:
        return "it needs the statistics of inputs, which differ from row to row there"
    return None


def _able(layout: str) -> list[str]:
    """Returns the names of the methods that can pack the parts of `layout`."""
    packing = [
        name for name in registry.names() if registry.describe(name).kind == "pack" and registry.describe(name).packs
    ]
    return [name for name in packing if _refused(registry.load_pack(name), layout) is None]
