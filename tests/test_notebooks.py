"""The notebooks of `examples/` run on atlas from top to bottom, in a size for tests, and hold their outputs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed; it comes with the extra `dev`")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed; it comes with the extra `dev`")
pytest.importorskip("ipykernel", reason="ipykernel is not installed; it comes with the extra `dev`")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# What the first cell of a notebook says is replaced by this, so that a test takes seconds: two questions, a text that
# need not be made first, and the proof of load in the kernel's own process.
SMALL = f"""
from compress.runtime import proof
proof.prove_in_fresh_process = lambda folder, reference, **_: proof.prove(folder, reference)
LIMIT, SIZE = 2, {{"samples": 2, "seq_len": 32, "calibration": {str(ROOT / "docs/EVAL.md")!r}}}
"""
PARAMETERS = {
    "quickstart": SMALL,
    "custom_method": SMALL,
    "compare_methods": f'{SMALL}METHODS, BITS = ["rtn"], [4]',
}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def parameters(notebook: Any) -> list[int]:
    """Indices of the cells that are tagged as papermill wants it."""
    return [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]


def outputs_of(notebook: Any) -> str:
    """Everything that the cells printed and displayed as text."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            texts += [output.get("text", ""), *(data.get(f"text/{kind}", "") for kind in ("plain", "html", "markdown"))]
    return "\n".join(texts)


def execute(notebook: Any, where: Path) -> None:
    """Runs all cells in a kernel of its own whose folder is `where`; a cell that raises fails the test."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    resources = {"metadata": {"path": where}}
    client = nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources)
    client.execute(env=environment)


def test_all_are_here() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(PARAMETERS)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    notebook = read(path)
    (place,) = parameters(notebook)
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(PARAMETERS[path.stem]))
    execute(notebook, tmp_path)
    said = outputs_of(notebook)
    assert "Traceback" not in said and not re.search(r"^Error: ", said, re.MULTILINE)
    assert (tmp_path / "runs").is_dir(), "what a notebook writes goes below runs/"
    if path.stem == "quickstart":
        assert "KL to dense, mean" in said and (tmp_path / "runs/quickstart/report.html").is_file()
    if path.stem == "compare_methods":
        assert "bits/weight" in said and "<svg" in str(notebook.cells)
    if path.stem == "custom_method":
        assert "--rounds INTEGER" in said and re.search(r"refit: [\d.]+ bits, KL", said)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_with_its_outputs(path: Path) -> None:
    """`python benchmarks/run_notebooks.py` stores them: what a cell computes, without warnings, errors and progress."""
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom, once"
    assert all(output.output_type != "error" and output.get("name") != "stderr" for c in code for output in c.outputs)
    said = outputs_of(notebook)
    assert not re.findall(r"Traceback|Warning:|warning:|^Error: ", said, re.MULTILINE)
    assert not re.findall(r"/(?:home|root|tmp|work|Users|usr|var)/", said), "a path of the machine"
    assert "<iframe" not in said, "whole reports stay out of the file"
    assert path.stat().st_size < 200_000
    assert len(parameters(notebook)) == 1
    assert notebook.cells[0].source.startswith("# "), "a notebook begins with its title"


def test_the_quickstart_shows_table_picture_and_answers() -> None:
    shown = outputs_of(read(ROOT / "examples/quickstart.ipynb"))
    assert shown.count("<caption>atlas: dense vs compressed (") == 2
    assert shown.count("<svg") == 2 and shown.count("<caption>Sample answers</caption>") == 2


def test_a_notebook_that_fails_is_seen(tmp_path: Path) -> None:
    """Guards the tests above."""
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        execute(broken, tmp_path)
