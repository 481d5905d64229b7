"""Refuses what the recipe and config.json alone show cannot be done, without importing torch.

Importing torch and the models of transformers takes seconds; a mistake in the command should not have to wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import RecipeError, need_package, unknown
from compress.evaluation import suites
from compress.evaluation.asking import chat_form, tiers
from compress.methods import registry
from compress.models.folder import locate, model_config, other_kinds
from compress.models.foreign.gguf import opening as gguf_file
from compress.recipe import AUTO

if TYPE_CHECKING:
    from compress.recipe import Recipe, StageSpec


def check_recipe(recipe: Recipe) -> None:
    """Checks what needs no model: the names of suite and methods, their options, and options that exclude each other.

    Raises:
        RecipeError: a name or an option is unknown, or options exclude each other.
        CalibrationError: a stage that trains has one sequence only.
        MissingPackageError: a stage needs a package that is not installed.
    """
    if recipe.suite != "none":
        suites.check(recipe.suite)
        tiers.resolve(recipe.tier, recipe.limit)
        if recipe.chat not in chat_form.MODES:
            raise RecipeError(unknown("chat mode", recipe.chat, chat_form.MODES), allowed=", ".join(chat_form.MODES))
    for number, stage in enumerate(recipe.stages):
        registry.check_options(stage.method, stage.options)
        method = registry.describe(stage.method)
        packs = method.kind == "pack" and method.packs
        if not packs and (options := _of_packing(stage)):
            raise RecipeError(
                f"{options[0]} with the method {stage.method}, which packs no weights",
                do="Leave it out, or give it to a stage that quantises",
            )
        if stage.kv_cache is not None and stage.tune is not None:
            raise RecipeError(
                f"kv_cache={stage.kv_cache!r} with tune={stage.tune!r}, which fits to keys as they are", do="Give one"
            )
        if method.kind == "train" or stage.tune is not None:
            from compress.tuning.sequences import check_enough  # with torch

            check_enough(recipe.step(number, recipe.model, "").calibration.samples)
        if stage.options.get("train") == "lora":
            need_package("peft", f"train='lora' of the method {stage.method}")
        if recipe.keep_codes and number == 0:
            _check_keeping(stage, method.kind)
        if recipe.workers > 1 and (by_block := _by_block(recipe, stage)):
            others = [registry.describe(name) for name in registry.names()]
            without_data = [other.name for other in others if other.packs and not other.needs_data]
            raise RecipeError(
                f"workers={recipe.workers} with {by_block}: blocks are packed one after the other",
                allowed=f"workers=1, or a method that needs no data ({', '.join(without_data)}) without --tune",
                do="Leave --workers out",
            )


def _by_block(recipe: Recipe, stage: StageSpec) -> str | None:
    """Returns what has the stage pack block after block, or None for one whose linears are packed one by one."""
    method = registry.describe(stage.method)
    if stage.tune is not None:
        return f"--tune {stage.tune}"
    if stage.kv_cache is not None:
        return f"--kv-cache {stage.kv_cache}"
    if method.needs_data:
        return f"the method {stage.method}, which needs data"
    if not method.packs:
        return f"the method {stage.method}, which packs nothing"
    return "--keep-codes" if recipe.keep_codes else None


def _check_keeping(stage: StageSpec, kind: str) -> None:
    """Raises RecipeError for a stage that cannot leave the codes of the model as they are."""
    others = {"tune": stage.tune, "target_bits": stage.target_bits}
    if kind != "pack":
        raise RecipeError(
            f"--keep-codes with the method {stage.method}, which is of kind {kind}",
            allowed="a first stage that packs, or --method none",
            do="Leave --keep-codes out: the codes are decoded then",
        )
    if changing := [name for name, value in others.items() if value is not None]:
        raise RecipeError(
            f"--keep-codes with {changing[0]}, which would change the weights whose codes are kept",
            do=f"Leave out either {changing[0]} or --keep-codes",
        )


def check_model(recipe: Recipe) -> None:
    """Checks the model's name and, where it lies on this machine, its folder and config.json.

    A hub id is left to `ModelSource.open`, which downloads the model and makes the same checks.

    Raises:
        ModelError: there is no such model, it is of a kind that cannot be compressed, or it is quantised already.
    """
    path = locate.on_this_machine(recipe.model)
    if path is not None and gguf_file.file_of(path) is None:
        other_kinds.refuse_folder(path)
        model_config.check_config(path)


def _of_packing(stage: StageSpec) -> list[str]:
    """Returns the names of the settings that are given and that only a stage that packs has."""
    settings = {"tune": stage.tune, "target_bits": stage.target_bits, "kv_cache": stage.kv_cache}
    ends = [name for name, bits in stage.end_bits.items() if bits != AUTO]
    return [name for name, value in settings.items() if value is not None] + ends
