"""Both trainings of a tiny model: `python -m tests.support.ranks FOLDER`, on as many ranks as started it.

Every rank writes all that it ended with to `FOLDER/<training>/rank<n>.safetensors`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from compress.format import files
from compress.methods.ast import Config as Sparse
from compress.methods.distill import Config as Dense
from compress.methods.protocol import Trained
from compress.progress import Silent
from compress.training import ast, distillation
from tests.support.models import tiny_model, tiny_tokens
from tests.support.packed_model import packed_model

TOKENS_ST = tiny_tokens(14, 8)
DENSE: dict[str, Any] = dict(steps=5, batch=3, micro_batch=1, rate=1e-3, checkpoint_every=3, held_out=0.2)
SPARSE: dict[str, Any] = DENSE | dict(refresh_every=2, slorb=8)


def _distilled(folder: Path, train: str, **options: Any) -> Trained:
    teacher = tiny_model()
    student = packed_model(teacher) if train == "packed" else tiny_model(seed=1)
    return distillation.train(student, teacher, TOKENS_ST, Dense(train=train, **DENSE, **options), folder, Silent())


def _sparse(folder: Path, **options: Any) -> Trained:
    model = tiny_model()
    return ast.train(deepcopy(model), model, TOKENS_ST, Sparse(**(SPARSE | options)), folder, Silent())


TRAININGS: dict[str, Callable[[Path], Trained]] = {
    "all": lambda folder: _distilled(folder, "all", top_k=5, ce_weight=0.5),
    "lora": lambda folder: _distilled(folder, "lora"),
    "packed": lambda folder: _distilled(folder, "packed"),
    "ast": _sparse,
    "learned": lambda folder: _sparse(folder, slorb=0, learned=True),
}


def numbers(made: Trained) -> dict[str, torch.Tensor]:
    """Returns losses and every tensor that a training gave, by name."""
    said = torch.tensor([made.report["before"], made.report["after"], *made.report["losses"]])
    planes = {f"{name}.{plane}": t for name, one in made.packed.items() for plane, t in one.planes.items()}
    return {"losses": said} | made.dense | planes


if __name__ == "__main__":
    from accelerate import Accelerator

    state = Accelerator().state
    assert state.num_processes == 2 and state.backend == "gloo", state
    for name, training in TRAININGS.items():
        place = Path(sys.argv[1]) / name
        place.mkdir(exist_ok=True)
        files.write_tensors(place / f"rank{state.process_index}.safetensors", numbers(training(place)))
