"""The state of end-to-end tuning: what was best so far, and a checkpoint that a killed run goes on from exactly.

One safetensors file, replaced as a whole: masters, moments of Adam, codes that have changed, the best values, counters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from compress.errors import OutputError
from compress.format import files
from compress.format.packed import PackedTensor

if TYPE_CHECKING:
    from pathlib import Path

    from compress.tuning.recoding import Recoder
    from compress.tuning.student import Student

_FILE = "full-tuning.safetensors"
_COUNTERS = ("step", "waited", "recoded")
_ERRORS = ("before", "best", "last")


class State:
    """Counters, the best result, and how to write and read them with all that the next step depends on."""

    def __init__(
        self,
        path: Path,
        student: Student,
        adam: torch.optim.Adam,
        recoder: Recoder,
        identity: Iterable[str | torch.Tensor],
    ):
        """`identity` is what makes a run another one; the planes of the student as they are now belong to it."""
        self._path, self._student, self._adam, self._recoder = path, student, adam, recoder
        planes = [plane for layer in student.layers.values() for plane in layer.parts.packed.planes.values()]
        self._identity = digest([*identity, *planes, *(part.stored for part in student.vectors.values())])
        self.step = self.waited = self.recoded = 0
        self.before = self.best = self.last = 0.0
        self.kept: tuple[dict[str, PackedTensor], dict[str, torch.Tensor]] = ({}, {})

    @staticmethod
    def path(work_dir: Path) -> Path:
        """Returns where the checkpoint lies in a work folder."""
        return work_dir / _FILE

    def keep(self) -> None:
        """Takes what the student would store now as the best."""
        self.kept = self._student.result()

    def judge(self, error: float) -> None:
        """Counts a look at the held-out sequences; keeps the student's values if they are the best."""
        self.last, self.waited = error, self.waited + 1
        if error < self.best:
            self.best, self.waited = error, 0
            self.keep()

    def save(self) -> None:
        """Writes the checkpoint; a disk that does not take it is an OutputError."""
        tensors = {"identity": self._identity}
        tensors |= {name: torch.tensor(getattr(self, name), dtype=torch.int64) for name in _COUNTERS}
        tensors |= {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in _ERRORS}
        for number, move in enumerate(self._student.moves()):
            tensors[f"move.{number}"] = move.detach()
            tensors |= {f"adam.{number}.{key}": value for key, value in self._adam.state.get(move, {}).items()}
        packed, dense = self.kept
        tensors |= {f"best:{name}:{plane}": t for name, one in packed.items() for plane, t in one.planes.items()}
        tensors |= {f"best:{name}": tensor for name, tensor in dense.items()}
        tensors |= {f"recoder:{name}": tensor for name, tensor in self._recoder.tensors().items()}
        files.write_tensors(self._path, tensors)

    def load(self) -> bool:
        """Takes up the checkpoint and returns True; False where there is none. OutputError for one of another run."""
        if not self._path.is_file():
            return False
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(self._path)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"the resume state {self._path} is damaged", do="Start over with --fresh") from error
        if not torch.equal(tensors["identity"], self._identity):
            raise OutputError(
                f"the resume state {self._path} is that of another model, other data or other settings",
                do="Start over with --fresh",
            )
        for name in _COUNTERS:
            setattr(self, name, int(tensors[name]))
        for name in _ERRORS:
            setattr(self, name, float(tensors[name]))
        for number, move in enumerate(self._student.moves()):
            move.data.copy_(tensors[f"move.{number}"])
            prefix = f"adam.{number}."
            moments = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
            if moments:
                # the counter of steps stays on the CPU, where Adam keeps it
                self._adam.state[move] = {k: v if v.dim() == 0 else v.to(move.device) for k, v in moments.items()}
        packed, dense = self._student.result()
        self.kept = (
            {
                name: PackedTensor(
                    one.shape, one.scheme, {p: tensors[f"best:{name}:{p}"].to(t) for p, t in one.planes.items()}
                )
                for name, one in packed.items()
            },
            {name: tensors[f"best:{name}"].to(value) for name, value in dense.items()},
        )
        self._recoder.take_up({k.removeprefix("recoder:"): v for k, v in tensors.items() if k.startswith("recoder:")})
        return True


def digest(parts: Iterable[str | torch.Tensor]) -> torch.Tensor:
    """Returns the sha256 [32] (uint8) of texts and tensors in their order; dtypes and shapes count."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
