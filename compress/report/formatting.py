"""How figures are written, the same everywhere. Standard library only."""

from __future__ import annotations

from compress.sizes import format_size

size = format_size


def percent(share: float) -> str:
    """Returns a share as `97.4 %`, with a true minus and no negative zero."""
    text = f"{100 * share:.1f}"
    return f"{text.lstrip('-') if float(text) == 0 else text.replace('-', '−')} %"


def signed(value: float, digits: int = 1) -> str:
    """Returns a number with its sign, a true minus and no negative zero: `−1.3`, `+0.4`, `0.0`."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def span(seconds: float) -> str:
    """Returns `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_SHARES = frozenset({
    "acc", "acc_norm", "agreement", "all_key_facts", "closed_book", "contains", "correct", "distinct_3", "em", "empty",
    "exact", "exact_match", "f1", "likeliest", "open_book", "passage_gain", "reference_probability", "remembered",
    "rouge_l", "same_start",
})  # fmt: skip
"""Metrics from 0 to 1 (`passage_gain` from −1), which are written in per cent; others keep their unit."""


def perplexity(value: float) -> str:
    """Returns a perplexity with three digits behind the point; one of a broken model, or a broken match, with none."""
    return f"{value:.3f}" if value < 1000 else f"{value:,.0f}"


def growth(ratio: float) -> str:
    """Returns by how much something grew: `+5.1 %`, or from ten times on `255×`."""
    if ratio < 10:
        return f"{signed(100 * (ratio - 1))} %"
    return f"{ratio:.3g}×" if ratio < 1000 else f"{ratio:,.0f}×"


def metric(name: str, value: float) -> str:
    """Returns the mean of a metric: shares in per cent, others as they are."""
    return percent(value) if name in _SHARES else f"{value:.4g}".replace("-", "−")


def metric_change(name: str, value: float, interval: tuple[float, float] | None) -> str:
    """Returns the difference of a metric with its interval where there is one: shares in points."""
    factor, digits = (100, 1) if name in _SHARES else (1, 3)
    ends = "" if interval is None else " [{}, {}]".format(*(signed(factor * end, digits) for end in interval))
    return f"{signed(factor * value, digits)}{ends}"
