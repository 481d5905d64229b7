"""Checks generation_config.json first: transformers reports a damaged one only after it has loaded the weights."""

from __future__ import annotations

from pathlib import Path

from compress.errors import CompressError, translated
from compress.json_files import read_object

FILE = "generation_config.json"
_CURE = f"Download {FILE} again, or delete it: transformers then uses its defaults"


def check_generation_config(folder: Path, *, error: type[CompressError]) -> None:
    """Raises `error` when `folder` has a generation_config.json that is no JSON object or that transformers refuses."""
    from transformers import GenerationConfig

    if not (folder / FILE).is_file():
        return
    read_object(folder / FILE, error=error, do=_CURE)
    with translated(f"transformers cannot load {folder / FILE}", kind=error, do=_CURE):
        GenerationConfig.from_pretrained(folder)
