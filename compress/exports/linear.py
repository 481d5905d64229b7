"""Describes one packed linear to a target: the scheme, the shape, and what kind of module it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.format import naming
from compress.format.layouts import int_group
from compress.format.scheme import Scheme
from compress.models import hub_names
from compress.models.linears import is_conv1d

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LINEAR, CONV1D, EXPERT, EMBEDDING, HEAD, JOINED = "linear", "conv1d", "expert", "embedding", "head", "joined"


@dataclass(frozen=True, slots=True)
class Linear:
    """A packed linear as checkpoints of the architecture have it on the hub, without its planes."""

    name: str
    """Its name there."""
    kind: str
    """One of the constants of this module."""
    scheme: Scheme
    shape: tuple[int, int]
    """Rows N and columns K."""
    group_size: int
    """Columns that share a scale in the export; it divides the group size of the scheme."""
    origin: str
    """Name of the packed linear that its rows come from, from row `start` on."""
    start: int
    stack: tuple[str, int] | None = None
    """Name of the module that holds all experts there, and the number of this one; None: it is stored by itself."""
    block_type: str | None = None
    """Type of the blocks that it is stored in, for formats that choose one."""

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is the middle code everywhere."""
        return bool(self.scheme.options.get("symmetric", self.scheme.layout != int_group.LAYOUT))

    @property
    def by_row(self) -> bool:
        """Whether a row has one scale."""
        return self.group_size == self.shape[1]

    @property
    def form(self) -> str:
        """What it is stored as: its type of blocks, or its bits and groups in words."""
        if self.block_type is not None:
            return self.block_type
        groups = "whole rows" if self.by_row else f"groups of {self.group_size}"
        zero_points = ", zero points" if self.scheme.options.get("symmetric") is False else ""
        return f"{self.scheme.bits} bits, {groups}{zero_points}"


def describe(entries: Mapping[str, Any], model: PreTrainedModel) -> dict[str, Linear]:
    """Returns the packed linears of a manifest by their names on the hub: gate and up of an expert are two.

    Args:
        entries: `tensors` of the manifest.
        model: the model on the meta device.
    """
    described = {}
    for origin, places in hub_names.places(model, entries).items():
        scheme, (rows, columns) = Scheme.from_dict(entries[origin]["scheme"]), entries[origin]["shape"]
        kind = _kind(origin, model)
        for name, start, stop in places or [hub_names.Place(origin, 0, rows)]:
            shape = (stop - start, columns)
            described[name] = Linear(name, kind if places else JOINED, scheme, shape, scheme.group_size, origin, start)
    return described


def _kind(name: str, model: PreTrainedModel) -> str:
    if naming.parse_expert(name):
        return EXPERT
    module = model.get_submodule(name)
    if module is model.get_input_embeddings():
        return EMBEDDING
    if module is model.get_output_embeddings():
        return HEAD
    return CONV1D if is_conv1d(module) else LINEAR


def not_plain_integers(linear: Linear) -> str | None:
    """Returns why a linear is not made of integer codes with scales alone, or None if it is."""
    if linear.scheme.layout == int_group.LAYOUT and linear.scheme.outliers:
        return "no engine adds the sparse outliers"
    if (kind := linear.scheme.options.get("activations")) is not None:
        return f"the format cannot say that inputs are rounded to {kind}"
    return not_of_layout(linear, int_group.LAYOUT)


def not_inside_a_block(linear: Linear) -> str | None:
    """Returns why a matrix is no plain linear of the decoder blocks, or of their experts; None if it is one."""
    if linear.kind in (EMBEDDING, HEAD):
        return f"its engines read the {linear.kind} dense"
    if linear.kind == CONV1D:
        return "its engines do not know Conv1D"
    if linear.kind == JOINED:
        return "checkpoints of its architecture hold it in one tensor with others"
    return None


def not_of_layout(linear: Linear, layout: str) -> str | None:
    """Returns why a linear is not of the layout that a format has a counterpart for, or None if it is."""
    return None if linear.scheme.layout == layout else f"the layout {linear.scheme.layout} has no counterpart there"
