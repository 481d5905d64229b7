"""Explains an option that a command does not have: who has it, or which name is near."""

from __future__ import annotations

from collections.abc import Mapping

import click

from compress.cli.shared.method_options import MethodCommand, method_of
from compress.errors import nearest
from compress.methods import registry

_INPUTS = ("model", "folder", "checkpoint", "path", "input", "run")
"""Names under which users look for the argument of a command."""


def explained(error: click.NoSuchOption, commands: Mapping[str, click.Command]) -> click.UsageError:
    """Returns the error with its cure.

    Args:
        error: what click raised.
        commands: all commands of the group, by name.
    """
    ctx = error.ctx
    assert ctx is not None
    given = error.option_name
    said = f"{ctx.command_path} has no option {given}"
    own = _flags(ctx.command)
    if isinstance(ctx.command, MethodCommand):
        method = method_of(ctx)
        if owners := [name for name in registry.names() if given in _method_flags(name)]:
            return _usage(f"{given} is an option of {_listed(owners)}, and the method here is {method}.", ctx)
        own |= _method_flags(method)
    if (near := nearest(given, own)) is not None:
        return _usage(f"{said}; did you mean {near}?", ctx)
    argument = next((param for param in ctx.command.params if isinstance(param, click.Argument)), None)
    if argument is not None and given.lstrip("-") in _INPUTS:
        return _usage(f"{said}. Give {argument.make_metavar(ctx).strip('[]')} without the name of an option.", ctx)
    if owners := [f"compress {name}" for name, command in commands.items() if given in _flags(command)]:
        return _usage(f"{said}; it is an option of {_listed(owners)}.", ctx)
    if isinstance(ctx.command, MethodCommand):
        others = {flag: name for name in registry.names() for flag in _method_flags(name)}
        if (near := nearest(given, others)) is not None:
            return _usage(f"{said}; did you mean {near}, an option of {others[near]}?", ctx)
    return _usage(f"{said}.", ctx)


def _usage(message: str, ctx: click.Context) -> click.UsageError:
    return click.UsageError(message, ctx=ctx)


def _flags(command: click.Command) -> set[str]:
    """Returns the options of a command without those of a method."""
    return {flag for param in command.params if isinstance(param, click.Option) for flag in param.opts}


def _method_flags(name: str) -> set[str]:
    return {f"--{option.name.replace('_', '-')}" for option in registry.describe(name).options}


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
