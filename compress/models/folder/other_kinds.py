"""Recognises folders that are not causal language models in safetensors; the error names the kind and the fix.

Adapters, other formats, pipelines of diffusers, embedding models, classifiers: each would fail later with an
error about a missing file or tensor, which names neither the cause nor the fix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.errors import ModelError
from compress.json_files import read_object
from compress.models.auto_class import class_names

ADAPTER_CONFIG = "adapter_config.json"
_HUGGING_FACE = "a folder with config.json and the weights as safetensors"
_ORIGINAL = "Give the folder of the original model in float32, bfloat16 or float16"
_FORMATS = {
    ".ggml": "GGML, an old format of llama.cpp",
    ".onnx": "ONNX",
    ".tflite": "TensorFlow Lite",
    ".mlpackage": "Core ML",
    ".nemo": "NeMo",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".engine": "TensorRT",
    ".exe": "llamafile",
    ".llamafile": "llamafile",
}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_HEADS = ("CausalLM", "ConditionalGeneration")
_TASKS = {
    "SequenceClassification": "a classifier of texts",
    "TokenClassification": "a classifier of tokens",
    "QuestionAnswering": "a model that marks answers in a text",
    "MultipleChoice": "a model that chooses between texts",
    "MaskedLM": "a masked language model, which sees both sides of a gap",
    "ImageClassification": "a classifier of images",
}


def refuse_file(path: Path) -> None:
    """Raises ModelError for a file given as the model, with the name of its format."""
    suffix = path.suffix.lower()
    if known := _FORMATS.get(suffix):
        raise ModelError(f"{path} is a file in another format: {known}", allowed=_HUGGING_FACE, do=_ORIGINAL)
    if suffix in PICKLES:
        raise ModelError(f"{path} is a file, a pickle, which can run code when it is opened", allowed=_HUGGING_FACE)
    raise ModelError(
        f"{path} is a file", allowed=_HUGGING_FACE, do="Give the folder that holds config.json and the weights"
    )


def refuse_folder(folder: Path) -> None:
    """Raises ModelError for a folder that holds something other than one whole model, by the names of its files."""
    names = sorted(path.name for path in folder.iterdir())
    if ADAPTER_CONFIG in names and not _whole_model(names):
        raise _adapter(folder)
    if "model_index.json" in names:
        parts = ", ".join(path.parent.name for path in sorted(folder.glob("*/config.json"))) or "no part"
        raise ModelError(
            f"{folder} is a pipeline of diffusers with several models ({parts})",
            do="Give the folder of a causal language model",
        )
    if "modules.json" in names or "config_sentence_transformers.json" in names:
        raise ModelError(
            f"{folder} is an embedding model of sentence-transformers, not a causal language model",
            do="Give the language model that it was made from",
        )
    if not _whole_model(names) and (other := _other_format(names)):
        raise ModelError(f"{folder} holds its weights as {other}", allowed=_HUGGING_FACE, do=_ORIGINAL)
    if "config.json" not in names:
        raise _no_config(folder, names)


def refuse_task(raw: Mapping[str, Any]) -> None:
    """Raises ModelError when `raw`, the content of config.json, describes no causal language model."""
    if "_class_name" in raw and "model_type" not in raw:
        raise ModelError(
            f"config.json describes {raw['_class_name']}, a part of a diffusers pipeline",
            do="Give the folder of a causal language model",
        )
    named = raw.get("architectures")
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    task = re.search(r"For([A-Z]\w+)$", architecture)
    if task and task[1] not in _HEADS and not _is_language_model(raw, architecture):
        what = _TASKS.get(task[1], "a model for another task")
        raise ModelError(
            f"config.json names the architecture {architecture}: {what}, not a causal language model",
            allowed="architectures of AutoModelForCausalLM and AutoModelForMultimodalLM",
            do="Give the language model that it was made from",
        )
    if raw.get("is_encoder_decoder") is True and not architecture.endswith("CausalLM"):
        raise ModelError(
            f"{architecture or raw.get('model_type')} has an encoder beside its decoder",
            allowed="models with a decoder only",
        )


def adapter_note(folder: Path) -> str | None:
    """Returns a warning that names the adapter lying beside a whole model, or None when there is none."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    return (
        f"the model's folder also holds {_kind(folder)[0]}, which is not applied: the weights are used as they are. "
        f"To include it, merge it first ({_MERGE})"
    )


_MERGE = "PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(new_folder)"


def _adapter(folder: Path) -> ModelError:
    kind, base = _kind(folder)
    return ModelError(
        f"{folder} holds {kind}{f' for {base}' if base else ''}, and no whole model",
        do=f"Give its base model, or merge it first and give the new folder: {_MERGE}",
    )


def _kind(folder: Path) -> tuple[str, str | None]:
    """Returns the kind of adapter in the folder, and the name of its base model if the adapter gives one."""
    raw = read_object(folder / ADAPTER_CONFIG, error=ModelError, do="Download the adapter again")
    kind, base = raw.get("peft_type"), raw.get("base_model_name_or_path")
    named = kind if isinstance(kind, str) else "of unknown type"
    return f"a PEFT adapter ({named}, {ADAPTER_CONFIG})", base if isinstance(base, str) and base else None


def _whole_model(names: list[str]) -> bool:
    """Returns whether the folder holds weights other than an adapter's, as safetensors or torch pickles."""
    weights = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json", ".bin"))]
    others = ("adapter_", "training_args", "optimizer", "scheduler")
    return any(not name.startswith(others) for name in weights)


def _other_format(names: list[str]) -> str | None:
    for name in names:
        if (suffix := Path(name).suffix.lower()) in _FORMATS:
            return f"{_FORMATS[suffix]} ({name})"
    return "TensorFlow" if "saved_model.pb" in names else None


def _no_config(folder: Path, names: list[str]) -> ModelError:
    if "params.json" in names:
        return ModelError(
            f"{folder} holds a model in its authors' original format (params.json), and no config.json",
            do="Give the Hugging Face version of the model",
        )
    inside = sorted(path.parent for path in [*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")])
    if inside:
        return ModelError(
            f"{folder} holds no config.json itself, but {inside[-1].relative_to(folder)} does",
            do=f"Give the folder of one model, such as {inside[-1]}",
        )
    return ModelError(f"{folder} holds no config.json", do="Give the folder of a Hugging Face model")


def _is_language_model(raw: Mapping[str, Any], architecture: str) -> bool:
    """Returns whether AutoModelForCausalLM or AutoModelForMultimodalLM builds exactly this class for the model type."""
    return any(architecture in names for names in class_names(str(raw.get("model_type"))))
