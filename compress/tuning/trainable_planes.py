"""The real numbers of packed linears and dense tensors while they are fitted: masters in float32, values as stored.

Every tensor moves in units of its own root mean square, so one rate serves scales of 1e-4, zero points of 3 and norms
of 1 alike. What the forward sees is always the master rounded to the dtype it is stored in; the gradient passes through
the rounding as if it were not there. A tensor that is all zero has no unit and stays.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from compress.format import layouts
from compress.format.packed import PackedTensor


class Part(torch.nn.Module):
    """One tensor that is fitted: what it was, and how far it has moved."""

    def __init__(self, stored: torch.Tensor, device: torch.device | None = None):
        """`stored` has the dtype that the result is stored in; it is not changed."""
        super().__init__()
        self.stored = stored.detach()
        self.register_buffer("start", self.stored.to(device, torch.float32), persistent=False)
        unit = self.start.square().mean().sqrt() if self.start.numel() else self.start.sum()
        self.register_buffer("unit", unit, persistent=False)
        self.move = torch.nn.Parameter(torch.zeros_like(self.start))

    start: torch.Tensor
    unit: torch.Tensor

    def value(self) -> torch.Tensor:
        """Returns the float32 value of what would be stored now, differentiable in the master."""
        rounded: torch.Tensor = _Rounded.apply(self.start + self.unit * self.move, self.stored.dtype)  # type: ignore[no-untyped-call]
        return rounded

    @torch.no_grad()
    def result(self) -> torch.Tensor:
        """Returns the tensor to store: dtype and device of the one it was made from."""
        return self.value().to(self.stored)


class PackedParts(torch.nn.Module):
    """The continuous planes of one packed linear."""

    def __init__(self, packed: PackedTensor, device: torch.device | None = None):
        """Decodes the integer planes once; they go to `device` with the masters."""
        super().__init__()
        self.packed = packed
        on_device = {name: plane.to(device) for name, plane in packed.planes.items()}
        self.expanded = layouts.expand(PackedTensor(packed.shape, packed.scheme, on_device))
        self.planes = torch.nn.ModuleDict(
            {name: Part(plane, device) for name, plane in layouts.continuous(packed).items()}
        )

    def weight(self) -> torch.Tensor:
        """Returns the weight [N, K], float32, differentiable in the masters: what would be shipped now."""
        return layouts.assemble(self.expanded, {name: part.value() for name, part in self._parts()})

    def result(self) -> PackedTensor:
        """Returns the packed linear as it stands now; every plane that is not continuous is the one it came with."""
        planes = {name: part.result() for name, part in self._parts()}
        return PackedTensor(self.packed.shape, self.packed.scheme, self.packed.planes | planes)

    def with_codes(self, planes: Mapping[str, torch.Tensor]) -> PackedTensor:
        """Returns the linear that it was made from, with these planes in place of its own."""
        moved = {name: plane.to(self.packed.planes[name].device) for name, plane in planes.items()}
        return PackedTensor(self.packed.shape, self.packed.scheme, self.packed.planes | moved)

    def take_codes(self, packed: PackedTensor) -> None:
        """Goes on with the integer planes of `packed`; its continuous planes are not looked at."""
        assert packed.scheme == self.packed.scheme
        self.packed = self.with_codes({name: p for name, p in packed.planes.items() if name not in self.planes})
        self.expanded = layouts.expand(self.packed)

    def _parts(self) -> list[tuple[str, Any]]:
        return list(self.planes.items())


class Fitted(torch.nn.Module):
    """Everything that is fitted together, by the names that the checkpoint has for it."""

    def __init__(
        self,
        packed: Mapping[str, PackedTensor],
        dense: Mapping[str, torch.Tensor],
        device: torch.device | None = None,
    ):
        """`dense` are tensors in the dtypes they are stored in."""
        super().__init__()
        self._packed = {name: PackedParts(tensor, device) for name, tensor in packed.items()}
        self._dense = {name: Part(tensor, device) for name, tensor in dense.items()}
        # names with dots cannot name modules
        self.all = torch.nn.ModuleList([*self._packed.values(), *self._dense.values()])

    def weights(self) -> dict[str, torch.Tensor]:
        """Returns the weights [N, K] of the packed linears, float32, differentiable."""
        return {name: parts.weight() for name, parts in self._packed.items()}

    def dense(self) -> dict[str, torch.Tensor]:
        """Returns the values of the dense tensors, float32, differentiable."""
        return {name: part.value() for name, part in self._dense.items()}

    def result(self) -> tuple[dict[str, PackedTensor], dict[str, torch.Tensor]]:
        """Returns the packed linears and the dense tensors as they would be stored now."""
        packed = {name: parts.result() for name, parts in self._packed.items()}
        return packed, {name: part.result() for name, part in self._dense.items()}


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return value.to(dtype).float()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return grad, None


def optimizer(parameters: list[torch.nn.Parameter], rate: float) -> torch.optim.Adam:
    """Returns Adam with the betas of the paper; its epsilon is far below any gradient, which a relative loss makes
    tiny where a plane has many elements."""
    return torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.95), eps=1e-15)


def held_out(sequences: int, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the numbers of the sequences to fit on and of those that only judge, both rising."""
    count = min(max(1, round(share * sequences)), sequences - 1)
    order = torch.randperm(sequences, generator=torch.Generator().manual_seed(seed))
    return order[count:].sort().values, order[:count].sort().values


def order_of(epoch: int, sequences: torch.Tensor, seed: int) -> torch.Tensor:
    """Returns the sequences in the order of one epoch, which seed and epoch alone decide: a resumed run knows it."""
    generator = torch.Generator().manual_seed((seed << 20) + epoch + 1)
    return sequences[torch.randperm(sequences.numel(), generator=generator)]
