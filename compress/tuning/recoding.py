"""Changes of codes during end-to-end tuning: additive codes follow the gradient of the weights that they stand for.

Source: Malinovskii et al., "PV-Tuning", arXiv 2405.14852, Alg. 1: between steps on the real numbers (P), a small share
of the codes is chosen anew (V). The weight that is wanted lies against the gradient that reaches the weight itself
(straight through the codes); the groups that it lies farthest from get the codes that come nearest to it, by a beam
search.

Differs from PV-tuning in: the gradients of several steps are gathered for one change, as their sum over the root of the
sum of their squares, so what all of them agree on moves farthest; the wanted weight starts from the present one each
time; a change is taken back, in all linears at once, if the divergence rises by it on sequences that the gradients do
not come from, and then half as many codes may change the next time (twice as many, up to the share, after one that
stood). On the bundled model with 32768 tokens hardly any change stands: codes that the layer's own search has chosen
are good ones, and the gain of end-to-end tuning is that of the real numbers.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.format import layouts
from compress.format.layouts import additive
from compress.numerics import additive_recode

if TYPE_CHECKING:
    from compress.tuning.settings import FullSettings
    from compress.tuning.student import Student, TunableLinear

_BEAM_WIDTH = 4
_LEAST = 1e-30


class Recoder:
    """Changes the codes of a student's additive linears."""

    def __init__(self, student: Student, settings: FullSettings):
        """Makes the linears with additive codebooks give the gradient of their weights, unless no share may change."""
        self._settings = settings
        self._share = settings.recode_share
        self.layers: dict[str, TunableLinear] = {
            name: layer
            for name, layer in student.layers.items()
            if settings.recode_share > 0 and layer.parts.packed.scheme.layout == additive.LAYOUT
        }
        self._sums: dict[str, torch.Tensor] = {}
        self._squares: dict[str, torch.Tensor] = {}
        for name, layer in self.layers.items():
            device = layer.parts.packed.planes["scale"].device
            layer.nudge = nn.Parameter(torch.zeros(layer.out_features, layer.in_features, device=device))
            self._sums[name], self._squares[name] = (torch.zeros_like(layer.nudge.data) for _ in range(2))

    @torch.no_grad()
    def gather(self) -> None:
        """Takes up the gradient of one step."""
        for name, layer in self.layers.items():
            assert layer.nudge is not None
            if layer.nudge.grad is not None:  # None for an expert that no token was routed to
                self._sums[name] += layer.nudge.grad
                self._squares[name] += layer.nudge.grad.square()
                layer.nudge.grad = None

    @torch.no_grad()
    def step(self, divergence: Callable[[], float]) -> int:
        """Returns how many codes were changed by the gradients that were gathered; 0 if `divergence` rises by it."""
        before, changed, earlier = divergence(), 0, {}
        for name, layer in self.layers.items():
            earlier[name] = packed = layer.parts.result()
            w_NK = layouts.unpack(packed)
            # between −√n and √n for n steps: ±√n where all of them agree, about ±1 where the gradient is mere noise
            steady_NK = self._sums[name] / self._squares[name].sqrt().clamp_min(_LEAST)
            self._sums[name].zero_()
            self._squares[name].zero_()
            target_NK = w_NK - self._settings.code_rate * w_NK.square().mean().sqrt() * steady_NK
            recoded, count = additive_recode.recode(packed, target_NK, share=self._share, beam_width=_BEAM_WIDTH)
            layer.parts.take_codes(recoded)
            changed += count
        if changed and not divergence() <= before:
            for name, packed in earlier.items():
                self.layers[name].parts.take_codes(packed)
            self._share /= 2
            return 0
        self._share = min(self._settings.recode_share, 2 * self._share)
        return changed

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns everything that the next step depends on, by name."""
        if not self.layers:
            return {}
        found = {"share": torch.tensor(self._share, dtype=torch.float64)}
        for name, layer in self.layers.items():
            found[f"{name}:weight"] = layer.parts.packed.planes["weight"]
            found[f"{name}:sum"], found[f"{name}:square"] = self._sums[name], self._squares[name]
        return found

    def take_up(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Goes on from what `tensors` gave."""
        for name, layer in self.layers.items():
            layer.parts.take_codes(layer.parts.with_codes({"weight": tensors[f"{name}:weight"]}))
            self._sums[name].copy_(tensors[f"{name}:sum"])
            self._squares[name].copy_(tensors[f"{name}:square"])
            self._share = float(tensors["share"])
