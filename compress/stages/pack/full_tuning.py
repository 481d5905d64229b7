"""End-to-end tuning of a run whose shards are written: fitted once, then every shard is put in place of its forerunner.

    .work/full-tuning.safetensors        checkpoint of the fitting, while it runs
    .work/tuned-003.safetensors          shard 3 as it will be; moves to its place once all are there
    .work/tuned-logits.safetensors       what the fitted model says of the proof's tokens
    .work/tuned.json                     says that the fitting is done and what the new shards are

`tuned.json` is written last. Whatever a killed run leaves, either all shards are still those from before or `settle`
puts all new ones in their places.

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

    from compress.models.source import ModelSource
    from compress.progress import Progress
    from compress.stages.pack.block import LinearStage
    from compress.stages.workspace import Workspace
    from compress.tuning.full import TunedModel
    from compress.tuning.settings import FullSettings

_DONE = "tuned.json"
_LOGITS = "tuned-logits.safetensors"


def settle(workspace: Workspace) -> None:
    """Puts the fitted shards in their places, where an earlier run had them ready; call it before resuming a run."""
    path = workspace.work / _DONE
    if not path.is_file():
        return
    content = read_object(path)
    records = workspace.records()
    for step, shard in enumerate(content["shards"]):
        tuned = _tuned_path(workspace, step)
        if tuned.is_file():
            files.move(tuned, workspace.folder / shard["file"])
        # the first record is that of what stands outside the blocks: what concerns all of them is said there
        said = {"tuning": {"model": content["tuning"]}} if step == 0 else {}
        record = records[step] | said | {"shard": shard}
        if record != records[step]:
            workspace.finish_block(step, record)


def run(stage: LinearStage, tokens_ST: torch.Tensor, settings: FullSettings, progress: Progress) -> torch.Tensor:
    """Fits the packed model to the dense one, rewrites the shards and returns the logits [T, V] of the proof's tokens.

    Call it when all blocks have their shards, before the manifest; a second call after it is done fits nothing. The
    dense model and the packed one are in memory together, in float32 and as planes.
    """
    from safetensors.torch import load_file

    workspace = stage.workspace
    if not (workspace.work / _DONE).is_file():
        _fit(workspace, stage.walker.source, tokens_ST, settings, progress)
    settle(workspace)
    logits_TV: torch.Tensor = load_file(workspace.work / _LOGITS)["logits"]
    return logits_TV


def _fit(
    workspace: Workspace, source: ModelSource, tokens_ST: torch.Tensor, settings: FullSettings, progress: Progress
) -> None:
    from compress.evaluation.open_model import open_subject
    from compress.runtime.linear import PackedLinear
    from compress.tuning import full

    teacher = open_subject(source).model
    student = _student(teacher, workspace)
    tuned = full.fit(student, teacher, tokens_ST, settings, workspace.work, progress)
    for name, packed in tuned.packed.items():
        bias = tuned.dense.get(f"{name}.bias")
        student.set_submodule(name, PackedLinear.from_packed(packed, None if bias is None else bias.float()))
    _put(student, tuned.dense)
    with torch.inference_mode():
        logits_TV = student(input_ids=tokens_ST[:1, :PROOF_TOKENS].to(student.device), use_cache=False).logits[0]
    files.write_tensors(workspace.work / _LOGITS, {"logits": logits_TV.float()})
    _write(workspace, tuned)


def _student(teacher: Any, workspace: Workspace) -> Any:
    """Returns the model of the shards: linears packed, other tensors in the dtypes of the checkpoint."""
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
    """Writes every shard as it will be, then the file that says so."""
    from safetensors.torch import load_file

    changed = naming.plane_tensors(tuned.packed) | tuned.dense
    made: list[dict[str, Any]] = []
    for step, shard in enumerate(shards.records(workspace)):
        tensors = load_file(workspace.folder / shard.file)
        tensors |= {name: value for name, value in changed.items() if name in tensors}
        size_bytes, sha256, described = files.write_tensors(_tuned_path(workspace, step), tensors)
        made.append(ShardRecord(shard.file, size_bytes, sha256, described).to_dict())
    written = {name for shard in made for name in shard["tensors"]}
    assert changed.keys() <= written, f"no shard holds {sorted(changed.keys() - written)}"
    report = {name: getattr(tuned, name) for name in ("before", "after", "steps", "recoded", "diverged")}
    files.write_json(workspace.work / _DONE, {"shards": made, "tuning": report})


def _tuned_path(workspace: Workspace, step: int) -> Path:
    return workspace.work / f"tuned-{step:03d}.safetensors"
