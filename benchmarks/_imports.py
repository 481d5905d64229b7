"""The section `Imports` of docs/ENGINES.md, from the figures that write_imports.py kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

KEPT = Path(__file__).parent / "engines" / "imports" / "measured.json"
HEAD = """## Imports

Checkpoints that other programs quantised, decoded by their own libraries and read as models here: how many weights
differ. Written by `python benchmarks/write_imports.py` on three blocks of SmolLM2-135M-Instruct. Where a library
decodes to 16 bits, our weights are rounded to its dtype for the comparison.

| format | made by | decoded by | dtype | weights | differ | by at most |
| :-- | :-- | :-- | :-- | --: | --: | --: |
"""
TAIL = """
LLM.int8: the library multiplies a code by the largest weight of its row and divides by 127 then; here the scale is
divided first, so that codes and scales can be kept.
"""


def into(document: str) -> str:
    """Returns docs/ENGINES.md with the section in place."""
    without = re.sub(r"\n## Imports\n.*?(?=\n## |\Z)", "", document, flags=re.DOTALL)
    if not KEPT.exists():
        return without
    rows = "".join(_row(*item) for item in json.loads(KEPT.read_text()).items())
    before, mark, after = without.partition("\n## Not run")
    return f"{before}\n{HEAD}{rows}{TAIL}{mark}{after}"


def _row(name: str, case: dict[str, str | int | float]) -> str:
    worst = f"{case['worst']:.1e}" if case["differ"] else "–"
    figures = f"{case['dtype']} | {case['weights']:,} | {case['differ']:,} | {worst}"
    return f"| {name} | {case['maker']} | {case['library']} | {figures} |\n"
