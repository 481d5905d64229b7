"""What the model hands to each block beside the hidden states, found by running it with blocks that only listen.

No names of arguments are known here: masks, rotary embeddings, ALiBi, per-block window masks are whatever arrives.
Shape letters: B samples of one micro-batch, T tokens, H hidden.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compress.errors import ModelError


@dataclass(frozen=True, slots=True)
class BlockArguments:
    """The arguments of one block without the hidden states."""

    positional: tuple[Any, ...]
    keyword: Mapping[str, Any]


class _Done(BaseException):
    """Leaves the model's forward; no `except Exception` on the way may catch it."""


class _TupleWanted(BaseException):
    """The model indexed a tensor as if it were a tuple of outputs."""


class Listener:
    """Runs a model whose blocks have been silenced."""

    def __init__(self, model: nn.Module, block_names: list[str]):
        self._model = model
        self._blocks = [model.get_submodule(name) for name in block_names]
        self._names = block_names
        self._wants_tuple = False

    def hidden(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Returns what the first block receives as hidden states [B, T, H]."""
        hidden_BTH, _ = self._run(tokens_BT, blocks=1)
        return hidden_BTH

    def arguments(self, tokens_BT: torch.Tensor) -> list[BlockArguments]:
        """Returns the arguments of every block, in order.

        Raises:
            ModelError: the blocks are not run once each and in order.
        """
        try:
            return self._run(tokens_BT, blocks=len(self._blocks))[1]
        except _TupleWanted:
            self._wants_tuple = True
            return self._run(tokens_BT, blocks=len(self._blocks))[1]

    def logits(self, hidden_BTH: torch.Tensor, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Returns the logits [B, T, V] that the model makes of the last block's output; any tokens do.

        Differentiable in the output.
        """

        def answer(*_: Any) -> Any:
            return (hidden_BTH,) if self._wants_tuple else hidden_BTH

        with self._silenced(answer):
            logits: torch.Tensor = self._model(input_ids=tokens_BT, use_cache=False).logits
            if logits.dim() != hidden_BTH.dim():  # the model took the first sample for the first of a tuple
                self._wants_tuple = True
                logits = self._model(input_ids=tokens_BT, use_cache=False).logits
        return logits

    @torch.no_grad()
    def _run(self, tokens_BT: torch.Tensor, *, blocks: int) -> tuple[torch.Tensor, list[BlockArguments]]:
        """Runs up to block number `blocks`; returns the first hidden states and all arguments so far."""
        heard: list[BlockArguments] = []
        first: list[torch.Tensor] = []

        def listen(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if index != len(heard):
                raise ModelError(f"ran as number {len(heard)} of the blocks", layer=self._names[index], do=_CURE)
            args, kwargs, hidden_BTH = _split(self._blocks[index], args, kwargs)
            if not first:
                first.append(hidden_BTH)
            if hidden_BTH.shape != first[0].shape:
                raise _TupleWanted
            heard.append(BlockArguments(args, kwargs))
            if len(heard) == blocks:
                raise _Done
            return (hidden_BTH,) if self._wants_tuple else hidden_BTH

        with self._silenced(listen):
            try:
                self._model(input_ids=tokens_BT, use_cache=False)
            except _Done:
                return first[0], heard
        raise ModelError(f"only {len(heard)} of {len(self._blocks)} blocks were run", do=_CURE)

    @contextmanager
    def _silenced(self, listen: Any) -> Iterator[None]:
        # the instance's forward is shadowed, not the module replaced: models read attributes of their blocks
        for index, block in enumerate(self._blocks):
            block.forward = _stub(listen, index)
        try:
            yield
        finally:
            for block in self._blocks:
                del block.forward


_CURE = "Only decoders that run each block once, in order, can be walked"


def _stub(listen: Any, index: int) -> Any:
    return lambda *args, **kwargs: listen(index, args, kwargs)


def _split(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], torch.Tensor]:
    """The arguments without the hidden states, and these: the block's first parameter, however it was passed."""
    if args:
        return args[1:], kwargs, args[0]
    name = next(name for name in inspect.signature(type(block).forward).parameters if name in kwargs)
    return (), {key: value for key, value in kwargs.items() if key != name}, kwargs[name]


def same(a: Any, b: Any) -> bool:
    """Returns whether two recorded values are equal, tensors inside tuples, lists and tables compared by value."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, BlockArguments) and isinstance(b, BlockArguments):
        return same(a.positional, b.positional) and same(a.keyword, b.keyword)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (not isinstance(a, bool | int | float | str) or a == b)
