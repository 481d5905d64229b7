"""Models that descend from atlas are known by their tokenizer."""

from __future__ import annotations

from pathlib import Path

from compress.atlas import MODEL_DIR
from compress.atlas.origin import is_of_atlas
from compress.models.folder.tokenizer import load_tokenizer
from tests.support import tiny_suite as tiny


def test_atlas_and_its_copies_are_of_atlas_and_others_are_not(tmp_path: Path) -> None:
    own = load_tokenizer(MODEL_DIR, "atlas")
    own.save_pretrained(tmp_path)  # written anew by transformers, under another name
    assert is_of_atlas(own) and is_of_atlas(load_tokenizer(tmp_path, "copy"))
    assert not is_of_atlas(tiny.tokenizer())
    own.add_tokens(["<another>"])
    assert not is_of_atlas(own), "a vocabulary that was changed is not known"
