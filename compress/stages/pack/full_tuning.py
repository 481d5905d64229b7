"""Fits the whole packed model end to end after all its shards are written, and replaces the shards.

    .work/full-tuning.safetensors        checkpoint of the fitting, while it runs
    .work/tuned-003.safetensors          new shard 3; replaces the old one once all new shards are written
    .work/tuned-logits.safetensors       logits of the fitted model for the proof of load
    .work/tuned.json                     the fitting is done; records of the new shards

`tuned.json` is written last. After a kill at any time, either all shards are the old ones, or `settle` replaces all of
them with the new ones.

Shape letters: S samples, T tokens, V vocabulary.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from compress.format import files, naming
from compress.format.writer import ShardRecord
from compress.json_files import read_object
from compress.stages.pack import shards
from compress.stages.proof_reference import PROOF_TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from compress.models.blocks import BlockWalker
    from compress.progress import Progress
    from compress.stages.pack.block import LinearStage
    from compress.stages.workspace import Workspace
    from compress.tuning.full import TunedModel
    from compress.tuning.settings import FullSettings

_DONE = "tuned.json"
_LOGITS = "tuned-logits.safetensors"


def settle(workspace: Workspace) -> None:
    """Moves the fitted shards into their places if an earlier run had finished them; call it before resuming a run."""
    path = workspace.work / _DONE
    if not path.is_file():
        return
    content = read_object(path)
    records = workspace.records()
    for step, shard in enumerate(content["shards"]):
        tuned = _tuned_path(workspace, step)
        if tuned.is_file():
            files.move(tuned, workspace.folder / shard["file"])
        # record 0 is that of the tensors outside the blocks; it holds what concerns the whole model
        report = {"tuning": {"model": content["tuning"]}} if step == 0 else {}
        record = records[step] | report | {"shard": shard}
        if record != records[step]:
            workspace.finish_block(step, record)


def run(stage: LinearStage, tokens_ST: torch.Tensor, settings: FullSettings, progress: Progress) -> torch.Tensor:
    """Fits the packed model to the dense one, replaces the shards and returns the reference logits, float32 [T, V].

    Call it after all shards are written and before the manifest; a call after it has finished fits nothing. The dense
    model in float32 and the packed model are in memory at the same time.
    """
    from safetensors.torch import load_file

    workspace = stage.workspace
    if not (workspace.work / _DONE).is_file():
        _fit(workspace, stage.walker, tokens_ST, settings, progress)
    settle(workspace)
    logits_TV: torch.Tensor = load_file(workspace.work / _LOGITS)["logits"]
    return logits_TV


def _fit(
    workspace: Workspace, walker: BlockWalker, tokens_ST: torch.Tensor, settings: FullSettings, progress: Progress
) -> None:
    from compress.evaluation.open_model import open_subject
    from compress.runtime.linear import PackedLinear
    from compress.tuning import full

    teacher = open_subject(walker.source).model
    student = _student(teacher, workspace)
    tuned = full.fit(student, teacher.to(walker.device), tokens_ST, settings, workspace.work, progress)
    for name, packed in tuned.packed.items():
        bias = tuned.dense.get(f"{name}.bias")
        student.set_submodule(name, PackedLinear.from_packed(packed, None if bias is None else bias.float()))
    _put(student, tuned.dense)
    student.to(walker.device)  # what was fitted is on the CPU
    with torch.inference_mode():
        logits_TV = student(input_ids=tokens_ST[:1, :PROOF_TOKENS].to(student.device), use_cache=False).logits[0]
    files.write_tensors(workspace.work / _LOGITS, {"logits": logits_TV.float().cpu()})
    _write(workspace, tuned)


def _student(teacher: Any, workspace: Workspace) -> Any:
    """Returns the model in the shards, with packed linears and other tensors in the dtypes of the checkpoint."""
    from safetensors.torch import load_file

    from compress.runtime import skeleton

    student = deepcopy(teacher)
    skeleton.install(student, shards.entries(workspace))
    missing = set(student.state_dict()) - set(student.all_tied_weights_keys)
    for shard in shards.records(workspace):
        tensors = load_file(workspace.folder / shard.file)
        student.load_state_dict(tensors, strict=False, assign=True)
        missing -= tensors.keys()
    assert not missing, f"the shards lack {sorted(missing)}"
    student.tie_weights()
    return student


def _put(model: nn.Module, dense: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in dense.items():
            model.get_parameter(name).copy_(value)


def _write(workspace: Workspace, tuned: TunedModel) -> None:
    """Writes every new shard, then `tuned.json`."""
    from safetensors.torch import load_file

    changed = naming.plane_tensors(tuned.packed) | tuned.dense
    new_shards: list[dict[str, Any]] = []
    for step, shard in enumerate(shards.records(workspace)):
        tensors = load_file(workspace.folder / shard.file)
        tensors |= {name: value for name, value in changed.items() if name in tensors}
        size_bytes, sha256, described = files.write_tensors(_tuned_path(workspace, step), tensors)
        new_shards.append(ShardRecord(shard.file, size_bytes, sha256, described).to_dict())
    written = {name for shard in new_shards for name in shard["tensors"]}
    assert changed.keys() <= written, f"no shard holds {sorted(changed.keys() - written)}"
    report = {name: getattr(tuned, name) for name in ("before", "after", "steps", "recoded", "diverged")}
    files.write_json(workspace.work / _DONE, {"shards": new_shards, "tuning": report})


def _tuned_path(workspace: Workspace, step: int) -> Path:
    return workspace.work / f"tuned-{step:03d}.safetensors"
