"""The list of all messages, and what none of them may hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import list_messages
from compress.errors import counted, in_words

ROOT = Path(__file__).parents[1]


def test_the_list_has_the_text_of_an_error_with_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text(
        'raise RecipeError(f"{name!r} is " + "wrong here", allowed="one of two", do=None if x else "Leave it out")\n'
        'progress.note("Opening it")\n'
        "len('not a message')\n",
        encoding="utf-8",
    )
    assert [str(message).removeprefix(str(tmp_path)) for message in list_messages.messages(path)] == [
        "/some.py:1: RecipeError: {name} is wrong here | one of two | Leave it out",
        "/some.py:2: note: Opening it",
    ]


def test_no_error_shows_the_inside_of_another() -> None:
    """`KeyError('comparison')` says nothing to whoever reads it."""
    shown = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "compress").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"\{error!r\}", line)
    ]
    assert not shown


@pytest.mark.parametrize(("number", "text"), [(0, "0 items"), (1, "1 item"), (1200, "1,200 items")])
def test_a_count_agrees_with_its_noun(number: int, text: str) -> None:
    assert counted(number, "item") == text


def test_a_missing_key_is_named_in_words() -> None:
    assert in_words(KeyError("comparison")) == "it lacks comparison"
    assert in_words(ValueError("not a number\nat all")) == "not a number"
