"""LLM-Pruner: removes the attention heads and MLP channels (or blocks) that matter least to the loss.

Source: Ma, Fang and Wang, "LLM-Pruner: On the Structural Pruning of Large Language Models" (2023), equations 3 to 5;
activation scores and depth after Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation"
(Minitron, 2024), and Men et al., "ShortGPT" (2024), equation 1 (block influence).

Differs from the paper in:
- `ratio` counts the parameters of the whole model, embeddings included;
- the scores of query heads are summed over the group that shares a key head;
- `global` compares scores per parameter and fills a budget of parameters;
- `uniform` gives all layers the same widths, so that any engine loads the result as a plain checkpoint;
- biases are removed with their rows, but not scored; hidden channels are scored by the blocks, not by the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

from compress.errors import MethodError
from compress.numerics import importance

KIND = "rewrite"
NEEDS = frozenset({"tokens"})
REWRITER = "compress.stages.rewrite.prune"

_SCOPES = ("uniform", "local", "global")
_UNITS = ("width", "depth")
_ATTENTION = ("auto", "kv", "query", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of LLM-Pruner."""

    ratio: float = 0.2
    """Share of all parameters of the model to remove, above 0 and below 1."""
    importance: str = "taylor1"
    """taylor1, taylor2, taylor_mix (change of the loss), l1, l2 (norm of the weights), activation, or random."""
    vectorize: bool = False
    """Sums a unit's weights times gradients before the absolute value is taken, instead of after it."""
    reduction: str = "sum"
    """How the scores of a unit's projections are combined: sum, mean, max, prod, or first (its key or gate alone)."""
    scope: str = "uniform"
    """uniform: equal widths in all layers, a plain checkpoint. local: equal shares of each layer. global: by score."""
    units: str = "width"
    """width: removes heads and channels. depth: removes whole blocks, those that change their input least."""
    attention: str = "auto"
    """kv: removes key heads with their query heads. query: removes query heads alone, equally many per key head. none.
    auto: kv, or query where one key head serves all."""
    mlp: bool = True
    """Removes channels of the MLPs and experts."""
    hidden: bool = False
    """Removes channels of the residual stream, the same in all layers; uniform only."""
    by_score: bool = False
    """With uniform: the scores decide how many heads and how many channels are removed, instead of equal shares."""
    multiple: int = 16
    """Channels are removed in multiples of this, 1 or more; group sizes of later stages must divide the rest."""
    protect_first: int = 0
    """First blocks that are not pruned; not with uniform."""
    protect_last: int = 0
    """Last blocks that are not pruned; not with uniform."""
    steps: int = 1
    """Steps in which the units are removed, 1 or more; scored anew before each."""
    random_seed: int = 0
    """Seed of random scores, 0 or more; --seed is that of the calibration."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise MethodError(f"ratio={self.ratio}", allowed="above 0 and below 1")
        choices = {
            "importance": importance.KINDS, "reduction": importance.REDUCTIONS, "scope": _SCOPES, "units": _UNITS,
            "attention": _ATTENTION,
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise MethodError(f"{name}={getattr(self, name)!r}", allowed=", ".join(allowed))
        least_of = {"multiple": 1, "protect_first": 0, "protect_last": 0, "steps": 1, "random_seed": 0}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise MethodError(f"{name}={getattr(self, name)}", allowed=f"{least} or more")
        if self.units == "width":
            self._check_width()

    def _check_width(self) -> None:
        if self.attention == "none" and not self.mlp and not self.hidden:
            raise MethodError("attention=none, mlp=false, hidden=false: nothing is left to prune")
        if self.scope == "uniform" and (self.protect_first or self.protect_last):
            raise MethodError(
                f"protect_first={self.protect_first}, protect_last={self.protect_last} with scope=uniform",
                allowed="scope=local or scope=global",
                do="Blocks that stay wide cannot be of the same width as the others",
            )
        if self.hidden and self.scope != "uniform":
            raise MethodError(f"hidden=true with scope={self.scope}", allowed="scope=uniform")
        if self.hidden and self.steps > 1:
            raise MethodError(f"hidden=true with steps={self.steps}", allowed="steps=1")


def memory_bytes(parameters: int, config: Config) -> int:
    """Returns an estimate for scoring: one block, taken as a quarter of the model, in float32 with its gradients.

    The stage counts exactly once the model is open, and reports it before it begins.
    """
    gradients = sum(config.importance in kinds for kinds in (importance.FIRST_ORDER, importance.SECOND_ORDER))
    return int((2 + gradients) * 4 * parameters / 4)


def kept_share(config: Config) -> float:
    """Returns the share of the parameters that stays."""
    return 1 - config.ratio
