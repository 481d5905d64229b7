"""Errors that a user can act on: what was given, what is allowed, what to do, and in which layer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CompressError(Exception):
    """A mistake in what was asked or given; the command line prints it as one paragraph and exits with 2.

    Args:
        given: what is wrong, with the offending value in it.
        allowed: what would have been accepted.
        do: the cure, as an instruction.
        layer: dotted path of the layer concerned, e.g. ``model.layers.3.mlp.down_proj``.
    """

    exit_code = 2

    def __init__(self, given: str, *, allowed: str | None = None, do: str | None = None, layer: str | None = None):
        self.given, self.allowed, self.do, self.layer = given, allowed, do, layer
        super().__init__(given)

    def __str__(self) -> str:
        parts = [f"{self.layer}: {self.given}" if self.layer else self.given]
        if self.allowed:
            parts.append(f"Allowed: {self.allowed}")
        if self.do:
            parts.append(self.do)
        return " ".join(part if part.endswith(("?", ".")) else f"{part}." for part in parts)


class RecipeError(CompressError):
    """The recipe, a flag or a method option is not usable."""


class BudgetError(RecipeError):
    """No choice of options keeps within the bits that were asked for."""


class ModelError(CompressError):
    """The source model cannot be opened or has unusable weights."""


class CalibrationError(CompressError):
    """The calibration data do not suffice."""


class MethodError(CompressError):
    """A method cannot treat this layer with these options."""


class FormatError(CompressError):
    """A checkpoint is damaged, incomplete, newer than this package, or not one of ours."""


class OutputError(CompressError):
    """The output folder cannot be written or holds something else."""


class MemoryLimitError(CompressError):
    """The work does not fit below the ceiling that was asked for."""


class EvaluationError(CompressError):
    """The evaluation cannot give a figure that means anything (non-finite scores, missing items)."""


class CoverageError(CompressError):
    """Too small a share of the parameters was compressed."""


def did_you_mean(name: str, choices: Iterable[str]) -> str | None:
    """Returns ``did you mean 'x'?`` for the nearest choice, or None when nothing is near."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else None


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """Returns the ``given`` part for an unknown name: ``unknown method 'sqpr'; did you mean 'spqr'?``."""
    hint = did_you_mean(name, choices)
    return f"unknown {kind} {name!r}" + (f"; {hint}" if hint else "")
