"""A model for sparse training: linears are dense weights under masks, and pruned weights are trained too.

Masks apply to weights, not to modules, so nn.Linear, Conv1D and fused experts are treated alike.

Shape letters: B sequences, T tokens, N out features, K in features, s blocks of SLoRB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from compress.format.layouts import composing, dense, sparse_nm
from compress.format.packed import PackedTensor
from compress.models import linears
from compress.models.linears import LinearRef
from compress.models.skeleton import slot
from compress.numerics import masks, nm
from compress.tuning.student import to_float32


class SparseLinear(nn.Module):
    """One linear: its dense weight, its mask, and the two factors of SLoRB if it has them."""

    mask: torch.Tensor

    def __init__(self, w_NK: torch.Tensor, mask_NK: torch.Tensor, slorb: int):
        """`slorb` is the number of inputs in a block of SLoRB; 0 for no SLoRB."""
        super().__init__()
        self.weight = nn.Parameter(w_NK)
        self.register_buffer("mask", mask_NK)
        factors = masks.slorb_start(w_NK, mask_NK, slorb) if slorb else (None, None)
        for name, factor in zip(("left", "right"), factors, strict=True):
            self.register_parameter(name, None if factor is None else nn.Parameter(factor))

    left: nn.Parameter | None
    right: nn.Parameter | None

    def effective(self, *, stored: bool) -> torch.Tensor:
        """Returns the masked weight, float32 [N, K], plus SLoRB; rounded to what would be stored if `stored`."""
        if stored:
            w_NK = self.weight.to(torch.bfloat16).float() * self.mask
            if self.left is None or self.right is None:
                return w_NK
            return w_NK + composing.product(self.left.to(torch.bfloat16), self.right.to(torch.bfloat16))
        w_NK = masks.masked(self.weight, self.mask)
        return w_NK if self.left is None or self.right is None else w_NK + self.left @ self.right

    @torch.no_grad()
    def refresh(self, n: int, m: int) -> int:
        """Chooses the mask again by the largest weights; returns how many weights are no longer kept."""
        chosen_NK = nm.mask_nm(self.weight.abs(), n, m)
        changed = masks.flipped(self.mask, chosen_NK)
        self.mask.copy_(chosen_NK)
        return changed

    @torch.no_grad()
    def packed(self, n: int, m: int) -> PackedTensor:
        """Returns the sparse_nm.v1 tensor: bfloat16 values, their positions, the factors of SLoRB."""
        values = dense.pack(sparse_nm.kept(self.weight, self.mask, n=n, m=m).to(torch.bfloat16).cpu())
        factors = None if self.left is None or self.right is None else (self.left.cpu(), self.right.cpu())
        return sparse_nm.pack(values, self.mask.cpu(), n=n, m=m, slorb=factors)


class SparseModel(nn.Module):
    """A causal language model with masked linears; all of its parameters are trained."""

    def __init__(self, model: nn.Module, initial: Iterable[tuple[LinearRef, torch.Tensor, torch.Tensor]], slorb: int):
        """Changes the model in place.

        `initial` yields every linear with its weight and mask; it may still read the model, whose own copies of these
        weights are freed afterwards.
        """
        super().__init__()
        self._dtypes = {name: p.dtype for name, p in model.named_parameters()}
        self.layers: dict[str, SparseLinear] = {}
        self._refs: list[LinearRef] = []
        for ref, w_NK, mask_NK in initial:
            self._refs.append(ref)
            self.layers[ref.name] = SparseLinear(w_NK, mask_NK, slorb)
        # module names must not contain dots, so a list registers them
        self._layers = nn.ModuleList(self.layers.values())
        for name in {ref.parameter for ref in self._refs}:
            table, key = slot(model, name)
            table[key] = nn.Parameter(torch.empty(0), requires_grad=False)
            del self._dtypes[name]
        self.model = to_float32(model).eval()
        self._rest = {name: model.get_parameter(name) for name in self._dtypes}
        for parameter in self._rest.values():
            parameter.requires_grad_()

    def forward(self, tokens_BT: torch.Tensor, *, stored: bool = False) -> Any:
        """Returns the model's output; if `stored`, of the linears as they would be stored now."""
        weights = {name: layer.effective(stored=stored) for name, layer in self.layers.items()}
        values = linears.parameters(self._refs, weights)
        return torch.func.functional_call(
            self.model, values, kwargs={"input_ids": tokens_BT, "use_cache": False}, strict=False
        )

    def masters(self) -> dict[str, nn.Parameter]:
        """Returns everything that is trained, by name."""
        of_linears = {
            f"{name}.{kind}": parameter
            for name, layer in self.layers.items()
            for kind, parameter in layer.named_parameters()
        }
        return of_linears | self._rest

    def masks(self) -> dict[str, torch.Tensor]:
        """Returns the masks by the names of their linears."""
        return {name: layer.mask for name, layer in self.layers.items()}

    def load_masks(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Replaces the masks, by the names of their linears."""
        for name, layer in self.layers.items():
            layer.mask.copy_(masks[name])

    def dense(self) -> dict[str, torch.Tensor]:
        """Returns the parameters that are no masked linears, in their original dtypes."""
        return {name: p.detach().cpu().to(self._dtypes[name]) for name, p in self._rest.items()}
