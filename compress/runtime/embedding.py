"""Holds PackedEmbedding, a token embedding with a packed table, and TiedHead, the output head that shares it.

Shape letters: B samples, T tokens, V vocabulary, H hidden.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn

from compress.errors import ModelError
from compress.format.scheme import Scheme
from compress.runtime.linear import PackedLinear

_PROBE_ROWS = 4


@dataclass(frozen=True, slots=True)
class Factor:
    """The number that an embedding multiplies its rows by, as Gemma's and BART's do."""

    value: float
    rounded: bool
    """Whether it is rounded to the dtype of the rows first."""

    def times(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the rows times the number, in their dtype."""
        return rows * (torch.tensor(self.value, dtype=rows.dtype, device=rows.device) if self.rounded else self.value)


class PackedEmbedding(PackedLinear):
    """Looks up rows of a packed table [V, H]: the rows of the tokens are decoded, no others.

    It is the linear of a tied head as well: an input of floats is multiplied with the table. The planes are buffers,
    as those of every PackedLinear. The rows come in the dtype of the table that was packed, or in the one that
    `.to(dtype)` has asked for since.
    """

    def __init__(self, scheme: Scheme, module: nn.Embedding, *, device: torch.device | str | None = None):
        """Takes the place of `module`, with uninitialised planes for a loader to fill."""
        shape = (module.num_embeddings, module.embedding_dim)
        super().__init__(scheme, shape, bias=False, device=device)
        self.num_embeddings, self.embedding_dim, self.padding_idx = *shape, module.padding_idx
        self.factor = factor_of(module)
        self.dense_dtype = module.weight.dtype
        self.multiplies = False
        """Whether a head shares the table."""

    def forward(self, input: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Returns rows [B, T, H] for token ids [B, T], and logits [..., V] plus `bias` for hidden states [..., H]."""
        if input.is_floating_point():
            return self._product(input, bias)
        rows: torch.Tensor = torch.ops.compress.packed_rows(input, list(self.packed.planes.values()), self._spec)
        rows = rows.to(self.dense_dtype)
        return rows if self.factor is None else self.factor.times(rows)

    def _apply(self, fn: Any, recurse: bool = True) -> PackedEmbedding:
        self.dense_dtype = fn(torch.empty(0, dtype=self.dense_dtype)).dtype
        super()._apply(fn, recurse)
        return self

    def extra_repr(self) -> str:
        """Returns the description of the module in `print(model)`."""
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, {self.scheme.layout}, {self.scheme.bits} bits, "
            f"{self.packed.bits_per_weight:.2f} stored"
        )


class TiedHead(nn.Linear):
    """The output head of a model whose embedding is packed and tied to it. It has no planes: it calls the embedding.

    A call of the embedding as a module, and not of its planes, lets hooks bring planes that are offloaded.
    """

    _is_hf_initialized = True
    """Prevents transformers from initialising a weight."""

    def __init__(self, embedding: PackedEmbedding, head: nn.Linear):
        """Takes the place of `head` and keeps its bias."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.out_features
        self.bias = head.bias
        # in a tuple, so that the embedding is no submodule: it would be stored twice
        self._shared = (embedding,)
        embedding.multiplies = True

    @property
    def embedding(self) -> PackedEmbedding:
        """The embedding that holds the weight."""
        return self._shared[0]

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The main plane of the embedding: codes, no weights."""
        return self.embedding.get_buffer("weight")

    @weight.setter
    def weight(self, value: torch.Tensor) -> None:
        # transformers ties the head by assigning the embedding's tensor to it
        if value is not self.weight:
            raise ModelError(
                "the weight of a head that shares a packed embedding cannot be replaced",
                do="Load the dense model, change it and compress it again",
            )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns logits [..., V] for hidden states [..., H]."""
        logits: torch.Tensor = self.embedding(input, self.bias)
        return logits

    def _get_name(self) -> str:
        return "TiedPackedHead"


def can_pack(module: nn.Module | None) -> bool:
    """Returns whether a PackedEmbedding can take the place of the module: an embedding that at most scales its rows."""
    if not isinstance(module, nn.Embedding) or module.max_norm is not None:
        return False
    return type(module).forward is nn.Embedding.forward or factor_of(module) is not None


def factor_of(module: nn.Embedding) -> Factor | None:
    """Returns the number that the embedding multiplies its rows by; None for none, or for another forward of its own.

    The number is `scalar_embed_scale` or `embed_scale`. The module's own forward is run on a few rows of random numbers
    to see that it does nothing else. The module may be on meta.
    """
    if type(module).forward is nn.Embedding.forward:
        return None
    value = getattr(module, "scalar_embed_scale", getattr(module, "embed_scale", None))
    if not isinstance(value, int | float):
        return None
    factor = Factor(float(value), rounded=isinstance(getattr(module, "embed_scale", None), torch.Tensor))
    with torch.device("cpu"):  # transformers builds a model with the device set to meta
        ids, generator = torch.arange(_PROBE_ROWS), torch.Generator().manual_seed(0)
        table = torch.randn(_PROBE_ROWS, module.embedding_dim, generator=generator)
        tables = (table, table.bfloat16())
        same = all(torch.equal(_probe(module, one)(ids), factor.times(one)) for one in tables)
    return factor if same else None


def _probe(module: nn.Embedding, table: torch.Tensor) -> nn.Embedding:
    """Returns a copy of the module with another table, its scale in memory."""
    probe = copy.copy(module)
    scale = torch.tensor(getattr(module, "scalar_embed_scale", 1.0))
    vars(probe).update(
        _parameters={"weight": nn.Parameter(table, requires_grad=False)},
        _buffers={name: scale if name == "embed_scale" else buffer for name, buffer in module._buffers.items()},
        padding_idx=None,
    )
    return probe


def refuse_resize(*_: Any, **__: Any) -> NoReturn:
    """Takes the place of `resize_token_embeddings` in a model with a packed embedding or head."""
    raise ModelError(
        "the token embedding or the head is packed: rows cannot be added or removed",
        do="Resize the dense model and compress it again, or compress it with --embedding-bits none --head-bits none",
    )
