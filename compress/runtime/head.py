"""Holds TiledHead, a large dense head that uses the native kernels for up to `native.FEW_TOKENS` tokens.

The head of a compressed model stays dense, and every token reads all of it. Torch's bfloat16 product reaches less than
half of the memory bandwidth.

Shape letters: V vocabulary, H hidden.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from compress.format.layouts import dense
from compress.kernels import native
from compress.kernels.native import loader
from compress.kernels.native.prepare import block

LEAST_BYTES = 1 << 26
"""Smallest head that is replaced, in bytes. Smaller ones cost little, and much of them stays in the caches."""


class TiledHead(nn.Linear):
    """An nn.Linear over the same parameters, tied or not, with a tiled copy of its weight [V, H].

    The copy is made at the first input of `native.FEW_TOKENS` tokens or fewer, and again after the weight changed. A
    graph of torch.compile uses the copy that exists when the graph is made.
    """

    _tiles: tuple[torch.Tensor, ...]
    _made_of: tuple[int, int, torch.dtype] | None

    def __init__(self, head: nn.Linear):
        """Shares the parameters of `head`; they are not copied."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight, self.bias = head.weight, head.bias
        self.keep_tiles = True
        self._tiles, self._made_of = (), None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns [..., V] for hidden states [..., H]."""
        if not self._runs(input):
            return super().forward(input)
        if not torch.compiler.is_compiling():
            self._make_tiles()
        return native.linear(input, self._tiles, self.bias)

    def _make_tiles(self) -> None:
        made_of = self.weight.data_ptr(), self.weight._version, self.weight.dtype
        if made_of != self._made_of:
            with torch.inference_mode(False), torch.no_grad():
                self._tiles = torch.empty(self.out_features, self.in_features, 0), block(dense.pack(self.weight))
            self._made_of = made_of

    def _runs(self, x: torch.Tensor) -> bool:
        few = 0 < math.prod(x.shape[:-1]) <= native.FEW_TOKENS
        learning = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        plain = self.weight.device.type == "cpu" and x.dtype == self.weight.dtype
        ready = bool(self._tiles) or not torch.compiler.is_compiling()
        return self.keep_tiles and few and plain and not learning and ready


def install(model: nn.Module) -> None:
    """Replaces a large dense head on the CPU by a TiledHead, in place, if the native kernels are available."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find is not None else None
    if type(head) is not nn.Linear or loader.unavailable():
        return
    size = head.weight.numel() * head.weight.element_size()
    known = head.weight.dtype in dense.DTYPES.values()
    if size >= LEAST_BYTES and known and head.weight.device.type == "cpu":
        model.set_output_embeddings(TiledHead(head))  # type: ignore[operator]


def keep_tiles(model: nn.Module, keep: bool) -> None:
    """Sets whether a TiledHead of the model may keep its tiled copy; without the copy torch computes the product."""
    for module in model.modules():
        if isinstance(module, TiledHead):
            module.keep_tiles = keep
            module._tiles, module._made_of = (), None
