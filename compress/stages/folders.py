"""Names the output folder of every stage: by model, method and width, so that runs of one model do not collide."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.methods import registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compress.recipe import Recipe, StageSpec


def folders(recipe: Recipe) -> list[Path]:
    """Returns the output folder of every stage.

    The last one is `output`, or `runs/<model>-<stage>…`, with a name for each stage as in `runs/atlas-spqr-3bit`; those
    of the stages before it are in `<output>.stages/`.
    """
    stages = recipe.stages
    last = Path(recipe.output or f"runs/{Path(recipe.model_name).name}-{'-'.join(map(stage_name, stages))}")
    intermediate = last.with_name(f"{last.name}.stages")
    return [*(intermediate / f"{number}-{stage.method}" for number, stage in enumerate(stages[:-1], start=1)), last]


def stage_name(stage: StageSpec) -> str:
    """Returns method, width and fine-tuning: `spqr-3bit`, `aqlm-2bit-tuned`, `wanda-2of4`, `svd_llm-0.2`, `distill`."""
    options = registry.defaults(stage.method) | dict(stage.options)
    width = f"{stage.target_bits:g}bit" if stage.target_bits is not None else _width(options)
    tuned = None if stage.tune is None else {"block": "tuned", "full": "tuned-full"}.get(stage.tune, stage.tune)
    return "-".join(part for part in (stage.method, width, tuned) if part)


def _width(options: Mapping[str, Any]) -> str | None:
    """Returns what the options of a method say of the size of its result; None where they say nothing.

    Methods that are not of this package have a width in their names where their options have the same names.
    """
    if options.get("grid", "int") != "int":
        return str(options["grid"])
    if (bits := options.get("bits")) is not None:
        return f"{bits}bit"
    if {"codebooks", "code_bits", "group_size"} <= options.keys():
        return f"{_number(options['codebooks'] * options['code_bits'] / options['group_size'])}bit"
    if {"n", "m"} <= options.keys():
        return f"{options['n']}of{options['m']}"
    ratio = options.get("ratio")
    return None if ratio is None else _number(ratio)


def _number(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else str(value)
