"""Reads config.json, makes the checks that transformers leaves out, and builds the transformers config."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ModelError, translated
from compress.format.manifest import CONFIG
from compress.json_files import read_object
from compress.models.folder import other_kinds
from compress.models.foreign import formats

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from compress.models.foreign.formats import Quantisation

_AT_LEAST_ONE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "n_embd", "n_layer", "n_head",
                 "n_positions", "d_model", "max_position_embeddings")  # fmt: skip
_NOT_NEGATIVE = ("intermediate_size", "num_key_value_heads", "head_dim", "n_inner", "ffn_dim", "d_ff", "num_layers",
                 "num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size")  # fmt: skip
_TEXT = "text_config"


def read_raw(folder: Path) -> dict[str, Any]:
    """Returns the content of config.json; ModelError when it is no JSON object."""
    return read_object(folder / CONFIG, error=ModelError, do="Download the model again")


def read_config(folder: Path) -> tuple[PreTrainedConfig, Quantisation | None]:
    """Returns the model's configuration as transformers reads it, with the `quantization_config` of our checkpoints,
    and what the folder says of a quantisation by others.

    Raises:
        ModelError: config.json is damaged, belongs to a model of another kind, to one in a format that is not read, or
            to an architecture that the installed transformers does not know.
    """
    from transformers import AutoConfig

    kind, quantisation = check_config(folder)
    with translated(_cannot_be_opened(folder, kind), allowed=_ARCHITECTURES, do=_OTHER_VERSION):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if quantisation is not None:
        formats.clear(config)
    return config, quantisation


def check_config(folder: Path) -> tuple[str, Quantisation | None]:
    """Returns the `model_type` of config.json, and the quantisation by others, after all checks that need no torch.

    Raises:
        ModelError: as `read_config`, but for values that only the architecture's own configuration refuses.
    """
    raw = read_raw(folder)
    other_kinds.refuse_task(raw)
    quantisation = formats.of_folder(folder, raw)
    for where in (raw, raw.get(_TEXT)):
        if isinstance(where, dict):
            _check_sizes(where)
    if raw.get("transformers_weights") not in (None, "model.safetensors"):
        raise ModelError(
            f"{CONFIG} sets transformers_weights to {raw['transformers_weights']!r}",
            allowed="model.safetensors, or shards with their index, under their usual names",
            do=f"Rename the weights and remove transformers_weights from {CONFIG}",
        )
    kind = raw.get("model_type")
    if not isinstance(kind, str):
        raise ModelError("config.json names no model_type", do="Give the folder of a Hugging Face model")
    if not _is_known(kind):
        raise ModelError(
            f"{_cannot_be_opened(folder, kind)}: transformers {version('transformers')} has none of that name",
            allowed=_ARCHITECTURES,
            do=_OTHER_VERSION,
        )
    return kind, quantisation


_ARCHITECTURES = "architectures built into the installed transformers (remote code is never run)"
_OTHER_VERSION = "Correct config.json, or update transformers for a newer architecture"


def _cannot_be_opened(folder: Path, kind: str) -> str:
    return f"{folder / CONFIG}: the architecture {kind!r} cannot be opened"


def _is_known(kind: str) -> bool:
    """Returns whether transformers may know the model type; where torch is not loaded, by the text of its lists."""
    if "torch" in sys.modules:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # with what was registered here

        return kind in CONFIG_MAPPING
    from transformers.models.auto import auto_mappings

    # this module adds a few names to the list, and imports torch
    more = Path(auto_mappings.__file__).with_name("configuration_auto.py").read_text(encoding="utf-8")
    return kind in auto_mappings.CONFIG_MAPPING_NAMES or f'"{kind}"' in more


def _check_sizes(raw: Mapping[str, Any]) -> None:
    """Raises ModelError for impossible sizes; transformers reports them late and unclearly, or not at all."""
    for names, least in ((_AT_LEAST_ONE, 1), (_NOT_NEGATIVE, 0)):
        for name in names:
            value = raw.get(name)
            # transformers checks other types: it knows which keys may be a list or null
            if isinstance(value, int | float) and value < least:
                raise ModelError(
                    f"{CONFIG} sets {name} to {value!r}",
                    allowed=f"a whole number from {least} on",
                    do="Download config.json again",
                )


def check_depth(config: PreTrainedConfig, tensors: int) -> None:
    """Raises ModelError if config.json gives more layers than there are tensors: building them would not end."""
    depth = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(depth, int) and depth > tensors:
        raise ModelError(
            f"{CONFIG} says that the model has {depth} layers, but the checkpoint holds only {tensors} tensors",
            do=f"Check that {CONFIG} belongs to these weights",
        )
