"""Chooses the auto class of transformers that builds and loads a model: of text alone, or of images or sound too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def auto_class(config: PreTrainedConfig) -> Any:
    """Returns AutoModelForCausalLM, or AutoModelForMultimodalLM for a model of images or sound and text.

    Some model types are in both lists, with a text model under AutoModelForCausalLM that has no place for the vision
    tower. There the class that config.json names decides. AutoModelForMultimodalLM builds the same classes as
    AutoModelForImageTextToText, and those of sound.
    """
    import transformers

    kind, named = config.model_type, (getattr(config, "architectures", None) or [None])[0]
    causal, multimodal = class_names(kind)
    if named in causal or not multimodal or (causal and named not in multimodal):
        return transformers.AutoModelForCausalLM
    return transformers.AutoModelForMultimodalLM


def class_names(kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the classes that AutoModelForCausalLM, and AutoModelForMultimodalLM, build for a model type."""
    from transformers.models.auto import modeling_auto

    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, ())
    multimodal = modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(kind, ())
    first, second = ((names,) if isinstance(names, str) else tuple(names) for names in (causal, multimodal))
    return first, second
