"""The resume checkpoint of a training: one safetensors file, replaced as a whole.

    weight:<name>                float32 master of every trained parameter
    adam:<name>:<moment>         optimizer state of that parameter
    best:<name>                  the best state so far
    identity [32] uint8          sha256 of everything that makes a run a different one
    step, before, best, …        counters and losses, 0-d; whatever else the caller adds

A killed run continues from it and ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from compress.errors import OutputError
from compress.format import files

_IDENTITY = "identity"


class Checkpoint:
    """A checkpoint file and the identity of the run that it belongs to."""

    def __init__(self, path: Path, identity: Iterable[str | torch.Tensor]):
        """`identity` holds the settings, the data and the starting weights: a run that differs in any is another."""
        self.path = path
        self._identity = digest(identity)

    def write(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Writes the state; raises OutputError when the file cannot be written."""
        files.write_tensors(self.path, {**tensors, _IDENTITY: self._identity})

    def read(self) -> dict[str, torch.Tensor] | None:
        """Returns the state on the CPU, or None when there is no checkpoint.

        Raises:
            OutputError: the file is damaged, or belongs to another run.
        """
        if not self.path.is_file():
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors: dict[str, torch.Tensor] = load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"the resume state {self.path} is damaged", do="Start over with --fresh") from error
        if _IDENTITY not in tensors or not torch.equal(tensors.pop(_IDENTITY), self._identity):
            raise OutputError(
                f"the resume state {self.path} was written with another model, other data or other settings",
                do="Start over with --fresh",
            )
        return tensors


def trained_tensors(
    parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Returns the values of the parameters and their optimizer state under their names in the checkpoint."""
    tensors = {}
    for name, parameter in parameters.items():
        tensors[f"weight:{name}"] = parameter.detach()
        state = optimizer.state.get(parameter, {})
        tensors |= {f"adam:{name}:{key}": value for key, value in state.items()}
    return tensors


@torch.no_grad()
def restore_trained(
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Puts back what `trained_tensors` returned, in place, on the device of each parameter."""
    weights = under("weight", tensors)
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
        if moments := under(f"adam:{name}", tensors):
            # Adam keeps its step counter, the only 0-d state, on the CPU
            optimizer.state[parameter] = {
                key: value if value.dim() == 0 else value.to(parameter) for key, value in moments.items()
            }


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors named `<prefix>:…`, without the prefix."""
    start = f"{prefix}:"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def digest(parts: Iterable[str | torch.Tensor]) -> torch.Tensor:
    """Returns the sha256, uint8 [32], of texts and tensors in their order; dtypes and shapes count."""
    sha256 = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            sha256.update(part.encode())
        else:
            sha256.update(f"{part.dtype}{tuple(part.shape)}".encode())
            sha256.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(list(sha256.digest()), dtype=torch.uint8)
