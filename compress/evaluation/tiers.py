"""Tiers: how much of a suite is asked, for every change or before a release. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from compress.errors import EvaluationError, unknown


@dataclass(frozen=True, slots=True)
class Tier:
    """Bounds; None is everything."""

    items: int | None
    """Items per family."""
    windows: int | None
    """Windows of held-out text."""


TIERS = {"pr": Tier(400, 64), "release": Tier(None, None)}


def resolve(name: str | None, limit: int | None) -> Tier:
    """Returns the bounds of the tier `name`, or those that `limit` gives for both; EvaluationError for both at once."""
    if limit is not None and limit < 1:
        raise EvaluationError(f"limit={limit}", allowed="1 or more items per family, or None for all")
    if name is None:
        return Tier(limit, limit)
    if limit is not None:
        raise EvaluationError(f"tier={name!r} and limit={limit}: each says how many items are asked", do="Give one")
    if name not in TIERS:
        raise EvaluationError(unknown("tier", name, TIERS), allowed=", ".join(TIERS))
    return TIERS[name]
