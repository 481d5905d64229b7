"""Loads the tokenizer in a model's folder. Remote code is never run, and there is no prompt to allow it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import ModelError, translated

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """Returns the tokenizer in `folder`; `name` is what errors call the model.

    Raises:
        ModelError: there is none that loads without remote code, or its files are damaged.
    """
    from transformers import AutoTokenizer

    with translated(
        f"{name} has no tokenizer that can be loaded",
        do="Save the tokenizer into the model's folder with tokenizer.save_pretrained",
    ):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer is None:  # transformers returns None where it knows no tokenizer for the architecture
        raise ModelError(f"{name} has no tokenizer", do="Save one with tokenizer.save_pretrained")
    return tokenizer
