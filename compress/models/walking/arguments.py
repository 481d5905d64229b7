"""Records each block's arguments other than the hidden states, by running the model with silenced blocks.

A silenced block computes nothing: it records its arguments and returns hidden states of our choice in the form of its
own output. No names of arguments are known here: masks, rotary embeddings, ALiBi, window masks of single blocks are
recorded as they arrive. Shape letters: B samples of one micro-batch, T tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compress.models.walking.outputs import OutputForm


@dataclass(frozen=True, slots=True)
class BlockArguments:
    """The arguments of one block, without the hidden states."""

    positional: tuple[Any, ...]
    keyword: Mapping[str, Any]


Answer = Callable[[int, torch.Tensor, BlockArguments], Any]
"""Receives a block's number, its hidden states and its other arguments; returns the output of the block."""


class _Done(BaseException):
    """Leaves the model's forward; no `except Exception` on the way may catch it."""


class Listener:
    """Runs a model whose blocks are silenced. The rehearsal has shown that it runs each once and in order."""

    def __init__(self, model: nn.Module, block_names: Sequence[str], forms: Sequence[OutputForm]):
        """`forms`: the form of each block's output."""
        self._model, self._forms = model, forms
        self._blocks = [model.get_submodule(name) for name in block_names]

    @torch.no_grad()
    def hidden(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Returns the hidden states [B, T, H] that the first block receives."""
        first: list[torch.Tensor] = []

        def answer(index: int, hidden_BTH: torch.Tensor, _: BlockArguments) -> Any:
            first.append(hidden_BTH)
            raise _Done

        self._run(tokens_BT, answer)
        return first[0]

    @torch.no_grad()
    def arguments(self, tokens_BT: torch.Tensor) -> list[BlockArguments]:
        """Returns the arguments of every block, in order."""
        recorded: list[BlockArguments] = []

        def answer(index: int, hidden_BTH: torch.Tensor, arguments: BlockArguments) -> Any:
            recorded.append(arguments)
            if len(recorded) == len(self._blocks):
                raise _Done
            return self._forms[index].around(hidden_BTH)

        self._run(tokens_BT, answer)
        return recorded

    def logits(self, hidden_BTH: torch.Tensor, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Returns the logits [B, T, V] that the model computes from the last block's output; any tokens do.

        Differentiable in the output.
        """
        with silenced(self._blocks, lambda index, *_: self._forms[index].around(hidden_BTH)):
            logits: torch.Tensor = self._model(input_ids=tokens_BT, use_cache=False).logits
        return logits

    def _run(self, tokens_BT: torch.Tensor, answer: Answer) -> None:
        with silenced(self._blocks, answer):
            try:
                self._model(input_ids=tokens_BT, use_cache=False)
            except _Done:
                return


@contextmanager
def silenced(blocks: Sequence[nn.Module], answer: Answer) -> Iterator[None]:
    """While open, the blocks return what `answer` gives instead of computing."""
    # the instance's forward is shadowed, not the module replaced: models read attributes of their blocks
    for index, block in enumerate(blocks):
        block.forward = _stub(block, index, answer)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _stub(block: nn.Module, index: int, answer: Answer) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        args, kwargs, hidden_BTH = _split(block, args, kwargs)
        return answer(index, hidden_BTH, BlockArguments(args, kwargs))

    return forward


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


def tensor_bytes(value: Any) -> int:
    """Returns the bytes of the memory that the tensors in recorded arguments use, each memory counted once."""
    storages: dict[int, int] = {}
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, torch.Tensor):
            storage = part.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(part, BlockArguments):
            waiting += [part.positional, part.keyword]
        elif isinstance(part, Mapping):
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part
    return sum(storages.values())
