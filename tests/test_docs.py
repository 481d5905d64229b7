"""What the documents say is true: paths exist, commands parse, Python blocks run."""

from __future__ import annotations

import functools
import os
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from compress.cli import group
from tests.support import proofs

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNNABLE = [path for path in DOCUMENTS if path.name in ("README.md", "ADDING_A_METHOD.md")]
_PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|py|toml|svg)\b")
# Said as examples of what a user has, or will have.
_NOT_OURS = re.compile(
    r"path/to/|runs/|utils\.py$|compress/methods/clip\.py$|tests/methods/test_clip\.py$|\.venv/|~?/tmp/"
    r"|^compress\.toml$|^gate\.md$|^notes\.md$"
)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_path_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    mentioned = {code for code in quoted if _PATH.fullmatch(code)}
    linked = {target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target}
    missing = {
        name
        for name in (mentioned | linked) - {""}
        if not _NOT_OURS.search(name) and not any((folder / name).exists() for folder in (ROOT, path.parent))
    }
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_command_parses(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = [line for block in blocks(path, "bash") for line in block.splitlines()]
    inline = re.findall(r"`((?:compress|make) [^`\n]+)`", path.read_text(encoding="utf-8"))
    for line in [*lines, *inline]:
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        elif words[:1] == ["compress"]:
            parse(words[1:], line)


def parse(words: list[str], line: str) -> None:
    """Fails unless `compress WORDS` is a line that the command takes; NAME stands for a method."""
    if words[0] == "--help":
        return
    command = group.get_command(click.Context(group), words[0])
    assert command is not None, line
    if len(words) > 1 and "--help" not in words:
        command.make_context(words[0], ["rtn" if word == "NAME" else word for word in words[1:]]).close()


@pytest.mark.parametrize("path", RUNNABLE, ids=name_of)
def test_the_python_of_a_document_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All blocks in order in one namespace; runs are made small, and every `test_` function that appears is called."""
    import compress
    from compress import pipeline

    monkeypatch.chdir(tmp_path)
    proofs.in_this_process(monkeypatch)
    small = functools.partial(pipeline.run, samples=4, seq_len=32, limit=2)
    monkeypatch.setattr(compress, "run", small, raising=False)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    sources = blocks(path, "python")
    assert sources
    for source in sources:
        exec(compile(source, str(path), "exec", dont_inherit=True), namespace)
    for name, value in namespace.items():
        if name.startswith("test_"):
            value()


def test_contributing_stays_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 60


def test_the_pictures_need_nothing_from_elsewhere() -> None:
    for picture in (ROOT / "docs").glob("*.svg"):
        text = picture.read_text(encoding="utf-8")
        assert not re.findall(r"(?:href|src|url)\W{1,3}https?:", text), f"{picture.name} loads something remote"


def test_continuous_integration_runs_what_everybody_runs() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert commands[-1].split()[:3] == ["exec", "make", "test"]
