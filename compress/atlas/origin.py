"""Recognises models that descend from atlas by their tokenizer."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

from compress.atlas import MODEL_DIR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def is_of_atlas(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Returns whether a model with this tokenizer is atlas, or was made from it.

    Atlas' vocabulary was learnt from its own training text, so no other model has it. Copies, packed, pruned, distilled
    and fine-tuned versions keep it, whatever their folder is called and whether or not it has a manifest.
    """
    return bool(tokenizer.get_vocab() == _vocabulary())


@cache
def _vocabulary() -> dict[str, int]:
    """Returns token → id of atlas, with its added tokens."""
    stored = json.loads((MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8"))
    return {**stored["model"]["vocab"], **{token["content"]: token["id"] for token in stored["added_tokens"]}}
