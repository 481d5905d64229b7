"""Keeps in one tensor all that passes from block to block: hidden states, shared keys and values, token ids.

Later blocks of Gemma 3n and Gemma 4 have no keys and values of their own: they read those that an earlier block put
into a table that all blocks receive. These are kept as further channels of the hidden states, so that they are sliced,
moved, stored and resumed with them, times 2⁻⁶⁰: exact in float32, and too small to count in any norm.

The state of one token: its hidden states, flattened; the shared keys and values; its id where blocks depend on it.

Shape letters: B samples, T tokens, H hidden, S channels of the state, N copies of the hidden states, G heads, D
channels of a head, C channels of a slot.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

from compress.errors import ModelError
from compress.models.walking import token_ids
from compress.models.walking.arguments import BlockArguments

Tables = Mapping[str, Mapping[Any, tuple[torch.Tensor, ...]]]
"""Argument of a block -> key of the table in it -> the tensors there, [B, G, T, D] each."""
_UNIT = 2.0**-60


@dataclass(frozen=True, slots=True)
class Slot:
    """An entry of a table, by which blocks share keys and values."""

    argument: str
    key: Any
    heads: tuple[tuple[int, int], ...]
    """(G, D) of each tensor."""
    first: int
    """Number of the first block that writes it."""

    @property
    def size(self) -> int:
        """Channels of one token."""
        return sum(map(math.prod, self.heads))


@dataclass(frozen=True, slots=True)
class StateForm:
    """What the state of a model consists of."""

    hidden_shape: tuple[int, ...] = ()
    """Shape of the hidden states of one token, mostly (H,)."""
    copies_first: bool = False
    """Blocks exchange [N, B, T, H] (Gemma 3n) instead of [B, T, …]."""
    slots: tuple[Slot, ...] = ()
    by_tokens: bool = False
    """Whether arguments of blocks depend on the tokens."""

    @property
    def size(self) -> int:
        """Channels of the state of one token."""
        ids = token_ids.CHANNELS if self.by_tokens else 0
        return math.prod(self.hidden_shape) + sum(slot.size for slot in self.slots) + ids

    @property
    def _plain(self) -> bool:
        """Whether the state is the hidden states as they are."""
        return not (self.copies_first or self.slots or self.by_tokens)

    def begin(self, hidden: torch.Tensor, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Returns the state [B, T, S] before the first block, from its hidden states in the model's own shape."""
        if self._plain:
            return hidden
        hidden_BTH = self._flat(hidden)
        shared = hidden_BTH.new_zeros(*hidden_BTH.shape[:2], sum(slot.size for slot in self.slots))
        state_BTS = torch.cat([hidden_BTH, shared], dim=-1)
        return token_ids.beside(state_BTS, tokens_BT.to(hidden.device)) if self.by_tokens else state_BTS

    def hidden(self, state_BTS: torch.Tensor) -> torch.Tensor:
        """Returns the hidden states in the model's own shape."""
        if self._plain:
            return state_BTS
        hidden_BTH = state_BTS[..., : math.prod(self.hidden_shape)]
        hidden = hidden_BTH.reshape(*hidden_BTH.shape[:2], *self.hidden_shape)
        return hidden.movedim(2, 0) if self.copies_first else hidden

    def tokens(self, state_BTS: torch.Tensor) -> torch.Tensor:
        """Returns the token ids, int64 [B, T]; only where `by_tokens`."""
        return token_ids.split_off(state_BTS)[1]

    def given(self, arguments: BlockArguments, state_BTS: torch.Tensor, block: int) -> BlockArguments:
        """Returns the arguments of a block with its own tables, which hold what earlier blocks have put there."""
        if not self.slots:
            return arguments
        tables: dict[str, dict[Any, tuple[torch.Tensor, ...]]] = {}
        for slot, start in self._starts():
            if slot.first < block:
                tables.setdefault(slot.argument, {})[slot.key] = _read(slot, state_BTS[..., start : start + slot.size])
        return with_tables(arguments, tables)

    def next(self, output: torch.Tensor, state_BTS: torch.Tensor, given: BlockArguments) -> torch.Tensor:
        """Returns the state after a block: its output, what its tables now hold, and the ids of its input."""
        if self._plain:
            return output
        parts = [self._flat(output)]
        for slot, start in self._starts():
            tensors = given.keyword[slot.argument].get(slot.key) if slot.argument in given.keyword else None
            parts.append(state_BTS[..., start : start + slot.size] if tensors is None else _written(tensors))
        if self.by_tokens:
            parts.append(state_BTS[..., -token_ids.CHANNELS :])
        return torch.cat([part.to(output.dtype) for part in parts], dim=-1)

    def _flat(self, hidden: torch.Tensor) -> torch.Tensor:
        return (hidden.movedim(0, 2) if self.copies_first else hidden).flatten(2)

    def _starts(self) -> list[tuple[Slot, int]]:
        """The slots with their first channels."""
        starts, start = [], math.prod(self.hidden_shape)
        for slot in self.slots:
            starts.append((slot, start))
            start += slot.size
        return starts


def with_tables(arguments: BlockArguments, tables: Tables) -> BlockArguments:
    """Returns the arguments with a copy of every table in them, so that a block that writes into it changes no other's.

    `tables`: what the copies hold beside what the originals hold.
    """
    keyword = dict(arguments.keyword)
    for name, value in keyword.items():
        if isinstance(value, MutableMapping):
            keyword[name] = copy.copy(value)
            keyword[name].update(tables.get(name, {}))
    return BlockArguments(arguments.positional, keyword)


def written(before: BlockArguments, after: BlockArguments) -> dict[str, dict[Any, Any]]:
    """Returns what a block has put into its tables: argument -> key -> value."""
    new: dict[str, dict[Any, Any]] = {}
    for name, table in after.keyword.items():
        if isinstance(table, MutableMapping):
            old = before.keyword[name]
            if entries := {key: value for key, value in table.items() if key not in old or old[key] is not value}:
                new[name] = entries
    return new


def slot_of(argument: str, key: Any, value: Any, block: int, tokens: int, layer: str) -> Slot:
    """Returns the slot for a value that a block has put into a table for 1 sample of `tokens` tokens.

    Raises:
        ModelError: the value is anything else than a tuple of tensors [1, G, T, D]; the block is named.
    """
    tensors = value if isinstance(value, tuple) else ()
    if not tensors or not all(
        isinstance(tensor, torch.Tensor) and tensor.dim() == 4 and (tensor.shape[0], tensor.shape[2]) == (1, tokens)
        for tensor in tensors
    ):
        raise ModelError(
            f"this block leaves {key!r} in its argument {argument!r} for later blocks",
            allowed="keys and values as a tuple of tensors [samples, heads, tokens, channels]",
            layer=layer,
        )
    return Slot(argument, key, tuple((tensor.shape[1], tensor.shape[3]) for tensor in tensors), block)


def _read(slot: Slot, channels_BTC: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors [B, G, T, D] of a slot."""
    parts = torch.split(channels_BTC / _UNIT, list(map(math.prod, slot.heads)), dim=-1)  # type: ignore[no-untyped-call]
    shape = channels_BTC.shape[:2]
    return tuple(part.reshape(*shape, *heads).transpose(1, 2) for part, heads in zip(parts, slot.heads, strict=True))


def _written(tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The channels [B, T, C] of the tensors of a slot."""
    return torch.cat([tensor.float().transpose(1, 2).flatten(2) for tensor in tensors], dim=-1) * _UNIT
