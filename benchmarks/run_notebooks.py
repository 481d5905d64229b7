"""Runs the notebooks of examples/ and stores their outputs in them, without progress bars and without whole reports.

    python benchmarks/run_notebooks.py [--folder WORK] [NAME...]

Each runs in a folder of its own, so that outputs name only paths below runs/; runs that are finished there are read
and not made again. A cell that raises ends it, and the notebook stays as it was.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat

ROOT = Path(__file__).parents[1]
FOLDED = re.compile(r"<details><summary>The whole report</summary>.*?</details>", re.DOTALL)
KEPT = ("text/plain", "text/html", "text/markdown", "image/svg+xml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="folder for the runs, kept; a temporary one when not given")
    parser.add_argument("names", nargs="*", help="notebooks; all when none is given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for path in sorted((ROOT / "examples").glob("*.ipynb")):
            if not given.names or path.stem in given.names:
                _run(path, Path(given.folder or temporary) / path.stem)


def _run(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(path, as_version=4)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    resources = {"metadata": {"path": folder}}
    nbclient.NotebookClient(notebook, timeout=None, kernel_name="python3", resources=resources).execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [_stored(output) for output in cell.outputs if _is_result(output)]
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)
    print(path.relative_to(ROOT), f"{path.stat().st_size / 1000:.0f} kB")


def _is_result(output: Any) -> bool:
    """Returns whether an output is what a cell computes; progress goes to stderr, or is a display in HTML."""
    if output.output_type == "stream":
        return bool(output.name == "stdout" and output.text.strip())
    return output.output_type == "execute_result" or any(kind in output.data for kind in KEPT[2:])


def _stored(output: Any) -> Any:
    if output.output_type != "stream":
        output.data = {kind: text for kind, text in output.data.items() if kind in KEPT}
        if "text/html" in output.data:
            output.data["text/html"] = FOLDED.sub("", output.data["text/html"])
    return output


if __name__ == "__main__":
    main()
