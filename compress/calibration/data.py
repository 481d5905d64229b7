"""Cuts documents or stored token ids into windows and draws the calibration tokens from them with a seed.

Shape letters: S samples, T tokens per sample, L tokens of a stretch.
"""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress.calibration.sources import TOKEN_FILE, Part, parts_of
from compress.calibration.texts import documents
from compress.errors import CalibrationError
from compress.recipe import CalibrationSpec
from compress.texts.decode import base_suffix
from compress.texts.special_tokens import text_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENOUGH = 4  # times the tokens needed: windows are drawn from so many, and reading and encoding stop there
_BATCH = 256  # documents encoded at once


def load_tokens(
    spec: CalibrationSpec,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_seq_len: int | None = None,
    vocab_size: int | None = None,
) -> torch.Tensor:
    """Returns the calibration tokens [samples, seq_len], int64; the same for the same recipe and tokenizer.

    Documents are taken in an order drawn by the seed and laid end to end, each with the start token that the tokenizer
    puts before a text (if it does) and the end-of-text token after it. Windows do not overlap, and none is drawn twice.
    A token file is used as it is: a row of a matrix is a stretch of its own. The samples of a mixture are shuffled.

    Raises:
        CalibrationError: `seq_len` is above `max_seq_len`, there are too few tokens (the numbers are given), an id is
            not below `vocab_size`, the source cannot be read, or the tokenizer's special tokens cannot be controlled.
    """
    check_length(spec, max_seq_len)
    return combined([part_tokens(part, spec, tokenizer, vocab_size) for part in parts_of(spec)], spec.seed)


def check_length(spec: CalibrationSpec, max_seq_len: int | None) -> None:
    """Raises CalibrationError when the sequences are longer than the model's context."""
    if max_seq_len is not None and spec.seq_len > max_seq_len:
        raise CalibrationError(
            f"calibration seq_len={spec.seq_len}",
            allowed=f"up to {max_seq_len}, the model's context",
            do=f"Give --seq-len {max_seq_len} or less",
        )


def part_tokens(
    part: Part, spec: CalibrationSpec, tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None
) -> torch.Tensor:
    """Returns the tokens [part.samples, seq_len] of one source, int64; raises as `load_tokens` does."""
    path = part.path
    if path is not None and base_suffix(path) == TOKEN_FILE:
        stretches = _token_file(path)
    else:
        stretches = [_encoded(part, spec, tokenizer)]
    windows = [
        stretch_L[start : start + spec.seq_len]
        for stretch_L in stretches
        for start in range(0, len(stretch_L) - spec.seq_len + 1, spec.seq_len)
    ]
    if len(windows) < part.samples:
        raise _too_short(part, spec, [len(stretch_L) for stretch_L in stretches], len(windows))
    drawn = random.Random(spec.seed).sample(range(len(windows)), part.samples)
    tokens_ST = torch.stack([windows[place] for place in drawn])
    if vocab_size is not None and (int(tokens_ST.max()) >= vocab_size or int(tokens_ST.min()) < 0):
        raise CalibrationError(
            f"calibration token ids reach from {int(tokens_ST.min())} to {int(tokens_ST.max())}",
            allowed=f"ids from 0 to {vocab_size - 1}, the vocabulary of the model",
            do="Use the model's own tokenizer",
        )
    return tokens_ST


def combined(parts_ST: list[torch.Tensor], seed: int) -> torch.Tensor:
    """Returns the samples of all parts in one matrix, in an order that the seed draws; a single part as it is."""
    if len(parts_ST) == 1:
        return parts_ST[0]
    tokens_ST = torch.cat(parts_ST)
    order = list(range(len(tokens_ST)))
    random.Random(seed).shuffle(order)
    return tokens_ST[order]


def _encoded(part: Part, spec: CalibrationSpec, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """One stretch of at least enough tokens, if the source has them."""
    encoder = text_encoder(tokenizer)
    texts = documents(part, tokenizer, spec.seed)
    ids: list[int] = []
    needed = part.samples * spec.seq_len
    while len(ids) < _ENOUGH * needed and (batch := list(islice(texts, _BATCH))):
        for document in encoder.documents(batch):
            ids += document
    if not ids:
        raise CalibrationError(
            f"calibration source {part.source} holds no text", do="Give rows, or conversations, that are not empty"
        )
    return torch.tensor(ids, dtype=torch.long)


def _token_file(path: Path) -> list[torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            tokens = file.get_tensor("tokens") if "tokens" in names else None
    except (SafetensorError, OSError) as error:
        raise CalibrationError(f"token file {path} cannot be read: {error}") from error
    if tokens is None:
        raise CalibrationError(f"token file {path} holds {', '.join(names) or 'nothing'}", allowed="a tensor tokens")
    if tokens.is_floating_point() or tokens.dtype == torch.bool or tokens.dim() not in (1, 2):
        raise CalibrationError(
            f"tokens in {path} are {tokens.dtype} {list(tokens.shape)}",
            allowed="integers [samples, seq_len] or [length]",
        )
    tokens = tokens.long()
    return [tokens] if tokens.dim() == 1 else list(tokens)


def _too_short(part: Part, spec: CalibrationSpec, lengths: list[int], windows: int) -> CalibrationError:
    fitting = max((length // part.samples for length in lengths), default=0) if len(lengths) == 1 else 0
    cures = []
    if windows and part.samples == spec.samples:
        cures.append(f"--samples {windows}")
    if fitting >= 2:
        cures.append(f"--seq-len {fitting}")
    return CalibrationError(
        f"calibration source {part.source} has {sum(lengths)} tokens; {part.samples} samples of {spec.seq_len} need "
        f"{part.samples * spec.seq_len}",
        do=f"Give more text, or use {' or '.join(cures)}" if cures else "Give more text",
    )
