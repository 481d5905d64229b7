"""How figures are written, the same everywhere. Standard library only."""

from __future__ import annotations


def size(size_bytes: float) -> str:
    """Returns bytes in decimal units with three digits: `8.35 MB`."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def percent(share: float) -> str:
    """Returns a share from 0 to 1 as `97.4 %`."""
    return f"{100 * share:.1f} %"


def signed(value: float, digits: int = 1) -> str:
    """Returns a number with its sign, a true minus and no negative zero: `−1.3`, `+0.4`, `0.0`."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def span(seconds: float) -> str:
    """Returns `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
