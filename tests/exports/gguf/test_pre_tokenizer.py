"""How tokenizers split text, told from their tokenizer.json."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from compress.exports.gguf.pre_tokenizer import of_tokenizer
from tests.support.gguf_models import tokenizer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def content(made: Tokenizer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.to_str())
    return found


def splitting(pattern: str) -> Tokenizer:
    made = tokenizer()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return made


def test_names_by_structure() -> None:
    assert of_tokenizer(content(tokenizer())) == "smollm"
    plain = tokenizer()
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert of_tokenizer(content(plain)) == "gpt-2"
    assert of_tokenizer(content(splitting(LLAMA3.replace("{1,3}", "")))) == "qwen2"
    assert of_tokenizer(content(splitting(LLAMA3))) == "smaug-bpe"
    whole_words = content(splitting(LLAMA3))
    whole_words["model"]["ignore_merges"] = True
    assert of_tokenizer(whole_words) == "llama-bpe"


@pytest.mark.parametrize("change", ["prefix", "pattern", "normalizer", "digits", "bytes", "none"])
def test_what_differs_in_one_point_has_no_name(change: str) -> None:
    made = splitting(LLAMA3 + "|x") if change == "pattern" else tokenizer()
    if change == "prefix":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "normalizer":
        made.normalizer = normalizers.Lowercase()
    elif change == "digits":
        made = tokenizer(pre_tokenizers.Digits(individual_digits=False))
    elif change == "bytes":
        made = Tokenizer(models.BPE(byte_fallback=True))
    elif change == "none":
        made = Tokenizer(models.WordLevel({"a": 0}, "a"))
    assert of_tokenizer(content(made)) is None
