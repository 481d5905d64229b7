"""The command line as one of several processes: `python -m tests.support.launched FOLDER ARGUMENTS…`.

Each process that ends well writes `FOLDER/rank<n>.txt`, with the number of processes that accelerate connected.
"""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate import PartialState

from compress.cli import invoke

if __name__ == "__main__":
    code = invoke(sys.argv[2:])
    if not code:
        state = PartialState()
        (Path(sys.argv[1]) / f"rank{state.process_index}.txt").write_text(f"{state.num_processes} {state.device.type}")
    sys.exit(code)
