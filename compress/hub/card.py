"""Makes the model card of what is uploaded: the one in the folder, with code that loads the repository."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.cards import files, metadata, refresh, snippet, text

_TITLE = re.compile(r"# (\w[\w.-]*/[\w.-]+), ")


def of_checkpoint(folder: Path, repo: str) -> str:
    """Returns the card of a checkpoint: written anew, or where a person edited it as it is, below metadata."""
    existing, facts = files.read(folder), refresh.facts_of(folder)
    if existing is None or files.is_own(existing):
        return files.sign(snippet.for_repository(text.of_checkpoint(facts), repo))
    library = metadata.library_of(facts.manifest)
    return metadata.with_block(metadata.of(facts.manifest, facts.kept, library=library), existing)


def of_export(folder: Path, record: Mapping[str, Any], repo: str) -> str:
    """Returns the card of an export: the one that it was written with, below metadata.

    Args:
        folder: the export.
        record: compress_export.json.
        repo: name of the repository.
    """
    from huggingface_hub import ModelCardData

    existing, target = files.read(folder), str(record.get("target"))
    if existing is not None and files.is_own(existing):
        return files.sign(snippet.for_repository(files.unsigned(existing), repo))
    card = existing or f"# {repo}\n\nWritten by `compress export --to {target}`.\n"
    data = ModelCardData(pipeline_tag="text-generation", tags=[target, "compress"])
    if (base := _TITLE.match(card)) is not None:
        data["base_model"], data["base_model_relation"] = base[1], "quantized"
    return metadata.with_block(str(data.to_yaml()), card)
