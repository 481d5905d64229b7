"""Makes token windows for training.

Any step's batch follows from (seed, step) alone, so a resumed run reads the same batches as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from compress.atlas.text import training_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

STEPS_PER_CHUNK = 64
DOCUMENTS_PER_CALL = 1024


def _chunk(tokenizer: PreTrainedTokenizerFast, seed: int, part: int, batch: int, window: int) -> torch.Tensor:
    """Token ids of shape [steps, batch, window]: documents end to end, <eos> after each."""
    needed = STEPS_PER_CHUNK * batch * window
    stream = training_documents(seed, part)
    ids: list[int] = []
    while len(ids) < needed:
        texts = [next(stream) for _ in range(DOCUMENTS_PER_CALL)]
        for document in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            ids += document
            ids.append(tokenizer.eos_token_id)
    return torch.from_numpy(np.array(ids[:needed], dtype=np.int64)).view(STEPS_PER_CHUNK, batch, window)


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, start: int, batch: int, window: int
) -> Iterator[torch.Tensor]:
    """The batches from step `start` on, each of shape [batch, window]."""
    step = start
    while True:
        chunk = _chunk(tokenizer, seed, step // STEPS_PER_CHUNK, batch, window)
        for offset in range(step % STEPS_PER_CHUNK, STEPS_PER_CHUNK):
            yield chunk[offset]
            step += 1
