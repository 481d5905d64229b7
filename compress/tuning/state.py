"""The progress of end-to-end tuning: counters, the best result so far, and its resume checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from compress.format.packed import PackedTensor
from compress.tuning.checkpoint import Checkpoint, restore_trained, trained_tensors, under

if TYPE_CHECKING:
    from pathlib import Path

    from compress.tuning.recoding import Recoder
    from compress.tuning.student import Student

_FILE = "full-tuning.safetensors"
_COUNTERS = ("step", "waited", "recoded")
_ERRORS = ("before", "best", "last")


class State:
    """Counters and the best result, and how to save and load them with everything the next step depends on."""

    def __init__(
        self,
        work_dir: Path,
        student: Student,
        adam: torch.optim.Adam,
        recoder: Recoder,
        identity: Iterable[str | torch.Tensor],
    ):
        """`identity` makes a run a different one; the planes that the student starts with are added to it."""
        self._student, self._adam, self._recoder = student, adam, recoder
        planes = [plane for layer in student.layers.values() for plane in layer.planes.packed.planes.values()]
        vectors = [vector.stored for vector in student.vectors.values()]
        self._checkpoint = Checkpoint(work_dir / _FILE, [*identity, *planes, *vectors])
        self.step = self.waited = self.recoded = 0
        self.before = self.best = self.last = 0.0
        self.best_result: tuple[dict[str, PackedTensor], dict[str, torch.Tensor]] = ({}, {})

    def keep(self) -> None:
        """Keeps the student's present values as the best result."""
        self.best_result = self._student.result()

    def judge(self, error: float) -> None:
        """Records a held-out evaluation, and keeps the student's values if they are the best so far."""
        self.last, self.waited = error, self.waited + 1
        if error < self.best:
            self.best, self.waited = error, 0
            self.keep()

    def save(self) -> None:
        """Writes the checkpoint; raises OutputError when the file cannot be written."""
        tensors = {name: torch.tensor(getattr(self, name), dtype=torch.int64) for name in _COUNTERS}
        tensors |= {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in _ERRORS}
        tensors |= trained_tensors(self._student.masters(), self._adam)
        packed, dense = self.best_result
        tensors |= {f"best:{name}:{key}": t for name, linear in packed.items() for key, t in linear.planes.items()}
        tensors |= {f"best:{name}": tensor for name, tensor in dense.items()}
        tensors |= {f"recoder:{name}": tensor for name, tensor in self._recoder.tensors().items()}
        self._checkpoint.write(tensors)

    def load(self) -> bool:
        """Returns whether there was a checkpoint to continue from; raises OutputError for that of another run."""
        tensors = self._checkpoint.read()
        if tensors is None:
            return False
        for name in _COUNTERS:
            setattr(self, name, int(tensors[name]))
        for name in _ERRORS:
            setattr(self, name, float(tensors[name]))
        restore_trained(self._student.masters(), self._adam, tensors)
        best = under("best", tensors)
        # the student's present result tells names, shapes, dtypes and devices; the values come from the checkpoint
        packed, dense = self._student.result()
        self.best_result = (
            {
                name: PackedTensor(
                    linear.shape,
                    linear.scheme,
                    {key: best[f"{name}:{key}"].to(plane) for key, plane in linear.planes.items()},
                )
                for name, linear in packed.items()
            },
            {name: best[name].to(value) for name, value in dense.items()},
        )
        self._recoder.load_tensors(under("recoder", tensors))
        return True
