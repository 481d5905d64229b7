"""Fits a recipe to the engine that the result is for, and refuses what that engine cannot hold, before any work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from compress.engines import ENGINES, MODEL, Engine
from compress.errors import OutputError, RecipeError
from compress.exports import linear as linears
from compress.exports import target
from compress.format.layouts import float_group, super_block
from compress.format.scheme import Scheme
from compress.methods import registry
from compress.numerics import weight_grids
from compress.recipe import AUTO
from compress.stages.budget import candidates
from compress.stages.pack import ends as packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress.exports.linear import Linear
    from compress.methods.protocol import PackMethod
    from compress.models.source import ModelSource
    from compress.recipe import Recipe, StageSpec
    from compress.stages.plan.ends import End

_DTYPES = ("float16", "bfloat16", "float32")


def fitted(recipe: Recipe, source: ModelSource) -> Recipe:
    """Returns the recipe with options for its engine where none were given.

    Scales get the dtype that the engine computes with, the sparse outliers of EasyQuant are left out, and embedding and
    head stay dense where the engine reads them so.
    """
    if recipe.engine is None:
        return recipe
    engine = ENGINES[recipe.engine]
    dtype = _model_dtype(source) if engine.scale_dtype == MODEL else engine.scale_dtype
    wanted = {"scale_dtype": dtype, "sigma": math.inf}
    return dataclasses.replace(recipe, stages=tuple(_fitted(stage, engine, wanted) for stage in recipe.stages))


def _fitted(stage: StageSpec, engine: Engine, wanted: Mapping[str, Any]) -> StageSpec:
    method = registry.describe(stage.method)
    if method.kind != "pack":
        return stage
    own = {option.name for option in method.options} - stage.options.keys()
    if {"outlier_share", "outlier_bits"} & stage.options.keys():
        own -= {"sigma"}  # they override it
    if stage.options.get("grid", "int") in weight_grids.OWN_SCALES:
        own -= {"scale_dtype"}  # the format fixes it
    options = {name: value for name, value in wanted.items() if name in own}
    ends = [None if bits == AUTO and not engine.packs_ends else bits for bits in stage.end_bits.values()]
    return dataclasses.replace(stage, options={**stage.options, **options}, embedding_bits=ends[0], head_bits=ends[1])


def _model_dtype(source: ModelSource) -> str:
    name = str(source.raw_config.get("dtype") or source.raw_config.get("torch_dtype")).removeprefix("torch.")
    return name if name in _DTYPES else "auto"


def bits(name: str | None) -> tuple[int, ...] | None:
    """Returns the widths that mixed precision may choose from for an engine; None: all."""
    return None if name is None else ENGINES[name].bits


def check(
    recipe: Recipe,
    method: PackMethod,
    config: Any,
    shapes: Mapping[str, tuple[int, int]],
    ends: Iterable[End],
    model: PreTrainedModel,
    kept: Mapping[str, Any],
) -> None:
    """Raises RecipeError for the first matrix that the recipe's engine cannot hold with these options.

    Args:
        recipe: recipe of one stage that packs.
        method, config: its method and options.
        shapes: (N, K) of the linears that are packed, by name.
        ends: the embedding and the head.
        model: the model on the meta device.
        kept: manifest entries of the linears that stay packed as they are in the source, by name.
    """
    if recipe.engine is None:
        return
    engine = ENGINES[recipe.engine]
    choices = [config]
    if recipe.stages[0].target_bits is not None:
        choices = [dataclasses.replace(config, **each) for each in candidates.settings(method, config, engine.bits)]
    outside = {end.name: (packing.sample_scheme(end.shape[1], end.bits), end.shape) for end in ends if end.bits}
    for name, entry in kept.items():
        outside[name] = Scheme.from_dict(entry["scheme"]), (entry["shape"][0], entry["shape"][1])
    for choice in choices:
        inside = {
            name: (scheme, shapes[name])
            for name, scheme in zip(shapes, candidates.schemes(method, choice, list(shapes.values())), strict=True)
        }
        _check(recipe.engine, engine, inside | outside, model)


def _check(
    name: str, engine: Engine, schemes: Mapping[str, tuple[Scheme, tuple[int, int]]], model: PreTrainedModel
) -> None:
    entries = {layer: {"scheme": scheme.to_dict(), "shape": shape} for layer, (scheme, shape) in schemes.items()}
    described, format_ = linears.describe(entries, model), target.load(engine.target)
    for linear in described.values():
        if (why := format_.reason(linear) or _no_kernel(engine, linear)) is not None:
            raise RecipeError(f"{name} cannot hold it: {why}", do=_cure(linear), layer=linear.name)
    try:
        format_.arrange(described)
    except OutputError as error:
        raise RecipeError(f"{name} cannot hold the result: {error.given}", do=error.do, layer=error.layer) from error


def _no_kernel(engine: Engine, linear: Linear) -> str | None:
    """Returns why the engine has no kernel for a linear that its format holds, or None."""
    if linear.scheme.layout in (float_group.LAYOUT, super_block.LAYOUT):
        return None  # their formats fix groups and scales
    if linear.scheme.bits not in engine.bits:
        return f"codes have {', '.join(map(str, engine.bits))} bits there"
    if not linear.symmetric and linear.scheme.bits not in engine.bits_with_zero_points:
        possible = ", ".join(map(str, engine.bits_with_zero_points))
        return f"zero points need {possible} bits there" if possible else "there are no zero points there"
    if engine.groups is not None and not linear.by_row and linear.group_size not in engine.groups:
        return (
            f"groups have {', '.join(map(str, engine.groups))} columns there, or the whole row, not {linear.group_size}"
        )
    return None


def _cure(linear: Linear) -> str:
    if linear.kind in (linears.EMBEDDING, linears.HEAD):
        return "Give --embedding-bits none --head-bits none"
    if linear.kind in (linears.CONV1D, linears.JOINED):
        return "Leave --for out, and export with --to dense"
    return f"Choose other options, or leave it dense with --skip '{linear.name}'"
