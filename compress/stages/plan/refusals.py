"""Refuses what cannot be done, before any work: first what the recipe alone shows, then what the model shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from compress.errors import RecipeError
from compress.evaluation import suites
from compress.evaluation.asking import tiers
from compress.format import layouts
from compress.format.layouts.dense import PART_LAYOUT
from compress.methods import registry
from compress.recipe import AUTO
from compress.stages.budget.candidates import least_bits, settings, target_too_low
from compress.stages.pack import composite
from compress.stages.pack.solve_linear import naming_the_layer
from compress.tuning.sequences import check_enough

if TYPE_CHECKING:
    from compress.format.scheme import Scheme
    from compress.methods.protocol import PackMethod
    from compress.models.linears import LinearRef
    from compress.models.source import ModelSource
    from compress.recipe import Recipe, StageSpec


def check_recipe(recipe: Recipe) -> None:
    """Checks what needs no model: the names of suite and methods, their options, and options that exclude each other.

    Raises:
        RecipeError: a name or an option is unknown, or options exclude each other.
        CalibrationError: a stage that trains has one sequence only.
    """
    if recipe.suite != "none":
        suites.check(recipe.suite)
        tiers.resolve(recipe.tier, recipe.limit)
    for number, stage in enumerate(recipe.stages):
        registry.check_options(stage.method, stage.options)
        method = registry.describe(stage.method)
        if method.kind != "pack" and (given := _of_packing(stage)):
            raise RecipeError(
                f"{given[0]} with the method {stage.method}, which packs no weights",
                do="Leave it out, or give it to a stage that quantises",
            )
        if method.kind == "train" or stage.tune is not None:
            check_enough(recipe.step(number, recipe.model, "").calibration.samples)
        if recipe.workers > 1 and (stage.tune is not None or method.needs_data):
            without_data = [name for name in registry.names() if not registry.describe(name).needs_data]
            what = f"--tune {stage.tune}" if stage.tune else f"the method {stage.method}, which needs data"
            raise RecipeError(
                f"workers={recipe.workers} with {what}: each block needs the outputs of the block before it",
                allowed=f"workers=1, or a method that needs no data ({', '.join(without_data)}) without --tune",
                do="Leave --workers out",
            )


def _of_packing(stage: StageSpec) -> list[str]:
    """Returns the names of the settings that are given and that only a stage that packs has."""
    settings = {"tune": stage.tune, "target_bits": stage.target_bits}
    ends = [name for name, bits in stage.end_bits.items() if bits != AUTO]
    return [name for name, value in settings.items() if value is not None] + ends


def check_linears(method: PackMethod, config: Any, source: ModelSource, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raises an error that names the first linear (name -> shape) that the method cannot pack with these options."""
    for name, shape in shapes.items():
        if (scheme := source.scheme(name)) is not None:
            _refuse_quantised(scheme, name)
            composite.check(method, scheme, shape, config, layer=name)
        else:
            with naming_the_layer(name):
                method.check(shape, config)


def check_target_bits(
    stage: StageSpec, method: PackMethod, config: Any, source: ModelSource, shapes: Iterable[tuple[int, int]]
) -> dict[str, Any] | None:
    """Returns the number of candidates per linear and the smallest bits per weight that they allow.

    None for a stage without `target_bits`; a target below the smallest is a BudgetError.
    """
    if stage.target_bits is None:
        return None
    if source.unpacked:
        raise RecipeError(
            "--target-bits is not supported for composite (low-rank or sparse) linears",
            do="Give the method's bits instead",
        )
    least = least_bits(method, config, list(shapes))
    if least > stage.target_bits:
        raise target_too_low(stage.target_bits, least)
    return {"candidates": len(settings(method, config)), "least_bits": round(least, 6)}


def refuse_split_experts(refs: Iterable[LinearRef], skipped: set[str]) -> None:
    """Raises RecipeError where `--skip` matches some experts of a fused parameter and not the others.

    The parameter is one tensor in the checkpoint: it is either packed as a whole or dense as a whole.
    """
    by_parameter: dict[str, set[bool]] = {}
    for ref in refs:
        by_parameter.setdefault(ref.parameter, set()).add(ref.name in skipped)
    for parameter, answers in by_parameter.items():
        if len(answers) > 1:
            raise RecipeError(
                "--skip leaves some of its experts dense and packs others",
                do=f"Match all of them, e.g. with '{parameter.rpartition('.')[0]}.*'",
                layer=parameter,
            )


def _refuse_quantised(scheme: Scheme, layer: str) -> None:
    """Raises RecipeError for a linear that is quantised in the source; its parts may be dense (low rank, n:m)."""
    parts = getattr(layouts.layout_module(scheme.layout), "PARTS", ())
    stored = [scheme.options[part]["layout"] for part in parts] or [scheme.layout]
    if any(layout != PART_LAYOUT for layout in stored):
        raise RecipeError(
            f"it is quantised already: the source stores it as {', '.join(dict.fromkeys(stored))}",
            do="Give the model that it was made from, or train it as it is with --method distill --train packed",
            layer=layer,
        )
