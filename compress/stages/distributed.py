"""Multi-process runs under `accelerate launch`: the main process runs the pipeline, the others join training stages."""

from __future__ import annotations

import os
from datetime import timedelta

_TIMEOUT = timedelta(days=30)
"""How long a process waits at a barrier. Stages that do not train run in the main process alone and can take hours."""


def is_main() -> bool:
    """Returns whether this process runs the pipeline: rank 0, or the only process."""
    return int(os.environ.get("RANK", "0")) == 0


def barrier() -> None:
    """Waits until all processes have called it; returns at once when there is only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(timeout=_TIMEOUT).wait_for_everyone()
