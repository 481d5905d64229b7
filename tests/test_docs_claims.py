"""What the documents claim: figures are those of the recorded run, models those that were tried, messages real ones."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
COPIED = re.compile(r"^ *<!-- of (docs/\w+\.md): (.+?) -->\n(.*?)^ *<!-- end -->$", re.MULTILINE | re.DOTALL)
Table = tuple[list[str], list[list[str]]]


def cells(line: str) -> list[str]:
    return [cell.strip().replace("*", "") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def tables(text: str) -> Iterator[Table]:
    """Every table of a document: its header, and its rows."""
    for block in re.findall(r"(?:^ *\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = block.splitlines()
        yield cells(head), [cells(row) for row in rows]


def copies() -> list[tuple[str, str, str, str]]:
    found = []
    for page in PAGES:
        for source, columns, block in COPIED.findall(page.read_text(encoding="utf-8")):
            found.append((page.name, source, columns, block))
    return found


@pytest.mark.parametrize(("page", "source", "columns", "block"), copies(), ids=lambda value: value[:20].strip())
def test_a_copied_table_has_the_figures_of_its_source(page: str, source: str, columns: str, block: str) -> None:
    wanted = cells(columns)
    rows = [
        tuple(row[head.index(name)] for name in wanted)
        for head, recorded in tables((ROOT / source).read_text(encoding="utf-8"))
        if set(wanted) <= set(head)
        for row in recorded
    ]
    ((_, copied),) = tables(block)
    assert copied and rows
    assert not [row for row in map(tuple, copied) if row not in rows], f"{page}: not in {source}"


def test_there_are_copies() -> None:
    """Guards the test above."""
    assert {page for page, *_ in copies()} >= {"numbers.md", "pick-a-method.md"}


@cache
def recorded() -> dict[tuple[str, str], dict[str, str]]:
    """The rows of docs/REAL.md by project and method."""
    head, rows = next(iter(tables((DOCS / "REAL.md").read_text(encoding="utf-8"))))
    return {(row[0], row[1]): dict(zip(head, row, strict=True)) for row in rows}


def test_the_table_of_the_readme_is_that_of_the_recorded_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.findall(r"^<!-- of docs/REAL.md -->\n(.*?)^<!-- end -->$", text, re.MULTILINE | re.DOTALL)
    ((_, rows),) = tables(block[0])
    assert len(rows) > 10
    for project, method, *figures in rows:
        row = recorded()[project, method]
        size, kl, same, perplexity = figures
        assert (size, kl, same) == (row["MB"], row["KL [95 %]"], row["same top-1"]), method
        assert perplexity == row["perplexity [95 %]"].partition(" ")[0], method


def test_the_speeds_of_the_readme_are_those_of_the_recorded_run() -> None:
    ranges = {}
    for project in ("llama.cpp", "compress"):
        rates = [
            int(row["tokens/s"]) for (name, _), row in recorded().items() if name == project if row["tokens/s"] != "–"
        ]
        ranges[project] = f"{min(rates)} to {max(rates)}"
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"({ranges['llama.cpp']} tokens/s against {ranges['compress']};" in text


def test_the_tutorial_shows_one_run() -> None:
    """What the gate says of a run is what the run said: scores, lost and gained, of every family."""
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    runs = re.findall(r"^atlas: dense vs compressed.*?(?=^```)", text, re.MULTILINE | re.DOTALL)
    gates = re.findall(r"^(?:PASS|FAIL|INCONCLUSIVE): .*?(?=^$|^```)", text, re.MULTILINE | re.DOTALL)
    assert len(runs) == len(gates) == 2
    for run, gate in zip(runs, gates, strict=True):
        said = {
            m[1]: m.groups()[1:]
            for m in re.finditer(r"^(\w+(?: \w+)?) +([\d.]+ %) +([\d.]+ %) +(\S+) \[.*\] +(\d+/\d+)$", run, re.M)
        }
        judged = {
            m[1]: m.groups()[1:]
            for m in re.finditer(
                r"^. +(\w+(?: \w+)?) +\d+ +([\d.]+ %) +([\d.]+ %) +(\S+) \[.*\] +\d+ +(\d+/\d+)$", gate, re.M
            )
        }
        assert len(said) == 5 and judged == said


def test_the_picture_of_the_first_page_is_that_of_the_tutorial() -> None:
    drawn = re.sub(r"<style>.*?</style>", "", (DOCS / "result.svg").read_text(encoding="utf-8"), flags=re.DOTALL)
    picture = re.sub(r"<[^>]+>", " ", drawn).replace("&#160;", " ")
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    run = re.findall(r"^atlas: dense vs compressed \(spqr\).*?(?=^```)", text, re.MULTILINE | re.DOTALL)[0]
    figures = re.findall(r"\d+\.\d+", run)
    assert len(figures) > 30
    assert sorted(re.findall(r"\d+\.\d+", picture)) == sorted(figures)


def test_the_families_of_the_cookbook_are_those_that_were_tried() -> None:
    text_models = next(found for found in tables((DOCS / "MODELS.md").read_text(encoding="utf-8"))
                       if found[0][:2] == ["model type", "class"])  # fmt: skip
    tried = {row[1]: row for row in text_models[1]}
    _, rows = next(iter(tables((DOCS / "how-to/cookbook.md").read_text(encoding="utf-8"))))
    assert len(rows) > 8
    for row in rows:
        marks = tried[row[1].strip("`")]
        assert row[2] == "✓" and marks[2:6] == ["✓"] * 4, row
        assert row[3] == marks[7], row


@cache
def messages() -> tuple[str, ...]:
    """Every text in the sources; what is filled in is a null character."""
    texts = []
    for path in (ROOT / "compress").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return tuple(texts)


def test_messages_of_the_troubleshooting_page_are_real() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(quoted) > 20
    unknown = []
    for message in quoted:
        parts = [part.strip() for part in message.split("…") if part.strip()]
        if not any(all(part in said for part in parts) for said in messages()):
            unknown.append(message)
    assert not unknown


def test_the_glossary_is_in_order() -> None:
    terms = re.findall(r"^\*\*([^*]+)\*\*:", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(terms) > 30 and terms == sorted(terms, key=str.casefold)
