"""Refuses what the model shows cannot be done, before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import RecipeError
from compress.format import layouts
from compress.format.layouts.dense import PART_LAYOUT
from compress.models.walking import kv_cache
from compress.stages.budget.candidates import least_bits, settings, target_too_low
from compress.stages.pack import composite
from compress.stages.pack.solve_linear import naming_the_layer

if TYPE_CHECKING:
    from compress.format.scheme import Scheme
    from compress.methods.protocol import PackMethod
    from compress.models.blocks import BlockWalker
    from compress.models.linears import LinearRef
    from compress.models.source import ModelSource
    from compress.recipe import StageSpec


def check_linears(method: PackMethod, config: Any, source: ModelSource, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raises an error that names the first linear (name -> shape) that the method cannot pack with these options."""
    for name, shape in shapes.items():
        if (scheme := source.scheme(name)) is not None:
            _refuse_quantised(scheme, name)
            composite.check(method, scheme, shape, config, layer=name)
        else:
            with naming_the_layer(name):
                method.check(shape, config)


def check_activations(
    stage: StageSpec, method: PackMethod, config: Any, source: ModelSource, refs: Iterable[LinearRef]
) -> None:
    """Raises RecipeError where inputs cannot be rounded: in experts, in composite linears, and with fine-tuning."""
    if (kind := method.activations(config)) is None:
        return
    given, cure = f"activations={kind!r}", "Leave --activations out"
    if stage.tune is not None:
        raise RecipeError(f"{given} with --tune {stage.tune}, which fits weights to inputs as they are", do=cure)
    if source.unpacked:
        raise RecipeError(f"{given} with composite (low-rank or sparse) linears", do=cure)
    if (expert := next((ref for ref in refs if ref.kind == "expert"), None)) is not None:
        raise RecipeError(
            f"{given} for experts whose matrices lie in one parameter",
            do=f"{cure}, or leave the experts dense with --skip '{expert.experts[0].rpartition('.')[2]}*'",
            layer=expert.name,
        )


def check_kv_cache(stage: StageSpec, walker: BlockWalker) -> None:
    """Raises RecipeError where no attention module of the model hands its keys to a cache."""
    if stage.kv_cache is not None and not kv_cache.find(walker.model):
        raise RecipeError(
            f"kv_cache={stage.kv_cache!r}: no attention module of {type(walker.model).__name__} hands keys to a cache",
            do="Leave --kv-cache out",
        )


def check_target_bits(
    stage: StageSpec,
    method: PackMethod,
    config: Any,
    source: ModelSource,
    shapes: Iterable[tuple[int, int]],
    bits: Sequence[int] | None = None,
) -> dict[str, Any] | None:
    """Returns the number of candidates per linear, of these `bits`, and the smallest bits per weight that they allow.

    None for a stage without `target_bits`; a target below the smallest is a BudgetError.
    """
    if stage.target_bits is None:
        return None
    if source.unpacked:
        raise RecipeError(
            "--target-bits is not supported for composite (low-rank or sparse) linears",
            do="Give the method's bits instead",
        )
    least = least_bits(method, config, list(shapes), bits)
    if least > stage.target_bits:
        raise target_too_low(stage.target_bits, least)
    return {"candidates": len(settings(method, config, bits)), "least_bits": round(least, 6)}


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
