"""Refuses a model whose padding row transformers sets to zero at load, though the checkpoint has another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.errors import ModelError
from compress.models.skeleton import inner_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress.models.source import ModelSource


def check_padding_row(model: PreTrainedModel, name: str, source: ModelSource, origin: str | None) -> None:
    """Raises ModelError if the row of the embedding's weight `name` for padding is lost at load (Youtu).

    Args:
        model: its skeleton.
        name: dotted name of the weight.
        source: where the checkpoint lies.
        origin: the tensor of the checkpoint that is the weight as it stands; None: nothing is checked.
    """
    path = name.rpartition(".")[0]
    module = model.get_submodule(path)
    padding = getattr(module, "padding_idx", None)
    if origin is None or padding is None or not _loses_it(inner_model(model, path)):
        return
    if bool(source.read_rows(origin, [padding]).any()):
        raise ModelError(
            f"transformers sets row {padding} to zero whenever it loads a {type(model).__name__}: the row of "
            "pad_token_id, which the checkpoint holds with other values",
            do="Set this row to zero in the checkpoint, or pad_token_id in config.json to an unused token",
            layer=path,
        )


@torch.no_grad()
def _loses_it(inner: PreTrainedModel) -> bool:
    """Whether `_init_weights` overwrites the padding row of an embedding that is marked as loaded."""
    from transformers import initialization

    probe = nn.Embedding(2, 1, padding_idx=0)
    probe.weight.fill_(1)
    probe.weight._is_hf_initialized = True  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]), initialization.guard_torch_init_functions():
        inner._init_weights(probe)
    return not bool(probe.weight[0].any())
