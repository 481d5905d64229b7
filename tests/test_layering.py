"""Imports go one way, as the table of docs/ARCHITECTURE.md says; imports inside functions and for types count too."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compress"
FILE_CAP = 400
FOLDER_CAP = 16

# The table of docs/ARCHITECTURE.md, from the bottom up: a part, and what its files import. The longest prefix decides.
_ROWS = re.findall(
    r"^\| `([\w.]+)` \| (.*) \| ([^|]*) \|$", (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE
)
TABLE = {part: tuple(re.findall(r"`([\w.]+)`", imports)) for part, _, imports in _ROWS}
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
    """The row of the table for a module: the longest prefix there is. `compress` itself is the row of the package."""
    name = module.removeprefix("compress").removeprefix(".")
    prefixes = [part for part in TABLE if name == part or name.startswith(part + ".")]
    assert prefixes or not name, f"{module} has no row in docs/ARCHITECTURE.md"
    return max(prefixes, key=len, default="compress")


def parts_imported(path: Path) -> dict[str, set[str]]:
    """The parts that a file imports, each with the modules; without its own part and `from compress import …`."""
    parts: dict[str, set[str]] = {}
    for name in imports_of(path):
        if name.startswith("compress.") and part_of(name) != part_of(module_of(path)):
            parts.setdefault(part_of(name), set()).add(name)
    return parts


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_only_what_its_row_lists(path: Path) -> None:
    part = part_of(module_of(path))
    wrong = {name for name, modules in parts_imported(path).items() if name not in TABLE[part] for name in modules}
    assert not wrong, f"{module_of(path)} (row {part!r} of docs/ARCHITECTURE.md) must not import {sorted(wrong)}"


def test_rows_list_only_rows_above_them_and_only_what_is_imported() -> None:
    order = list(TABLE)
    imported: dict[str, set[str]] = {part: set() for part in TABLE}
    for path in FILES:
        imported[part_of(module_of(path))] |= parts_imported(path).keys()
    for part, allowed in TABLE.items():
        assert set(allowed) <= set(order[: order.index(part)]), f"row {part!r} lists a part that stands below it"
        assert set(allowed) == imported[part], f"row {part!r} lists what is not imported, or lacks what is"


def test_every_package_has_a_row() -> None:
    """The table of contents is whole: each folder and module directly in the package, and no row without code."""
    entries = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert entries - {"__init__"} == {part.split(".")[0] for part in TABLE} - {"compress"}
    assert not [part for part in TABLE if not module_exists("compress." + part) and part != "compress"]
    holds = {part: text for part, text, _ in _ROWS}
    for folder in (path.parent for path in PACKAGE.glob("*/*/__init__.py")):
        assert f"`{folder.name}`" in holds[folder.parent.name], (
            f"the row of {folder.parent.name} does not name {folder}"
        )


def test_no_two_files_import_each_other_in_a_circle() -> None:
    graph = {module_of(path): {name for name in imports_of(path) if module_exists(name)} for path in FILES}
    files = {module_of(path): path for path in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for name in sorted(graph.get(module, ())):
                if files.get(name, Path()).name != "__init__.py":  # a package's face imports the files below it
                    visit(name, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_folders_stay_small() -> None:
    folders = {path.parent for path in FILES}
    crowded = {str(f.relative_to(ROOT)): n for f in folders if (n := len([*f.glob("*.py")]) - 1) > FOLDER_CAP}
    assert not crowded, f"more than {FOLDER_CAP} modules: {crowded}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_private_is_imported_from_another_package(path: Path) -> None:
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    foreign = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "compress":
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                parts = name.split(".")
                private = next((i for i, part in enumerate(parts) if part.startswith("_") and part[1] != "_"), None)
                if private is not None and ".".join(parts[:private]) != package:
                    foreign.append(name)
    assert not foreign


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_hooks_of_a_method_are_called_not_looked_for(path: Path) -> None:
    """A method has the hooks that its file leaves out too, with their defaults (methods/loading/from_module.py)."""
    looked_for = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and (node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3))
        and re.search(r"\b(method|module)$", ast.unparse(node.args[0]))
        and "method" in ast.unparse(node.args[0])
    ]
    assert not looked_for


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_part_knows_a_library_it_must_not(path: Path) -> None:
    module = module_of(path)
    rows = [row for row in FORBIDDEN if module == row or module.startswith(row + ".")]
    forbidden = {library for row in rows for library in FORBIDDEN[row]}
    assert not forbidden & {name.split(".")[0] for name in imports_of(path)}


def test_the_table_itself_refuses() -> None:
    """A table that allows everything would pass every test above."""
    assert not {"models", "calibration", "kernels", "runtime", "recipe"} & set(TABLE["methods"])
    assert "calibration.stats" in TABLE["methods"]
    assert not {"methods", "models", "methods.registry"} & set(TABLE["numerics"])
    assert not {"pipeline", "cli", "models"} & set(TABLE["format"])
    assert "report" not in TABLE["evaluation"] and "cli" not in TABLE["pipeline"]


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=str)
def test_files_stay_small(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_CAP, f"{path.relative_to(ROOT)} has {lines} lines; split it by what its parts do"


def test_the_median_file_is_small() -> None:
    sizes = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert sizes[len(sizes) // 2] <= 150


def test_no_drawer_for_odds_and_ends() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]
