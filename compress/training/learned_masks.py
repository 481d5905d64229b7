"""Learns the masks of a model while its weights stay fixed: the training of `methods.ast` with `learned` (MaskLLM).

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
from compress.training import student, teacher
from compress.training.task import ModelTask
from compress.tuning.student import to_float32


class LearnedMask(nn.Module):
    """One linear: its fixed weight and the logits of the mask patterns of every group."""

    weight: torch.Tensor
    initial_mask: torch.Tensor

    def __init__(
        self, w_NK: torch.Tensor, mask_NK: torch.Tensor, patterns_Pm: torch.Tensor, generator: torch.Generator
    ):
        """`mask_NK` is the prior: the pattern that starts as the likeliest."""
        super().__init__()
        self.register_buffer("weight", w_NK)
        self.logits = nn.Parameter(learned_masks.logits_from(mask_NK, patterns_Pm, generator))
        self.register_buffer("initial_mask", learned_masks.chosen(self.logits.detach(), patterns_Pm))


class MaskTask(ModelTask):
    """All linears of the blocks under masks that are sampled in every forward, from probabilities that are trained."""

    def __init__(
        self,
        model: nn.Module,
        initial: Iterable[tuple[LinearRef, torch.Tensor, torch.Tensor]],
        predictions: teacher.Teacher,
        tokens_ST: torch.Tensor,
        config: Config,
    ):
        super().__init__()
        self._model = to_float32(model).eval().requires_grad_(False)
        self._teacher, self._tokens_ST, self._config = predictions, tokens_ST, config
        self.tokens_per_sequence = tokens_ST.shape[1]
        self._patterns_Pm = learned_masks.patterns(config.n, config.m, next(model.parameters()).device)
        generator = torch.Generator().manual_seed(config.training_seed)
        self._refs: list[LinearRef] = []
        self._layers = nn.ModuleList()
        for ref, w_NK, mask_NK in initial:
            self._refs.append(ref)
            self._layers.append(LearnedMask(w_NK, mask_NK, self._patterns_Pm, generator))

    def masters(self) -> dict[str, nn.Parameter]:
        return {ref.name: layer.logits for ref, layer in self._pairs()}

    def starting_weights(self) -> list[torch.Tensor]:
        return [*self.state_dict().values()]

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        """Returns the loss under masks sampled by seed and step, minus the reward for keeping large weights."""
        steps = self._config.steps
        kappa, tau = (learned_masks.at(ends, step, steps) for ends in (learned_masks.KAPPA, learned_masks.TAU))
        # seed and step alone decide the sample, so a resumed run samples the same masks
        generator = torch.Generator().manual_seed((self._config.training_seed << 32) + step)
        weights: dict[str, torch.Tensor] = {}
        kept_square = torch.zeros((), device=self._patterns_Pm.device)
        for ref, layer in self._pairs():
            mask_NK = learned_masks.drawn(layer.logits, self._patterns_Pm, kappa, tau, generator)
            weights[ref.name] = layer.weight * mask_NK
            kept_square = kept_square + weights[ref.name].square().sum()
        # a weight that is almost surely pruned gets almost no gradient from the loss; the reward keeps it alive
        reward = self._config.keep_large * learned_masks.at((1.0, 0.0), step, steps) * kept_square
        return self._loss(chosen_B, weights) - chosen_B.numel() * reward

    def held_out_loss(self, chosen_B: torch.Tensor) -> torch.Tensor:
        weights = {
            ref.name: layer.weight.to(torch.bfloat16).float() * learned_masks.chosen(layer.logits, self._patterns_Pm)
            for ref, layer in self._pairs()
        }
        return self._loss(chosen_B, weights)

    def _loss(self, chosen_B: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        tokens_BT = self._tokens_ST[chosen_B].to(self._patterns_Pm.device)
        arguments: dict[str, Any] = {"input_ids": tokens_BT, "use_cache": False}
        values = linears.parameters(self._refs, weights)
        output = torch.func.functional_call(self._model, values, kwargs=arguments, strict=False)
        return student.kl_and_cross_entropy(
            output, self._teacher(chosen_B), tokens_BT,
            loss="kl", temperature=self._config.temperature, ce_weight=1 - self._config.kl_weight,
        )  # fmt: skip

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        """Returns no dense tensors, and the linears under their likeliest masks."""
        packed = {}
        for ref, layer in self._pairs():
            mask_NK = learned_masks.chosen(layer.logits.detach(), self._patterns_Pm)
            packed[ref.name] = nm.pack(layer.weight.cpu(), mask_NK.cpu(), self._config.n, self._config.m)
        return {}, packed

    def report(self) -> dict[str, Any]:
        """Returns the share of the kept weights that were exchanged between start and end."""
        pairs = [
            (layer.initial_mask, learned_masks.chosen(layer.logits.detach(), self._patterns_Pm))
            for _, layer in self._pairs()
        ]
        kept = sum(int(initial.sum()) for initial, _ in pairs)
        return {"moved": float(f"{sum(masks.flipped(*pair) for pair in pairs) / kept:.4g}")}

    def _pairs(self) -> list[tuple[LinearRef, Any]]:
        return list(zip(self._refs, self._layers, strict=True))
