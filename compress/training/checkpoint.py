"""The checkpoint of a training: one safetensors file, replaced as a whole, that a killed run goes on from exactly.

It holds:

    step, before, best, …        counters and losses, 0-d
    losses [steps so far]        the loss of every step
    weight:<name>                master of what is trained, float32
    adam:<name>:<moment>         state of AdamW
    best:<name>                  what was best so far, where the best is kept
    lesson:<name>                what the lesson itself remembers (masks, …)
    identity [32] uint8          sha256 of all that makes a run another one
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from compress.errors import OutputError
from compress.format import files
from compress.tuning.state import digest

_IDENTITY = "identity"


class Checkpoint:
    """Where the state of one training lies, and whose it is."""

    def __init__(self, path: Path, identity: Iterable[str | torch.Tensor]):
        """`identity` are the settings, data and weights that a run starts from; another one is another run."""
        self.path = path
        self._identity = digest(identity)

    def write(self, tensors: dict[str, torch.Tensor]) -> None:
        """Writes the state; a disk that does not take it is an OutputError."""
        files.write_tensors(self.path, {**tensors, _IDENTITY: self._identity})

    def read(self) -> dict[str, torch.Tensor] | None:
        """Returns the state on the CPU, or None where there is none.

        Raises:
            OutputError: the file is damaged, or that of another run.
        """
        if not self.path.is_file():
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors: dict[str, torch.Tensor] = load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"the resume state {self.path} is damaged", do="Start over with --fresh") from error
        if not torch.equal(tensors.pop(_IDENTITY), self._identity):
            raise OutputError(
                f"the resume state {self.path} is that of another model, other data or other settings",
                do="Start over with --fresh",
            )
        return tensors


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors whose names begin with `<prefix>:`, without it."""
    return {n.removeprefix(f"{prefix}:"): tensor for n, tensor in tensors.items() if n.startswith(f"{prefix}:")}
