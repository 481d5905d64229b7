"""What a pack stage needs: calibration text or none, all blocks in order or every linear by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.methods.protocol import PackMethod
    from compress.models.source import ModelSource
    from compress.recipe import StageSpec


def needs_data(stage: StageSpec, method: PackMethod) -> bool:
    """Returns whether the stage needs calibration text: for the method, for fine-tuning, or for mixed precision."""
    return bool(method.NEEDS) or stage.tune is not None or stage.target_bits is not None


def streams(stage: StageSpec, method: PackMethod, source: ModelSource) -> bool:
    """Returns whether each linear is read and solved by itself, in worker processes if asked.

    This holds where neither the method nor fine-tuning needs the inputs of a linear. The linears of a source that is
    packed already are excepted: their parts are packed, which are not read like dense weights.
    """
    return not method.NEEDS and stage.tune is None and not source.unpacked
