"""Allots options to linears so that the model loses least within a budget of stored bits (`--target-bits`).

Losses are measured first (`budget.sensitivity`), then one candidate per set is chosen exactly (`budget.knapsack`). The
result is kept beside the resume state, so that a killed run goes on with the same one, and stands in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.format import files
from compress.json_files import read_object
from compress.stages.budget import knapsack, linear_sets, sensitivity
from compress.stages.budget.candidates import target_too_low
from compress.stages.budget.linear_sets import LinearSet

if TYPE_CHECKING:
    import torch

    from compress.progress import Progress
    from compress.stages.pack.block import LinearStage
    from compress.stages.workspace import Workspace

_FILE = "allocation.json"


@dataclass(frozen=True, slots=True)
class Allocation:
    """The candidate of every set, for one target."""

    target_bits: float
    chosen: tuple[LinearSet, ...]
    """Every set with the one candidate it got."""
    bounds: tuple[tuple[float, float], ...]
    """Loss of every set at its coarsest and at its finest candidate."""

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight over all sets."""
        return sum(part.candidates[0].size_bits for part in self.chosen) / sum(part.weights for part in self.chosen)

    @property
    def loss(self) -> float:
        """Predicted KL divergence from the dense model, in nats per token: the sum over the sets."""
        return sum(part.candidates[0].loss for part in self.chosen)

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        """Linear -> the options in which it differs from the stage's."""
        return {name: options for part in self.chosen for name, options in part.candidates[0].overrides.items()}

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form, as it stands in the manifest."""
        sets = []
        for part, (coarsest, finest) in zip(linear_sets.to_json(list(self.chosen)), self.bounds, strict=True):
            (candidate,) = part["candidates"]
            sets.append({
                "linears": part["linears"],
                "weights": part["weights"],
                "options": candidate["options"],
                "overrides": candidate["overrides"],
                "size_bits": candidate["size_bits"],
                "bits_per_weight": round(candidate["size_bits"] / part["weights"], 6),
                "predicted_loss": candidate["loss"],
                "loss_at_coarsest": coarsest,
                "loss_at_finest": finest,
            })  # fmt: skip
        return {
            "target_bits": self.target_bits,
            "bits_per_weight": round(self.bits_per_weight, 6),
            "predicted_loss": self.loss,
            "sets": sets,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Allocation:
        """Reads the JSON form."""
        plain = [
            {
                "linears": entry["linears"],
                "weights": entry["weights"],
                "candidates": [
                    {name: entry[name] for name in ("options", "overrides", "size_bits")}
                    | {"loss": entry["predicted_loss"]}
                ],
            }
            for entry in data["sets"]
        ]
        bounds = tuple((entry["loss_at_coarsest"], entry["loss_at_finest"]) for entry in data["sets"])
        return cls(data["target_bits"], tuple(linear_sets.from_json(plain)), bounds)


def allot(stage: LinearStage, target_bits: float, tokens_ST: torch.Tensor, progress: Progress) -> Allocation:
    """Returns the allocation of this run: the stored one of an earlier start, or a new one, which is stored.

    Raises:
        BudgetError: the smallest candidates take more than `target_bits`; what they take is named.
    """
    earlier = stored(stage.workspace)
    if earlier is not None:
        return Allocation.from_dict(earlier)
    allocation = solve(sensitivity.measure(stage, tokens_ST, progress), target_bits)
    files.write_json(stage.workspace.work / _FILE, allocation.to_dict())
    return allocation


def stored(workspace: Workspace) -> dict[str, Any] | None:
    """Returns the stored allocation of a run in its JSON form, or None."""
    path = workspace.work / _FILE
    return read_object(path) if path.is_file() else None


def solve(sets: list[LinearSet], target_bits: float) -> Allocation:
    """Returns the allocation with the least predicted loss within `target_bits` per weight."""
    weights = sum(part.weights for part in sets)
    sizes = [[candidate.size_bits for candidate in part.candidates] for part in sets]
    losses = [[candidate.loss for candidate in part.candidates] for part in sets]
    indices = knapsack.choose(sizes, losses, int(target_bits * weights))
    if indices is None:
        raise target_too_low(target_bits, sum(min(row) for row in sizes) / weights)
    chosen = [
        LinearSet(part.linears, part.weights, [part.candidates[c]]) for part, c in zip(sets, indices, strict=True)
    ]
    return Allocation(target_bits, tuple(chosen), tuple((row[0], row[-1]) for row in losses))
