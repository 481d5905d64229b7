"""Mixed precision: which options each linear gets, so that the model loses least within a budget of stored bits.

Sensitivities are measured first (`stages.sensitivity`), then one candidate per set is chosen exactly
(`stages.knapsack`). The result is kept beside the resume state, so that a killed run goes on with the same one, and
stands in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.format import files
from compress.json_files import read_object
from compress.stages.budget import knapsack, linear_sets, sensitivity
from compress.stages.budget.candidates import too_little
from compress.stages.budget.linear_sets import LinearSet

if TYPE_CHECKING:
    import torch

    from compress.progress import Progress
    from compress.stages.pack.block import LinearStage
    from compress.stages.workspace import Workspace

_FILE = "allocation.json"


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was allotted."""

    target_bits: float
    chosen: tuple[LinearSet, ...]
    """Every set with the one choice it got."""
    bounds: tuple[tuple[float, float], ...]
    """Loss of every set at its coarsest and at its finest choice."""

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight over all sets."""
        return sum(one.choices[0].size_bits for one in self.chosen) / sum(one.weights for one in self.chosen)

    @property
    def loss(self) -> float:
        """Predicted KL divergence from the dense model, in nats per token: the sum over the sets."""
        return sum(one.choices[0].loss for one in self.chosen)

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        """Linear -> the options in which it differs from the stage's."""
        return {name: options for one in self.chosen for name, options in one.choices[0].overrides.items()}

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form, as it stands in the manifest."""
        sets = [
            {
                "linears": one["linears"],
                "weights": one["weights"],
                "options": one["choices"][0]["options"],
                "overrides": one["choices"][0]["overrides"],
                "size_bits": one["choices"][0]["size_bits"],
                "bits_per_weight": round(one["choices"][0]["size_bits"] / one["weights"], 6),
                "predicted_loss": one["choices"][0]["loss"],
                "loss_at_coarsest": coarsest,
                "loss_at_finest": finest,
            }
            for one, (coarsest, finest) in zip(linear_sets.to_json(list(self.chosen)), self.bounds, strict=True)
        ]
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
                "linears": one["linears"],
                "weights": one["weights"],
                "choices": [
                    {
                        "options": one["options"],
                        "overrides": one["overrides"],
                        "size_bits": one["size_bits"],
                        "loss": one["predicted_loss"],
                    }
                ],
            }
            for one in data["sets"]
        ]
        bounds = tuple((one["loss_at_coarsest"], one["loss_at_finest"]) for one in data["sets"])
        return cls(data["target_bits"], tuple(linear_sets.from_json(plain)), bounds)


def allot(stage: LinearStage, target_bits: float, tokens_ST: torch.Tensor, progress: Progress) -> Allocation:
    """Returns the allocation of this run: the one an earlier start of it has made, or a new one.

    Raises:
        RecipeError: no choice of candidates is as small as `target_bits`; the least possible is named.
    """
    found = stored(stage.workspace)
    if found is not None:
        return Allocation.from_dict(found)
    made = solve(sensitivity.measure(stage, tokens_ST, progress), target_bits)
    files.write_json(stage.workspace.work / _FILE, made.to_dict())
    return made


def stored(workspace: Workspace) -> dict[str, Any] | None:
    """Returns the allocation that this run works with, in its JSON form; None when it has none."""
    path = workspace.work / _FILE
    return read_object(path) if path.is_file() else None


def solve(sets: list[LinearSet], target_bits: float) -> Allocation:
    """Returns the allocation with the least predicted loss within `target_bits` per weight."""
    weights = sum(one.weights for one in sets)
    sizes = [[choice.size_bits for choice in one.choices] for one in sets]
    losses = [[choice.loss for choice in one.choices] for one in sets]
    taken = knapsack.choose(sizes, losses, int(target_bits * weights))
    if taken is None:
        raise too_little(target_bits, sum(min(row) for row in sizes) / weights)
    chosen = [LinearSet(one.linears, one.weights, [one.choices[c]]) for one, c in zip(sets, taken, strict=True)]
    return Allocation(target_bits, tuple(chosen), tuple((row[0], row[-1]) for row in losses))
