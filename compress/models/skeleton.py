"""The module tree on the meta device: no memory, every shape; where its decoder blocks are; its computed buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """Returns the causal language model of `config` in evaluation mode, every tensor on meta, floats as float32.

    Raises:
        ModelError: transformers has no causal language model for this configuration.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (ValueError, KeyError, AttributeError, ImportError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{config.model_type!r} cannot be built as a causal language model: {first_line}",
            allowed="architectures of AutoModelForCausalLM",
        ) from error
    return model.eval()


def find_blocks(model: PreTrainedModel) -> list[str]:
    """Returns the dotted names of the decoder blocks, first to last.

    The blocks are the longest list of modules that stands in no other list; a list of as many modules as the
    configuration has hidden layers goes first.
    """
    lists = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    }
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if not outermost:
        raise ModelError(f"{type(model).__name__} has no list of decoder blocks", allowed="decoder-only transformers")
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    chosen = max(outermost, key=lambda name: (len(lists[name]) == depth, len(lists[name])))
    return [f"{chosen}.{index}" for index in range(len(lists[chosen]))]


@torch.no_grad()
def compute_buffers(model: PreTrainedModel, names: set[str], device: torch.device) -> None:
    """Gives the named non-persistent buffers (rotary frequencies, embedding scales …) their values, on `device`.

    They are in no checkpoint. Transformers recomputes them in `_init_weights`, which leaves tensors on meta as they
    are: call this before weights are loaded into the same modules.
    """
    for path in sorted({name.rpartition(".")[0] for name in names}):
        module = model.get_submodule(path)
        for name in list(module._non_persistent_buffers_set):
            if f"{path}.{name}".lstrip(".") in names and (buffer := module._buffers[name]) is not None:
                module._buffers[name] = torch.empty_like(buffer, device=device)
        _owner(model, path)._init_weights(module)


def computed_buffers(model: PreTrainedModel) -> set[str]:
    """Returns the names of all buffers that no checkpoint holds."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
        if module._buffers.get(name) is not None
    }


def _owner(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """The innermost transformers model around the module, whose rules for initial values hold for it."""
    from transformers import PreTrainedModel

    owner, module = model, model
    for part in path.split(".") if path else ():
        module = getattr(module, part)
        if isinstance(module, PreTrainedModel):
            owner = module
    return owner


def slot(model: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Returns the table of parameters or buffers in which the named tensor stands, and its key there."""
    path, _, key = name.rpartition(".")
    module = model.get_submodule(path)
    return (module._parameters if key in module._parameters else module._buffers), key


def to_meta(model: nn.Module, names: set[str]) -> None:
    """Frees the named parameters and buffers; their shapes and dtypes stay."""
    for name in names:
        table, key = slot(model, name)
        empty = torch.empty_like(table[key], device="meta")
        table[key] = nn.Parameter(empty, requires_grad=False) if isinstance(table[key], nn.Parameter) else empty
