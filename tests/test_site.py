"""The documentation site: it builds without a warning, loads nothing from elsewhere, and what its pages say runs."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import compress
from compress import pipeline
from compress.cli import COMMANDS
from compress.methods import registry
from compress.stages.plan.early_refusals import check_recipe
from tests import test_docs
from tests.support import proofs
from tests.test_docs import blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# tests/test_docs.py checks the documents at the top level
PAGES = sorted([*(DOCS / "how-to").glob("*.md"), *(DOCS / "reference").glob("*.md")])
# tests/test_serve.py asks a server as serve.md does, with the package openai
SERVED = DOCS / "how-to/serve.md"
RUNNABLE = [path for path in (DOCS / "tutorial.md", *PAGES) if blocks(path, "python") and path != SERVED]


def name_of(path: Path) -> str:
    return str(path.relative_to(DOCS))


class Loads(HTMLParser):
    """What a browser fetches for a page by itself: everything but links to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag != "a" and given.get("rel") != "canonical":
            self.addresses += [value for name in ("src", "href", "srcset", "data") if (value := given.get(name))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of mkdocs is an error."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason=f"{module} is not installed; it comes with the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        parser = Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.addresses
        remote = [address for address in parser.addresses if re.match(r"(https?:)?//", address)]
        assert not remote, f"{page.name} loads {remote}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\W{0,2}(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_every_document_is_in_the_menu(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    missing = [
        path.stem for path in DOCS.rglob("*.md") if f'{path.relative_to(DOCS).with_suffix(".html")}"' not in home
    ]
    assert not missing


def test_it_opens_from_a_folder(site: Path) -> None:
    """Links to files, not to folders that only a server would know what to do with."""
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "how-to/compress.html" in home and (site / "how-to/compress.html").is_file()


def test_the_reference_is_generated(site: Path) -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html")}
    for name in COMMANDS:
        assert f'id="compress-{name}"' in pages["command-line"]
    for name in registry.names():
        assert f'id="{name}"' in pages["methods"]
        assert all(f"<code>{option.name}</code>" in pages["methods"] for option in registry.describe(name).options)
    for key in ("max_memory", "target_bits", "seq_len"):
        assert f"<code>{key}</code>" in pages["recipe"]
    for name in set(compress.__all__) - {"__version__"}:
        found = getattr(compress, name)
        assert f'id="{found.__module__}.{found.__qualname__}"' in pages["python"], name
    assert "<!--" not in "".join(re.findall(r"<!-- (?:commands|methods|recipe) -->", "".join(pages.values())))


def test_golden_bytes_stay_apart(site: Path) -> None:
    """Their fences have a word that mkdocs does not know; a fence that is not closed swallows half a page."""
    page = (site / "FORMAT.html").read_text(encoding="utf-8")
    assert 'id="a-reader"' in page and "```" not in page


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_command_of_a_page_parses(path: Path) -> None:
    test_docs.test_every_command_parses(path)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_path_of_the_project_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:compress|docs|examples|tests|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", RUNNABLE, ids=name_of)
def test_the_python_of_a_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in order in one namespace; runs are made small, the proof of load stays in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compress, "run", functools.partial(pipeline.run, samples=2, seq_len=32, limit=2), raising=False)
    proofs.in_this_process(monkeypatch)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for source in blocks(path, "python"):
        exec(compile(source, str(path), "exec", dont_inherit=True), namespace)


def test_the_first_page_says_what_the_readme_says() -> None:
    """Its Python is that of the README, which tests/test_docs.py runs."""
    assert set(blocks(DOCS / "index.md", "python")) <= set(blocks(ROOT / "README.md", "python"))


def test_every_variable_of_the_environment_is_told() -> None:
    told = (DOCS / "reference/environment.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "compress").rglob("*.py"))
    names = set(re.findall(r"[\"'$](COMPRESS_[A-Z_]+)\b", sources))
    assert len(names) >= 4
    assert not {name for name in names if f"`{name}`" not in told}


def test_toml_of_a_page_is_a_recipe_or_a_gate(tmp_path: Path) -> None:
    """Every TOML block is what its page says it is."""
    from compress.evaluation.gate.settings import GateJob
    from compress.recipe import Recipe

    seen = 0
    for path in (DOCS / "tutorial.md", *PAGES):
        for number, text in enumerate(blocks(path, "toml")):
            file = tmp_path / f"{path.stem}-{number}.toml"
            file.write_text(text, encoding="utf-8")
            job = GateJob.from_toml(file) if "[gate]" in text else Recipe.from_toml(file)
            if isinstance(job, Recipe):
                check_recipe(job)
            seen += 1
    assert seen >= 2
