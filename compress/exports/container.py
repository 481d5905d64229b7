"""The interface of what writes the files of an export, and the choice of one by the target."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from compress.exports.plan import Plan
    from compress.progress import Progress

_OWN = {"gguf": "compress.exports.gguf.container"}
"""Targets that do not write a Hugging Face folder, and the module that writes theirs."""


class Container(Protocol):
    """A module that writes files."""

    def write(self, plan: Plan, folder: Path, most: int, progress: Progress) -> Plan:
        """Writes all files but README.md and `compress_export.json`, and checks what was written.

        Args:
            plan: what becomes of every tensor.
            folder: where the files go; it need not exist.
            most: bytes of the largest file, where the format can be split.
            progress: receives the progress.

        Returns:
            The plan as it was carried out: with leave to store weights dense, some may have become dense.

        Raises:
            FormatError: what was written does not decode to the same weights.
            OutputError: a file cannot be written, or the format cannot hold the model.
        """


def load(to: str) -> Container:
    """Returns what writes the files of the target `to`."""
    return cast("Container", importlib.import_module(_OWN.get(to, "compress.exports.hub_folder")))
