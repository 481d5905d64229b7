"""Builds a model on the meta device (all shapes, no memory) and finds its decoder blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import ModelError, translated

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """Returns the language model of `config` in evaluation mode, every tensor on meta, floats as float32.

    Parts for images or sound belong to it.

    Raises:
        ModelError: transformers cannot build a causal language model from this configuration.
    """
    from compress.models.auto_class import auto_class

    with (
        translated(
            f"{config.model_type!r} cannot be built as a causal language model",
            allowed="architectures of AutoModelForCausalLM and AutoModelForMultimodalLM, with values in config.json "
            "that fit together",
        ),
        torch.device("meta"),
    ):
        model = auto_class(config).from_config(config, dtype=torch.float32, trust_remote_code=False)
    return model.eval()


def find_blocks(model: PreTrainedModel) -> list[str]:
    """Returns the dotted names of the decoder blocks, first to last.

    Candidates are the lists of modules that stand in no other list. The decoder is the one inside the text model: a
    vision or audio tower has a configuration of its own. Of several lists there, one of as many modules as the text
    configuration has hidden layers goes first, then the one with the most parameters.

    Raises:
        ModelError: there is no list of modules.
    """
    lists = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    }
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if not outermost:
        raise ModelError(f"{type(model).__name__} has no list of decoder blocks", allowed="decoder-only transformers")
    text = model.config.get_text_config(decoder=True)
    depth = getattr(text, "num_hidden_layers", None)

    def rank(name: str) -> tuple[bool, bool, bool, int]:
        owner = inner_model(model, name).config
        size = sum(parameter.numel() for parameter in lists[name].parameters())
        return owner is text, type(owner) is type(text), len(lists[name]) == depth, size

    chosen = max(outermost, key=rank)
    return [f"{chosen}.{index}" for index in range(len(lists[chosen]))]


def inner_model(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """Returns the innermost transformers model around the module at `path`, which may be that module itself."""
    from transformers import PreTrainedModel

    inner, module = model, model
    for part in path.split(".") if path else ():
        module = getattr(module, part)
        if isinstance(module, PreTrainedModel):
            inner = module
    return inner


def find_towers(model: PreTrainedModel, used: Sequence[str]) -> tuple[str, ...]:
    """Returns the prefixes (`name.`) of the models inside `model` that hold none of the parameters or modules `used`.

    A text does not run them: vision and audio towers, decoders of sound.
    """
    from transformers import PreTrainedModel

    inner = [f"{name}." for name, module in model.named_modules() if name and isinstance(module, PreTrainedModel)]
    return tuple(prefix for prefix in inner if not any(name.startswith(prefix) for name in used))


def device_marks(model: PreTrainedModel, towers: tuple[str, ...]) -> frozenset[str]:
    """Returns the parameters of towers by which the models around them tell their device: each model's first one.

    Idefics 3 moves the embeddings of the tokens there, also for a text alone.
    """
    from transformers import PreTrainedModel

    marks = set()
    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and not f"{name}.".startswith(towers):
            first = next((key for key, _ in module.named_parameters(prefix=name)), "")
            if first.startswith(towers):
                marks.add(first)
    return frozenset(marks)


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
