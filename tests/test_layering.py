"""Imports go one way. The table says who may import whom; function-level imports count too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compress"
FILE_CAP = 400

# Downwards: a part may import itself and what is listed for it. The first matching prefix decides.
BASE = (
    "compress",
    "compress.errors",
    "compress.json_files",
    "compress.kept_files",
    "compress.progress",
    "compress.recipe",
    "compress.sizes",
)
STORAGE = (*BASE, "compress.format")
MODELS = (*STORAGE, "compress.atlas", "compress.models", "compress.calibration", "compress.texts")
NUMERICS = (*STORAGE, "compress.calibration.stats", "compress.numerics")
METHODS = (*NUMERICS, "compress.methods")
RUNTIME = (*MODELS, "compress.kernels", "compress.runtime", "compress.hf")
EVALUATION = (*RUNTIME, "compress.evaluation")
TUNING = (*RUNTIME, *METHODS, "compress.tuning")
BENCH = (*RUNTIME, "compress.bench")
REPORT = (*EVALUATION, "compress.methods.registry", "compress.bench.speed", "compress.report")
RESULT = (*REPORT, "compress.result")
STAGES = (*REPORT, *TUNING, "compress.training", "compress.stages")
PIPELINE = (*RESULT, *STAGES, "compress.pipeline")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "compress.errors": (),
    "compress.json_files": ("compress.errors",),
    "compress.kept_files": (),
    "compress.progress": (),
    "compress.sizes": ("compress.errors",),
    "compress.recipe": ("compress.errors", "compress.sizes"),
    "compress.format.scheme": ("compress.errors",),
    "compress.format.manifest": ("compress", "compress.errors", "compress.format.scheme", "compress.json_files"),
    "compress.format": STORAGE,
    "compress.calibration.stats": BASE,
    "compress.methods.registry": (*BASE, "compress.methods.protocol"),
    "compress.numerics": NUMERICS,
    "compress.methods": METHODS,
    "compress.texts": (*BASE, "compress.texts"),
    "compress.kernels": (*STORAGE, "compress.kernels"),
    "compress.atlas": (*MODELS, "compress.evaluation"),  # its own exam: `train` and `score` ask the suite
    "compress.models": MODELS,
    "compress.calibration": MODELS,
    "compress.runtime": RUNTIME,
    "compress.hf": RUNTIME,
    "compress.tuning.settings": ("compress.errors",),
    "compress.tuning": TUNING,
    "compress.training": (*TUNING, "compress.training"),
    "compress.bench.speed": ("compress", "compress.errors", "compress.json_files"),
    "compress.bench": (*BENCH, "compress"),
    "compress.evaluation.result": ("compress", "compress.errors", "compress.json_files"),
    "compress.evaluation": EVALUATION,
    "compress.report": REPORT,
    "compress.result": RESULT,
    "compress.stages": STAGES,
    "compress.pipeline": PIPELINE,
    "compress.frontier": (*PIPELINE, "compress.frontier"),
    "compress.cli": (*PIPELINE, *BENCH, "compress.frontier", "compress.cli"),
    "compress.__main__": ("compress.cli",),
    "compress": ("compress.evaluation", "compress.pipeline", "compress.recipe", "compress.runtime"),
}
# These parts must not know what a model library is, or load anything beyond the standard library.
FORBIDDEN = {
    "compress.errors": {"torch", "numpy"},
    "compress.json_files": {"torch", "numpy"},
    "compress.sizes": {"torch", "numpy"},
    "compress.kept_files": {"torch", "numpy"},
    "compress.recipe": {"torch", "numpy"},
    "compress.format.scheme": {"torch", "numpy"},
    "compress.format.manifest": {"torch", "numpy", "safetensors"},
    "compress.evaluation.result": {"torch", "numpy"},
    "compress.bench.speed": {"torch", "numpy"},
    "compress.tuning.settings": {"torch", "numpy"},
    "compress.numerics": {"transformers", "lm_eval", "accelerate", "safetensors"},
    "compress.methods": {"transformers", "lm_eval", "accelerate", "safetensors"},
    "compress.kernels": {"transformers", "lm_eval"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Every module that the file imports, wherever it does; `from package import module` counts as the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if module_exists(name) else node.module)
    return found


def module_exists(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return name.startswith("compress.") and (path.is_dir() or path.with_suffix(".py").is_file())


def part_of(module: str) -> str:
    """The row of the table for a module: the longest prefix there is."""
    prefixes = [row for row in MAY_IMPORT if module == row or (row != "compress" and module.startswith(row + "."))]
    assert prefixes, f"{module} has no row in the layering table"
    return max(prefixes, key=len)


def allowed(module: str, imported: str) -> bool:
    part = part_of(module)
    if imported == part or (part != "compress" and imported.startswith(part + ".")):
        return True
    return any(
        imported == prefix or (prefix != "compress" and imported.startswith(prefix + "."))
        for prefix in MAY_IMPORT[part]
    )


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_downwards(path: Path) -> None:
    module = module_of(path)
    wrong = {name for name in imports_of(path) if name.split(".")[0] == "compress" and not allowed(module, name)}
    assert not wrong, f"{module} (row {part_of(module)!r}) must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_part_knows_a_library_it_must_not(path: Path) -> None:
    module = module_of(path)
    rows = [row for row in FORBIDDEN if module == row or module.startswith(row + ".")]
    forbidden = {library for row in rows for library in FORBIDDEN[row]}
    assert not forbidden & {name.split(".")[0] for name in imports_of(path)}


def test_no_two_parts_import_each_other() -> None:
    """Parts are the top-level modules and subpackages; calibration.stats and atlas count on their own."""
    pairs = set()
    for path in FILES:
        for name in imports_of(path):
            if name.startswith("compress."):
                pairs.add((_part(module_of(path)), _part(name)))
    mutual = {(a, b) for a, b in pairs if a < b and (b, a) in pairs} - {("atlas", "evaluation"), ("atlas", "models")}
    assert not mutual


def _part(module: str) -> str:
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if module == "compress.calibration.stats" else parts[0] if parts else "compress"


def test_the_table_itself_refuses() -> None:
    """A table that allows everything would pass every test above."""
    assert not allowed("compress.methods.rtn", "compress.models")
    assert not allowed("compress.methods.rtn", "compress.calibration.collect")
    assert not allowed("compress.format.writer", "compress.pipeline")
    assert not allowed("compress.evaluation.lm_eval_suite.harness", "compress.report")
    assert allowed("compress.methods.rtn", "compress.calibration.stats")


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=str)
def test_files_stay_small(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_CAP, f"{path.relative_to(ROOT)} has {lines} lines; split it by what its parts do"


def test_the_median_file_is_small() -> None:
    sizes = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert sizes[len(sizes) // 2] <= 150


def test_no_drawer_for_odds_and_ends() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]
