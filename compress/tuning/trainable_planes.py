"""Float32 masters for the continuous planes of packed linears and for dense vectors, used while they are trained.

Every tensor moves in units of its own root mean square, so one learning rate serves scales of 1e-4, zero points of 3
and norms of 1 alike. The forward pass always sees the master rounded to the dtype that it is stored in, so the loss is
that of the file; the gradient passes through the rounding unchanged (straight-through estimator). An all-zero tensor
has no unit and stays zero.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch

from compress.format import layouts
from compress.format.packed import PackedTensor


class TrainableTensor(torch.nn.Module):
    """One trained tensor: its starting value, its unit, and the offset in that unit, which is the trained master."""

    def __init__(self, stored: torch.Tensor, device: torch.device | None = None):
        """`stored` has the dtype that the result is stored in; it is not changed."""
        super().__init__()
        self.stored = stored.detach()
        self.register_buffer("start", self.stored.to(device, torch.float32), persistent=False)
        # a mean over no elements would be NaN; their sum is 0
        unit = self.start.square().mean().sqrt() if self.start.numel() else self.start.sum()
        self.register_buffer("unit", unit, persistent=False)
        self.offset = torch.nn.Parameter(torch.zeros_like(self.start))

    start: torch.Tensor
    unit: torch.Tensor

    def value(self) -> torch.Tensor:
        """Returns the float32 value that would be stored now, differentiable in `offset`."""
        rounded: torch.Tensor = _Rounded.apply(self.start + self.unit * self.offset, self.stored.dtype)  # type: ignore[no-untyped-call]
        return rounded

    @torch.no_grad()
    def result(self) -> torch.Tensor:
        """Returns the tensor to store, in the dtype and on the device of the one it was made from."""
        return self.value().to(self.stored)


class TrainablePlanes(torch.nn.Module):
    """The continuous planes of one packed linear, trained; its integer planes, decoded once."""

    def __init__(self, packed: PackedTensor, device: torch.device | None = None):
        """Decoded planes and masters go to `device`."""
        super().__init__()
        self.packed = packed
        on_device = {name: plane.to(device) for name, plane in packed.planes.items()}
        self.expanded = layouts.expand(PackedTensor(packed.shape, packed.scheme, on_device))
        self.continuous = torch.nn.ModuleDict(
            {name: TrainableTensor(plane, device) for name, plane in layouts.continuous(packed).items()}
        )

    def weight(self) -> torch.Tensor:
        """Returns the weight, float32 [N, K], that would be stored now, differentiable in the masters."""
        return layouts.assemble(self.expanded, {name: plane.value() for name, plane in self._planes()})

    def result(self) -> PackedTensor:
        """Returns the packed linear as it would be stored now; planes that are not continuous are unchanged."""
        planes = {name: plane.result() for name, plane in self._planes()}
        return PackedTensor(self.packed.shape, self.packed.scheme, self.packed.planes | planes)

    def with_codes(self, planes: Mapping[str, torch.Tensor]) -> PackedTensor:
        """Returns the packed linear with these planes in place of its own."""
        moved = {name: plane.to(self.packed.planes[name].device) for name, plane in planes.items()}
        return PackedTensor(self.packed.shape, self.packed.scheme, self.packed.planes | moved)

    def set_codes(self, packed: PackedTensor) -> None:
        """Replaces the integer planes by those of `packed`; its continuous planes are ignored."""
        assert packed.scheme == self.packed.scheme
        self.packed = self.with_codes({name: p for name, p in packed.planes.items() if name not in self.continuous})
        self.expanded = layouts.expand(self.packed)

    def masters(self) -> dict[str, torch.nn.Parameter]:
        """Returns the trained parameters by the names of their planes."""
        return {name: plane.offset for name, plane in self._planes()}

    def _planes(self) -> list[tuple[str, TrainableTensor]]:
        return [(name, cast("TrainableTensor", plane)) for name, plane in self.continuous.items()]


class TrainableBlock(torch.nn.Module):
    """The packed linears and dense tensors that are trained together, by their names in the checkpoint."""

    def __init__(
        self,
        packed: Mapping[str, PackedTensor],
        dense: Mapping[str, torch.Tensor],
        device: torch.device | None = None,
    ):
        """`dense` are tensors in the dtypes that they are stored in."""
        super().__init__()
        self._packed = {name: TrainablePlanes(tensor, device) for name, tensor in packed.items()}
        self._dense = {name: TrainableTensor(tensor, device) for name, tensor in dense.items()}
        # module names must not contain dots, so a list registers them
        self.all = torch.nn.ModuleList([*self._packed.values(), *self._dense.values()])

    def weights(self) -> dict[str, torch.Tensor]:
        """Returns the weights of the packed linears, float32 [N, K], differentiable."""
        return {name: planes.weight() for name, planes in self._packed.items()}

    def dense(self) -> dict[str, torch.Tensor]:
        """Returns the values of the dense tensors, float32, differentiable."""
        return {name: tensor.value() for name, tensor in self._dense.items()}

    def result(self) -> tuple[dict[str, PackedTensor], dict[str, torch.Tensor]]:
        """Returns the packed linears and the dense tensors as they would be stored now."""
        packed = {name: planes.result() for name, planes in self._packed.items()}
        return packed, {name: tensor.result() for name, tensor in self._dense.items()}


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return value.to(dtype).float()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return grad, None


def optimizer(parameters: list[torch.nn.Parameter], rate: float) -> torch.optim.Adam:
    """Returns Adam with the betas of AQLM's block fine-tuning (arXiv 2401.06118 §3.4)."""
    # the loss is relative: in a plane of many elements each gradient is tiny, and the usual epsilon of 1e-8 damps it
    return torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.95), eps=1e-15)
