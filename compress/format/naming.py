"""Names the tensors of a checkpoint: planes of a linear, experts, and the guards that make a stock load fail.

A plane is stored as `<linear>.<plane>`; the main plane takes the place of the dense weight under another shape, so that
transformers without this package stops on it. Where one parameter holds a matrix of every expert, these are linears
`<experts>.q_<parameter>.<e>`, names that no dense model has; there a one-element guard tensor takes the name of the
dense parameter instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from compress.errors import FormatError
from compress.format.packed import PackedTensor

PROJECTIONS = ("gate_up_proj", "up_proj", "down_proj", "weight", "w1", "v1", "w2")
"""Names of the parameters that hold one matrix of every expert."""
_EXPERT = re.compile(rf"(?P<experts>.+)\.q_(?P<projection>{'|'.join(PROJECTIONS)})\.(?P<index>\d+)")


def plane_tensors(packed: Mapping[str, PackedTensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors that store packed linears, given by name, ready for `CheckpointWriter.write_shard`."""
    return {f"{name}.{plane}": tensor for name, one in packed.items() for plane, tensor in one.planes.items()}


def expert(experts: str, projection: str, index: int) -> str:
    """Returns the name of the linear of one expert; `projection` is the parameter of the module `experts`."""
    return f"{experts}.q_{projection}.{index}"


def parse_expert(name: str) -> tuple[str, str, int] | None:
    """Returns (path of the experts module, projection, index of the expert), or None for any other linear."""
    match = _EXPERT.fullmatch(name)
    return (match["experts"], match["projection"], int(match["index"])) if match else None


def guard(experts: str, projection: str) -> str:
    """Returns the name of the guard tensor of a packed projection."""
    return f"{experts}.{projection}"


def parameter(linear: str) -> str:
    """Returns the name of the dense parameter that a packed linear takes the place of, or that holds its expert."""
    found = parse_expert(linear)
    return guard(*found[:2]) if found else f"{linear}.weight"


def guard_tensor() -> torch.Tensor:
    """Returns the guard: a shape that no fused parameter has."""
    return torch.zeros(1, dtype=torch.int8)


def with_guards(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors with the guards that their expert planes need."""
    experts = (parse_expert(name.rpartition(".")[0]) for name in tensors)
    return dict(tensors) | {guard(found[0], found[1]): guard_tensor() for found in experts if found}


def check_experts(linears: Iterable[str]) -> None:
    """Raises FormatError unless the experts of every packed projection are numbered 0, 1, 2 … without a gap."""
    indices: dict[tuple[str, str], list[int]] = {}
    for name in linears:
        if found := parse_expert(name):
            indices.setdefault(found[:2], []).append(found[2])
    for (experts, projection), present in indices.items():
        if sorted(present) != list(range(len(present))):
            raise FormatError(
                f"q_{projection} holds the experts {sorted(present)} only",
                do="Pack all experts of a projection, or leave all of them dense",
                layer=experts,
            )
