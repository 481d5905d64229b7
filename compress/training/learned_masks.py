"""A model whose masks are learned while its weights stay: the lesson of `methods.ast` with `learned`.

Shape letters: S sequences, B sequences of one call, T tokens, N out features, K in features, G groups, P patterns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from compress.format.packed import PackedTensor
from compress.methods.ast import Config
from compress.models import linears
from compress.models.linears import LinearRef
from compress.numerics import learned_masks, masks, nm
from compress.training import distillation, teacher, trainer
from compress.tuning.student import as_float


class LearnedMask(nn.Module):
    """One linear: its weight, which stays, and the logits of its masks."""

    weight: torch.Tensor
    start: torch.Tensor

    def __init__(
        self, w_NK: torch.Tensor, mask_NK: torch.Tensor, patterns_Pm: torch.Tensor, generator: torch.Generator
    ):
        """`mask_NK` is the prior."""
        super().__init__()
        self.register_buffer("weight", w_NK)
        self.logits = nn.Parameter(learned_masks.logits_from(mask_NK, patterns_Pm, generator))
        self.register_buffer("start", learned_masks.chosen(self.logits.detach(), patterns_Pm))


class Masks(trainer.Lesson):
    """All linears of the blocks under masks that are drawn anew for every call, by probabilities that are trained."""

    def __init__(
        self,
        model: nn.Module,
        chosen: Iterable[tuple[LinearRef, torch.Tensor, torch.Tensor]],
        asked: teacher.Teacher,
        tokens_ST: torch.Tensor,
        config: Config,
    ):
        super().__init__()
        self._model = as_float(model).eval().requires_grad_(False)
        self._asked, self._tokens_ST, self._config = asked, tokens_ST, config
        self.tokens_per_sequence = tokens_ST.shape[1]
        self._patterns_Pm = learned_masks.patterns(config.n, config.m, next(model.parameters()).device)
        generator = torch.Generator().manual_seed(config.training_seed)
        self._refs: list[LinearRef] = []
        self._layers = nn.ModuleList()
        for ref, w_NK, mask_NK in chosen:
            self._refs.append(ref)
            self._layers.append(LearnedMask(w_NK, mask_NK, self._patterns_Pm, generator))

    def masters(self) -> dict[str, nn.Parameter]:
        return {ref.name: layer.logits for ref, layer in self._pairs()}

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        """Returns the loss under masks drawn by seed and step, less the reward for large weights that are kept."""
        steps = self._config.steps
        kappa, tau = (learned_masks.at(ends, step, steps) for ends in (learned_masks.KAPPA, learned_masks.TAU))
        generator = torch.Generator().manual_seed((self._config.training_seed << 32) + step)
        weights: dict[str, torch.Tensor] = {}
        kept = torch.zeros((), device=self._patterns_Pm.device)
        for ref, layer in self._pairs():
            mask_NK = learned_masks.drawn(layer.logits, self._patterns_Pm, kappa, tau, generator)
            weights[ref.name] = layer.weight * mask_NK
            kept = kept + weights[ref.name].square().sum()
        # keeps gradients alive: what is all but pruned has none
        reward = self._config.keep_large * learned_masks.at((1.0, 0.0), step, steps) * kept
        return self._lost(chosen_B, weights) - chosen_B.numel() * reward

    def judge(self, chosen_B: torch.Tensor) -> torch.Tensor:
        weights = {
            ref.name: layer.weight.to(torch.bfloat16).float() * learned_masks.chosen(layer.logits, self._patterns_Pm)
            for ref, layer in self._pairs()
        }
        return self._lost(chosen_B, weights)

    def _lost(self, chosen_B: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        config = self._config
        tokens_BT = self._tokens_ST[chosen_B].to(self._patterns_Pm.device)
        given: dict[str, Any] = {"input_ids": tokens_BT, "use_cache": False}
        values = linears.parameters(self._refs, weights)
        output = torch.func.functional_call(self._model, values, kwargs=given, strict=False)
        return distillation.combined(
            output, self._asked(chosen_B), tokens_BT,
            loss="kl", temperature=config.temperature, ce_weight=1 - config.kl_weight,
        )  # fmt: skip

    def packed(self) -> dict[str, PackedTensor]:
        """Returns the linears under their likeliest masks."""
        found = {}
        for ref, layer in self._pairs():
            mask_NK = learned_masks.chosen(layer.logits.detach(), self._patterns_Pm)
            found[ref.name] = nm.pack(layer.weight.cpu(), mask_NK.cpu(), self._config.n, self._config.m)
        return found

    def account(self) -> dict[str, Any]:
        """Returns the share of the kept weights that are others than at the start."""
        pairs = [
            (layer.start, learned_masks.chosen(layer.logits.detach(), self._patterns_Pm)) for _, layer in self._pairs()
        ]
        kept = sum(int(start.sum()) for start, _ in pairs)
        return {"moved": float(f"{sum(masks.flipped(*pair) for pair in pairs) / kept:.4g}")}

    def _pairs(self) -> list[tuple[LinearRef, Any]]:
        return list(zip(self._refs, self._layers, strict=True))
