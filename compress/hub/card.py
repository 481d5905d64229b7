"""Writes the model card of what is uploaded: metadata that the hub reads, and text for people.

A README.md that is there already keeps its text; metadata are put before it where it has none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def of_checkpoint(manifest: Mapping[str, Any], existing: str | None, report: str | None, repo: str) -> str:
    """Returns the card of a checkpoint.

    Args:
        manifest: compress.json.
        existing: README.md of the folder, if it has one.
        report: report.md, the table of what was measured, if there is one.
        repo: name of the repository.
    """
    model = str(manifest.get("source", {}).get("model", "a model"))
    methods = [str(stage["method"]) for stage in manifest.get("recipe", {}).get("stages", [])]
    metadata = _metadata(model, [*methods, "compress"])
    if existing is not None:
        return _with_metadata(existing, metadata)
    parts = [
        f"# {model}, {' + '.join(methods) or 'compressed'}",
        f"{model} compressed by `compress`, in its own format.",
    ]
    if (bits := manifest.get("bits_per_weight")) is not None:
        parts[-1] += f" The packed weights have {bits:.2f} stored bits each."
    parts.append(
        "```python\nimport compress.hf  # pip install compress-llm\nfrom transformers import AutoModelForCausalLM\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repo}")\n```'
    )
    if measured := [line for line in (report or "").splitlines() if line.startswith("|")]:
        parts += ["## Measured", "\n".join(measured)]  # its remarks may name files of this machine
    return _with_metadata("\n\n".join(parts) + "\n", metadata)


def of_export(record: Mapping[str, Any], existing: str | None, repo: str) -> str:
    """Returns the card of an export.

    Args:
        record: compress_export.json.
        existing: README.md, which the export wrote.
        repo: name of the repository.
    """
    target = str(record.get("target"))
    text = existing or f"# {repo}\n\nWritten by `compress export --to {target}`.\n"
    said = re.match(r"# (\S+), ", text)
    return _with_metadata(text, _metadata(said[1] if said else "", [target, "compress"]))


def _metadata(model: str, tags: list[str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"pipeline_tag": "text-generation", "tags": list(dict.fromkeys(tags))}
    if _HUB_ID.fullmatch(model):
        metadata |= {"base_model": model, "base_model_relation": "quantized"}
    return metadata


def _with_metadata(text: str, metadata: Mapping[str, Any]) -> str:
    """Returns the text below its metadata in YAML, of which JSON is a part."""
    if text.startswith("---\n"):
        return text
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in metadata.items()]
    return "\n".join(["---", *lines, "---", "", text])
