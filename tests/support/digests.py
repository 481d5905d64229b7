"""Digests of the files of a folder, by which tests compare what two runs wrote."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digests(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    """Returns path in the folder -> SHA-256 of each file that matches `pattern`; by default all, at any depth.

    run.json is left out: it says when and how long a run worked.
    """
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(pattern))
        if path.is_file() and path.name != "run.json"
    }
