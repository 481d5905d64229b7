"""Which modules a command line imports, found in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {
    "accelerate", "datasets", "jinja2", "lm_eval", "matplotlib", "numpy", "pydantic", "requests", "safetensors",
    "scipy", "torch", "transformers", "triton",
}  # fmt: skip
PROBE = """
import json, sys
from compress.cli import invoke
code = invoke(json.loads(sys.argv[1]))
print(json.dumps([code, sorted({name.split(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


def loaded_by(*args: str, code: int = 0) -> set[str]:
    """Top-level modules in a fresh process after the command line `args`, which must exit with `code`."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(args)], capture_output=True, text=True, timeout=60, check=True
    )
    found, modules = json.loads(done.stderr.splitlines()[-1])
    assert found == code, done.stderr
    assert done.stdout or code
    return set(modules)
