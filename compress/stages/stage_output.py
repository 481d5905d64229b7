"""What a stage returns for the manifest, besides the shards that it wrote to the workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class StageOutput:
    """The parts of a manifest that only the stage knows."""

    coverage: Mapping[str, Any]
    """Counts of parameters: all, compressed, removed, and those that stay dense, as JSON values."""
    config: Mapping[str, Any]
    """config.json of the result, without `quantization_config`."""
    structure: Mapping[str, Any] | None = None
    """Shapes of the model that differ from those that its config.json implies; None for none."""
    unused: Sequence[str] = ()
    """Tensors of the source that its architecture does not use; they are left out."""
    warnings: Sequence[str] = ()
    """What a user must know about the result, besides what its source warns of."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """Further sections of the manifest, by name, for reports."""
