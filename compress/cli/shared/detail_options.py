"""Gives every command the options --quiet and --verbose, which say how much of the progress is shown."""

from __future__ import annotations

from typing import Any

import click

from compress.progress import DETAIL, Detail


def with_detail_options(command: click.Command) -> click.Command:
    """Returns the command with --quiet and --verbose; they are added once."""
    if not any(param.name in ("quiet", "verbose") for param in command.params):
        command.params += [
            _flag("-q", Detail.QUIET, "Show no progress; warnings, errors and the result remain."),
            _flag("-v", Detail.VERBOSE, "Show every step on a line of its own, and the traceback of an error."),
        ]
    return command


def _flag(short: str, detail: Detail, text: str) -> click.Option:
    def choose(ctx: click.Context, param: click.Parameter, given: Any) -> None:
        if not given:
            return
        if DETAIL.get() not in (Detail.NORMAL, detail):
            raise click.UsageError("--quiet and --verbose exclude each other. Give one of them.", ctx=ctx)
        DETAIL.set(detail)

    return click.Option([short, f"--{detail.value}"], is_flag=True, expose_value=False, callback=choose, help=text)
