"""Loads a whole dense model: with transformers, or decoded tensor by tensor where another program quantised it.

Either way as it is read everywhere else: without an adapter, no tensor left unread.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import ModelError, translated
from compress.models.folder.tensor_list import list_tensors
from compress.models.unread_tensors import sort_unread
from compress.progress import without_library_bars

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from compress.models.source import ModelSource

NO_ADAPTER = {"subfolder": "no-adapter"}
"""`adapter_kwargs` that keep transformers from applying a PEFT adapter that lies beside the model: it looks for one in
this subfolder. What a folder means must not depend on whether peft is installed."""


def load_source(source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
    """Returns the model of `source` in evaluation mode, on the CPU, its floating-point tensors in `dtype`.

    Raises:
        ModelError: it cannot be loaded, tensors are missing, or the checkpoint holds some that nobody reads.
    """
    return load_dense(source.path, dtype) if source.foreign is None else _decoded(source, dtype)


def _decoded(source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
    """Returns the model whose weights another program quantised; of what is decoded, one tensor is in memory twice."""
    import torch
    from transformers import GenerationConfig

    from compress.models import skeleton
    from compress.models.folder import generation
    from compress.models.walking.buffers import compute_buffers, computed_buffers
    from compress.models.weights import Weights

    model, cpu = skeleton.build(deepcopy(source.config)), torch.device("cpu")
    weights = Weights(source, model)
    sort_unread(weights.unused, source.tensors, model)
    compute_buffers(model, computed_buffers(model), cpu)
    weights.load([name for name in model.state_dict() if name not in weights.tied], cpu, dtype)
    for copy, master in weights.tied.items():
        table, key = skeleton.slot(model, copy)
        table[key] = model.get_parameter_or_buffer(master)
    if (source.path / generation.FILE).is_file():
        model.generation_config = GenerationConfig.from_pretrained(source.path)
    return model.eval()


def load_dense(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Returns the dense model in `folder` in evaluation mode, on the CPU, its floating-point tensors in `dtype`.

    Raises:
        ModelError: transformers cannot load it, tensors are missing, or the checkpoint holds some that nobody reads.
    """
    from transformers import AutoConfig

    from compress.models.auto_class import auto_class

    with (
        without_library_bars(),
        translated(
            f"transformers cannot load the model in {folder}",
            do="Check config.json, generation_config.json and the weights, or download the model again",
        ),
    ):
        model, report = auto_class(AutoConfig.from_pretrained(folder, trust_remote_code=False)).from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            adapter_kwargs=dict(NO_ADAPTER),
        )
    if missing := sorted(map(str, report["missing_keys"])):
        raise ModelError(
            f"{folder} lacks {len(missing)} of the tensors that its config.json implies, such as {missing[0]}",
            do="Check that config.json belongs to these weights, and that all shards are there",
        )
    sort_unread(sorted(map(str, report["unexpected_keys"])), list_tensors(folder), model)
    loaded: PreTrainedModel = model.eval()
    return loaded
