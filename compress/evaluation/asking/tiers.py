"""Holds the tiers: how many items of a suite are asked. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from compress.errors import EvaluationError, unknown


@dataclass(frozen=True, slots=True)
class Tier:
    """Largest number of items and windows; None: all."""

    items: int | None
    """Items per family."""
    windows: int | None
    """Windows of held-out text."""


TIERS = {"quick": Tier(50, 16), "pr": Tier(400, 64), "release": Tier(None, None)}


def resolve(name: str | None, limit: int | None) -> Tier:
    """Returns the tier `name`, or a tier with `limit` items and windows; EvaluationError if both are given."""
    if limit is not None and limit < 1:
        raise EvaluationError(f"limit={limit}", allowed="1 or more items per family, or None for all")
    if name is None:
        return Tier(limit, limit)
    if limit is not None:
        raise EvaluationError(f"tier={name!r} and limit={limit}: both set the number of items", do="Give one")
    if name not in TIERS:
        raise EvaluationError(unknown("tier", name, TIERS), allowed=", ".join(TIERS))
    return TIERS[name]
