"""`compress chat` in scripts: prompts, lines from a pipe, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from compress.chat import loop
from compress.cli import Terminated, invoke
from tests.support.chatting import save_dense


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dense(tmp_path_factory.mktemp("dense"))


def test_prompts_are_one_conversation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--max-new-tokens", "4", "--system", "Be brief.", "--prompt", "Hi", "--prompt", "/help"]
    assert invoke(["chat", str(folder), *args]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "/save" not in err and "Opening" in err


def test_lines_from_a_pipe_are_messages_and_commands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n\n/reset\nHi\n"))
    assert invoke(["chat", str(folder), "--max-new-tokens", "4"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_a_base_model_is_said_to_continue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_dense(tmp_path / "base", None)
    assert invoke(["chat", str(base), "--max-new-tokens", "3", "--prompt", "a", "--prompt", "b"]) == 0
    assert capsys.readouterr().err.count("base has no chat template: it continues each text by itself") == 1
    assert invoke(["chat", str(base), "--system", "Be brief.", "--prompt", "a"]) == 2
    assert "base has no chat template, and so no system message" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--against", "--prompt", "Hi"], "--against without a model"),
        (["--save", "--prompt", "Hi"], "no report to save into"),
        (["--temperature", "-1", "--prompt", "Hi"], "temperature -1"),
        (["--prompt", "x" * 200], "the text is 218 tokens long"),
    ],
)
def test_what_cannot_be_done_is_refused(
    folder: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["chat", str(folder), *args]) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_at_the_prompt_does_not_end_the_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replies: list[Any] = [KeyboardInterrupt(), "Hi", EOFError()]

    def reply(_: str) -> str:
        if isinstance(next_one := replies.pop(0), BaseException):
            raise next_one
        return str(next_one)

    monkeypatch.setattr("builtins.input", reply)
    assert list(loop.typed()) == ["Hi"]
    assert "(Ctrl-D or /quit ends)" in capsys.readouterr().out
    replies[:] = [Terminated()]
    with pytest.raises(Terminated):
        list(loop.typed())
