"""Changes of codes during end-to-end tuning: additive codes follow the gradient of the weights that they stand for.

Source: Malinovskii et al., "PV-Tuning", arXiv 2405.14852, Alg. 1: after each step on the real numbers (P), a small
share of the codes is chosen anew (V). The weight that is wanted is one step of Adam away from the present one, along
the gradient that reaches the weight itself (straight through the codes); the groups that it lies farthest from get
the codes that come nearest to it, by a beam search.

Differs from PV-tuning in: the step is relative to the magnitude of the weights; there is no momentum, and the wanted
weight starts from the present one each time; a change is taken back, in all linears at once, if the divergence on the
sequences of the step rises by it.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.format import layouts
from compress.format.layouts import additive
from compress.methods import _additive_recode

if TYPE_CHECKING:
    from compress.tuning.settings import FullSettings
    from compress.tuning.student import Student, TunableLinear

_DECAY = 0.95
_BEAM_WIDTH = 4
_EPSILON = 1e-15


class Recoder:
    """Changes the codes of a student's additive linears."""

    def __init__(self, student: Student, settings: FullSettings):
        """Makes the linears with additive codebooks give the gradient of their weights, unless no share may change."""
        self._settings, self._steps = settings, 0
        self.layers: dict[str, TunableLinear] = {
            name: layer
            for name, layer in student.layers.items()
            if settings.recode_share > 0 and layer.parts.packed.scheme.layout == additive.LAYOUT
        }
        self._squares: dict[str, torch.Tensor] = {}
        for name, layer in self.layers.items():
            device = layer.parts.packed.planes["scale"].device
            layer.nudge = nn.Parameter(torch.zeros(layer.out_features, layer.in_features, device=device))
            self._squares[name] = torch.zeros_like(layer.nudge)

    @torch.no_grad()
    def step(self, divergence: Callable[[], float]) -> int:
        """Returns how many codes were changed by the gradient that has gathered; 0 if `divergence` rises by it."""
        before, changed = divergence(), 0
        self._steps += 1
        earlier = {}
        for name, layer in self.layers.items():
            assert layer.nudge is not None
            if layer.nudge.grad is None:  # an expert that no token was routed to
                continue
            earlier[name] = packed = layer.parts.result()
            square_NK = self._squares[name].lerp_(layer.nudge.grad.square(), 1 - _DECAY)
            step_NK = layer.nudge.grad / (square_NK / (1 - _DECAY**self._steps)).sqrt().add_(_EPSILON)
            layer.nudge.grad = None
            w_NK = layouts.unpack(packed)
            target_NK = w_NK - self._settings.code_rate * w_NK.square().mean().sqrt() * step_NK
            recoded, count = _additive_recode.recode(
                packed, target_NK, share=self._settings.recode_share, beam_width=_BEAM_WIDTH
            )
            layer.parts.take_codes(recoded)
            changed += count
        if changed and not divergence() <= before:
            for name, packed in earlier.items():
                self.layers[name].parts.take_codes(packed)
            return 0
        return changed

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns everything that the next step depends on, by name."""
        found = {"steps": torch.tensor(self._steps, dtype=torch.int64)} if self.layers else {}
        for name, layer in self.layers.items():
            found[f"{name}:weight"] = layer.parts.packed.planes["weight"]
            found[f"{name}:square"] = self._squares[name]
            if layer.nudge is not None and layer.nudge.grad is not None:
                found[f"{name}:grad"] = layer.nudge.grad
        return found

    def take_up(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Goes on from what `tensors` gave."""
        for name, layer in self.layers.items():
            assert layer.nudge is not None
            layer.parts.take_codes(layer.parts.with_codes({"weight": tensors[f"{name}:weight"]}))
            self._squares[name].copy_(tensors[f"{name}:square"])
            grad = tensors.get(f"{name}:grad")
            layer.nudge.grad = None if grad is None else grad.to(layer.nudge.device)
            self._steps = int(tensors["steps"])
