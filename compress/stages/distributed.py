"""The processes of `accelerate launch`: the first runs the pipeline, the others join it where a stage trains."""

from __future__ import annotations

import os
from datetime import timedelta

_PATIENCE = timedelta(days=30)
"""How long a process waits for the others: stages that do not train can take hours."""


def first() -> bool:
    """Returns whether this process runs the pipeline: the first of several, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def meet() -> None:
    """Waits until all processes are here; at once where there is but one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(timeout=_PATIENCE).wait_for_everyone()
