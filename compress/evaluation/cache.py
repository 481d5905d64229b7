"""Caches the evaluations of dense models, so that a dense model is not evaluated again for every candidate.

One JSON file per evaluation, named by the hash of everything the outcomes depend on; the file contains that key too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import kept_files
from compress.errors import EvaluationError
from compress.evaluation.result import EvalResult, TextResult
from compress.json_files import parse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAME_TEXT = 1e-6  # relative; threads may sum in a different order


def default_folder() -> Path:
    """Returns the folder for evaluations: in `$COMPRESS_CACHE`, else in `compress` in the user's cache folder."""
    return kept_files.folder("evaluations")


def key_of(result_parts: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Returns everything the outcomes depend on as plain data; None for a model in memory, which has no fingerprint."""
    if result_parts["model"]["fingerprint"] is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    template = str(getattr(tokenizer, "chat_template", None))
    return {**result_parts, "tokenizer": hashlib.sha256(f"{words}\n{template}".encode()).hexdigest()}


def find(folder: Path, key: Mapping[str, Any], text: TextResult) -> EvalResult | None:
    """Returns the evaluation cached under `key` if the model's held-out text result is unchanged; None otherwise.

    The fingerprint of a large model covers only samples of its weights. The held-out text, which is read in any case,
    covers all of them. A file that cannot be read or has another schema counts as missing.
    """
    try:
        kept = parse(_path(folder, key).read_text(encoding="utf-8"))
        if kept["key"] != json.loads(json.dumps(key)):
            return None
        evaluation = EvalResult.from_dict(kept["evaluation"])
    except (OSError, ValueError, KeyError, TypeError, EvaluationError):
        return None
    same = math.isclose(evaluation.text.nll_per_token, text.nll_per_token, rel_tol=_SAME_TEXT)
    return evaluation if same and (evaluation.text.tokens, evaluation.text.bytes) == (text.tokens, text.bytes) else None


def keep(folder: Path, key: Mapping[str, Any], evaluation: EvalResult) -> None:
    """Writes the evaluation atomically. A folder that cannot be written (a read-only home) keeps nothing."""
    content = {"key": key, "evaluation": evaluation.to_dict()}
    with suppress(OSError):
        kept_files.write_whole(_path(folder, key), json.dumps(content, ensure_ascii=False))


def exists(folder: Path, key: Mapping[str, Any]) -> bool:
    """Returns whether there is a file under `key`; `find` may still refuse it."""
    return _path(folder, key).is_file()


def name_of(key: Mapping[str, Any]) -> str:
    """Returns a name for files about the key: a hash."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _path(folder: Path, key: Mapping[str, Any]) -> Path:
    return folder / f"{name_of(key)}.json"
