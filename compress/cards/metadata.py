"""The metadata of a card: the block in YAML at its top, which the hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from compress.methods import registry
from compress.report import manifest as manifests

INHERITED = ("license", "license_name", "license_link", "language", "datasets")
"""What a model has from the one it was made of."""
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
OWN_LIBRARY = "compress-llm"
"""The library that loads packed checkpoints; plain checkpoints load with `transformers`."""


def inherited(card: str | None) -> dict[str, Any]:
    """Returns the licence, languages and datasets that a card names; nothing of metadata in broken YAML."""
    if card is None or not card.startswith("---"):
        return {}
    import yaml
    from huggingface_hub import ModelCard

    try:
        data = dict(ModelCard(card, ignore_metadata_errors=True).data.__dict__)
    except (yaml.YAMLError, ValueError, TypeError):
        return {}
    return {key: data[key] for key in INHERITED if data.get(key)}


def base_of(manifest: Mapping[str, Any]) -> str | None:
    """Returns the hub id of the model that the first stage began with; None for a local one, whose id is not known."""
    model = str(manifests.origin(manifest).get("model", ""))
    return model if _HUB_ID.fullmatch(model) else None


def of(manifest: Mapping[str, Any], kept: Mapping[str, Any], *, library: str, tags: Sequence[str] = ()) -> str:
    """Returns the block in YAML, without the lines around it.

    Args:
        manifest: checked content of compress.json.
        kept: see `inherited`.
        library: the hub's name of the library that loads the model.
        tags: further tags, the first ones.
    """
    from huggingface_hub import ModelCardData

    stages = manifests.stages(manifest, always=("bits",))
    bits = {_width(stage["options"]) for stage in stages if _packs(stage["method"])}
    width = [f"{bits.pop()}-bit"] if len(bits) == 1 and None not in bits else []
    base = base_of(manifest)
    packed = bool(manifest["tensors"])
    data = ModelCardData(
        **{key: value for key, value in kept.items() if key in INHERITED},
        base_model=base,
        library_name=library,
        pipeline_tag="text-generation",
        tags=[*tags, *(stage["method"] for stage in stages), *width, "compress"],
    )
    if base is not None:
        data["base_model_relation"] = "quantized" if packed else "finetune"
    return str(data.to_yaml())


def is_own(manifest: Mapping[str, Any]) -> bool:
    """Returns whether a checkpoint loads with this package alone: packed, or with sizes of layers of its own."""
    return bool(manifest["tensors"] or manifest.get("structure"))


def library_of(manifest: Mapping[str, Any]) -> str:
    """Returns the hub's name of the library that loads a checkpoint."""
    return OWN_LIBRARY if is_own(manifest) else "transformers"


def _width(options: Mapping[str, Any]) -> int | None:
    """Returns the bits of all linears of a stage; None where they differ or are no whole number."""
    bits = options.get("bits")
    return bits if isinstance(bits, int) and "target_bits" not in options else None


def _packs(method: str) -> bool:
    return method in registry.names() and registry.describe(method).kind == "pack"


def with_block(block: str, text: str) -> str:
    """Returns a card of its metadata and its text; text that has metadata already stays as it is."""
    return text if text.startswith("---\n") else f"---\n{block}\n---\n\n{text}"
