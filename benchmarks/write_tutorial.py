"""Runs the commands of docs/tutorial.md in order and writes what they print into it, and docs/result.svg.

    python benchmarks/write_tutorial.py [--folder WORK]

Every block of commands that a block of text follows is run; a text with a line `…` stays abridged there. The sentences
around the blocks name some of the figures: read them afterwards. `tests/test_docs_claims.py` holds the blocks, and the
picture, against each other.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TUTORIAL, PICTURE = ROOT / "docs/tutorial.md", ROOT / "docs/result.svg"
PAIR = re.compile(r"^```bash\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = "runs/atlas-spqr-3bit"
COLUMNS = "100"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="folder for the runs; a temporary one when not given")
    folder = parser.parse_args().folder or tempfile.mkdtemp(prefix="tutorial-")
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = PAIR.sub(lambda block: _pair(block, folder), TUTORIAL.read_text(encoding="utf-8"))
    TUTORIAL.write_text(text, encoding="utf-8")
    _python(["compress.report.table.picture", RUN, str(PICTURE)], folder)


def _pair(block: re.Match[str], folder: str) -> str:
    commands, before = block.groups()
    said = [_python(shlex.split(line, comments=True), folder) for line in commands.splitlines() if line.strip()]
    parts = re.split(r"(?<=^…\n)\n", before, flags=re.MULTILINE) if len(said) > 1 else [before]
    text = "\n".join(_abridged(old, new) for old, new in zip(parts, said, strict=True))
    return f"```bash\n{commands}```\n\n```text\n{text}```"


def _python(words: list[str], folder: str) -> str:
    """Returns what a module prints; a gate that does not pass ends with 1 or 3, anything else with 0."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": COLUMNS}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode not in ((0, 1, 3) if "gate" in words else (0,)):
        raise SystemExit(f"{shlex.join(words)} ended with {done.returncode}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def _abridged(before: str, now: str) -> str:
    """Returns the new text with as many lines before and after `…` as the old one has, or whole without one."""
    head, dots, tail = before.partition("…\n")
    if not dots:
        return now
    lines, last = now.splitlines(keepends=True), tail.count("\n")
    return "".join([*lines[: head.count("\n")], dots, *lines[len(lines) - last :]])


if __name__ == "__main__":
    main()
