"""Reads the environment variables of this package; a value that is not allowed is an error. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping

from compress.errors import RecipeError, nearest

KERNEL, ISA, THREADS, BUILD = "COMPRESS_KERNEL", "COMPRESS_ISA", "COMPRESS_THREADS", "COMPRESS_BUILD_NATIVE"
CACHE, METHODS, JUDGE_KEY, DEBUG = "COMPRESS_CACHE", "COMPRESS_METHODS", "COMPRESS_JUDGE_KEY", "COMPRESS_DEBUG"
ALLOWED: Mapping[str, tuple[str, ...]] = {
    KERNEL: ("native", "triton", "reference"),
    ISA: ("avx512vnni", "avx512", "avx2", "neon", "scalar"),
    THREADS: ("own",),
    BUILD: ("0", "1"),
}
"""Variables that take one of a few words. What an instruction set needs of the processor, the kernels check."""
NAMES = (KERNEL, ISA, THREADS, BUILD, CACHE, METHODS, JUDGE_KEY, DEBUG, "COMPRESS_PORTABLE", "COMPRESS_SANITIZE")
"""All variables that begin with COMPRESS_; docs/reference/environment.md says what they do."""


def value(name: str) -> str | None:
    """Returns the value of a variable; None where it is not set, or empty.

    Raises:
        RecipeError: the value is not one of those that are allowed.
    """
    text = os.environ.get(name) or None
    allowed = ALLOWED.get(name)
    if text is not None and allowed is not None and text not in allowed:
        near = nearest(text, allowed)
        raise RecipeError(
            f"the environment variable {name}={text}" + (f"; did you mean {near}?" if near else ""),
            allowed=", ".join(allowed),
            do=f"Correct it, or unset {name}",
        )
    return text


def check() -> list[str]:
    """Checks all variables and returns a warning for each that is probably a misspelt one of ours.

    Raises:
        RecipeError: a value is not allowed; see `value`.
    """
    for name in ALLOWED:
        value(name)
    if (folder := value(CACHE)) is not None and os.path.exists(folder) and not os.path.isdir(folder):
        raise RecipeError(
            f"the environment variable {CACHE}={folder} names a file",
            allowed="a folder",
            do=f"Correct it, or unset {CACHE}",
        )
    return [
        f"Warning: the environment variable {name} has no meaning here; did you mean {near}?"
        for name in sorted(os.environ)
        if name.startswith("COMPRESS") and name not in NAMES and (near := _meant(name)) is not None
    ]


def _meant(name: str) -> str | None:
    """Returns the variable of ours that a name probably stands for; what all have in common counts for nothing."""
    endings = {each.removeprefix("COMPRESS_"): each for each in NAMES}
    near = nearest(name.removeprefix("COMPRESS").lstrip("_"), endings)
    return None if near is None else endings[near]
