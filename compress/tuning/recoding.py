"""Changes codes of additive codebooks during end-to-end tuning, along the gradient of the decoded weights.

Source: Malinovskii et al., "PV-Tuning", arXiv 2405.14852, Alg. 1: between steps on the continuous planes (P), a small
share of the codes is chosen again (V). The target weight lies against the gradient of the weight (straight-through);
the groups that are farthest from it get the nearest codes that a beam search finds.

Differs from PV-tuning in: the gradients of several steps are combined into one change, as their sum over the root of
the sum of their squares, so weights on whose direction all steps agree move farthest; the target starts from the
present weight each time; a change is undone, in all linears at once, if it raises the divergence on sequences that the
gradients do not come from, and then half as many codes may change next time (after an accepted change twice as many,
up to the share). On the bundled model with 32768 tokens hardly any change is accepted: the codes that the layer's own
search chose are good ones, and the gain of end-to-end tuning comes from the continuous planes.

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
_SMALLEST_NORM = 1e-30
"""Keeps 0 / 0 away where a weight had no gradient in any step; far below the norm of any gradient that counts."""


class Recoder:
    """Changes the codes of a student's linears with additive codebooks."""

    def __init__(self, student: Student, settings: FullSettings):
        """Makes those linears collect the gradient of their weights, unless `settings.recode_share` is 0."""
        self._settings = settings
        self._share = settings.recode_share
        self.layers: dict[str, TunableLinear] = {
            name: layer
            for name, layer in student.layers.items()
            if settings.recode_share > 0 and layer.planes.packed.scheme.layout == additive.LAYOUT
        }
        self._sums: dict[str, torch.Tensor] = {}
        self._squares: dict[str, torch.Tensor] = {}
        for name, layer in self.layers.items():
            device = layer.planes.packed.planes["scale"].device
            layer.weight_offset = nn.Parameter(torch.zeros(layer.out_features, layer.in_features, device=device))
            self._sums[name], self._squares[name] = (torch.zeros_like(layer.weight_offset.data) for _ in range(2))

    @torch.no_grad()
    def accumulate(self) -> None:
        """Adds the weight gradients of one step to the sums, and clears them."""
        for name, layer in self.layers.items():
            assert layer.weight_offset is not None
            if layer.weight_offset.grad is not None:  # None for an expert that no token was routed to
                self._sums[name] += layer.weight_offset.grad
                self._squares[name] += layer.weight_offset.grad.square()
                layer.weight_offset.grad = None

    @torch.no_grad()
    def step(self, divergence: Callable[[], float]) -> int:
        """Changes codes by the gradients accumulated so far, and clears the sums.

        Args:
            divergence: evaluates the student as it is at the time of the call.

        Returns how many codes changed; 0 if the change raised the divergence and was undone.
        """
        divergence_before, changed, previous = divergence(), 0, {}
        for name, layer in self.layers.items():
            previous[name] = packed = layer.planes.result()
            w_NK = layouts.unpack(packed)
            # for n steps between −√n and √n: ±√n where all of them agree, about ±1 where the gradient is only noise
            agreement_NK = self._sums[name] / self._squares[name].sqrt().clamp_min(_SMALLEST_NORM)
            self._sums[name].zero_()
            self._squares[name].zero_()
            # in units of the weight's root mean square, so that one code_rate serves every linear
            target_NK = w_NK - self._settings.code_rate * w_NK.square().mean().sqrt() * agreement_NK
            recoded, count = additive_recode.recode(packed, target_NK, share=self._share, beam_width=_BEAM_WIDTH)
            layer.planes.set_codes(recoded)
            changed += count
        # a divergence that is NaN counts as raised
        if changed and not divergence() <= divergence_before:
            for name, packed in previous.items():
                self.layers[name].planes.set_codes(packed)
            self._share /= 2
            return 0
        self._share = min(self._settings.recode_share, 2 * self._share)
        return changed

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns everything that the next step depends on, by name, for the checkpoint."""
        if not self.layers:
            return {}
        tensors = {"share": torch.tensor(self._share, dtype=torch.float64)}
        for name, layer in self.layers.items():
            tensors[f"{name}:weight"] = layer.planes.packed.planes["weight"]
            tensors[f"{name}:sum"], tensors[f"{name}:square"] = self._sums[name], self._squares[name]
        return tensors

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restores what `tensors` returned."""
        for name, layer in self.layers.items():
            layer.planes.set_codes(layer.planes.with_codes({"weight": tensors[f"{name}:weight"]}))
            self._sums[name].copy_(tensors[f"{name}:sum"])
            self._squares[name].copy_(tensors[f"{name}:square"])
            self._share = float(tensors["share"])
