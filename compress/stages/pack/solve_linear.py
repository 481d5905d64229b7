"""Solves one linear and describes it for the manifest; used by the block loop and by workers.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import CompressError
from compress.format import layouts
from compress.stages.pack import composite

if TYPE_CHECKING:
    from compress.calibration.stats import LayerStats
    from compress.format.packed import PackedTensor
    from compress.methods.protocol import Method, PackMethod
    from compress.models.linears import LinearRef

_SLICE_ELEMENTS = 1 << 20
"""Elements of the float64 copies while norms are summed: 8 MiB each."""


def shared_configs(
    method: PackMethod, configs: Mapping[str, Any], weights: Mapping[str, Callable[[], torch.Tensor]]
) -> dict[str, Any]:
    """Returns the Config of every linear of an input group, after the method's hook `shared`.

    Engines fuse linears that share an input into one product; the hook decides options that must be equal among them.

    Args:
        method: the method.
        configs: Config by linear.
        weights: functions by linear that read its weight [N, K], so that no more than one need be in memory.
    """
    decided = dict(configs)
    for config in dict.fromkeys(configs.values()):
        members = [name for name in configs if configs[name] == config]
        with naming_the_layer(members[0]):
            shared = method.shared(_Weights([weights[name] for name in members]), config)
        decided |= dict.fromkeys(members, shared)
    return decided


class _Weights(Sequence[torch.Tensor]):
    """A sequence of weights; each is read when it is indexed."""

    def __init__(self, weights: list[Callable[[], torch.Tensor]]) -> None:
        self._weights = weights

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, place: Any) -> Any:
        return _Weights(self._weights[place]) if isinstance(place, slice) else self._weights[place]()


def solve(
    method: PackMethod,
    ref: LinearRef,
    w_NK: torch.Tensor,
    stats: LayerStats | None,
    config: Any,
    part: PackedTensor | None = None,
) -> tuple[PackedTensor, torch.Tensor, dict[str, Any]]:
    """Returns the packed linear (on the CPU), its decoded weight [N, K] (where `w_NK` is), and its manifest entry.

    `part` is its packed form in the source, if it has one; of a composite linear the parts are packed.
    """
    with naming_the_layer(ref.name):
        if part is not None and composite.is_composite(part):
            packed = composite.solve(method, part.to(w_NK.device), stats, config)
        else:
            packed = method.solve(w_NK, stats, config)
    restored_NK = layouts.unpack(packed)
    # the planes wait in host memory until the block is written
    return packed.to("cpu"), restored_NK, describe(method, ref, packed, w_NK, restored_NK, stats)


def describe(
    method: Method,
    ref: LinearRef,
    packed: PackedTensor,
    w_NK: torch.Tensor,
    restored_NK: torch.Tensor,
    stats: LayerStats | None,
) -> dict[str, Any]:
    """Returns the manifest entry of a linear.

    `relative_error` is ‖(W−Ŵ)X‖²/‖WX‖² on the calibration inputs; without any, ‖W−Ŵ‖²/‖W‖².
    """
    seen = stats is not None and stats.num_tokens > 0
    if seen:
        assert stats is not None
        wrong_NK = w_NK - restored_NK
        lost = float((wrong_NK @ stats.gram_KK).mul_(wrong_NK).sum(dtype=torch.float64))
        whole = float((w_NK @ stats.gram_KK).mul_(w_NK).sum(dtype=torch.float64))
    else:
        lost, whole = _squares(w_NK, restored_NK), _squares(w_NK, None)
    return {
        "scheme": packed.scheme.to_dict(),
        "shape": list(packed.shape),
        "bias": ref.bias,
        "method": method.name,
        "size_bytes": packed.size_bytes,
        "bits_per_weight": round(packed.bits_per_weight, 6),
        "outliers": packed.scheme.outliers,
        "relative_error": lost / whole if whole else 0.0,
        "error_of": "outputs" if seen else "weights",
        "tokens": stats.num_tokens if stats is not None else None,
    }


def _squares(a_NK: torch.Tensor, b_NK: torch.Tensor | None) -> float:
    """‖A−B‖² (‖A‖² without B) in float64, a few rows at a time: copies of the whole would be three times its size."""
    rows = max(1, _SLICE_ELEMENTS // a_NK.shape[1])
    total = 0.0
    for start in range(0, a_NK.shape[0], rows):
        part = a_NK[start : start + rows].double()
        if b_NK is not None:
            part -= b_NK[start : start + rows]
        total += float(part.square_().sum())
    return total


@contextmanager
def naming_the_layer(name: str) -> Iterator[None]:
    """Adds the layer's path to an error that names no layer."""
    try:
        yield
    except CompressError as error:
        error.layer = error.layer or name
        raise
