"""Finishes a stage: writes the manifest, proves the load in a fresh process, evaluates the result."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress import __version__
from compress.errors import CompressError, MemoryLimitError, counted
from compress.evaluation.reading import residence
from compress.format import merge
from compress.format.files import write_json
from compress.format.manifest import MANIFEST, fingerprint, read_manifest
from compress.format.writer import CheckpointWriter
from compress.methods import registry
from compress.models.memory import give_back, resident_bytes
from compress.recipe import AUTO, DEFAULT_END_BITS, digest
from compress.stages import memory
from compress.stages.budget import allocation
from compress.stages.pack import shards
from compress.stages.plan import coverage, phases

if TYPE_CHECKING:
    import torch

    from compress.evaluation.asking.default_suite import Chosen
    from compress.evaluation.result import EvalResult
    from compress.models.source import ModelSource
    from compress.progress import Progress
    from compress.recipe import Recipe, StageSpec
    from compress.stages.stage_output import StageOutput
    from compress.stages.workspace import Workspace

EVALUATION = "eval.json"
_REFERENCE = "reference.safetensors"
_LIBRARIES = ("torch", "transformers", "safetensors")


def identity(recipe: Recipe, source: ModelSource, teacher: ModelSource | None = None) -> dict[str, Any]:
    """Returns hashes of everything that the output bytes depend on: the recipe, the source model and the teacher.

    A folder is resumed, or taken as finished, only by a run of the same identity.
    """
    return {
        "recipe_hash": digest(recipe_identity(recipe)),
        "source": source.fingerprint,
        **({"teacher": teacher.fingerprint} if teacher else {}),
    }


def recipe_identity(recipe: Recipe) -> dict[str, Any]:
    """Returns everything the output bytes depend on; for user methods this includes their source code."""
    sources = {stage.method: registry.own_source(stage.method) for stage in recipe.stages}
    own = {name: source for name, source in sources.items() if source is not None}
    return {**with_defaults(recipe).identity(), **({"own_methods": own} if own else {})}


def with_defaults(recipe: Recipe) -> Recipe:
    """Returns the recipe with every option of its methods, so that a manifest stays true when defaults change."""
    return dataclasses.replace(recipe, stages=tuple(map(_with_defaults, recipe.stages)))


def _with_defaults(stage: StageSpec) -> StageSpec:
    ends: dict[str, Any] = {}
    method = registry.describe(stage.method)
    if method.kind == "pack" and set(stage.end_bits.values()) == {AUTO}:
        ends = dict.fromkeys(stage.end_bits, DEFAULT_END_BITS if method.packs else None)
    return dataclasses.replace(stage, options=registry.defaults(stage.method) | dict(stage.options), **ends)


def write_reference(workspace: Workspace, tokens_ST: torch.Tensor, logits_TV: torch.Tensor) -> None:
    """Keeps the logits [T, V] of the compressed path, of the first T tokens of the first sample, for the proof."""
    import torch

    from compress.runtime import proof

    positions_T = torch.arange(logits_TV.shape[0])
    text = proof.Text(tokens_ST[0, : len(positions_T)], positions_T, logits_TV)
    proof.write_reference(workspace.work / _REFERENCE, [text])


def write_manifest(recipe: Recipe, source: ModelSource, workspace: Workspace, output: StageOutput) -> list[str]:
    """Writes the manifest, which completes the folder, and returns the warnings in it.

    Args:
        recipe: recipe of one stage.
        source: the stage's input.
        workspace: the folder, with all shards.
        output: what the stage returned.
    """
    entries = shards.entries(workspace)
    unseen = [name for name, entry in entries.items() if entry["tokens"] == 0]
    warnings = [*source.warnings, *output.warnings]
    if unseen:
        warnings.append(
            f"{counted(len(unseen), 'linear')} saw no calibration token and "
            f"{'was' if len(unseen) == 1 else 'were'} solved without data: {_few(unseen)}"
        )
    if output.unused:
        warnings.append(
            f"{counted(len(output.unused), 'tensor')} of the source left out, for which its model has no place: "
            f"{_few(output.unused)}"
        )
    if (dense := coverage.warning(output.coverage)) is not None:
        warnings.append(dense)
    bits = _bits_per_weight([entry for entry in entries.values() if "role" not in entry])
    allotted = allocation.stored(workspace)
    if allotted and bits is not None and bits > allotted["target_bits"]:
        warnings.append(f"{bits:.4f} bits per weight were stored, above the target of {allotted['target_bits']}")
    records = merge.merge(workspace.folder, shards.records(workspace), recipe.max_shard_size)
    described = {
        "model": recipe.model_name,
        "revision": recipe.revision,
        "fingerprint": source.fingerprint,
        "size_bytes": source.size_bytes,
        "parameters": source.parameters,
    }
    CheckpointWriter(workspace.folder, shard_count=len(records)).finish(
        records=records,
        config=output.config,
        manifest={
            "compress_version": __version__,
            **workspace.identity,
            "source": described,
            "history": [*history(source), *_imported(source, described, entries)],
            "recipe": recipe_identity(recipe),
            "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
            "bits_per_weight": None if bits is None else round(bits, 6),
            "coverage": dict(output.coverage),
            **({"structure": dict(output.structure)} if output.structure else {}),
            **output.report,
            **({"allocation": allotted} if allotted else {}),
            **({"kv_cache": kv} if (kv := _kv_cache(recipe, workspace)) else {}),
            **({"tuning": tuned} if (tuned := _tuning(recipe, workspace)) else {}),
            "warnings": warnings,
            "tensors": entries,
        },
        auxiliary=source.auxiliary_files(),
    )
    return warnings


def _bits_per_weight(entries: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the stored bits of linears over their weights; None for none."""
    weights = sum(entry["shape"][0] * entry["shape"][1] for entry in entries)
    return 8 * sum(entry["size_bytes"] for entry in entries) / weights if weights else None


def history(source: ModelSource) -> list[dict[str, Any]]:
    """Returns source and recipe of every earlier stage, first to last."""
    if not (source.path / MANIFEST).is_file():
        return []
    before = read_manifest(source.path)
    earlier = before.get("history", [])  # informational, so any reader must take a manifest in which it is damaged
    return [
        *(earlier if isinstance(earlier, list) else []),
        {"source": before.get("source"), "recipe": before.get("recipe")},
    ]


def _imported(source: ModelSource, described: Mapping[str, Any], entries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the entry of `history` for a source that another program quantised; none for any other."""
    if source.foreign is None:
        return []
    kept = sum("imported" in entry for entry in entries.values())
    did = f"dequantised from {source.foreign.label}"
    if kept:
        did = f"from {source.foreign.label}: the codes of {kept} matrices kept, all others dequantised"
    return [{"source": dict(described), "recipe": {"stages": []}, "imported": did}]


def _tuning(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    """Returns the settings of the fine-tuning, and its errors before and after for each block; empty without one."""
    from compress.tuning.settings import FullSettings, Settings

    tune = recipe.stages[-1].tune
    if tune is None:
        return {}
    settings = {"block": dataclasses.asdict(Settings())}
    if tune == "full":
        settings["full"] = dataclasses.asdict(FullSettings())
    did = {name: value for record in workspace.records() for name, value in record.get("tuning", {}).items()}
    return {"settings": settings, "did": did}


def _kv_cache(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    """Returns what keys and values are rounded to, and the scales; empty where they are not."""
    if (dtype := recipe.stages[-1].kv_cache) is None:
        return {}
    scales = {name: pair for record in workspace.records() for name, pair in record.get("kv_cache", {}).items()}
    return {"dtype": dtype, "scales": scales}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def prove(recipe: Recipe, workspace: Workspace, progress: Progress) -> None:
    """Has a fresh process load the folder and reproduce the reference logits, then removes what only a resume needs.

    It reads the folder block by block where the whole model does not fit below the recipe's `max_memory` beside this
    process.

    Raises:
        FormatError: it cannot load the folder, or the logits differ; the folder then loses its manifest.
        MemoryLimitError: both processes together take more than the limit.
    """
    from compress.models.source import ModelSource
    from compress.runtime import proof
    from compress.stages import proof_reference

    reference, limit = workspace.work / _REFERENCE, recipe.max_memory
    if not workspace.records():
        return  # a finished run asked for again: proven when it was finished
    give_back()
    size = residence.Size.of(ModelSource.open(workspace.folder))
    room = None if limit is None else limit - resident_bytes() - phases.proof_bytes(size, by_block=True)
    texts = proof.read_reference(reference) if reference.is_file() else []
    complete = proof_reference.complete(texts, workspace.folder, progress, room)
    if len(complete) > len(texts):
        proof.write_reference(reference, complete)
    planned = phases.proof(size, limit, resident_bytes(), proof_reference.bytes_of(complete, workspace.folder))
    with progress.stage("Proof of load", 1) as task:
        try:
            proven = proof.prove_in_fresh_process(
                workspace.folder,
                reference,
                by_block=planned.by_block,
                watch=lambda process: memory.enforce(limit, "the proof of load", [process]),
            )
            proven.require(workspace.folder)
        except MemoryLimitError:
            raise  # says nothing about the folder
        except CompressError:
            (workspace.folder / MANIFEST).rename(workspace.folder / f"{MANIFEST}.unproven")
            raise
        task.advance(1, f"relative error {proven.relative_error:.1e}{', block by block' if proven.by_block else ''}")
    kept = [shard["file"] for shard in read_manifest(workspace.folder)["shards"]]
    merge.remove_parts(workspace.folder, shards.records(workspace), kept)


def suite_of(recipe: Recipe, source: ModelSource) -> Chosen | None:
    """Returns the suite that the recipe's evaluation asks; None for a recipe without evaluation.

    Raises EvaluationError for questions that cannot be read, and for a chat template that is asked for and missing.
    """
    from compress.evaluation.asking import chat_form, default_suite

    if recipe.suite == "none":
        return None
    if recipe.chat != "auto":
        chat_form.resolve(recipe.chat, source.tokenizer(), ())
    return default_suite.choose(recipe.suite, recipe.data_dir, source.tokenizer, tier=recipe.tier, limit=recipe.limit)


def evaluate(
    recipe: Recipe,
    source: ModelSource,
    workspace: Workspace,
    progress: Progress,
    choice: Chosen | None,
    known: EvalResult | None = None,
) -> EvalResult | None:
    """Returns the evaluation of the packed folder, read back from disk, paired with that of the dense model.

    An `eval.json` in the folder, and `known` for the dense model, are used instead of a new evaluation if they are of
    the same model, suite and limit. One that was made block by block, without the families that models write, does not
    stand for one with the models in memory, where they fit now. `choice` is the suite (`suite_of`); without one, None
    is returned.

    Raises MemoryLimitError where not even one block of each model fits below the recipe's `max_memory`.
    """
    from compress import evaluation
    from compress.evaluation import cache, evaluator
    from compress.evaluation.asking import tiers
    from compress.evaluation.pairing import BY_BLOCK
    from compress.evaluation.result import EvalResult

    if choice is None:
        return None
    items = choice.suite.items_sha256
    limit = tiers.resolve(choice.tier, recipe.limit).items

    def matches(result: EvalResult, model: str) -> bool:
        settings = result.settings
        evaluated = (
            result.suite.get("name"),
            result.suite.get("items_sha256"),
            settings.get("limit"),
            settings.get("tier"),
            result.model.get("fingerprint"),
        )
        same_form = recipe.chat == "auto" or settings.get("chat") == recipe.chat
        same = same_form and evaluated == (choice.suite.name, items, limit, choice.tier, model)
        return same and not (lacks_families(result) and fits())

    def lacks_families(result: EvalResult) -> bool:
        return bool(result.settings.get(BY_BLOCK)) and any(f.is_written for f in choice.suite.families)

    def fits() -> bool:
        return not evaluator.residence_of(workspace.folder, source, recipe.max_memory).on_disk

    give_back()
    path = workspace.folder / EVALUATION
    if path.is_file() and matches(stored := EvalResult.read(path), fingerprint(workspace.folder)):
        return stored
    result = evaluation.evaluate(
        workspace.folder,
        suite=choice.suite,
        tier=choice.tier,
        chat=recipe.chat,
        baseline=known if known is not None and matches(known, source.fingerprint) else source,
        reference=source,
        limit=recipe.limit,
        device=recipe.device,
        cache=cache.default_folder(),
        unfinished=workspace.work,
        max_memory=recipe.max_memory,
        progress=progress,
    )
    write_json(path, result.to_dict())
    return result
