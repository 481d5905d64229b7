"""Packages that come with extras: which extra brings which, and the error where one is missing."""

from __future__ import annotations

import importlib.util
import sys

from compress.errors import CompressError

EXTRAS = {
    "lm_eval": "eval",
    "matplotlib": "report",
    "peft": "train",
    "datasets": "hub",
    "pyarrow": "hub",
    "gguf": "gguf",
}
"""Modules, and the extra of compress-llm that brings each."""


class MissingPackageError(CompressError):
    """A package that only an extra of this one brings is not installed."""


def installed(module: str) -> bool:
    """Returns whether a module can be imported; it is not imported for that."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


def cure(module: str) -> str:
    """Returns the command that installs the extra which brings a module of `EXTRAS`."""
    return f"pip install 'compress-llm[{EXTRAS[module]}]'"


def need(module: str, purpose: str) -> None:
    """Raises MissingPackageError, with what it is needed for and the command that installs it, where it is missing."""
    if not installed(module):
        raise MissingPackageError(f"{purpose}: the package {module} is not installed", do=cure(module))
