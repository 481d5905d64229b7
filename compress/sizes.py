"""Sizes in bytes, read from text and written as text. Standard library only."""

from __future__ import annotations

from compress.errors import RecipeError


def parse_size(text: str) -> int:
    """Returns the bytes of `2.5GB`, `800MiB` or `1e9`; GB is 1000³ bytes, GiB is 1024³."""
    units = {"": 1, "b": 1}
    for power, letter in enumerate("kmgt", start=1):
        units |= {letter: 1000**power, f"{letter}b": 1000**power, f"{letter}ib": 1024**power}
    number = text.strip().rstrip("abcdfghijklmnopqrstuvwxyzABCDFGHIJKLMNOPQRSTUVWXYZ ")  # not e: 1e9 is a number
    unit = text.strip()[len(number) :].strip().lower()
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError) as error:
        raise RecipeError(f"size {text!r}", allowed="a number with a unit, such as 2.5GB or 800MiB") from error
    if size <= 0:
        raise RecipeError(f"size {text!r}", allowed="more than zero bytes")
    return size


def format_size(size_bytes: float) -> str:
    """Returns a size in decimal units with three digits: `8.35 MB`."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
