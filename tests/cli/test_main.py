"""The command line as a whole: exit codes, messages, suggestions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from compress import cli
from compress.cli import COMMANDS, invoke
from compress.cli.shared.detail_options import with_detail_options
from compress.errors import FormatError
from compress.methods import registry


def test_every_command_has_a_module_and_the_help_it_is_listed_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--help"]) == 0
    listing = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert summary in listing
        assert invoke([name, "--help"]) == 0
        assert f"Usage: compress {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["rum"], "unknown command 'rum'; did you mean 'run'?"),
        (["run", "--method", "sqpr"], "unknown method 'sqpr'; did you mean 'spqr'?"),
        (["run", "--bit", "3"], "compress run has no option --bit; did you mean --bits?"),
        (["run", "--method", "rtn", "--threshold", "1"], "--threshold is an option of spqr, and the method here"),
        (["run", "--bits", "three"], "'three' is not a valid integer"),
        (["run", "--max-memory", "2 apples"], "size '2 apples'. Allowed: a number with a unit"),
        (["run", "--recipe", "none.toml"], "there is no recipe file none.toml. Correct the path"),
        (["run", "--suite", "kick-atlsa"], "unknown suite 'kick-atlsa'; did you mean 'kick-atlas'?"),
        (["run", "--samples", "0"], "calibration samples=0. Allowed: an integer of at least 1"),
        (["methods", "gptx"], "unknown method 'gptx'"),
        (["inspect", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_paragraph_and_exit_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(args) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert not output.out
    assert "Traceback" not in output.err
    assert not list(tmp_path.iterdir())


def test_an_error_shows_its_trace_only_for_debugging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def broken() -> None:
        raise FormatError("shard 2 is damaged", layer="model.layers.1", do="Copy it again")

    monkeypatch.setattr(cli._Commands, "get_command", lambda *_: with_detail_options(broken))
    assert invoke(["run"]) == 2
    assert capsys.readouterr().err == "Error: model.layers.1: shard 2 is damaged. Copy it again.\n"
    assert invoke(["run", "--verbose"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith("Error: model.layers.1: shard 2 is damaged. Copy it again.\n")
    monkeypatch.setenv("COMPRESS_DEBUG", "1")
    with pytest.raises(FormatError):
        invoke(["run"])


def test_a_bug_is_not_dressed_up_as_a_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def buggy() -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(cli._Commands, "get_command", lambda *_: buggy)
    with pytest.raises(AssertionError, match="ours"):
        invoke(["run"])


def test_ctrl_c_is_exit_130(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def endless() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli._Commands, "get_command", lambda *_: endless)
    assert invoke(["run"]) == 130


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "compress", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()[0]) == (0, "compress,")


def test_help_is_quick() -> None:
    """Best of five of the CPU time, which other work on the machine hardly changes: 0.3 s is the promise."""

    def cpu_seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "compress", "--help"], capture_output=True, timeout=60, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(cpu_seconds() for _ in range(5)) < 0.3


def test_methods_as_json_has_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [method["name"] for method in listed] == registry.names()
    assert invoke(["methods", "rtn", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone in listed
    bits = next(option for option in alone["options"] if option["name"] == "bits")
    assert (bits["type"], bits["default"], bits["optional"]) == ("int", 4, False)


def test_methods_lists_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["methods"]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in registry.names())
