"""Packages of extras: each is hidden in turn, and whatever needs it names the command that installs it."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import compress
from compress import errors, frontier
from compress.calibration import hub, sources
from compress.cli import invoke
from compress.errors import CompressError
from compress.evaluation.asking import default_suite
from compress.evaluation.lm_eval_suite import extra_tasks
from compress.progress import Silent
from compress.recipe import CalibrationSpec, Recipe
from compress.report import frontier as drawing
from compress.stages.plan import early_refusals
from compress.texts import rows

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = {"lm_eval": "lm-eval"}
"""Where a package has another name than its module."""


def hide(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Has every import of the module fail, as where its package is not installed."""
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("module", errors.EXTRAS)
def test_the_extra_brings_the_package_and_the_core_does_not(module: str) -> None:
    wanted = PACKAGES.get(module, module)
    names = [re.split(r"[\[<>=]", entry)[0] for entry in PROJECT["optional-dependencies"][errors.EXTRAS[module]]]
    assert wanted in names
    assert not any(re.split(r"[\[<>=]", entry)[0] == wanted for entry in PROJECT["dependencies"])


def test_a_module_that_was_imported_or_can_be_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors.installed("json") and errors.installed("this") and not errors.installed("no_such_module")
    hide(monkeypatch, "json")
    assert not errors.installed("json")


def _questions(tmp_path: Path) -> Any:
    return default_suite.choose("kick-atlas", None, lambda: SimpleNamespace())  # type: ignore[arg-type,return-value]


def _task(tmp_path: Path) -> Any:
    return extra_tasks.load(["arc_easy"], Silent())


def _hub_text(tmp_path: Path) -> Any:
    (part,) = sources.parts_of(CalibrationSpec(source="hub:some/text"))
    return next(iter(hub.documents(part.hub, SimpleNamespace())))  # type: ignore[arg-type]


def _parquet(tmp_path: Path) -> Any:
    (tmp_path / "text.parquet").touch()
    return list(rows.read_rows(tmp_path / "text.parquet"))


def _lora(tmp_path: Path) -> Any:
    return early_refusals.check_recipe(Recipe.from_options("atlas", "distill", {"train": "lora", "suite": "none"}))


def _picture(tmp_path: Path) -> Any:
    return drawing.figure({})


def _frontier(tmp_path: Path) -> Any:
    return frontier.run(frontier.points(["rtn"], [4]), folder=tmp_path / "frontier")


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("lm_eval", _questions), ("lm_eval", _task), ("datasets", _hub_text), ("pyarrow", _parquet), ("peft", _lora),
        ("matplotlib", _picture), ("matplotlib", _frontier),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_cure(
    module: str, use: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, module)
    with pytest.raises(CompressError) as error:
        use(tmp_path)
    assert f"the package {module} is not installed" in str(error.value)
    assert f"pip install 'compress-llm[{errors.EXTRAS[module]}]'" in str(error.value)


def test_the_plot_of_a_benchmark_is_refused_before_it_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(monkeypatch, "matplotlib")
    assert invoke(["bench", "--plot", "b.png"]) == 2
    assert "pip install 'compress-llm[report]'" in capsys.readouterr().err


def test_a_run_without_any_extra_ends_with_perplexity_and_divergence(
    tmp_path: Path, token_file: str, monkeypatch: pytest.MonkeyPatch, proof_in_this_process: None
) -> None:
    for module in errors.EXTRAS:
        hide(monkeypatch, module)
    result = compress.run(
        "atlas", "rtn", output=tmp_path / "out", calibration=token_file, samples=2, seq_len=16, limit=2
    )
    assert result.evaluation is not None and result.evaluation.divergence is not None
    assert not result.evaluation.families
    assert any("pip install 'compress-llm[eval]'" in warning for warning in result.evaluation.warnings)
