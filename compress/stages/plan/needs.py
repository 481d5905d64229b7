"""What a pack stage needs: calibration text or none, all blocks in order or every linear by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from compress.errors import RecipeError

if TYPE_CHECKING:
    from compress.methods.protocol import PackMethod
    from compress.models.source import ModelSource
    from compress.recipe import StageSpec


def needs_data(stage: StageSpec, method: PackMethod) -> bool:
    """Returns whether the stage needs calibration text: for the method, fine-tuning, the cache, or mixed precision."""
    return _by_block(stage, method) or stage.target_bits is not None


def streams(stage: StageSpec, method: PackMethod, source: ModelSource) -> bool:
    """Returns whether each linear is read and solved by itself, on the CPU in worker processes if asked.

    This holds where neither the method nor fine-tuning needs the inputs of a linear. The linears of a source that is
    packed already are excepted: their parts are packed, which are not read like dense weights. So are sources whose
    codes are kept, and a method that packs nothing.
    """
    carried = source.unpacked or source.keeps_codes
    return method.PACKS and not carried and not _by_block(stage, method)


def _by_block(stage: StageSpec, method: PackMethod) -> bool:
    needs = method.needs(method.Config(**stage.options))
    return bool(needs) or stage.tune is not None or stage.kv_cache is not None


def solving_device(device: torch.device) -> torch.device:
    """Returns where the linears of a stage that streams are solved, on a run's `device`: there, except on mps.

    Errors are summed in float64, which mps does not have.
    """
    return torch.device("cpu") if device.type == "mps" else device


def check_workers(workers: int, device: torch.device) -> None:
    """Raises RecipeError for worker processes beside an accelerator: they solve on the CPU, which rounds otherwise."""
    if workers > 1 and solving_device(device).type != "cpu":
        raise RecipeError(
            f"workers={workers} with device={str(device)!r}: one process solves all linears there",
            allowed="workers=1",
            do="Leave --workers out, or use --device cpu",
        )
