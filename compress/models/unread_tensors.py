"""Sorts the checkpoint tensors that the model has no place for: harmless, extra heads, or a reason to refuse the model.

A tensor that nobody reads mostly means that the checkpoint is not what config.json says: quantised, with an adapter
beside its weights, a model for another task, one layer too many. transformers logs such tensors and goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.errors import ModelError
from compress.models.folder.safetensors_header import TensorEntry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_COMPUTED = re.compile(
    r"(^|[._])(inv_freq|original_inv_freq|_extra_state|masked_bias|position_ids|token_type_ids|cos_cached|sin_cached|"
    r"causal_mask|num_batches_tracked|relative_position_index)$|(^|\.)(encoder|decoder)\.version$"
)
"""Buffers that older versions of transformers and torch saved, and that the model computes itself."""

_EXTRA_HEAD = re.compile(r"(^|\.)(mtp|nextn|multi_token)[\w-]*(\.|$)")
"""Heads that predict more than one token (multi-token prediction); no model of transformers runs them."""

_SIGNS = (
    (
        r"scales?(_inv|_2)?$|zero_points?$|zeros$|\.qweight$|g_idx$|absmax$|quant_map$|quant_state|\.SCB$|_blocks$|"
        r"weight_(packed|shape|format)$|codebooks?$|\.codes$|amax$",
        "a statistic of a quantiser, though config.json has no quantization_config",
        "Dequantise the model (multiply its codes by their scales) and save it again, or give the original model",
    ),
    (
        r"(^|\.)(score|classifier|qa_outputs|v_head|value_head|reward_head|summary)\.",
        "the head of a model for another task",
        "Give the language model that it was made from",
    ),
    (
        r"weight_(orig|mask|g|v|u)$|parametrizations\.",
        "part of a weight that torch keeps in several tensors",
        "Make the parametrisation permanent (torch.nn.utils.prune.remove, remove_parametrizations), then save again",
    ),
    (
        r"vision|visual|image|audio|speech|projector",
        "a part for images or sound, which transformers' causal language model of this architecture does not have",
        "Save the language model alone and give that folder",
    ),
    (
        r"^(base_model\.model|_orig_mod|module|_fsdp_wrapped_module)\.",
        "a tensor of a wrapper around the model (peft, torch.compile, parallel training)",
        "Save the model inside the wrapper with save_pretrained; merge an adapter first",
    ),
)


@dataclass(frozen=True, slots=True)
class UnreadTensors:
    """Names of checkpoint tensors that the model does not read."""

    carried: tuple[str, ...] = ()
    """Extra heads that transformers' loader passes over without a word: a copy of the model keeps them as they are."""
    left_out: tuple[str, ...] = ()
    """Extra heads at which the loader of packed checkpoints would stop: a copy of the model loses them."""


def sort_unread(names: Iterable[str], tensors: Mapping[str, TensorEntry], model: PreTrainedModel) -> UnreadTensors:
    """Returns the extra heads among the tensors `names` that `model` has no place for; buffers it computes are dropped.

    Raises:
        ModelError: any other tensor. It is named, with what it probably is and what to do.
    """
    passed_over = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    carried, left_out, strange = [], [], []
    for name in names:
        if _COMPUTED.search(name) or _is_mask(name, tensors.get(name)):
            continue
        if any(pattern.search(name) for pattern in passed_over):
            carried.append(name)
        elif _EXTRA_HEAD.search(name):
            left_out.append(name)
        else:
            strange.append(name)
    if strange:
        raise _refusal(strange, model)
    return UnreadTensors(tuple(carried), tuple(left_out))


def _is_mask(name: str, entry: TensorEntry | None) -> bool:
    """Returns whether this is the causal mask that GPT-2 and its kin once saved as `attn.bias`, [1, 1, T, T]."""
    shape = () if entry is None else entry.shape
    return name.endswith(".bias") and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]


def recognise(names: Iterable[str]) -> tuple[str, str, str] | None:
    """Returns the first tensor whose name shows what it is, what it looks like, and the cure; None when none does."""
    names = list(names)
    for pattern, meaning, do in _SIGNS:
        if name := next((name for name in names if re.search(pattern, name)), None):
            return name, meaning, do
    return None


def _refusal(names: list[str], model: PreTrainedModel) -> ModelError:
    example = names[0]
    what, cure = (
        f"config.json describes a {type(model).__name__}, which has no such tensor",
        ("Check that config.json belongs to these weights; remove the tensors if they are not needed"),
    )
    if recognised := recognise(names):
        example, meaning, cure = recognised
        what = f"it looks like {meaning}"
    others = f" and {len(names) - 1} more that nobody reads" if len(names) > 1 else ", which nobody reads"
    return ModelError(f"the checkpoint holds the tensor {example}{others}: {what}", do=cure)
