"""Decides which ends of a model are packed, the token embedding and the output head, and at how many bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from compress.errors import RecipeError
from compress.format import layouts
from compress.format.scheme import Scheme
from compress.models.linears import is_linear
from compress.models.walking.embedding import embedding_name
from compress.models.walking.head import head_name
from compress.recipe import AUTO, DEFAULT_END_BITS
from compress.runtime.embedding import can_pack

if TYPE_CHECKING:
    from compress.models.blocks import BlockWalker
    from compress.recipe import StageSpec

_STATISTICS = 0.25
"""Bits that the scales add to each weight, about."""
EMBEDDING, HEAD, BOTH = "embedding", "head", "embedding and head"


@dataclass(frozen=True, slots=True)
class End:
    """A matrix outside the blocks: the token embedding, the head, or the one that both share."""

    role: str
    """What it is: `EMBEDDING`, `HEAD` or `BOTH`."""
    name: str
    """Path of the module whose name it is stored under."""
    shape: tuple[int, int]
    """(vocabulary, hidden)."""
    bias: bool
    """Whether `<name>.bias` is a parameter."""
    bits: int | None
    """Bits that it is packed with now; None: it stays as the source has it."""
    kept: bool
    """The source has it packed."""
    reason: str | None
    """Why it stays dense though it was to be packed."""

    @property
    def parameter(self) -> str:
        """Dotted name of the weight."""
        return f"{self.name}.weight"

    @property
    def packed(self) -> bool:
        """Whether it is packed in the result."""
        return self.kept or self.bits is not None


def choose(stage: StageSpec, walker: BlockWalker, default: int | None = DEFAULT_END_BITS) -> tuple[End, ...]:
    """Returns the embedding and the head, or the one end that both are.

    `default`: bits of an end for which the stage gives none; None leaves it dense.

    Raises:
        RecipeError: different bits are asked for a matrix that embedding and head share, or bits for an end that the
            source has packed already.
    """
    embedding, head = embedding_name(walker.model), head_name(walker.model)
    tied = walker.tied.get(embedding, embedding) == walker.tied.get(head, head)
    if not tied:
        return (
            _end(walker, EMBEDDING, embedding, stage.embedding_bits, default),
            _end(walker, HEAD, head, stage.head_bits, default),
        )
    given = {bits for bits in (stage.embedding_bits, stage.head_bits) if bits != AUTO}
    if len(given) > 1:
        shown = [_shown(bits) for bits in (stage.embedding_bits, stage.head_bits)]
        raise RecipeError(
            f"embedding_bits={shown[0]} and head_bits={shown[1]} for a model whose head shares its weight with the "
            "embedding",
            allowed="the same value for both: the weight is stored once",
            do="Give only one of the two options",
            layer=head.removesuffix(".weight"),
        )
    return (_end(walker, BOTH, embedding, given.pop() if given else AUTO, default),)


def _end(
    walker: BlockWalker,
    role: str,
    parameter: str,
    bits: int | str | None,
    default: int | None,
) -> End:
    name = walker.tied.get(parameter, parameter).removesuffix(".weight")
    shape = walker.dense_shape(parameter)
    module = walker.model.get_submodule(parameter.removesuffix(".weight"))
    bias = role == HEAD and module._parameters.get("bias") is not None
    scheme, reason = walker.kept.scheme(name), None
    kept = scheme is not None and (not walker.source.keeps_codes or _can_be_kept(walker, role, parameter, scheme))
    if kept and bits != AUTO:
        raise RecipeError(
            f"its {role} is packed already, and {_shown(bits)} is asked for it",
            do="Leave --embedding-bits and --head-bits out, or run the stage on the dense model",
            layer=name,
        )
    wanted = None if kept or bits is None else default if isinstance(bits, str) else bits
    if wanted is not None and (reason := _unpackable(walker, role, parameter)) is not None:
        wanted = None
    return End(role, name, (shape[0], shape[1]), bias, wanted, kept, reason)


def _can_be_kept(walker: BlockWalker, role: str, parameter: str, scheme: Scheme) -> bool:
    """Returns whether an end that another program quantised can keep its codes."""
    return scheme.layout in layouts.ROWS and _unpackable(walker, role, parameter) is None


def _unpackable(walker: BlockWalker, role: str, parameter: str) -> str | None:
    """Returns why an end cannot be packed, or None."""
    model, master = walker.model, walker.tied.get(parameter, parameter)
    names = {embedding_name(model), head_name(model)} if role == BOTH else {parameter}
    group = {master, *(tied for tied, other in walker.tied.items() if other == master)}
    if group != names or (role == BOTH and master != embedding_name(model)):
        return "shared with other modules"
    if walker.rows(master) is None:
        return "made of several tensors by the loader"
    if names & walker.rehearsal.read_directly:
        return "read directly by the model"
    head = model.get_output_embeddings()
    if role != HEAD and not can_pack(model.get_input_embeddings()):
        return "an embedding with a forward of its own"
    if role != EMBEDDING and not (isinstance(head, nn.Linear) and is_linear(head)):
        return "a head with a forward of its own"
    if walker.dense_shape(parameter)[1] < 2:
        return "one column wide"
    return None


def _shown(bits: int | str | None) -> str:
    return "none" if bits is None else str(bits)


def size_bytes(end: End, walker: BlockWalker) -> float:
    """Returns the bytes of a packed end, estimated if it is not packed yet; 0 for a dense one."""
    if end.kept and (entry := walker.kept.entry(end.name)) is not None:
        return layouts.size_bytes(Scheme.from_dict(entry["scheme"]), end.shape)
    return 0.0 if end.bits is None else math.prod(end.shape) * (end.bits + _STATISTICS) / 8
