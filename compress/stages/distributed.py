"""Multi-process runs under `accelerate launch`: the main process runs the pipeline, the others join training stages."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from compress.errors import RecipeError

if TYPE_CHECKING:
    import torch

_TIMEOUT = timedelta(days=30)
"""How long a process waits at a barrier. Stages that do not train run in the main process alone and can take hours."""


def is_main() -> bool:
    """Returns whether this process runs the pipeline: rank 0, or the only process."""
    return int(os.environ.get("RANK", "0")) == 0


def start(device: torch.device) -> None:
    """Connects the processes, each with a device of the kind of `device`; does nothing where there is only one.

    Raises:
        RecipeError: one numbered device for several processes.
    """
    if not _several():
        return
    if device.index is not None:
        raise RecipeError(
            f"device={str(device)!r} with {os.environ['WORLD_SIZE']} processes: each takes a device of its own",
            allowed=f"{device.type}, cpu",
            do="Leave the number out; `accelerate launch --gpu_ids` chooses among the devices",
        )
    from accelerate import PartialState

    PartialState(cpu=device.type == "cpu", timeout=_TIMEOUT)


def barrier() -> None:
    """Waits until all processes have called it, after `start`; returns at once when there is only one."""
    if _several():
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
