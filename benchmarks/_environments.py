"""Virtual environments for other projects, made the first time they are needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def python_of(folder: Path, name: str, packages: Sequence[str], alone: Sequence[str] = ()) -> Path:
    """Returns the Python of the environment `name` in `folder`; packages are installed in order.

    The last one of `packages` is built without isolation, after what it needs for that; those in `alone` come after
    it, without what they depend on.
    """
    place = folder / name
    python, done = place / "bin" / "python", place / "complete"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, *packages[:-1]], check=True)
        subprocess.run([*pip, "--no-build-isolation", packages[-1]], check=True)
        if alone:
            subprocess.run([*pip, "--no-deps", *alone], check=True)
        done.touch()
    return python
