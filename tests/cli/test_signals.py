"""Ctrl-C and SIGTERM end a command in the same way: a message, no traceback, nothing left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import psutil
import pytest

from compress import cli
from tests.support.models import save_tiny

SCRIPT = """
import time
from compress import cli
from compress.report.progress_bars import Stage

def stuck(stage, steps=1, note=""):
    if stage.title == "Compressing" and note.startswith("model.layers.1."):
        print("stuck", flush=True)
        time.sleep(60)
    stage.done += steps
    stage.note = note

Stage.advance = stuck
cli.main()
"""


def test_sigterm_ends_a_run_with_workers_cleanly(tmp_path: Path) -> None:
    source, out = save_tiny(tmp_path / "model"), tmp_path / "out"
    arguments = ["run", "--model", str(source), "--method", "rtn", "--workers", "2", "--no-eval", "-o", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "stuck\n"
    others = psutil.Process(process.pid).children(recursive=True)
    assert len(others) == 1
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "Interrupted at Compressing" in said and "Run the same command again" in said
    assert "Traceback" not in said
    end = time.monotonic() + 5
    while any(other.is_running() and other.status() != psutil.STATUS_ZOMBIE for other in others):
        assert time.monotonic() < end, "a worker outlives the command"
        time.sleep(0.02)
    with (out / ".work" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_both_signals_say_the_same(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def endless() -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(cli._Commands, "get_command", lambda *_: endless)
    monkeypatch.setattr(sys, "argv", ["compress", "run"])
    monkeypatch.setattr(os, "_exit", sys.exit)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
    assert left.value.code == code
    again = "Run the same command again: nothing was left half written."
    assert capsys.readouterr().err == f"\nInterrupted. {again}\n"
