"""Which modules command lines import, found in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

HEAVY = {
    "accelerate", "datasets", "jinja2", "lm_eval", "matplotlib", "numpy", "pydantic", "requests", "safetensors",
    "scipy", "torch", "transformers", "triton",
}  # fmt: skip
PROBE = """
import json, sys
from compress.cli import invoke
for line in json.loads(sys.argv[1]):
    code = invoke(line)
    print("PROBE" + json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def loaded_by(*args: str, code: int = 0) -> set[str]:
    """Top-level modules in a fresh process after the command line `args`, which must exit with `code`."""
    return {name.split(".")[0] for name in modules_after([args], code=code)[0]}


def modules_after(lines: Sequence[Sequence[str]], *, code: int = 0) -> list[set[str]]:
    """All modules in one fresh process after each of the command lines in turn, which must exit with `code`."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(lines)], capture_output=True, text=True, timeout=120, check=True
    )
    reports = [json.loads(line[5:]) for line in done.stderr.splitlines() if line.startswith("PROBE")]
    assert [found for found, _ in reports] == [code] * len(lines), done.stderr
    assert done.stdout or code
    return [set(modules) for _, modules in reports]
