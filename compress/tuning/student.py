"""The student of end-to-end tuning: a model whose packed linears are differentiable in their continuous planes.

Weights are decoded where they are used and again in the backward pass, so there is never a dense copy of the model.

Shape letters: B sequences, T tokens per sequence, V vocabulary, N out features, K in features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from compress.runtime import skeleton
from compress.runtime.embedding import PackedEmbedding
from compress.tuning.trainable_planes import TrainablePlanes, TrainableTensor

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor


def to_float32(model: nn.Module) -> nn.Module:
    """Returns the model with its dense floats in float32, changed in place; packed planes keep their dtypes."""
    # transformers refuses model.float() on any model with a quantization_config, even one that only names widths
    return nn.Module.float(model)


class TunableLinear(nn.Module):
    """Replaces a PackedLinear: the same product, differentiable in the continuous planes of the weight."""

    def __init__(self, packed: PackedTensor, bias: nn.Parameter | None):
        """Keeps the bias as it is: `Student` passes its trained value in at every forward."""
        super().__init__()
        self.planes = TrainablePlanes(packed)
        self.register_parameter("bias", bias)
        self.weight_offset: nn.Parameter | None = None
        """Zeros [N, K] where the gradient of the whole weight is needed, which is then `weight_offset.grad`."""
        self.out_features, self.in_features = packed.shape

    bias: nn.Parameter | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [..., N] for x [..., K]."""
        # the bias is added outside the checkpoint: functional_call replaces it for the forward only, so that a
        # recomputation in the backward pass would read the old value
        y: torch.Tensor = checkpoint(self._product, x, use_reentrant=False, preserve_rng_state=False)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        w_NK = self.planes.weight()
        if self.weight_offset is not None:
            w_NK = w_NK + self.weight_offset
        return nn.functional.linear(x, w_NK.to(x.dtype))


class Student(nn.Module):
    """A causal language model with packed linears, made trainable in place. Its forward returns logits."""

    def __init__(self, model: nn.Module):
        """Takes the model over: its packed linears are replaced, its dense floats become float32.

        `model` is what `compress.load` returns; norms and biases are stored in the dtypes that they have there.
        """
        super().__init__()
        # a packed embedding stays as it is, and so does the head that shares it
        packed_linears = {
            name: layer
            for name, layer in skeleton.packed_layers(model).items()
            if not isinstance(layer, PackedEmbedding)
        }
        stored = {name: p.detach() for name, p in model.named_parameters() if p.dim() == 1 and p.is_floating_point()}
        to_float32(model).requires_grad_(False)
        # made after requires_grad_(False), so that their masters stay trainable
        self.layers = {name: TunableLinear(linear.packed, linear.bias) for name, linear in packed_linears.items()}
        for name, layer in self.layers.items():
            model.set_submodule(name, layer)
        self.model = model.eval()
        self.vectors = {name: TrainableTensor(vector) for name, vector in stored.items()}
        self._vectors = nn.ModuleList(self.vectors.values())

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Returns the logits [B, T, V] of the model as it would be stored now."""
        logits_BTV: torch.Tensor = self.output(tokens_BT).logits
        return logits_BTV

    def output(self, tokens_BT: torch.Tensor, *, hidden: bool = False) -> Any:
        """Returns the output of the model as it would be stored now, with hidden states if `hidden`."""
        values = {name: vector.value() for name, vector in self.vectors.items()}
        arguments = {"input_ids": tokens_BT, "use_cache": False, "output_hidden_states": hidden}
        return torch.func.functional_call(self.model, values, kwargs=arguments, strict=False)

    def masters(self) -> dict[str, nn.Parameter]:
        """Returns everything that is trained, by name, in a fixed order."""
        of_planes = {
            f"{name}.{plane}": master
            for name, layer in self.layers.items()
            for plane, master in layer.planes.masters().items()
        }
        return of_planes | {name: vector.offset for name, vector in self.vectors.items()}

    def result(self) -> tuple[dict[str, PackedTensor], dict[str, torch.Tensor]]:
        """Returns packed linears and vectors, by name, as they would be stored now."""
        packed = {name: layer.planes.result() for name, layer in self.layers.items()}
        return packed, {name: vector.result() for name, vector in self.vectors.items()}
