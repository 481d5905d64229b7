"""Decides where models lie while they are evaluated: in memory, or on disk, read block by block.

In memory they answer every question. Models on disk are read (`streamed`): perplexity, divergence and likelihoods; an
answer that a model writes itself would take one walk through its file per token, so such families are left out.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from compress.models import memory
from compress.models.memory import LOADED
from compress.sizes import format_size

if TYPE_CHECKING:
    from compress.models.source import ModelSource

LIBRARIES = 260 << 20
"""What an evaluation adds to a process besides models: lm-eval, datasets, the questions and their tokens. Measured: 190
MiB with `kick-atlas`, 240 MiB with `kick`."""
WINDOW = 512
_MARGIN = 1.1
_FLOAT = 4
_KEPT_DECODED = 1 << 30
"""Decoded weights that a packed model keeps at most (`runtime.skeleton`)."""
_BATCH = 256 << 20
"""Logits, or keys and values, of one forward pass in memory."""
_HEAD = 192 << 20
"""A stretch of the output head, as stored and decoded, beside the pages of a packed head."""
_LOGIT_COPIES = 2
"""Float32 logits of a window at once: the log-probabilities of both models."""
_LEAST_TOKENS, _MOST_TOKENS_BYTES = 2048, 256 << 20
"""Bounds of the hidden states that wait."""


@dataclass(frozen=True)
class Size:
    """What the memory of a model depends on."""

    parameters: int
    packed: int
    """Parameters that are packed on disk."""
    stored_bytes: int
    block_bytes: int
    """Float32 bytes of the largest decoder block."""
    vocabulary: int
    hidden: int

    @classmethod
    def of(cls, source: ModelSource) -> Size:
        """Returns the size of a model on disk; only headers are read."""
        blocks: dict[str, int] = defaultdict(int)
        for name, entry in source.tensors.items():
            if block := re.match(r".*?\.\d+(?=\.)", name):
                blocks[block[0]] += math.prod(entry.shape)
        text = source.config.get_text_config()
        return cls(
            parameters=source.parameters,
            packed=sum(math.prod(source.tensors[name].shape) for name in source.unpacked),
            stored_bytes=source.size_bytes,
            block_bytes=_FLOAT * max(blocks.values(), default=0),
            vocabulary=int(getattr(text, "vocab_size", 0)),
            hidden=int(getattr(text, "hidden_size", 0)),
        )

    def compressed(self, packed: int, stored_bytes: int) -> Size:
        """Returns the size that the model will have when `packed` of its parameters are packed."""
        return Size(self.parameters, packed, stored_bytes, self.block_bytes, self.vocabulary, self.hidden)

    @property
    def in_memory(self) -> int:
        """Bytes of the loaded model: dense tensors in float32, the pages of its files, prepared and decoded planes."""
        dense = _FLOAT * (self.parameters - self.packed)
        planes = self.stored_bytes if self.packed else 0
        return dense + self.stored_bytes + planes + min(_FLOAT * self.packed, _KEPT_DECODED)

    @property
    def window_logits(self) -> int:
        """Bytes of the logits of one window of held-out text."""
        return _FLOAT * WINDOW * self.vocabulary

    @property
    def packed_head(self) -> int:
        """Bytes of a packed output head, at most 8 bits for each weight."""
        return self.vocabulary * self.hidden if self.packed else 0


@dataclass(frozen=True)
class Residence:
    """Where the models of an evaluation lie."""

    on_disk: bool
    peak_bytes: int
    waiting_bytes: int
    """For models on disk: hidden states of each that may wait in memory between two blocks."""
    in_memory_bytes: int
    """What the models would take in memory."""

    def described(self) -> str:
        """Returns why the models are read block by block, for the user."""
        return (
            f"in memory the models would take about {format_size(self.in_memory_bytes)}; they are read from disk, "
            "one decoder block at a time"
        )

    def why_left_out(self, families: Sequence[str]) -> str:
        """Returns the warning about families whose answers a model writes itself."""
        return (
            f"left out: {', '.join(families)}. Their answers are written token by token, which needs the models in "
            f"memory (about {format_size(self.in_memory_bytes)}); they were read block by block"
        )


def choose(models: Sequence[Size], limit: int | None, base_bytes: int, available: int | None = None) -> Residence:
    """Returns what `fit` does; raises MemoryLimitError if not even one block of each model fits."""
    where = fit(models, limit, base_bytes, available)
    if models:
        memory.check_by_block("evaluation", where.peak_bytes, limit, do="Raise --max-memory")
    return where


def fit(models: Sequence[Size], limit: int | None, base_bytes: int, available: int | None = None) -> Residence:
    """Returns where the models lie: in memory if all fit below the limit, or into what is free without a limit.

    Args:
        models: the model and, if there is one, the dense model that it is compared with; none that is loaded already.
        limit: largest resident memory in bytes, or None.
        base_bytes: resident memory before the models are opened, of all processes.
        available: free memory; asked of the system when not given.
    """
    if not models:
        return Residence(False, base_bytes, 0, 0)
    window = max(size.window_logits for size in models)
    together = sum(size.in_memory for size in models)
    in_memory = base_bytes + int(_MARGIN * (LIBRARIES + together + max(_LOGIT_COPIES * window, 3 * _BATCH)))
    free = psutil.virtual_memory().available if available is None else available
    most = limit if limit is not None else base_bytes + free
    if in_memory <= most:
        return Residence(False, in_memory, 0, in_memory)
    # models are read in turns, so that one block is in memory, but the hidden states of all
    block = int(LOADED * max(size.block_bytes for size in models)) + window  # of the model that was read before
    head = _HEAD + max(size.packed_head for size in models) + _LOGIT_COPIES * window
    fixed = LIBRARIES + max(block, head)
    least = _FLOAT * _LEAST_TOKENS * max(size.hidden for size in models)
    room = int((most - base_bytes) / _MARGIN) - fixed
    waiting = max(least, min(_MOST_TOKENS_BYTES, room // (2 * len(models))))
    peak = base_bytes + int(_MARGIN * (fixed + 2 * len(models) * waiting))
    return Residence(True, peak, waiting, in_memory)


def enforce(limit: int | None) -> None:
    """Raises MemoryLimitError if this process takes more resident memory than the limit."""
    memory.enforce(limit, during="evaluation", do="Raise --max-memory, and run again: finished replies are kept")
