"""Trains the bundled model: `python -m compress.atlas.train --work-dir DIR`.

The same script on CPU and GPU; a run that was interrupted goes on where it was saved. Master weights are fp32, the
forward and backward passes bf16. Matrices are trained by Muon, embeddings and norms by AdamW; the learning rate rises
for 2 % of the steps, stays, and falls linearly to zero from 50 % on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from compress.atlas import checkpoint
from compress.atlas.batches import batches
from compress.atlas.model import build, export
from compress.atlas.tokenizer import load_tokenizer, train_tokenizer


@dataclass(frozen=True)
class Recipe:
    """All that the result depends on, apart from the arithmetic of the machine."""

    steps: int = 3600
    batch: int = 16  # windows per step
    window: int = 512  # tokens per window
    matrix_rate: float = 6e-3  # Muon, update scaled to the RMS of AdamW's
    vector_rate: float = 4e-3  # AdamW
    weight_decay: float = 0.1
    warm_up: float = 0.02  # share of the steps
    decay_from: float = 0.5  # share of the steps
    seed: int = 1
    tokenizer_documents: int = 20_000
    shape: dict[str, Any] = field(default_factory=dict)  # overrides of model.SHAPE

    def rate(self, step: int) -> float:
        """The learning rate's factor at a step."""
        done = step / self.steps
        return min((step + 1) / (self.warm_up * self.steps + 1), 1.0, (1.0 - done) / (1.0 - self.decay_from))


class Trainer:
    """Weights, optimizers and position of one run."""

    def __init__(self, recipe: Recipe, work_dir: Path, device: str, compiled: bool) -> None:
        self.recipe, self.work_dir, self.device = recipe, work_dir, device
        if (work_dir / "tokenizer" / "tokenizer.json").exists():
            self.tokenizer = load_tokenizer(work_dir / "tokenizer")
        else:
            self.tokenizer = train_tokenizer(recipe.seed, recipe.tokenizer_documents)
            self.tokenizer.save_pretrained(work_dir / "tokenizer")
        model = build(self.tokenizer, recipe.seed, **recipe.shape).to(device)
        self.masters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
        self.model = model.to(torch.bfloat16)
        matrices = [p for name, p in self.masters.items() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in self.masters.items() if p.ndim != 2 or "embed" in name]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=recipe.vector_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.step = checkpoint.restore(work_dir, asdict(recipe), self.masters, self.optimizers)
        self._copy_back()
        self._loss: Callable[[torch.Tensor], torch.Tensor] = torch.compile(self._forward) if compiled else self._forward

    def _forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        hidden_BTC = self.model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
        logits = self.model.lm_head(hidden_BTC[:, :-1]).float()
        return F.cross_entropy(logits.flatten(0, 1), ids_BT[:, 1:].flatten())

    @torch.no_grad()
    def _copy_back(self) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.masters[name])

    def advance(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """One optimizer step on one batch; returns the loss."""
        loss = self._loss(ids_BT.to(self.device))
        torch.autograd.backward(loss)
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None
            self.masters[name].grad = parameter.grad.float()
            parameter.grad = None
        nn.utils.clip_grad_norm_(self.masters.values(), 1.0)
        factor = self.recipe.rate(self.step)
        for optimizer, base in zip(self.optimizers, (self.recipe.matrix_rate, self.recipe.vector_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * factor
            optimizer.step()
        self._copy_back()
        self.step += 1
        return loss.detach()

    def save(self) -> None:
        """Writes the state, and the model as it is now to `work_dir/model`."""
        checkpoint.save(self.work_dir, self.step, asdict(self.recipe), self.masters, self.optimizers)
        masters = {name: value.detach().cpu() for name, value in self.masters.items()}
        export(self.model, masters, self.tokenizer, self.work_dir / "model")

    def run(self, until: int | None = None, save_every: float = 180.0, report_every: int = 20) -> None:
        """Trains up to step `until` (by default to the end), saving every `save_every` seconds."""
        recipe, last = self.recipe, min(until or self.recipe.steps, self.recipe.steps)
        stream = batches(self.tokenizer, recipe.seed, self.step, recipe.batch, recipe.window)
        started = saved = reported = time.monotonic()
        first = self.step
        losses: list[float] = []
        while self.step < last:
            losses.append(float(self.advance(next(stream))))
            if self.step % report_every == 0:
                now = time.monotonic()
                speed = len(losses) * recipe.batch * recipe.window / (now - reported)
                left = (now - started) / (self.step - first) * (last - self.step)
                print(
                    f"step {self.step}/{recipe.steps}  loss {sum(losses) / len(losses):.4f}  "
                    f"{speed:,.0f} tokens/s  {left / 60:.1f} min left",
                    flush=True,
                )
                reported, losses = now, []
            if time.monotonic() - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.save()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.atlas.train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work-dir", type=Path, required=True, help="state and result; a run found here is resumed")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimizer steps of the whole run")
    parser.add_argument("--until", type=int, help="stop (and save) after this step; the schedule stays that of --steps")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--save-minutes", type=float, default=3.0, help="minutes between two saved states")
    parser.add_argument("--no-compile", action="store_true", help="run without torch.compile")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    recipe = Recipe(steps=given.steps, seed=given.seed)
    trainer = Trainer(recipe, given.work_dir, given.device, compiled=not given.no_compile)
    count = sum(p.numel() for p in trainer.masters.values())
    tokens = recipe.steps * recipe.batch * recipe.window
    print(f"{count:,} parameters, {tokens:,} tokens on {given.device}, from step {trainer.step}", flush=True)
    trainer.run(given.until, save_every=given.save_minutes * 60)
    print(f"done: {given.work_dir / 'model'}", flush=True)


if __name__ == "__main__":
    main()
