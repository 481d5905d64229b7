"""What every peer's script shares: where the decoded weights go, and safetensors files in one table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


def main(make: Callable[[str, str, Path], None], decode: Callable[[str, Path], Mapping[str, Any]]) -> None:
    """The command line: `KIND SOURCE FOLDER WEIGHTS`.

    Args:
        make: writes the checkpoint FOLDER of a kind from the model SOURCE; called where the folder is not there.
        decode: returns the library's decoded weights [N, K] of a folder, by the names of their modules.
    """
    kind, source, folder, weights = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    if not folder.exists():
        make(kind, source, folder)
    save_file({name: weight.contiguous() for name, weight in decode(kind, folder).items()}, weights)


def tensors_of(folder: Path) -> dict[str, Any]:
    """Returns the tensors of all safetensors files of a folder."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}
