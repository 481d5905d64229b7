"""Options that every command takes, the argument MODEL, and what is said about options that a command does not have."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from compress import evaluation, frontier
from compress.cli import COMMANDS, group, invoke, run
from compress.cli.shared.method_options import given_flags
from compress.errors import RecipeError
from compress.progress import DETAIL, Detail
from tests.support.results import dense_and_packed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_quiet_and_verbose(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--quiet" in shown and "--verbose" in shown
    assert invoke([name, "--quiet", "--verbose"]) == 2
    assert "--quiet and --verbose exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "detail"), [([], "normal"), (["-q"], "quiet"), (["--verbose"], "verbose")])
def test_the_detail_holds_for_one_command(flags: list[str], detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Detail] = []

    def evaluate(*_: Any, **__: Any) -> Any:
        seen.append(DETAIL.get())
        return dense_and_packed()[0]

    monkeypatch.setattr(evaluation, "evaluate", evaluate, raising=False)
    assert invoke(["eval", *flags]) == 0
    assert (seen, DETAIL.get()) == ([Detail(detail)], Detail.NORMAL)


@pytest.mark.parametrize("args", [["path/m"], ["--model", "path/m"], ["path/m", "--model", "path/m"]])
def test_a_model_is_an_argument_or_an_option(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with run.command.make_context("run", list(args)) as ctx:
        assert run.recipe_from(given_flags(ctx)).model == "path/m"
    asked: list[str] = []

    def noted(model: str, **_: Any) -> Any:
        asked.append(model)
        return dense_and_packed()[0]

    monkeypatch.setattr(evaluation, "evaluate", noted, raising=False)
    assert invoke(["eval", *args]) == 0
    assert asked == ["path/m"]


@pytest.mark.parametrize("command", ["run", "eval", "frontier"])
def test_two_different_models_are_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke([command, "one", "--model", "other"]) == 2
    assert capsys.readouterr().err == "Error: two models: one, and --model other. Give one of them.\n"


def test_a_method_in_the_place_of_the_model() -> None:
    with run.command.make_context("run", ["rtn"]) as ctx, pytest.raises(RecipeError, match="--method rtn"):
        run.recipe_from(given_flags(ctx))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["eval", "--recipe", "x"], "compress eval has no option --recipe; it is an option of compress run."),
        (["eval", "--devise", "cpu"], "compress eval has no option --devise; did you mean --device?"),
        (["inspect", "--folder", "x"], "compress inspect has no option --folder. Give FOLDER without the name"),
        (["gate", "--zzz"], "compress gate has no option --zzz."),
        (["run", "--bitz", "3"], "compress run has no option --bitz; did you mean --bits?"),
        (["run", "--method", "wanda", "--symmetric"], "is an option of easyquant, finequant, gptq and rtn, and the"),
        (["run", "--outlier-threshold", "3", "--method", "rtn"], "did you mean --threshold, an option of spqr?"),
        (["--versoin"], "compress has no option --versoin; did you mean --version?"),
    ],
    ids=" ".join,
)
def test_an_option_that_a_command_lacks(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(args) == 2
    output = capsys.readouterr()
    assert said in " ".join(output.err.split()) and not output.out


def test_a_frontier_as_json_is_all_of_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ran(points: Any, *, folder: Any, base: Any, progress: Any) -> frontier.Frontier:
        progress.note("Point 1 of 1")
        return frontier.Frontier(folder, {"schema_version": 1, "model": base.model, "points": []})

    monkeypatch.setattr(frontier, "run", ran)
    assert invoke(["frontier", "some/model", "--methods", "rtn", "--bits", "3", "--json"]) == 0
    assert capsys.readouterr().out == '{\n  "schema_version": 1,\n  "model": "some/model",\n  "points": []\n}\n'


@pytest.mark.parametrize(
    ("args", "incomplete", "offered"),
    [
        ([], "in", ["inspect"]),
        (["run", "--method"], "sp", ["sparsegpt", "spqr"]),
        (["run"], "--targ", ["--target-bits"]),
        (["run", "--method", "rtn"], "--sym", ["--symmetric"]),
        (["run", "--for"], "v", ["vllm"]),
        (["methods"], "wa", ["wanda"]),
    ],
)
def test_the_shell_is_offered_names(args: list[str], incomplete: str, offered: list[str]) -> None:
    complete = ShellComplete(group, {}, "compress", "_COMPRESS_COMPLETE")
    assert [item.value for item in complete.get_completions(args, incomplete)] == offered


def test_the_shell_completes_the_path_of_a_model() -> None:
    complete = ShellComplete(group, {}, "compress", "_COMPRESS_COMPLETE")
    assert [item.type for item in complete.get_completions(["inspect"], "ru")] == ["file"]
    assert [item.type for item in complete.get_completions(["run"], "ru")] == ["file"]


def test_options_of_a_command_are_listed_without_its_arguments() -> None:
    with click.Context(group) as above:
        ctx = click.Context(run.command, info_name="run", parent=above)
        listed = run.command.get_help(ctx)
    assert "\n  [MODEL]" not in listed and "run [OPTIONS] [MODEL]" in listed
