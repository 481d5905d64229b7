"""Errors that a user can act on. Each says what was given, what is allowed, what to do, and in which layer."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Iterable
from types import TracebackType


class CompressError(Exception):
    """The request or the input is wrong. The command line prints the error as one paragraph and exits with 2.

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
        ended = ("?", ".", "\n")  # a cure may end in lines of a file
        return " ".join(part if part.endswith(ended) else f"{part}." for part in parts).rstrip("\n")


class RecipeError(CompressError):
    """The recipe, a flag or a method option is not usable."""


class BudgetError(RecipeError):
    """No choice of options stays within the requested bits."""


class ModelError(CompressError):
    """The source model cannot be opened or has unusable weights."""


class CalibrationError(CompressError):
    """The calibration data cannot be read, or there are too few of them."""


class MethodError(CompressError):
    """A method cannot compress this layer with these options."""


class FormatError(CompressError):
    """A checkpoint is damaged, incomplete, newer than this package, or was not written by it."""


class OutputError(CompressError):
    """The output folder cannot be written, or holds something else."""


class MemoryLimitError(CompressError):
    """The work does not fit below `--max-memory`."""


class EvaluationError(CompressError):
    """The evaluation cannot give a meaningful score: scores are not finite, items are missing, …."""


class TextError(CalibrationError, EvaluationError):
    """A text file, a row of it or a tokenizer cannot be used, whether for calibration or for evaluation."""


class CoverageError(CompressError):
    """The run would compress a smaller share of the parameters than `--min-coverage`."""


_NEAR = 0.65
"""Similarity (difflib's ratio, 0 to 1) from which a name counts as a slip of the keyboard: `sqpr` for `spqr` has 0.75,
`device` for `recipe` 0.5."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Returns the choice that `name` is probably meant to be, or None when nothing is near. Leading dashes are alike
    in all options, and say nothing."""
    plain = {choice.lstrip("-"): choice for choice in choices}
    near = difflib.get_close_matches(name.lstrip("-"), list(plain), n=1, cutoff=_NEAR)
    return plain[near[0]] if near else None


def did_you_mean(name: str, choices: Iterable[str]) -> str | None:
    """Returns ``did you mean 'x'?`` for the nearest choice, or None when nothing is near."""
    near = nearest(name, choices)
    return None if near is None else f"did you mean {near!r}?"


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """Returns the ``given`` part for an unknown name: ``unknown method 'sqpr'; did you mean 'spqr'?``."""
    hint = did_you_mean(name, choices)
    return f"unknown {kind} {name!r}" + (f"; {hint}" if hint else "")


def counted(number: int, one: str, many: str | None = None) -> str:
    """Returns a number with its noun: `1 item`, `1,200 items`; `many` is the plural where it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def first_line(error: BaseException) -> str:
    """Returns the first line of the error's message, or the name of its class when it has no message.

    A first line that ends in a colon only announces the cause: then the next line is added.
    """
    first, _, rest = str(error).strip().partition("\n")
    if first.rstrip().endswith(":") and rest.strip():
        first = f"{first.rstrip()} {rest.strip().partition(chr(10))[0]}"
    return first or type(error).__name__


def in_words(error: BaseException) -> str:
    """Returns what an error of Python itself says, in words: a KeyError holds nothing but the key that is missing."""
    return f"it lacks {error.args[0]}" if isinstance(error, KeyError) and error.args else first_line(error)


class translated:  # noqa: N801 (a context manager, used like a function)
    """Raises `kind` in place of any error that a library raises inside the `with` block.

    Libraries raise errors of every class when a file is damaged: transformers any built-in one, tokenizers the bare
    `Exception`, and a panic in Rust code is only a BaseException. Put nothing but the call of the library inside.
    CompressError, MemoryError and requests to stop (KeyboardInterrupt, SystemExit) pass through.

    Args:
        given: what cannot be done; the library's own message is added after a colon.
        kind: class of the error that is raised.
        allowed: as in CompressError.
        do: as in CompressError.
    """

    def __init__(
        self, given: str, *, kind: type[CompressError] = ModelError, allowed: str | None = None, do: str | None = None
    ):
        self._given, self._kind, self._allowed, self._do = given, kind, allowed, do

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, CompressError | MemoryError):
            return
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            return
        said = first_line(error)
        named = said if isinstance(error, CompressError | OSError | ValueError) else f"{type(error).__name__}: {said}"
        raise self._kind(f"{self._given}: {named}", allowed=self._allowed, do=self._do) from error


EXTRAS = {
    "lm_eval": "eval",
    "matplotlib": "report",
    "peft": "train",
    "datasets": "hub",
    "pyarrow": "hub",
    "gguf": "gguf",
}
"""Modules that only an extra of compress-llm brings, and the extra."""


class MissingPackageError(CompressError):
    """A package that an extra brings is not installed."""


def installed(module: str) -> bool:
    """Returns whether a module can be imported; it is not imported for that."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


def extra_with(module: str) -> str:
    """Returns the command that installs the extra which brings a module of `EXTRAS`."""
    return f"pip install 'compress-llm[{EXTRAS[module]}]'"


def need_package(module: str, purpose: str) -> None:
    """Raises MissingPackageError, with what it is needed for and the command that installs it, where it is missing."""
    if not installed(module):
        raise MissingPackageError(f"{purpose}: the package {module} is not installed", do=extra_with(module))
