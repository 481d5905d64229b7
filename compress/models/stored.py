"""Finds the weight of one linear in the checkpoint and reads it alone, without loading its block.

Shape letters: N out features, K in features, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.models.folder.tensor_files import TensorFiles
from compress.models.linears import LinearRef
from compress.models.weights import Weights, check_finite


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A linear and the checkpoint tensors that hold its weight; plain values that can be sent to another process."""

    ref: LinearRef
    origins: tuple[str, ...]
    """Checkpoint tensors whose rows, one tensor below the other, are the weight; empty: the loader must convert it."""
    expert: int | None = None
    """Which of the experts' matrices it is, where the checkpoint keeps them in one tensor."""


def find_stored(weights: Weights, ref: LinearRef) -> StoredWeight:
    """Returns which tensors of the checkpoint hold the weight of `ref`."""
    plain = weights.plain(ref.parameter)
    number = ref.experts[2] if ref.kind == "expert" else None
    if plain is not None:
        return StoredWeight(ref, (plain,), number)
    if number is not None and not ref.transposed and not ref.flat:
        return StoredWeight(ref, of_expert(weights, ref.parameter, number))
    return StoredWeight(ref, ())


def of_expert(weights: Weights, parameter: str, number: int) -> tuple[str, ...]:
    """Returns the tensors of one expert where the loader does nothing but stack experts (gate above up, or down).

    Any other conversion is left to the loader: the result is empty.
    """
    from transformers.core_model_loading import Concatenate, MergeModulelist, dot_natural_key

    if (rule := weights.rules.get(parameter)) is None:
        return ()
    steps = [(type(step), getattr(step, "dim", None)) for step in rule.operations]
    if steps not in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
        return ()
    origins = sorted(weights.origins[parameter], key=dot_natural_key)
    by_pattern = [
        [origin for origin in origins if weights.patterns[origin] == pattern] for pattern in rule.source_patterns
    ]
    if any(number >= len(of_pattern) for of_pattern in by_pattern):
        return ()
    return tuple(of_pattern[number] for of_pattern in by_pattern)


class WeightReader:
    """Reads the weights of linears one by one.

    Args:
        source: the checkpoint's tensors.
        read_converted: reads a parameter by its name in the model, for weights that the loader must convert
            (`BlockWalker.read_dense`).
    """

    def __init__(self, source: TensorFiles, read_converted: Callable[[str], torch.Tensor]) -> None:
        self._source, self._read_converted = source, read_converted
        self._converted: tuple[str, torch.Tensor] | None = None  # the last one: it may hold many experts

    def read(self, stored: StoredWeight) -> torch.Tensor:
        """Returns the weight, float32 [N, K] in memory of its own.

        Raises:
            ModelError: it is NaN or infinite somewhere; the layer is named.
        """
        weight = self._stored(stored)
        check_finite(weight, stored.ref.parameter)
        if stored.ref.transposed:
            weight = weight.T
        assert weight.shape == stored.ref.shape, f"{stored.ref.name}: {tuple(weight.shape)} is not {stored.ref.shape}"
        return weight.to(torch.float32).contiguous()

    def _stored(self, stored: StoredWeight) -> torch.Tensor:
        """The matrix as the model holds it, in memory of its own."""
        ref = stored.ref
        if not stored.origins:
            whole = self._through_loader(ref.parameter)
            return (whole if ref.kind != "expert" else whole.view(-1, *ref.held)[ref.experts[2]]).clone()
        if stored.expert is not None:
            size = ref.held[0] if ref.flat else 1  # rows of the tensor that one expert takes
            start = stored.expert * size
            return self._source.read_slice(stored.origins[0], start, start + size).view(ref.held)
        parts = [self._source.read(origin) for origin in stored.origins]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _through_loader(self, parameter: str) -> torch.Tensor:
        if self._converted is None or self._converted[0] != parameter:
            self._converted = None  # given back before the next one is read
            self._converted = (parameter, self._read_converted(parameter))
        return self._converted[1]
