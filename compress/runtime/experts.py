"""Holds PackedExperts, an experts module with packed matrices: one PackedLinear per expert and parameter.

Shape letters: T tokens, C experts chosen per token, E experts, H hidden, N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from compress.errors import FormatError
from compress.format import naming
from compress.models.moe.forward import interface_forward
from compress.models.moe.layouts import ExpertLayout, Stack, expert_layout, refusal
from compress.models.moe.stand_in import Multiply, StandInModule, exchange_class
from compress.runtime.linear import PackedLinear


class PackedExperts(StandInModule):
    """A module that holds E matrices in one parameter (or several), with some of these parameters packed.

    A module that follows transformers' experts interface is computed as that interface defines. Any other module runs
    its own forward with stand-ins for the packed parameters: products with a stand-in are computed by the packed
    layers. Routers, biases, activations and all other parts of the module are unchanged in both cases.
    """

    dense_dtype: torch.dtype
    """Dtype of the model, which the parameters had before they were packed."""

    def stack_multiply(self, stack: Stack) -> tuple[Multiply, torch.Tensor] | None:
        """Returns the product with the packed layers of a stack, and an empty tensor with its dtype and device.

        None if the stack is dense, or not loaded yet.
        """
        guard = self._buffers.get(stack.parameter)
        if guard is None or guard.device.type == "meta":  # dense, or not loaded yet: the loader needs the guard
            return None
        layers = self.get_submodule(f"q_{stack.parameter}")
        like = torch.empty(0, dtype=self.dense_dtype, device=guard.device)
        return lambda expert, x: layers.get_submodule(str(expert))(x), like

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the output of the dense module with the decoded weights; only the order of summation may differ."""
        if self.layout.interface:
            return self._interface(*args, **kwargs)
        return super().forward(*args, **kwargs)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> PackedExperts:
        self.dense_dtype = fn(torch.empty(0, dtype=self.dense_dtype)).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _interface(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        return interface_forward(self, self.layout, self._project, hidden_states, top_k_index, top_k_weights)

    def _project(self, parameter: str, expert: int, x_RK: torch.Tensor) -> torch.Tensor:
        if (layers := self._modules.get(f"q_{parameter}")) is not None:
            y_RN: torch.Tensor = layers.get_submodule(str(expert))(x_RK)
            return y_RN
        w = self._parameters[parameter]
        assert w is not None
        return x_RK @ w[expert] if self.layout[parameter].transposed else nn.functional.linear(x_RK, w[expert])


def pack_experts(module: nn.Module, packed: Mapping[str, Sequence[PackedLinear]], path: str) -> None:
    """Makes `module` compute with packed experts, in place; `packed` maps a parameter to the layers of its experts.

    Each parameter is replaced by a list of layers `q_<parameter>` and a guard tensor under the old name, which makes a
    loader without this package fail instead of using random weights.

    Raises:
        FormatError: the module's layout is unknown, or the layers do not fit it.
    """
    layout = expert_layout(module)
    if layout is None:
        raise FormatError(refusal(module), do="Install the transformers version used for packing", layer=path)
    _check_fit(layout, packed, path)
    dense = {parameter: module.get_parameter(parameter) for parameter in packed}
    for parameter, layers in packed.items():
        delattr(module, parameter)
        module.add_module(f"q_{parameter}", nn.ModuleList(layers))
        module.register_buffer(parameter, naming.guard_tensor().to(dense[parameter].device))
    exchange_class(module, PackedExperts, layout)
    module.__dict__["dense_dtype"] = next(iter(dense.values())).dtype


def check_loaded(module: PackedExperts, path: str) -> None:
    """Raises FormatError unless the guards, biases and dense parameters of the module came from the checkpoint."""
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if tensor.device.type != "meta" and not getattr(tensor, "_is_hf_initialized", False):
            raise FormatError(f"{name!r} is missing from the checkpoint", do="Copy or compress it again", layer=path)


def _check_fit(layout: ExpertLayout, packed: Mapping[str, Sequence[PackedLinear]], path: str) -> None:
    stacks = {stack.parameter: stack for stack in layout.stacks}
    for parameter, layers in packed.items():
        if parameter not in stacks:
            raise FormatError(f"q_{parameter} is packed", allowed=", ".join(f"q_{name}" for name in stacks), layer=path)
        expected = (stacks[parameter].experts, *stacks[parameter].shape)
        for expert, layer in enumerate(layers):
            if (len(layers), layer.out_features, layer.in_features) != expected:
                raise FormatError(
                    f"q_{parameter}.{expert} is {layer.out_features}×{layer.in_features}, one of {len(layers)}",
                    allowed="×".join(map(str, expected)),
                    layer=path,
                )
