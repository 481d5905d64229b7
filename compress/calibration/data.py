"""Loads the calibration tokens: documents or stored ids, cut into windows, from which a seeded sample is drawn.

Shape letters: S samples, T tokens per sample, L tokens of a stretch.
"""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress.calibration.texts import documents
from compress.errors import CalibrationError
from compress.recipe import CalibrationSpec
from compress.texts.special_tokens import text_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENOUGH = 4  # times the tokens needed: windows are drawn from so many, and encoding a large source stops there
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
    A token file is used as it is: a row of a matrix is a stretch of its own.

    Raises:
        CalibrationError: `seq_len` is above `max_seq_len`, there are too few tokens (the numbers are given), an id is
            not below `vocab_size`, the source cannot be read, or the tokenizer's special tokens cannot be controlled.
    """
    if max_seq_len is not None and spec.seq_len > max_seq_len:
        raise CalibrationError(
            f"calibration seq_len={spec.seq_len}", allowed=f"up to {max_seq_len}, the model's context"
        )
    stretches = (
        _token_file(Path(spec.source).expanduser())
        if spec.source.endswith(".safetensors")
        else [_encoded(spec, tokenizer)]
    )
    windows = [
        stretch_L[start : start + spec.seq_len]
        for stretch_L in stretches
        for start in range(0, len(stretch_L) - spec.seq_len + 1, spec.seq_len)
    ]
    if len(windows) < spec.samples:
        raise _too_short(spec, [len(stretch_L) for stretch_L in stretches], len(windows))
    drawn = random.Random(spec.seed).sample(range(len(windows)), spec.samples)
    tokens_ST = torch.stack([windows[place] for place in drawn])
    if vocab_size is not None and (int(tokens_ST.max()) >= vocab_size or int(tokens_ST.min()) < 0):
        raise CalibrationError(
            f"calibration token ids reach from {int(tokens_ST.min())} to {int(tokens_ST.max())}",
            allowed=f"ids from 0 to {vocab_size - 1}, the vocabulary of the model",
            do="Use the model's own tokenizer",
        )
    return tokens_ST


def _encoded(spec: CalibrationSpec, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """One stretch of at least enough tokens, if the source has them."""
    encoder = text_encoder(tokenizer)
    texts = list(documents(spec.source, tokenizer))
    random.Random(spec.seed).shuffle(texts)
    ids: list[int] = []
    remaining = iter(texts)
    while len(ids) < _ENOUGH * spec.samples * spec.seq_len and (batch := list(islice(remaining, _BATCH))):
        for document in encoder.documents(batch):
            ids += document
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


def _too_short(spec: CalibrationSpec, lengths: list[int], windows: int) -> CalibrationError:
    fitting = max((length // spec.samples for length in lengths), default=0) if len(lengths) == 1 else 0
    cures = []
    if windows:
        cures.append(f"--samples {windows}")
    if fitting >= 2:
        cures.append(f"--seq-len {fitting}")
    return CalibrationError(
        f"calibration source {spec.source} has {sum(lengths)} tokens; {spec.samples} samples of {spec.seq_len} need "
        f"{spec.samples * spec.seq_len}",
        do=f"Give more text, or use {' or '.join(cures)}" if cures else "Give more text",
    )
