"""Commands of a chat, what is saved, and where it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compress.chat import RECORDED, loop, opening
from compress.chat.screen import Plain, SideBySide
from compress.chat.speaker import Answer, Settings
from compress.errors import CompressError, FormatError, ModelError, OutputError, RecipeError
from compress.pipeline import run
from compress.progress import Silent
from compress.report import chats
from compress.report.page import content, markdown, page, sources
from tests.support.chatting import save_dense
from tests.support.proofs import in_this_process


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and beside it the dense model that it began with."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        run(str(save_dense(folder / "dense")), "rtn", bits=3, group_size=16, suite="none", output=folder / "run")
    return folder


@pytest.fixture
def folder(made: Path) -> Path:
    for name in ("chat.json", "report.html"):
        (made / "run" / name).unlink(missing_ok=True)
    return made / "run"


def chat(folder: Path, against: str | None = RECORDED, *, interactive: bool = True) -> loop.Chat:
    settings = Settings(max_new_tokens=6)
    conversation = opening.open_conversation(str(folder), against, settings, progress=Silent())
    return loop.Chat(conversation, folder, Plain(interactive=interactive), interactive)


def test_both_models_answer_and_the_report_shows_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talking = chat(folder)
    talking.run(["Hello", "", "/save", "And <b>this</b>?", "/save", "/quit", "never asked"])
    out, err = capsys.readouterr()
    assert out.count("dense:\n") == 2 and out.count("run:\n") == 2 and "never" not in out + err
    assert f"Saved: {folder / 'chat.json'}, shown in {folder / 'report.html'}" in err
    (saved,) = chats.read(folder)  # the second /save took the place of the first
    assert (saved["model"], saved["against"]) == ("run", "dense")
    assert saved["settings"] == {"template": True, "temperature": 0.0, "max_new_tokens": 6, "seed": 0}
    assert [turn["prompt"] for turn in saved["turns"]] == ["Hello", "And <b>this</b>?"]
    assert all(turn[key]["text"] in out for turn in saved["turns"] for key in ("answer", "against"))
    shown = (folder / "report.html").read_text(encoding="utf-8")
    assert '<a href="#chat">Chat</a>' in shown and "And &lt;b&gt;this&lt;/b&gt;?" in shown
    assert "## Chat" in markdown.render(content.build(sources.read([folder])))


def test_a_new_conversation_is_saved_beside_the_old_one(folder: Path) -> None:
    talking = chat(folder, None)
    talking.run(["One", "/save", "/reset", "Two", "/save", "/system Be brief.", "Three", "/save"])
    one, two, three = chats.read(folder)
    assert [len(each["turns"]) for each in (one, two, three)] == [1, 1, 1]
    assert "against" not in one and "system" not in two and three["system"] == "Be brief."
    assert "Three" in (folder / "report.html").read_text(encoding="utf-8")


def test_mistakes_are_told_and_the_chat_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talking = chat(folder, None)
    talking.run(["/save", "/rest", "/help", "x" * 300, " /reset is a message"])
    err = capsys.readouterr().err
    assert "nothing was said" in err and "unknown command '/rest'; did you mean '/reset'?" in err
    assert "Ctrl-C stops" in err and "318 tokens long" in err
    assert [turn["prompt"] for turn in talking.conversation.turns] == ["/reset is a message"]


def test_a_mistake_in_a_script_ends_it(folder: Path) -> None:
    with pytest.raises(OutputError, match="unknown command '/rest'"):
        chat(folder, None, interactive=False).run(["/rest"])


def test_a_failed_question_leaves_the_models_with_the_same_conversation(made: Path, tmp_path: Path) -> None:
    short = save_dense(tmp_path / "short", max_position_embeddings=64)
    talking = chat(made / "run", str(short), interactive=False)
    with pytest.raises(CompressError, match="the context of short holds 64"):
        talking.run(["Hello", "x" * 40])
    assert len(talking.conversation.turns) == 1
    assert {len(speaker._said) for speaker in talking.conversation.speakers} == {2}


def test_the_dense_model_is_the_one_that_the_run_began_with(made: Path, tmp_path: Path) -> None:
    assert opening.recorded(made / "run").path == made / "dense"
    moved = tmp_path / "run"
    moved.mkdir()
    manifest = json.loads((made / "run/compress.json").read_text())
    (moved / "compress.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"began with 'dense', which cannot be opened.*--against FOLDER"):
        opening.recorded(moved)
    save_dense(tmp_path / "dense", seed=1)
    with pytest.raises(ModelError, match=r"the one found here .* is another"):
        opening.recorded(moved)
    with pytest.raises(FormatError, match=r"no folder of a run.*--against MODEL"):
        opening.recorded(made / "dense")


def test_a_dense_model_has_no_report(made: Path) -> None:
    talking = chat(made / "dense", None, interactive=False)
    with pytest.raises(OutputError, match="is no folder of a run"):
        talking.run(["Hello", "/save"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"chats": [{"model": "x"}]}, "it has no turns"),
        ({"chats": [{"model": "x", "turns": [{"prompt": 3}]}]}, "3 is not a text"),
        ({"chats": None}, "no list `chats`"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "chat.json").write_text(json.dumps({"schema_version": 1, "chats": []} | change))
    with pytest.raises(FormatError, match=message):
        chats.read(tmp_path)


def test_a_chat_of_an_older_checkpoint_is_pointed_out(folder: Path) -> None:
    kept = {"schema_version": 1, "chats": [{"model": "run", "fingerprint": "0" * 64, "turns": []}]}
    (folder / "chat.json").write_text(json.dumps(kept))
    (run,) = sources.read([folder]).runs
    assert run.warnings == ("chat.json was made with another checkpoint than the one beside it",)
    assert "Chat" in page.render(content.build(sources.Sources((run,))))


def test_settings_out_of_range_are_refused_before_a_model_is_opened() -> None:
    for settings, given in ((Settings(temperature=-1), {}), (Settings(), {"dtype": "int8"})):
        with pytest.raises(RecipeError, match=r"temperature -1|dtype='int8'"):
            opening.open_conversation("no/such", None, settings, progress=Silent(), **given)


def test_two_answers_stand_side_by_side() -> None:
    on = Console(width=60, height=12, force_terminal=False, highlight=False)
    screen = SideBySide(on)
    with on.capture() as captured, screen.answers(["dense", "packed"]) as hear:
        for word in ["one "] * 20:
            hear(0, word)
        hear(1, "two [b]three[/b]\n")
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert lines[0].split() == ["dense", "packed"]
    assert lines[1].startswith("one one") and lines[1].endswith("two [b]three[/b]")
    assert sum(line.count("one") for line in lines) == 20


def test_while_it_is_written_the_end_of_a_long_answer_is_shown() -> None:
    screen = SideBySide(Console(width=40, highlight=False))
    tail = screen._tail("\n".join(map(str, range(50))), 19, 3)
    assert tail.plain.split() == ["47", "48", "49"]


def test_why_an_answer_ended_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for stopped, part in (("length", "after 9 tokens; --max-new-tokens"), ("context", "context is full"), ("end", "")):
        Plain(interactive=False).told("", Answer("x", 9, stopped, 1.0), 9)
        err = capsys.readouterr().err
        assert part in err and bool(err) is bool(part)
    Plain(interactive=True).told("dense", Answer("x", 9, "end", 2.0), 9)
    assert capsys.readouterr().err == "[dense: 9 tokens, 4.5 tokens/s]\n"
