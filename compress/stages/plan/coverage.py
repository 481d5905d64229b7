"""The account of a run: which share of the parameters is compressed, what stays dense, and why.

Only the decoder's linears are candidates; embeddings, head, norms, biases and routers stay dense by design and are
listed, so that nobody takes "3 bits" for the whole file.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from compress.errors import CoverageError, RecipeError


@dataclass(frozen=True, slots=True)
class Coverage:
    """Counts of parameters, each counted once."""

    total: int
    """All parameters of the model; a tied head counts once, with the embedding."""
    candidates: int
    """Weights of the decoder's linears, experts included."""
    compressed: int
    left: Mapping[str, int]
    """Reason -> parameters that stay dense."""
    skipped: tuple[str, ...]
    """Linears that were left dense because the recipe says so."""

    @property
    def share(self) -> float:
        """Compressed share of the candidates, 0 to 1."""
        return self.compressed / self.candidates if self.candidates else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form of the manifest."""
        return {
            "total_parameters": self.total,
            "linear_parameters": self.candidates,
            "compressed_parameters": self.compressed,
            "share_of_linears": round(self.share, 6),
            "share_of_model": round(self.compressed / self.total, 6) if self.total else 0.0,
            "left_dense": dict(self.left),
            "skipped": list(self.skipped),
        }


def select(names: Iterable[str], skip: Iterable[str]) -> tuple[str, ...]:
    """Returns the names that a glob of `skip` matches; a glob that matches nothing is an error (a typo, likely)."""
    names = list(names)
    matched: set[str] = set()
    for glob in skip:
        found = fnmatch.filter(names, glob)
        if not found:
            raise RecipeError(f"--skip {glob!r} matches no linear", allowed=f"globs over names such as {names[0]}")
        matched.update(found)
    return tuple(name for name in names if name in matched)


def account(
    linears: Mapping[str, tuple[int, int]], dense: Mapping[str, tuple[int, ...]], skipped: tuple[str, ...], floor: float
) -> Coverage:
    """Returns the account; a share of the linears below `floor` is a CoverageError.

    Args:
        linears: name -> shape of every candidate.
        dense: name -> shape of every other tensor that is stored.
        skipped: names of candidates that stay dense.
        floor: least share, 0 to 1.
    """
    sizes = {name: math.prod(shape) for name, shape in linears.items()}
    candidates, left_linear = sum(sizes.values()), sum(sizes[name] for name in skipped)
    left: dict[str, int] = {}
    for name, shape in dense.items():
        reason = _reason(name)
        left[reason] = left.get(reason, 0) + math.prod(shape)
    total = candidates + sum(left.values())
    if left_linear:
        left["skipped linears"] = left_linear
    coverage = Coverage(total, candidates, candidates - left_linear, left, skipped)
    if coverage.share < floor:
        raise CoverageError(
            f"only {coverage.share:.1%} of the decoder's linear parameters would be compressed",
            allowed=f"{floor:.0%} or more",
            do="Skip fewer linears, or lower --min-coverage",
        )
    return coverage


def _reason(name: str) -> str:
    """Says what a dense tensor is, from the words that models use for it; only a label for the account."""
    lowered = name.lower()
    for label, words in (
        ("bias", (".bias",)),
        ("norm", ("norm", "ln_")),
        ("embedding", ("embed", "wte", "wpe")),
        ("head", ("lm_head", "embed_out")),
        ("router", ("router", "gate.weight")),
    ):
        if any(word in lowered for word in words):
            return label
    return "other"
