"""Turns the documented fields of a method's Config into options of a command. Imports click and the registry only."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from compress.methods import registry
from compress.recipe import Recipe

DEFAULT_METHOD = "spqr"
_METHOD = "compress.method"


class OrNone(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """A value of the inner type, or the word `none`."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.name = inner, inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "none" else self.inner.convert(value, param, ctx)


class MethodCommand(click.Command):
    """A command with the options of the method that `--method` or the recipe names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_METHOD] = _named_method(args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *method_options(method_of(ctx))]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        name = method_of(ctx)
        own = method_options(name)
        plain = [param for param in self.get_params(ctx) if param.name not in {option.name for option in own}]
        for title, params in (("Options", plain), (f"Options of method {name}", own)):
            options = [param for param in params if isinstance(param, click.Option)]
            if records := [record for param in options if (record := param.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(records)


def method_of(ctx: click.Context) -> str:
    """Returns the method whose options a command has."""
    method: str = ctx.meta.get(_METHOD, DEFAULT_METHOD)
    return method


def method_options(name: str) -> list[click.Option]:
    """Returns one click option per field of the Config of method `name`: dashes, type, default and help."""
    return [_option(option) for option in registry.describe(name).options]


def given_flags(ctx: click.Context) -> dict[str, Any]:
    """Returns the parameters given on the command line, without those that have their default."""
    return {
        name: value
        for name, value in ctx.params.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def _option(option: registry.Option) -> click.Option:
    flag = "--" + option.name.replace("_", "-")
    if option.type is bool:
        declaration, kind = f"{flag}/--no-{flag[2:]}", None
    else:
        kind = click.types.convert_type(option.type)
        declaration, kind = flag, OrNone(kind) if option.optional else kind
    shown = option.default is not None
    return click.Option(
        [declaration, option.name], type=kind, default=option.default, show_default=shown, help=option.help
    )


def _named_method(args: list[str]) -> str:
    """Returns the method whose options the command has: that of --method, else of the only stage of --recipe."""
    named = {}
    for flag, value in itertools.zip_longest(args, args[1:], fillvalue=""):
        for option in ("--method", "--recipe"):
            if flag == option:
                named[option] = value
            elif flag.startswith(f"{option}="):
                named[option] = flag.partition("=")[2]
    if "--method" not in named and Path(named.get("--recipe", "")).is_file():
        stages = Recipe.from_toml(named["--recipe"]).stages
        return stages[0].method if len(stages) == 1 else DEFAULT_METHOD
    return named.get("--method") or DEFAULT_METHOD
