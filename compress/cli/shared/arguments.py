"""Arguments that several commands take: MODEL, which may also be given as --model; completion of names in a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from compress.errors import RecipeError

_F = TypeVar("_F", bound=Callable[..., Any])
ARGUMENT = "model_argument"
"""Name of the parameter that holds the argument MODEL of a command that also has --model."""


def model_argument(command: _F) -> _F:
    """Adds the optional argument MODEL to a command with the option --model."""
    return click.argument(ARGUMENT, metavar="[MODEL]", required=False, type=click.Path())(command)


def one_model(argument: str | None, flag: str | None) -> str | None:
    """Returns the model that was given, as an argument or with --model; None where it was given in neither way.

    Raises:
        RecipeError: two different models were given.
    """
    if argument is not None and flag is not None and Path(argument) != Path(flag):
        raise RecipeError(f"two models: {argument}, and --model {flag}", do="Give one of them")
    return flag if argument is None else argument


def completed(names: Callable[[], Iterable[str]]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Returns a completion for the shell that offers `names()`, read only when a shell asks."""
    return lambda ctx, param, incomplete: [name for name in names() if name.startswith(incomplete)]
