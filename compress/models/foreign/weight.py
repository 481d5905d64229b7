"""The interface of a format: what it finds in a checkpoint, and what it reads of one weight.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from compress.errors import ModelError

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.format.scheme import Scheme
    from compress.models.folder.tensor_files import TensorFiles


@dataclass(frozen=True, slots=True)
class ForeignWeight:
    """A weight, and the tensors of the checkpoint that it is decoded from."""

    parameter: str
    """Name that the dense weight would have in the checkpoint, such as `model.layers.0.mlp.up_proj.weight`."""
    shape: tuple[int, ...]
    """Shape of the dense weight."""
    parts: Mapping[str, str]
    """What a tensor is in the format -> its name in the checkpoint."""
    details: Any = None
    """What the configuration says about this weight, where the format needs it."""
    by_rows: bool = False
    """Whether row n of the weight depends on row n of each tensor alone."""

    @property
    def module(self) -> str:
        """Dotted path of the module that holds the weight."""
        return self.parameter.removesuffix(".weight")

    def of_rows(self, count: int) -> ForeignWeight:
        """Returns the description of `count` of its rows."""
        return replace(self, shape=(count, *self.shape[1:]))


@dataclass(slots=True)
class Found:
    """What of a checkpoint a format reads."""

    weights: list[ForeignWeight] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Tensors of the format that say nothing about weights: scales of activations and of the key-value cache."""
    warnings: list[str] = field(default_factory=list)
    label: str | None = None
    """What to call the quantisation, where the tensors show more than the configuration says."""


class Stored:
    """The tensors of one weight by what they are; each is read when it is asked for."""

    def __init__(self, files: TensorFiles, weight: ForeignWeight, rows: tuple[int, int] | None = None) -> None:
        """`rows`: only these of each tensor, from and up to."""
        self._files, self._weight, self._rows = files, weight, rows

    def __contains__(self, part: str) -> bool:
        return part in self._weight.parts

    def get(self, part: str) -> torch.Tensor | None:
        """Returns the tensor, or None where the weight has none."""
        if part not in self:
            return None
        return self[part]

    def __getitem__(self, part: str) -> torch.Tensor:
        name = self._weight.parts[part]
        return self._files.read(name) if self._rows is None else self._files.read_slice(name, *self._rows)


class Content(Protocol):
    """What is stored of one weight. Codes are read when a method is called, other tensors when it is made."""

    def decode(self) -> torch.Tensor:
        """Returns the weight, float32, in the shape of the dense one."""

    def scheme(self) -> Scheme | None:
        """Returns the scheme of `packed`; no codes are read. None where no layout of this package holds the values."""

    def packed(self) -> PackedTensor | None:
        """Returns the same values in a layout of this package, or None where none holds them."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A weight that no layout of this package holds."""

    make: Callable[[], torch.Tensor]
    """Returns the weight, float32."""

    def decode(self) -> torch.Tensor:
        """See `Content`."""
        return self.make()

    def scheme(self) -> None:
        """See `Content`."""

    def packed(self) -> None:
        """See `Content`."""


class Format(Protocol):
    """A file of this package that reads one format."""

    def find(self, settings: Mapping[str, Any], files: TensorFiles) -> Found:
        """Returns the quantised weights among the tensors of a checkpoint; no codes are read.

        Raises:
            ModelError: a variant of the format that is not read, or a weight that lacks a tensor.
        """

    def read(self, weight: ForeignWeight, stored: Stored) -> Content:
        """Returns what is stored of a weight that `find` returned."""


def load(name: str) -> Format:
    """Returns the format whose file has this name."""
    return cast("Format", importlib.import_module(f"compress.models.foreign.{name}"))


def modules_with(files: TensorFiles, suffix: str) -> Iterator[str]:
    """Yields the modules that have a tensor of this name, in the order of the checkpoint."""
    return (name.removesuffix(f".{suffix}") for name in files.tensors if name.endswith(f".{suffix}"))


def parts_of(
    module: str, files: TensorFiles, needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, str]:
    """Returns the tensors of a module by what they are; ModelError where a needed one is missing."""
    if missing := [part for part in needed if f"{module}.{part}" not in files.tensors]:
        raise ModelError(
            f"its {missing[0]} is missing: the weight cannot be decoded without it",
            allowed=", ".join(needed),
            do="Download the checkpoint again",
            layer=module,
        )
    return {part: f"{module}.{part}" for part in (*needed, *optional) if f"{module}.{part}" in files.tensors}


def unusable(module: str, given: str, allowed: str | None = None) -> ModelError:
    """Returns the error for a weight whose tensors do not fit together, or of a variant that is not read."""
    return ModelError(
        given,
        allowed=allowed,
        do="Give the model in another format, or the original model in bfloat16",
        layer=module,
    )
