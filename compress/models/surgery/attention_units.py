"""Finds attention heads: rows of the query, key and value projections and columns of the output projection.

Head counts follow from the widths and not from the configuration, so that a model that was pruned before is read in the
same way.

Shape letters: H query heads, G key-value heads, E query heads of one key-value head, D channels of one head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import ModelError
from compress.models.linears import is_linear
from compress.models.surgery.units import Coupled, Kind, linear_members, size_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INPUTS = (("q_proj", "k_proj", "v_proj"), ("qkv_proj",), ("c_attn",), ("query_key_value",))
_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj")


@dataclass(frozen=True, slots=True)
class Attention:
    """An attention module and how its projections are split into heads."""

    path: str
    module: nn.Module
    inputs: tuple[str, ...]
    """Names of the query, key and value projections, or of the one that holds all three."""
    output: str
    head_dim: int
    heads: int
    groups: int
    """Key-value heads."""

    @property
    def each(self) -> int:
        """Query heads of one key-value group."""
        return self.heads // self.groups


def attention_units(model: PreTrainedModel, block_name: str, number: int, kind: Kind) -> Iterator[Coupled]:
    """Yields the heads of a block that leave the model as `kind`: `kv` with their key head, `query` alone.

    Raises:
        ModelError: an attention is not known, or its heads cannot be removed; it is named.
    """
    attentions = list(find_attentions(model.get_submodule(block_name), block_name))
    if not attentions:
        raise ModelError(
            "no attention with known projections",
            allowed="q_proj, qkv_proj, c_attn …",
            do="Prune other units: attention=none",
            layer=block_name,
        )
    config: Any = model.config
    for attention in attentions:
        if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
            raise ModelError(
                "its heads depend on their number (ALiBi), so none can be removed",
                do="Prune other units: attention=none",
                layer=attention.path,
            )
        yield from (_key_heads if kind == "kv" else _query_heads)(model, attention, number)


def _key_heads(model: PreTrainedModel, attention: Attention, number: int) -> Iterator[Coupled]:
    """One set: a unit is a key head with its value head and all query heads that read it."""
    heads, groups, each, width = attention.heads, attention.groups, attention.each, attention.head_dim
    q_HD, k_GD, v_GD, (q, k, v) = _rows(attention)
    out_HD = torch.arange(heads * width).view(heads, width)
    # [G, each, D] -> [G, D, each]: channel d of a unit is row d of its key and row d of each of its query heads, so
    # that scores of one channel are combined over all of them
    q_GDE = q_HD.view(groups, each, width).transpose(1, 2)
    out_GDE = out_HD.view(groups, each, width).transpose(1, 2)
    outputs = [(k, k_GD[..., None]), (q, q_GDE), (v, v_GD[..., None])]  # the key is the root
    members = linear_members(model, outputs, (f"{attention.path}.{attention.output}", out_GDE))
    yield Coupled(
        name=attention.path,
        kind="kv",
        block=number,
        tie=f"{attention.path}:kv",
        members=members,
        **_counts(
            model,
            attention,
            dict(
                num_heads=each,
                num_attention_heads=each,
                num_key_value_heads=1,
                num_kv_heads=1,
                kv_dim=width,
                split_size=each * width,
            ),
            {"num_attention_heads": each, "num_key_value_heads": 1, "num_kv_heads": 1},
        ),
    )


def _query_heads(model: PreTrainedModel, attention: Attention, number: int) -> Iterator[Coupled]:
    """One set for each key head: a unit is one of the query heads that read it; the key head itself stays.

    All sets lose equally many units (they share a tie), since attention repeats each key head equally often.
    """
    heads, groups, each, width = attention.heads, attention.groups, attention.each, attention.head_dim
    q_HD, _, _, (q, _, _) = _rows(attention)
    out_HD = torch.arange(heads * width).view(heads, width)
    counts = _counts(
        model,
        attention,
        dict(num_heads=groups, num_attention_heads=groups, num_key_value_groups=1, split_size=groups * width),
        {"num_attention_heads": groups},
    )
    for group in range(groups):
        own = slice(group * each, (group + 1) * each)
        output = (f"{attention.path}.{attention.output}", out_HD[own, :, None])
        members = linear_members(model, [(q, q_HD[own, :, None])], output)
        name, tie = f"{attention.path}.{group}", f"{attention.path}:query"
        yield Coupled(name, "query", number, tie, members, **counts)


def _counts(
    model: PreTrainedModel, attention: Attention, in_module: Mapping[str, int], in_config: Mapping[str, int]
) -> dict[str, Any]:
    """Returns how one unit counts in attributes of the module and in keys of the configuration, of those that exist."""
    numbers = {name: size for name, size in in_module.items() if isinstance(getattr(attention.module, name, None), int)}
    if getattr(attention.module, "embed_dim", None) == attention.heads * attention.head_dim:
        numbers["embed_dim"] = in_module["split_size"]  # the width that XGLM gives its outputs, GPT-BigCode its queries
    if "qkv_proj" in attention.inputs:  # Phi-3 splits the rows by what its configuration says
        numbers["config.num_attention_heads"] = in_config["num_attention_heads"]
    return dict(
        attributes={attention.path: numbers},
        config={key: size for key, size in in_config.items() if getattr(model.config, key, None) is not None},
        # most architectures derive head_dim from hidden size and number of heads, which would change with the heads
        constants={"head_dim": attention.head_dim},
    )


def find_attentions(block: nn.Module, block_name: str) -> Iterator[Attention]:
    """Yields the attentions of a block.

    Raises:
        ModelError: the projections are no whole number of heads, or a norm couples the heads; the attention is named.
    """
    for path, module in block.named_modules():
        children = dict(module.named_children())
        output = next((name for name in _OUTPUTS if name in children), None)
        inputs = next((names for names in _INPUTS if all(name in children for name in names)), None)
        if output is not None and inputs is not None and all(is_linear(children[name]) for name in (*inputs, output)):
            yield _attention(f"{block_name}.{path}".rstrip("."), module, inputs, output)


def _attention(name: str, module: nn.Module, inputs: tuple[str, ...], output: str) -> Attention:
    """Returns the attention `module`, with its heads counted from the widths of its projections."""
    _refuse_other_parts(name, module, {*inputs, output})
    head_dim = getattr(module, "head_dim", None) or getattr(module, "head_size", None)
    rows = [size_of(module.get_submodule(projection))[0] for projection in inputs]
    width = size_of(module.get_submodule(output))[1]
    if not isinstance(head_dim, int) or width % head_dim or any(row % head_dim for row in rows):
        raise ModelError(f"its projections of {rows} rows are no whole number of heads of {head_dim}", layer=name)
    heads = width // head_dim
    groups = rows[1] // head_dim if len(rows) == 3 else (rows[0] // head_dim - heads) // 2
    if groups < 1 or heads % groups:
        raise ModelError(f"{heads} query heads are not divisible by {groups} key-value heads", layer=name)
    for norm in (child for key, child in module.named_children() if "norm" in key):
        weight = getattr(norm, "weight", None)
        if weight is not None and weight.numel() != head_dim:
            raise ModelError(
                "a norm over all heads couples them, so none can be removed",
                do="Prune other units: attention=none",
                layer=name,
            )
    return Attention(name, module, inputs, output, head_dim, heads, groups)


def _refuse_other_parts(name: str, module: nn.Module, projections: set[str]) -> None:
    """Raises ModelError for an attention with parts that may belong to its heads: gates, sinks, mixing weights."""
    others = [key for key, child in module.named_children() if key not in projections and "norm" not in key]
    parts = [key for key in others if any(True for _ in module.get_submodule(key).parameters())]
    parts += [key for key, parameter in module._parameters.items() if parameter is not None]
    if "qkv_proj" in projections and not hasattr(module, "config"):  # Phi-3 splits its rows by the configuration
        parts.append("qkv_proj in an unknown order")
    if parts:
        raise ModelError(
            f"its heads have parts that are not known ({', '.join(parts)}), so none can be removed",
            do="Prune other units: attention=none",
            layer=name,
        )


def _rows(attention: Attention) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[str, str, str]]:
    """Returns rows of the query heads [H, D], of the keys and of the values [G, D], and the linears that hold them.

    A fused projection is laid out in one of two ways: all queries, then all keys, then all values (Phi-3, GPT-2, Falcon
    and GPT-BigCode with one key head), or group after group (Falcon's new architecture; GPT-NeoX, BLOOM and other
    GPT-BigCode models with one head in each).
    """
    heads, groups, width = attention.heads, attention.groups, attention.head_dim
    if len(attention.inputs) == 3:
        q_HD, k_GD = (torch.arange(n * width).view(n, width) for n in (heads, groups))
        q, k, v = (f"{attention.path}.{name}" for name in attention.inputs)
        return q_HD, k_GD, k_GD.clone(), (q, k, v)
    name = f"{attention.path}.{attention.inputs[0]}"
    rows = torch.arange((heads + 2 * groups) * width).view(-1, width)
    one_key = getattr(attention.module, "multi_query", attention.inputs != ("query_key_value",))
    if not one_key or getattr(attention.module, "new_decoder_architecture", False):
        # group after group: its query heads, its key, its value
        rows_GnD = rows.view(groups, attention.each + 2, width)
        q_HD = rows_GnD[:, :-2].reshape(heads, width)
        return q_HD, rows_GnD[:, -2], rows_GnD[:, -1], (name, name, name)
    return rows[:heads], rows[heads : heads + groups], rows[heads + groups :], (name, name, name)
