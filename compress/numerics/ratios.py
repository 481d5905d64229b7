"""Divides a compression ratio among linears by their losses, and converts between ratios and ranks (SVD-LLM V2).

Shape letters: none; a shape is (N, K).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from compress.format.layouts import low_rank

MOST = 0.95
"""No linear loses more than this share of its parameters."""
_HALVINGS = 100


def allot(
    losses: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], ratio: float, multiple: int = 1
) -> dict[str, float]:
    """Returns the share removed of each linear; their mean over all parameters is `ratio`, up to one step of a rank.

    Linears compete with those of the same name in other layers (all q_proj with one another). Within such a group the
    shares are in proportion to 1 / log(loss), where `losses` are ‖(W − W')X‖ at the ratio itself (arXiv 2503.12340
    §3.1). Differs from the paper in:
    - the mean is one over parameters, not over matrices, and shares are held below MOST and where a rank is left;
    - the formula needs losses above 1: where the least of a group is below e, all of the group are scaled up to it;
    - ranks are rounded to `multiple` so that together they keep within the budget, not each by itself.
    """
    wanted: dict[str, float] = {}
    groups: dict[str, list[str]] = {}
    for name in losses:
        groups.setdefault(_kind(name), []).append(name)
    for names in groups.values():
        wanted |= _shares({name: losses[name] for name in names}, shapes, ratio)
    return _rounded(wanted, shapes, ratio, multiple)


def rank_of(shape: tuple[int, int], ratio: float, multiple: int) -> int:
    """Returns the rank that removes `ratio` of the parameters: the nearest multiple that is smaller than the weight.

    It is 0 where the ratio leaves less than rank 1.
    """
    exact, most = (1 - ratio) * shape[0] * shape[1] / sum(shape), low_rank.break_even(shape)
    # 1e-6: a ratio that was computed from a rank must give that rank again
    rank = math.floor(exact + 1e-6) if exact < multiple - 1e-6 else round(exact / multiple) * multiple
    return rank if rank <= most else most // multiple * multiple or most


def ratio_of(shape: tuple[int, int], rank: int) -> float:
    """Returns the share of the parameters that `rank` removes."""
    return 1 - rank * sum(shape) / (shape[0] * shape[1])


def _kind(name: str) -> str:
    """Returns the last part of a linear's name that is not a number: experts of a projection are of one kind."""
    return next((part for part in reversed(name.split(".")) if not part.isdigit()), name)


def _shares(losses: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], ratio: float) -> dict[str, float]:
    """Returns shares in proportion to 1 / log(loss), within bounds, with `ratio` as their mean over parameters."""
    least = min((loss for loss in losses.values() if loss > 0), default=1.0)
    scale = max(1.0, math.e / least)
    # a linear without loss counts as the one with the least
    weight = {name: 1 / math.log(max(loss, least) * scale) for name, loss in losses.items()}
    size = {name: math.prod(shapes[name]) for name in losses}
    most = {name: max(min(MOST, ratio_of(shapes[name], 1)), 0.0) for name in losses}
    low, high = 0.0, max(1 / value for value in weight.values())
    for _ in range(_HALVINGS):
        factor = (low + high) / 2
        removed = sum(min(factor * weight[name], most[name]) * size[name] for name in losses)
        low, high = (factor, high) if removed < ratio * sum(size.values()) else (low, factor)
    return {name: min(high * weight[name], most[name]) for name in losses}


def _rounded(
    wanted: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], ratio: float, multiple: int
) -> dict[str, float]:
    """Returns the shares of whole ranks: rounded down to multiples first, then up where most was cut off, as long as
    the parameters of all together stay within the budget."""
    exact = {name: (1 - share) * math.prod(shapes[name]) / sum(shapes[name]) for name, share in wanted.items()}
    rank, step = {}, {}
    for name, value in exact.items():
        most = low_rank.break_even(shapes[name])
        step[name] = multiple if value >= multiple and most >= multiple else 1
        rank[name] = max(1, min(int(value + 1e-9), most) // step[name] * step[name])
    budget = (1 - ratio) * sum(math.prod(shapes[name]) for name in wanted)
    budget -= sum(rank[name] * sum(shapes[name]) for name in wanted)
    for name in sorted(wanted, key=lambda name: (rank[name] - exact[name]) / step[name]):
        more = rank[name] + step[name]
        if more <= low_rank.break_even(shapes[name]) and step[name] * sum(shapes[name]) <= budget:
            budget -= step[name] * sum(shapes[name])
            rank[name] = more
    return {name: ratio_of(shapes[name], rank[name]) for name in wanted}
