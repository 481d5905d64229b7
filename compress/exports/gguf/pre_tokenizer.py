"""Tells how a tokenizer splits text into words by the name that llama.cpp has for it, from its tokenizer.json.

llama.cpp knows some ways by name, and its converter picks the name by what one text is encoded to. A vocabulary that
was trimmed or trained anew is not known to it, though it splits text as a known one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.json_files import read_object

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_MARKS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_KNOWN: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    (("digits", _GPT2), False): "smollm",
    ((rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS}|{_SPACES}",), True): "llama-bpe",
    ((rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS}|{_SPACES}",), False): "smaug-bpe",
    ((rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_MARKS}|{_SPACES}",), False): "qwen2",
    ((rf"{_CASED}{_ENDINGS}?|{_UPPER}{_ENDINGS}?|\p{{N}}{{1,3}}|{_MARKS_SLASH}|{_SPACES}",), False): "gpt-4o",
    ((rf"{_CASED}|{_UPPER}|\p{{N}}|{_MARKS_SLASH}|{_SPACES}",), True): "tekken",
}
"""Steps that split the text, and whether words of the vocabulary are taken without merging -> name in llama.cpp."""
NAMES = tuple(dict.fromkeys(_KNOWN.values()))


def of_folder(folder: Path) -> str | None:
    """Returns the name for the tokenizer.json in the folder; None if there is none, or llama.cpp has no such way."""
    file = folder / "tokenizer.json"
    return of_tokenizer(read_object(file)) if file.is_file() else None


def of_tokenizer(tokenizer: Mapping[str, Any]) -> str | None:
    """Returns the name for the content of tokenizer.json, or None.

    Known are byte-level BPE without a normalizer, or with NFC, which llama.cpp leaves out for all its tokenizers.
    """
    model, normalizer = tokenizer.get("model") or {}, tokenizer.get("normalizer")
    steps = _steps(tokenizer.get("pre_tokenizer") or {})
    if model.get("type") != "BPE" or model.get("byte_fallback") or steps is None:
        return None
    if normalizer is not None and normalizer.get("type") != "NFC":
        return None
    return _KNOWN.get((steps, bool(model.get("ignore_merges"))))


def _steps(pre_tokenizer: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns the steps that split text, byte-level coding last; None if one is of another kind."""
    parts = pre_tokenizer.get("pretokenizers", []) if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    steps = []
    for part in parts:
        kind = part.get("type")
        if kind == "Digits" and part.get("individual_digits"):
            steps.append("digits")
        elif kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
            steps.append(str((part.get("pattern") or {}).get("Regex")))
        elif kind == "ByteLevel" and not part.get("add_prefix_space") and part is parts[-1]:
            steps += [_GPT2] if part.get("use_regex", True) else []
        else:
            return None
    return tuple(steps) if parts and parts[-1].get("type") == "ByteLevel" else None
