"""The command line: one file per command, imported only when that command is called. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Never

import click

from compress import __version__
from compress.cli.shared import environment
from compress.cli.shared.detail_options import with_detail_options
from compress.errors import CompressError, unknown
from compress.progress import DETAIL, Detail

# The short help lives here, so that `compress --help` imports no command.
COMMANDS = {
    "run": "Compress a model, load the result back and show what it cost.",
    "eval": "Evaluate a model on the knowledge suite, or compare two.",
    "gate": "Pass or fail a candidate against the dense model.",
    "frontier": "Compare methods by quality and stored bits per weight.",
    "export": "Write a checkpoint in the format of an engine.",
    "push": "Upload a finished folder to the Hugging Face hub.",
    "chat": "Talk with a model, alone or beside the dense one.",
    "report": "Write a page about runs: scores, layers, lost items.",
    "inspect": "Show the layers of a compressed checkpoint.",
    "methods": "List the methods, or the options of one.",
    "bench": "Time the kernels, or a checkpoint against its dense model.",
    "doctor": "Show versions, hardware and which kernels can run here.",
}
INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, by the convention of shells."""
TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, which schedulers, containers and `timeout` send."""

_AGAIN = ". Run the same command again: nothing was left half written."
"""What is said of an interrupted command that keeps no finished work."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. It ends a command as Ctrl-C does: locks are released, worker processes ended."""


def _terminate(signum: int, frame: FrameType | None) -> Never:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends it twice, which would cut the cleaning up short
    raise Terminated


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"compress.cli.{cmd_name}").command
        return with_detail_options(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"{unknown('command', args[0], COMMANDS)} (commands: {', '.join(COMMANDS)})")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
    epilog="Start with: compress run --method spqr",
)
@click.version_option(__version__, prog_name="compress")
def group() -> None:
    """Compress large language models, ship packed checkpoints, and prove what it cost."""
    for warning in environment.check():
        click.echo(warning, err=True)


def invoke(args: Sequence[str]) -> int:
    """Runs one command line and returns its exit code.

    0 done, 1 the gate or a check failed, 2 a mistake in the command or its input, 130 Ctrl-C, 143 SIGTERM.
    """
    detail = DETAIL.set(Detail.NORMAL)
    try:
        return _invoke(args)
    finally:
        DETAIL.reset(detail)


def _invoke(args: Sequence[str]) -> int:
    try:
        code = group.main(args=list(args), prog_name="compress", standalone_mode=False)
    except click.Abort as abort:
        stop = abort.__cause__
        click.echo(f"Interrupted{' '.join(getattr(stop, '__notes__', [])) or _AGAIN}", err=True)
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    except click.NoSuchOption as error:
        _explain(error)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CompressError as error:
        if os.environ.get("COMPRESS_DEBUG"):
            raise
        if DETAIL.get() is Detail.VERBOSE:
            traceback.print_exception(error)
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    return code if isinstance(code, int) else 0


def _explain(error: click.NoSuchOption) -> None:
    """Shows the error with the commands and methods that have the option, or with the nearest name."""
    from compress.cli.shared.unknown_option import explained

    assert error.ctx is not None
    commands = {name: command for name in COMMANDS if (command := group.get_command(error.ctx, name)) is not None}
    explained(error, commands).show()


def main() -> None:
    """The entry point of the installed command."""
    # OpenMP reads this when torch is loaded. Threads that spin between the many small operations of a solver double
    # its time on two cores, and cost 24 times as much beside another process (benchmarks/bench_waiting.py). `bench`
    # measures with the setting that any program that imports torch has.
    if sys.argv[1:2] != ["bench"]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows ? instead of failing
    code = invoke(sys.argv[1:])
    if code in (INTERRUPTED, TERMINATED):
        # everything is released by now; an ordinary exit would wait for threads of libraries, which may never end when
        # the signal came while they were started
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # whoever read it is gone as well
                stream.flush()
        os._exit(code)
    sys.exit(code)
