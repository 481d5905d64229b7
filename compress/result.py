"""Result: what a run gives back, in Python and in a notebook."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.format.manifest import read_manifest

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult


@dataclass(frozen=True, slots=True)
class Result:
    """A finished checkpoint and what it cost."""

    checkpoint: Path
    """Folder of the packed checkpoint."""
    evaluation: EvalResult | None
    """The suite on the packed checkpoint read back from disk; None when it was not asked for."""
    baseline: EvalResult | None
    """The same suite on the dense model."""
    manifest: dict[str, Any] = field(repr=False)
    """compress.json: schemes, bits, errors, coverage, recipe, versions."""

    @classmethod
    def read(cls, folder: Path, *, evaluation: EvalResult | None, baseline: EvalResult | None) -> Result:
        """Returns the result in `folder`."""
        return cls(folder, evaluation, baseline, read_manifest(folder))
