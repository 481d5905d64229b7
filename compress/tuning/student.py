"""The student of end-to-end tuning: a model with packed linears whose real numbers take a gradient.

Weights are assembled where they are used and again in the backward pass, so no dense copy of the model is ever kept.

Shape letters: B sequences, T tokens of one, V vocabulary, N out, K in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from compress.runtime import skeleton
from compress.tuning.trainable_planes import PackedParts, Part

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.runtime.linear import PackedLinear


def as_float(model: nn.Module) -> nn.Module:
    """Returns the model with its dense floats in float32, in place; packed planes stay as they are."""
    # transformers refuses `.float()` where a checkpoint has a quantization_config, also one of nothing but widths
    return nn.Module.float(model)


class TunableLinear(nn.Module):
    """Stands for a PackedLinear: the same product, differentiable in the continuous planes of the weight."""

    def __init__(self, packed: PackedTensor, bias: nn.Parameter | None):
        """Takes the bias as it is: whoever fits it gives its value for the time of a forward."""
        super().__init__()
        self.parts = PackedParts(packed)
        self.register_parameter("bias", bias)
        self.nudge: nn.Parameter | None = None
        """Zero, [N, K], where it is wanted: its gradient is that of the weight itself."""
        self.out_features, self.in_features = packed.shape

    bias: nn.Parameter | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [..., N] for x [..., K]."""
        # the bias stays outside: what is recomputed must not depend on values that are given for a forward only
        y: torch.Tensor = checkpoint(self._product, x, use_reentrant=False, preserve_rng_state=False)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        w_NK = self.parts.weight()
        if self.nudge is not None:
            w_NK = w_NK + self.nudge
        return nn.functional.linear(x, w_NK.to(x.dtype))


class Student(nn.Module):
    """A causal language model with packed linears, made tunable in place. Its forward returns logits."""

    def __init__(self, model: nn.Module):
        """Takes the model over: its packed linears are replaced, its dense floats become float32.

        `model` is what `compress.load` gives; a norm or a bias is rounded to the dtype that it has there.
        """
        super().__init__()
        layers: dict[str, PackedLinear] = skeleton.packed_layers(model)
        stored = {name: p.detach() for name, p in model.named_parameters() if p.dim() == 1 and p.is_floating_point()}
        as_float(model).requires_grad_(False)
        self.layers = {name: TunableLinear(layer.packed, layer.bias) for name, layer in layers.items()}
        for name, layer in self.layers.items():
            model.set_submodule(name, layer)
        # fitted parts keep their gradient: they came after requires_grad_ above
        self.model = model.eval()
        self.vectors = {name: Part(value) for name, value in stored.items()}
        self._vectors = nn.ModuleList(self.vectors.values())

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Returns the logits [B, T, V] of what would be stored now."""
        logits_BTV: torch.Tensor = self.output(tokens_BT).logits
        return logits_BTV

    def output(self, tokens_BT: torch.Tensor, *, hidden: bool = False) -> Any:
        """Returns what the model gives, with the hidden states when asked, for what would be stored now."""
        values = {name: part.value() for name, part in self.vectors.items()}
        given = {"input_ids": tokens_BT, "use_cache": False, "output_hidden_states": hidden}
        return torch.func.functional_call(self.model, values, kwargs=given, strict=False)

    def moves(self) -> list[nn.Parameter]:
        """Returns the masters of everything that is fitted, in a fixed order."""
        of_linears = [part.move for layer in self.layers.values() for part in layer.parts.planes.values()]
        return [*of_linears, *(part.move for part in self.vectors.values())]  # type: ignore[list-item]

    def result(self) -> tuple[dict[str, PackedTensor], dict[str, torch.Tensor]]:
        """Returns packed linears and vectors by name as they would be stored now."""
        packed = {name: layer.parts.result() for name, layer in self.layers.items()}
        return packed, {name: part.result() for name, part in self.vectors.items()}
