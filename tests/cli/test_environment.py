"""Environment variables: what is refused, what is warned of, and that the kernels and the docs agree with the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compress.cli import invoke
from compress.cli.shared import environment
from compress.errors import RecipeError
from compress.kernels import select
from compress.kernels.native import loader


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("COMPRESS_KERNEL", "natve", "COMPRESS_KERNEL=natve; did you mean native? Allowed: native, triton, reference."),
        ("COMPRESS_ISA", "sse", "COMPRESS_ISA=sse. Allowed: avx512vnni, avx512, avx2, neon, scalar. Correct it, or"),
        ("COMPRESS_THREADS", "4", "COMPRESS_THREADS=4. Allowed: own. Correct it, or unset COMPRESS_THREADS."),
        ("COMPRESS_CACHE", __file__, "names a file. Allowed: a folder."),
    ],
)
def test_a_value_that_is_not_allowed_is_an_error_of_every_command(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert invoke(["methods"]) == 2
    output = capsys.readouterr()
    assert said in output.err and not output.out
    assert invoke(["--help"]) == 0


def test_a_misspelt_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COMPRESS_KERNELS", "native")
    monkeypatch.setenv("COMPRESSION_LEVEL", "9")
    assert invoke(["methods"]) == 0
    warning = "the environment variable COMPRESS_KERNELS has no meaning here; did you mean COMPRESS_KERNEL?"
    assert capsys.readouterr().err == f"Warning: {warning}\n"


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_ISA", "")
    assert environment.value("COMPRESS_ISA") is None and environment.check() == []


def test_the_table_has_the_kernels_and_the_instruction_sets_there_are() -> None:
    assert environment.ALLOWED[environment.KERNEL] == select.KERNELS
    if loader.unavailable() is None:
        assert {name.decode() for name in loader._unit_names(loader.library())} <= {
            *environment.ALLOWED[environment.ISA]
        }


@pytest.mark.skipif(loader.unavailable() is not None, reason="no native kernels here")
def test_instructions_that_the_processor_lacks_are_an_error_and_no_slow_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "units", lambda lib=None: {"scalar": 3})
    monkeypatch.setenv("COMPRESS_ISA", "avx2")
    loader.library.cache_clear()
    try:
        with pytest.raises(RecipeError, match="avx2, which this processor does not run"):
            loader.library()
    finally:
        monkeypatch.undo()
        loader.library.cache_clear()
        loader.library()


def test_the_document_names_every_variable() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/environment.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(COMPRESS_\w+)`", page, re.MULTILINE))
    assert named == {*environment.NAMES}
