"""Decodes packed linears into the parameters of the original model: Conv1D transposed, experts stacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from compress.format import layouts, naming
from compress.models.linears import is_conv1d
from compress.models.moe.layouts import expert_layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress.format.reader import Checkpoint


def parameters(
    names: Sequence[str], checkpoint: Checkpoint, model: PreTrainedModel, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Returns the parameters that the packed linears `names` take the place of, by name, in `dtype`.

    Args:
        names: packed linears; of a projection of experts all of them.
        checkpoint: holds their planes.
        model: the model on the meta device.
        dtype: dtype of the result.
    """
    decoded: dict[str, torch.Tensor] = {}
    experts: dict[tuple[str, str], list[str]] = {}
    for name in names:
        if (found := naming.parse_expert(name)) is not None:
            experts.setdefault(found[:2], []).append(name)
            continue
        weight_NK = layouts.unpack(checkpoint.packed(name)).to(dtype)
        decoded[f"{name}.weight"] = (weight_NK.T if is_conv1d(model.get_submodule(name)) else weight_NK).contiguous()
    for (path, projection), members in experts.items():
        module = model.get_submodule(path)
        layout = expert_layout(module)
        assert layout is not None, f"{path} held experts when it was packed"
        ordered = sorted(members, key=lambda name: int(name.rpartition(".")[2]))
        matrices = [layouts.unpack(checkpoint.packed(name)).to(dtype) for name in ordered]
        held = torch.stack([one.T if layout[projection].transposed else one for one in matrices])
        decoded[naming.guard(path, projection)] = held.reshape(module.get_parameter(projection).shape)
    return decoded
