"""Reads rows with a model in memory. Shape letters: B rows, T tokens, P positions, V vocabulary."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from compress.evaluation.finite import NotFiniteError, not_finite
from compress.evaluation.reading.plan import Batch, Group, Limits, plan
from compress.evaluation.reading.rows import Row, Tick

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOGIT_BYTES = 2**28  # of one forward pass
_CACHE_BYTES = 2**28  # of the copies of one common beginning
_PLAIN_LAYERS = ("DynamicLayer", "DynamicSlidingWindowLayer")


class InMemoryReader:
    """`Reader` of a loaded model."""

    def __init__(self, model: PreTrainedModel, batch_size: int) -> None:
        self.model = model
        config = model.config.get_text_config()
        vocabulary = max(1, int(config.vocab_size))
        self._limits = Limits(
            batch_size, max(1, _LOGIT_BYTES // (4 * vocabulary)), max(1, _CACHE_BYTES // _cached_bytes(config))
        )

    def read(
        self, rows: Sequence[Row], *, known: Collection[int] = (), tick: Tick = lambda tokens: None
    ) -> Iterator[list[tuple[int, torch.Tensor]]]:
        """See `Reader.read`."""
        for group in self._plan(rows, known):
            cache = self._beginning(group, tick) if group.shared else None
            for batch in group.batches:
                logits_BPV = self._logits(batch, group.shared, cache)
                tick(len(batch.rows) * (batch.length - group.shared))
                yield [
                    (index, logits_BPV[place, rows[index].first - batch.first : len(row.tokens) - batch.first])
                    for place, (row, equal) in enumerate(zip(batch.rows, batch.members, strict=True))
                    for index in equal
                ]

    def cost(self, rows: Sequence[Row], *, known: Collection[int] = ()) -> int:
        """See `Reader.cost`."""
        return sum(group.cost for group in self._plan(rows, known))

    def not_finite(self, tokens: Sequence[int], where: str) -> NotFiniteError:
        """See `Reader.not_finite`."""
        return not_finite(self.model, torch.tensor([list(tokens)]), where)

    def _plan(self, rows: Sequence[Row], known: Collection[int]) -> list[Group]:
        groups = (group.without(known) for group in plan(rows, self._limits, share=self.keeps_plain_cache))
        return [group for group in groups if group.batches]

    @torch.inference_mode()
    def _beginning(self, group: Group, tick: Tick) -> Any:
        """Returns the cache of the tokens that all rows of the group begin with."""
        tokens_1T = torch.tensor([group.batches[0].rows[0].tokens[: group.shared]], device=self.model.device)
        tick(group.shared)
        return self.model(tokens_1T, use_cache=True, **self.last(1)).past_key_values

    @torch.inference_mode()
    def _logits(self, batch: Batch, shared: int, cache: Any) -> torch.Tensor:
        """Returns logits [B, P, V], fp32, from the batch's first position to its last.

        Rows are padded on the right, where nothing that is wanted sees the padding, so no mask is needed.
        """
        tokens_BT = torch.zeros(len(batch.rows), batch.length - shared, dtype=torch.long)
        for place, row in enumerate(batch.rows):
            tokens_BT[place, : len(row.tokens) - shared] = torch.tensor(row.tokens[shared:])
        how: dict[str, Any] = {"use_cache": False}
        if cache is not None:
            copied = copy.deepcopy(cache)
            copied.batch_repeat_interleave(len(batch.rows))
            how = {"use_cache": True, "past_key_values": copied}
        positions = batch.length - batch.first
        logits_BPV: torch.Tensor = self.model(tokens_BT.to(self.model.device), **how, **self.last(positions)).logits
        return logits_BPV[:, -positions:].float()

    def last(self, positions: int) -> dict[str, int]:
        """Returns the argument for logits of the last positions only, where the model takes it."""
        return {"logits_to_keep": positions} if "logits_to_keep" in self.arguments else {}

    @cached_property
    def arguments(self) -> Collection[str]:
        """Names of the arguments of the model's forward pass."""
        return inspect.signature(self.model.forward).parameters.keys()

    @cached_property
    def keeps_plain_cache(self) -> bool:
        """Whether the model's cache holds keys and values alone, which can be copied for several continuations.

        States of recurrent layers cannot be relied on to be copied and continued by many tokens at once.
        """
        with torch.inference_mode():
            made = self.model(torch.zeros(1, 1, dtype=torch.long, device=self.model.device), use_cache=True)
        cache = getattr(made, "past_key_values", None)
        layers = getattr(cache, "layers", None) or []
        return bool(layers) and all(type(layer).__name__ in _PLAIN_LAYERS for layer in layers)


def _cached_bytes(config: Any) -> int:
    """Returns about how many bytes one token has in a cache of fp32 keys and values."""
    heads = getattr(config, "num_attention_heads", None) or 1
    kept = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or getattr(config, "hidden_size", heads) // heads
    layers = getattr(config, "num_hidden_layers", None) or 1
    return max(1, 2 * 4 * int(layers) * int(kept) * int(width))
