"""Computes the buffers that no checkpoint holds (rotary frequencies, embedding scales, masks) as transformers does.

Models are built on meta, so values set by a constructor are lost. `from_pretrained` allocates the buffer anew and
calls `_init_weights`, with the module that holds it and with every module around that one (Falcon-H1 fills a buffer of
each mixer from its outermost model). The same is done here. A buffer that no `_init_weights` writes would keep
uninitialised memory, in transformers too: such a model is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from compress.errors import ModelError
from compress.models.skeleton import inner_model, slot

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def computed_buffers(model: PreTrainedModel) -> set[str]:
    """Returns the names of all buffers that no checkpoint holds."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
        if module._buffers.get(name) is not None
    }


@torch.no_grad()
def compute_buffers(model: PreTrainedModel, names: Iterable[str], device: torch.device) -> None:
    """Gives the named non-persistent buffers their values, on `device`.

    Parameters on meta stay there, and those that a loader filled keep their values. The memory is filled with zeros
    and the values are computed, then with ones and they are computed again: what comes out differently was not
    written, or depends on its earlier values.

    Raises:
        ModelError: transformers computes no value for one of them; the buffer is named.
    """
    names = sorted(names)
    if not names:
        return
    first = _computed_over(model, names, 0, device)
    second = _computed_over(model, names, 1, device)
    for name, one, other in zip(names, first, second, strict=True):
        if not torch.equal(one, other):
            raise ModelError(
                f"{type(model).__name__} computes this buffer when it is made, but not when it is loaded: its memory "
                "would stay uninitialised",
                allowed="buffers that transformers' _init_weights computes",
                do="Use a version of transformers that loads this model",
                layer=name,
            )


def _computed_over(model: PreTrainedModel, names: list[str], fill: int, device: torch.device) -> list[torch.Tensor]:
    """The values of the buffers, computed in memory that held `fill` everywhere."""
    from transformers import initialization

    for name in names:
        table, key = slot(model, name)
        table[key] = torch.full_like(table[key], fill, device=device)
    # torch's own init functions are guarded too: they skip tensors that a loader filled
    with initialization.guard_torch_init_functions():
        for path in _around(names):
            inner_model(model, path)._init_weights(model.get_submodule(path))
    return [table[key] for table, key in (slot(model, name) for name in names)]


def _around(names: list[str]) -> list[str]:
    """The paths of the modules that hold the buffers and of all modules around these, innermost first."""
    paths = {""}
    for name in names:
        while name := name.rpartition(".")[0]:
            paths.add(name)
    return sorted(paths, key=lambda path: (-path.count(".") if path else 1, path))
