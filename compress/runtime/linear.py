"""Holds PackedLinear, a linear layer with a packed weight. It replaces nn.Linear and GPT-2's Conv1D.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels import ops, select

_RAW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class PackedLinear(nn.Module):
    """y = x · unpack(planes)ᵀ + bias, in the dtype of x.

    The planes are buffers. They keep their stored dtype, also under `.to(dtype)`, and follow `.to(device)`. With
    `keep_prepared` (the default) the kernel's form of the planes is made at the first call and kept outside the state
    dict. For the reference kernel this form is the weight in the dtype of x, so the layer takes the memory of the dense
    layer in addition to its planes. Without `keep_prepared` the planes are decoded at every call.
    """

    bias: nn.Parameter | None
    _operands: Any  # what the kernel prepared; nothing else reads it
    _linear: Callable[..., torch.Tensor] | None
    _prepared_for: tuple[torch.dtype, torch.device] | None

    def __init__(
        self,
        scheme: Scheme,
        shape: tuple[int, int],
        *,
        bias: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        """Makes the layer with uninitialised planes for a loader to fill; `dtype` is the dtype of the bias."""
        nn.Module.__init__(self)  # that of nn.Linear, a base of AdaptableLinear, would make a dense weight
        self.scheme, (self.out_features, self.in_features) = scheme, shape
        for name, (plane_dtype, plane_shape) in layouts.plane_specs(scheme, shape).items():
            self.register_buffer(name, torch.empty(plane_shape, dtype=plane_dtype, device=device))
        empty = nn.Parameter(torch.empty(shape[0], device=device, dtype=dtype), requires_grad=False) if bias else None
        self.register_parameter("bias", empty)
        self.keep_prepared = True
        self._spec = ops.spec_of(scheme, shape)
        self._forget()

    @classmethod
    def from_packed(cls, packed: PackedTensor, bias: torch.Tensor | None = None) -> PackedLinear:
        """Returns a layer that shares the planes of `packed`."""
        layer = cls(packed.scheme, packed.shape, bias=bias is not None, device="meta")
        for name, plane in packed.planes.items():
            layer._buffers[name] = plane
        if bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad=False)
        return layer

    @property
    def packed(self) -> PackedTensor:
        """The packed weight."""
        planes = {name: plane for name, plane in self._buffers.items() if plane is not None}
        return PackedTensor((self.out_features, self.in_features), self.scheme, planes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [..., N] for x [..., K]."""
        return self._product(x, self.bias)

    def _product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # a graph that is being traced must not hold the side effect of preparing; it calls the op, which decodes
        if self.keep_prepared and self._prepared_for != (x.dtype, x.device) and not torch.compiler.is_compiling():
            self._prepare(x)
        if self._linear is not None and self._prepared_for == (x.dtype, x.device):
            return self._linear(x, self._operands, bias)
        result: torch.Tensor = torch.ops.compress.packed_linear(x, list(self.packed.planes.values()), bias, self._spec)
        return result

    def _prepare(self, x: torch.Tensor) -> None:
        kernel = select.require(self.scheme, (self.out_features, self.in_features), x.device)
        # tensors made in inference mode could not take part in a later backward pass
        with torch.inference_mode(False), torch.no_grad():
            self._operands = kernel.prepare(self.packed, x.dtype)
        self._linear, self._prepared_for = kernel.linear, (x.dtype, x.device)

    def _forget(self) -> None:
        """Drops the prepared form; the next call makes it again from the planes."""
        self._operands = ()
        self._linear = None
        self._prepared_for = None

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> PackedLinear:
        """Applies `fn` to the planes viewed as raw integers, so that a change of dtype does not affect them."""
        planes = dict(self._buffers)
        self._buffers = {}
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        finally:
            self._buffers = planes
        for name, plane in planes.items():
            assert plane is not None
            raw = plane.view(_RAW[plane.element_size()])
            moved = fn(raw)
            if moved is not raw:  # the same tensor object is kept where nothing moves: loaders leave marks on it
                self._buffers[name] = moved.view(plane.dtype)
        self._forget()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()

    def extra_repr(self) -> str:
        """Returns the description of the layer in `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"{self.scheme.layout}, {self.scheme.bits} bits, {self.packed.bits_per_weight:.2f} stored"
        )


class AdaptableLinear(PackedLinear, nn.Linear):  # type: ignore[misc]  # nn.Linear has no type for a missing bias
    """A PackedLinear that is also an nn.Linear, for libraries that check for that class.

    peft puts adapters on it. Its `weight` is a buffer of packed codes; the matrix is `layouts.unpack(layer.packed)`.
    Experts are plain PackedLinear, because peft selects linears by the last part of their path, here a number.
    """

    _is_hf_initialized = True
    """Prevents transformers from initialising the weight with random values, as it does for linears it did not load."""

    def _get_name(self) -> str:
        return PackedLinear.__name__
