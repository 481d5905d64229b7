"""Loads a dense model with transformers as it is read everywhere else: without an adapter, no tensor left unread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import ModelError, translated
from compress.models.folder.tensor_list import list_tensors
from compress.models.unread_tensors import sort_unread
from compress.progress import without_library_bars

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NO_ADAPTER = {"subfolder": "no-adapter"}
"""`adapter_kwargs` that keep transformers from applying a PEFT adapter that lies beside the model: it looks for one in
this subfolder. What a folder means must not depend on whether peft is installed."""


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
