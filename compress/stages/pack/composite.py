"""A stage that follows one which made composite tensors: the method packs the parts, not the weight they mean.

A low-rank linear y = L(Rx) is two linears: R sees the inputs x, L sees what the packed R makes of them. The kept
weights of a sparse one stand for other inputs in every row, so only methods that need no data can pack them.

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
"""Keeps the refit of L from answering directions that the calibration inputs lack."""


def is_composite(packed: PackedTensor | None) -> bool:
    """Returns whether a linear of the source is packed in parts; None is one that is dense there."""
    return packed is not None and layouts.is_composite(packed.scheme.layout)


def check(method: PackMethod, scheme: Scheme, shape: tuple[int, int], config: Any, *, layer: str) -> None:
    """Raises RecipeError for a composite linear of the source that `method` cannot pack, MethodError for one that these
    options cannot; nothing is read."""
    if reason := _refused(method, scheme.layout):
        raise RecipeError(
            f"the method {method.name} on a linear that the source holds as {scheme.layout}: {reason}",
            allowed=", ".join(_able(scheme.layout)),
            do="Let one of these follow, or run the method on the dense model",
            layer=layer,
        )
    for part, part_shape in _shapes(scheme, shape).items():
        try:
            method.check(part_shape, config)
        except CompressError as error:
            error.given = f"part {part!r} [{part_shape[0]}, {part_shape[1]}] of {scheme.layout}: {error.given}"
            if part == "left":
                error.do = "Give the stage that made it a --multiple that fits, or give other options here"
            error.layer = error.layer or layer
            raise


def solve(method: PackMethod, packed: PackedTensor, stats: LayerStats | None, config: Any) -> PackedTensor:
    """Returns the composite tensor with its parts packed by `method`.

    `stats` are those of the linear's inputs. With them L is first fitted to the packed R, where that lowers the error
    of the outputs, and solved on the statistics of what R gives.
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
    """Returns the L that makes the most of the packed R, or the L there was where that is better."""
    if stats.num_tokens == 0:
        return left_Nr
    w_NK = left_Nr.double() @ right_rK.double()
    fitted_Nr = factors.refitted(w_NK, packed_rK, stats.gram_KK, _DAMPING).float()
    before, after = (
        factors.lost(w_NK, one_Nr.double() @ packed_rK.double(), stats.gram_KK) for one_Nr in (left_Nr, fitted_Nr)
    )
    return fitted_Nr if after < before else left_Nr


def _shapes(scheme: Scheme, shape: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Returns the shapes of the parts; none for a plain layout, whose linear is solved as the dense weight it means."""
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
        return "it makes parts itself, and parts have none"
    if layout == sparse_nm.LAYOUT and method.NEEDS:
        return "it needs the statistics of inputs, which differ from row to row there"
    return None


def _able(layout: str) -> list[str]:
    """Returns the names of the methods that can pack the parts of `layout`."""
    packing = [name for name in registry.names() if registry.describe(name).kind == "pack"]
    return [name for name in packing if _refused(registry.load_pack(name), layout) is None]
