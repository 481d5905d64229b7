"""Writes numbers, names and intervals in the same form everywhere. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping

from compress.sizes import format_size

NOTHING = "–"
"""A cell without a value."""


size = format_size


def percent(share: float) -> str:
    """Returns a share as `97.4 %`, with a true minus and no negative zero."""
    text = f"{100 * share:.1f}"
    return f"{text.lstrip('-') if float(text) == 0 else text.replace('-', '−')} %"


def signed(value: float, digits: int = 1) -> str:
    """Returns a number with its sign, a true minus and no negative zero: `−1.3`, `+0.4`, `0.0`."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def points(share: float) -> str:
    """Returns a difference of shares in percentage points: `−20.0`."""
    return signed(100 * share)


def interval(low: float, high: float) -> str:
    """Returns the bounds of a difference of shares in percentage points: `[−55.1, +21.7]`."""
    return f"[{points(low)}, {points(high)}]"


def difference(value: float, low: float, high: float) -> str:
    """Returns a difference of shares with its interval, in percentage points: `−20.0 [−55.1, +21.7]`."""
    return f"{points(value)} {interval(low, high)}"


def clock(seconds: float) -> str:
    """Returns a time as `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """Returns a short time with three digits: `412 µs`, `1.54 ms`, `2.5 s`."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def label(name: str) -> str:
    """Returns the name of a family or metric as people write it: `multiple choice`."""
    return name.replace("_", " ")


def option(name: str, value: object) -> str:
    """Returns an option as the command line takes it: `bits=3`, `symmetric=true`, `rate=none`."""
    shown = str(value).lower() if isinstance(value, bool) else "none" if value is None else str(value)
    return f"{name}={shown}"


def stage(method: str, options: Mapping[str, object]) -> str:
    """Returns a stage with its options: `spqr bits=4 threshold=0.5`."""
    return " ".join([method, *(option(name, value) for name, value in options.items())])


_SHARES = frozenset({
    "acc", "acc_norm", "agreement", "all_key_facts", "closed_book", "contains", "correct", "distinct_3", "em", "empty",
    "exact", "exact_match", "f1", "likeliest", "open_book", "passage_gain", "reference_probability", "remembered",
    "rouge_l", "same_start",
})  # fmt: skip
"""Metrics from 0 to 1 (`passage_gain` from −1), which are written in per cent; others keep their unit."""


def perplexity(value: float) -> str:
    """Returns a perplexity with three decimals; from 1000 on, where a model is broken, without any."""
    return f"{value:.3f}" if value < 1000 else f"{value:,.0f}"


def growth(ratio: float) -> str:
    """Returns a ratio as a change, `+5.1 %`, or from ten times on as a factor, `255×`."""
    if ratio < 10:
        return f"{signed(100 * (ratio - 1))} %"
    return f"{ratio:.3g}×" if ratio < 1000 else f"{ratio:,.0f}×"


def metric(name: str, value: float) -> str:
    """Returns the mean of a metric: shares in per cent, others as they are."""
    return percent(value) if name in _SHARES else f"{value:.4g}".replace("-", "−")


def metric_change(name: str, value: float, bounds: tuple[float, float] | None) -> str:
    """Returns the difference of a metric, with its interval if there is one: shares in percentage points."""
    factor, digits = (100, 1) if name in _SHARES else (1, 3)
    ends = "" if bounds is None else " [{}, {}]".format(*(signed(factor * end, digits) for end in bounds))
    return f"{signed(factor * value, digits)}{ends}"
