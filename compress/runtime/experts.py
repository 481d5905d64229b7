"""PackedExperts: a fused-experts module whose matrices are packed, one PackedLinear per expert and projection.

Shape letters: T tokens, C experts chosen per token, E experts, H hidden, I intermediate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from compress.errors import FormatError
from compress.format import naming
from compress.runtime.linear import PackedLinear

_EXPECTED = {"has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True}
"""How transformers' `use_experts_implementation` must describe an experts module for this one to take its place."""


class PackedExperts(nn.Module):
    """Stands for an experts module with `gate_up_proj` [E, 2I, H] and `down_proj` [E, H, I], either of them packed.

    Routing is not touched: it receives hidden states, chosen experts and their weights, as the dense module does.
    """

    def __init__(self, dense: nn.Module, packed: dict[str, list[PackedLinear]], path: str):
        """`packed` maps a projection to its experts' layers; `dense` gives the rest. FormatError if it cannot."""
        super().__init__()
        _refuse_unsupported(dense, packed, path)
        self.num_experts = int(dense.get_parameter("gate_up_proj").shape[0])
        for projection in naming.PROJECTIONS:
            parameter = getattr(dense, projection)
            delattr(dense, projection)
            if projection in packed:
                self.add_module(f"q_{projection}", nn.ModuleList(packed[projection]))
                # under the name of the dense parameter: without this package, loading stops at its shape
                guard = naming.guard_tensor().to(parameter.device)
                self.register_buffer(projection, guard)
            else:
                self.register_parameter(projection, parameter)
        # keeps what the gate needs (activation, limits, constants); no submodule, since it has no weights any more
        self._dense = [dense]

    def forward(
        self, hidden_TH: torch.Tensor, top_k_index_TC: torch.Tensor, top_k_weights_TC: torch.Tensor
    ) -> torch.Tensor:
        """Returns [T, H]: for each token the weighted sum of its experts, in the dtype of the hidden states."""
        tokens, choices = top_k_index_TC.shape
        gate: Callable[[torch.Tensor], torch.Tensor] = self._dense[0]._apply_gate  # type: ignore[assignment]
        dtype = torch.promote_types(hidden_TH.dtype, top_k_weights_TC.dtype)
        # one row per choice, summed at the end in a fixed order: the same result whatever the order of the experts
        weighted = torch.zeros(tokens * choices, hidden_TH.shape[-1], dtype=dtype, device=hidden_TH.device)
        chosen, share = top_k_index_TC.reshape(-1), top_k_weights_TC.reshape(-1, 1)
        for expert in sorted(set(chosen.tolist())):
            rows = (chosen == expert).nonzero()[:, 0]
            inner = gate(self._project("gate_up_proj", expert, hidden_TH[rows // choices]))
            weighted[rows] = self._project("down_proj", expert, inner) * share[rows]
        return weighted.view(tokens, choices, -1).sum(1).to(hidden_TH.dtype)

    def _project(self, projection: str, expert: int, x: torch.Tensor) -> torch.Tensor:
        if f"q_{projection}" in self._modules:
            result: torch.Tensor = self.get_submodule(f"q_{projection}.{expert}")(x)
            return result
        return nn.functional.linear(x, getattr(self, projection)[expert])


def _refuse_unsupported(dense: nn.Module, packed: dict[str, list[PackedLinear]], path: str) -> None:
    """Raises FormatError unless `dense` is laid out as this module assumes, by transformers' own description of it."""
    for attribute, expected in _EXPECTED.items():
        if getattr(dense, attribute, None) is not expected:
            found = getattr(dense, attribute, "not described")
            raise FormatError(
                f"experts of {type(dense).__name__} with {attribute}: {found}", allowed=str(expected), layer=path
            )
    if getattr(dense, "has_post_expert_norm", False):
        raise FormatError(f"experts of {type(dense).__name__} with a norm after each expert", layer=path)
    if extra := {name for name, _ in dense.named_parameters()} - set(naming.PROJECTIONS):
        raise FormatError(f"experts of {type(dense).__name__} with the parameters {sorted(extra)}", layer=path)
    for projection, layers in packed.items():
        shape = tuple(getattr(dense, projection).shape)
        for expert, layer in enumerate(layers):
            if (len(layers), layer.out_features, layer.in_features) != shape:
                raise FormatError(
                    f"q_{projection}.{expert} is {layer.out_features}×{layer.in_features}, one of {len(layers)}",
                    allowed="×".join(map(str, shape)),
                    layer=path,
                )
