"""Finds coupled structures: rows and columns of several parameters that can only be removed together.

An attention head is rows of the query, key and value projections and columns of the output projection; a channel of an
MLP is a row of gate and up and a column of down. Nothing is traced: projections are known by the names that
architectures give them. Head counts follow from the widths and not from the configuration, so that a model that was
pruned before is read in the same way.

Shape letters: U units, C channels of one unit, F positions of a member that share one channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from compress.errors import ModelError
from compress.models.linears import is_conv1d, is_fused_experts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Kind = Literal["kv", "query", "mlp", "hidden"]
KINDS: tuple[Kind, ...] = ("kv", "query", "mlp", "hidden")

_MLPS = (
    (("gate_proj", "up_proj"), "down_proj"), (("w1", "w3"), "w2"), (("gate_up_proj",), "down_proj"),
    (("c_fc",), "c_proj"), (("dense_h_to_4h",), "dense_4h_to_h"), (("fc1",), "fc2"), (("fc_in",), "fc_out"),
)  # fmt: skip
_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj")
_WIDTH_KEYS = ("n_inner", "ffn_dim", "ffn_hidden_size", "intermediate_size")


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A parameter that loses rows or columns with every unit."""

    tensor: str
    """Dotted name of the parameter."""
    dim: int
    """Dimension along which the units lie; of a fused parameter, in the slice of one expert."""
    index_UCF: torch.Tensor  # noqa: N815
    """int64 [U, C, F]: positions along `dim`. Query heads that share a key head are F positions of its channels."""
    expert: int | None = None
    """Slice of a fused parameter."""
    scored: bool = True
    """False for biases and for what only follows the others."""
    enters: bool = False
    """True where the positions are inputs of a linear: what activation scores are read from."""


@dataclass(frozen=True, slots=True, eq=False)
class Coupled:
    """Units of one place, any of which can leave the model with all its members."""

    name: str
    """Path of the module, with the number of the expert or of the key-value group behind it."""
    kind: Kind
    block: int | None
    """Number of the block; None for hidden channels, which run through all of them."""
    tie: str
    """Sets of one tie must lose equally many units: experts of a layer, groups of an attention."""
    members: tuple[Member, ...]
    """The root first: the key projection, the gate, a norm."""
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Module -> attribute -> by how much each unit counts in it (one key head: 1 of num_key_value_heads)."""
    config: Mapping[str, int] = field(default_factory=dict)
    """Key of the configuration -> by how much each unit counts in it, where all layers are alike."""
    constants: Mapping[str, int] = field(default_factory=dict)
    """Keys that the configuration must state once units are gone: it may derive them from those above."""

    @property
    def units(self) -> int:
        """How many there are."""
        return self.members[0].index_UCF.shape[0]


def coupled(model: PreTrainedModel, block_names: list[str], kinds: tuple[Kind, ...]) -> list[Coupled]:
    """Returns the coupled structures of `kinds` in order of the blocks; `kv` and `query` exclude each other.

    Raises:
        ModelError: a block has an attention or an MLP that is not known; the block is named.
    """
    assert not {"kv", "query"} <= set(kinds), "a query head would be in two structures"
    found: list[Coupled] = []
    for number, name in enumerate(block_names):
        if {"kv", "query"} & set(kinds):
            found += _attentions(model, name, number, "kv" if "kv" in kinds else "query")
        if "mlp" in kinds:
            found += _mlps(model, name, number)
    if "hidden" in kinds:
        found.append(_hidden(model, block_names))
    return found


def unit_parameters(one: Coupled, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Returns how many parameters one unit is."""
    total = 0
    for member in one.members:
        shape = shapes[member.tensor][1:] if member.expert is not None else shapes[member.tensor]
        size = member.index_UCF[0].numel()
        for dim, length in enumerate(shape):
            size *= length if dim != member.dim else 1
        total += size
    return total


@dataclass(frozen=True, slots=True)
class _Attention:
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


def _attentions(model: PreTrainedModel, block_name: str, number: int, kind: Kind) -> Iterator[Coupled]:
    attentions = list(_find_attentions(model.get_submodule(block_name), block_name))
    if not attentions:
        raise ModelError("no attention with known projections", allowed="q_proj, qkv_proj, c_attn …", layer=block_name)
    config: Any = model.config
    for attention in attentions:
        if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
            raise ModelError(
                "its heads differ by their number (ALiBi), so none can be removed",
                do="Prune other units: attention=none",
                layer=attention.path,
            )
        yield from (_key_heads if kind == "kv" else _query_heads)(model, attention, number)


def _key_heads(model: PreTrainedModel, attention: _Attention, number: int) -> Iterator[Coupled]:
    """One set: a unit is a key head with its value head and all query heads that read it."""
    heads, groups, each, width = attention.heads, attention.groups, attention.each, attention.head_dim
    q_HD, k_GD, v_GD, (q, k, v) = _rows(attention)
    out_HD = torch.arange(heads * width).view(heads, width)
    # [G, each, D] -> [G, D, each]: channel d of a unit is row d of its key and row d of each of its query heads, so
    # that scores of one channel are combined over all of them
    q_GDE = q_HD.view(groups, each, width).transpose(1, 2)
    out_GDE = out_HD.view(groups, each, width).transpose(1, 2)
    outputs = [(k, k_GD[..., None]), (q, q_GDE), (v, v_GD[..., None])]  # the key is the root
    members = _linear_members(model, outputs, (f"{attention.path}.{attention.output}", out_GDE))
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
                num_heads=each, num_attention_heads=each, num_key_value_heads=1, num_kv_heads=1, split_size=each * width
            ),
            {"num_attention_heads": each, "num_key_value_heads": 1, "num_kv_heads": 1},
        ),
    )


def _query_heads(model: PreTrainedModel, attention: _Attention, number: int) -> Iterator[Coupled]:
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
        members = _linear_members(model, [(q, q_HD[own, :, None])], output)
        name, tie = f"{attention.path}.{group}", f"{attention.path}:query"
        yield Coupled(name, "query", number, tie, members, **counts)


def _counts(
    model: PreTrainedModel, attention: _Attention, in_module: Mapping[str, int], in_config: Mapping[str, int]
) -> dict[str, Any]:
    """How one unit counts in attributes of the module and in keys of the configuration, of those that exist."""
    numbers = {name: size for name, size in in_module.items() if isinstance(getattr(attention.module, name, None), int)}
    if "qkv_proj" in attention.inputs:  # Phi-3 splits the rows by what its configuration says
        numbers["config.num_attention_heads"] = in_config["num_attention_heads"]
    return dict(
        attributes={attention.path: numbers},
        config={key: size for key, size in in_config.items() if getattr(model.config, key, None) is not None},
        # most architectures derive head_dim from hidden size and number of heads, which would change with the heads
        constants={"head_dim": attention.head_dim},
    )


def _find_attentions(block: nn.Module, block_name: str) -> Iterator[_Attention]:
    for path, module in block.named_modules():
        children = dict(module.named_children())
        output = next((name for name in _OUTPUTS if name in children), None)
        inputs = next(
            (names for names in (("q_proj", "k_proj", "v_proj"), ("qkv_proj",), ("c_attn",), ("query_key_value",))
             if all(name in children for name in names)),
            None,
        )  # fmt: skip
        if output is None or inputs is None:
            continue
        name = f"{block_name}.{path}".rstrip(".")
        head_dim = getattr(module, "head_dim", None) or getattr(module, "head_size", None)
        rows = [_size(children[one])[0] for one in inputs]
        width = _size(children[output])[1]
        if not isinstance(head_dim, int) or width % head_dim or any(row % head_dim for row in rows):
            raise ModelError(f"its projections of {rows} rows are no whole number of heads of {head_dim}", layer=name)
        heads = width // head_dim
        groups = rows[1] // head_dim if len(rows) == 3 else (rows[0] // head_dim - heads) // 2
        if groups < 1 or heads % groups:
            raise ModelError(f"{heads} query heads are not divisible by {groups} key-value heads", layer=name)
        for norm in (child for key, child in children.items() if "norm" in key):
            weight = getattr(norm, "weight", None)
            if weight is not None and weight.numel() != head_dim:
                raise ModelError(
                    "a norm over all heads couples them, so none can be removed",
                    do="Prune other units: attention=none",
                    layer=name,
                )
        yield _Attention(name, module, inputs, output, head_dim, heads, groups)


def _rows(one: _Attention) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[str, str, str]]:
    """Rows of the query heads [H, D], of the keys and of the values [G, D], and the linears that hold them.

    A fused projection is laid out in one of two ways: all queries, then all keys, then all values (Phi-3, GPT-2, Falcon
    with one key head), or group after group (Falcon's new architecture; GPT-NeoX and BLOOM with one head in each).
    """
    heads, groups, width = one.heads, one.groups, one.head_dim
    if len(one.inputs) == 3:
        q_HD, k_GD = (torch.arange(n * width).view(n, width) for n in (heads, groups))
        q, k, v = (f"{one.path}.{name}" for name in one.inputs)
        return q_HD, k_GD, k_GD.clone(), (q, k, v)
    name = f"{one.path}.{one.inputs[0]}"
    rows = torch.arange((heads + 2 * groups) * width).view(-1, width)
    multi_query = getattr(one.module, "multi_query", False) and not getattr(
        one.module, "new_decoder_architecture", False
    )
    if one.inputs == ("query_key_value",) and not multi_query:
        # group after group: its query heads, its key, its value
        rows_GnD = rows.view(groups, one.each + 2, width)
        q_HD = rows_GnD[:, :-2].reshape(heads, width)
        return q_HD, rows_GnD[:, -2], rows_GnD[:, -1], (name, name, name)
    return rows[:heads], rows[heads : heads + groups], rows[heads + groups :], (name, name, name)


def _mlps(model: PreTrainedModel, block_name: str, number: int) -> Iterator[Coupled]:
    found = False
    for path, module in model.get_submodule(block_name).named_modules():
        name = f"{block_name}.{path}".rstrip(".")
        if is_fused_experts(module):
            found = True
            yield from _experts(model, module, name, number)
            continue
        children = dict(module.named_children())
        pair = next((p for p in _MLPS if p[1] in children and all(one in children for one in p[0])), None)
        if pair is None:
            continue
        found = True
        width = _size(children[pair[1]])[1]
        index_U = torch.arange(width).view(width, 1, 1)
        fused = pair[0] == ("gate_up_proj",)
        parts = [(f"{name}.{one}", index_U) for one in pair[0]]
        if fused:  # the gate's rows lie above those of up
            parts = [(f"{name}.gate_up_proj", index_U), (f"{name}.gate_up_proj", index_U + width)]
        members = _linear_members(model, parts, (f"{name}.{pair[1]}", index_U))
        key = _width_key(model.config, name, width)
        numbers = {"intermediate_size": 1} if getattr(module, "intermediate_size", None) == width else {}
        yield Coupled(name, "mlp", number, f"{name}:{key}", members, {name: numbers} if numbers else {}, {key: 1})
    if not found:
        raise ModelError("no MLP with known projections", allowed="gate_proj, c_fc, fc1, experts …", layer=block_name)


def _experts(model: PreTrainedModel, module: nn.Module, name: str, number: int) -> Iterator[Coupled]:
    experts, _, width = module.get_parameter("down_proj").shape
    index_U = torch.arange(width).view(width, 1, 1)
    key = _width_key(model.config, name, width)
    has = [n for n in ("intermediate_dim", "intermediate_size") if getattr(module, n, None) == width]
    for expert in range(experts):
        members = (
            Member(f"{name}.gate_up_proj", 0, index_U, expert),
            Member(f"{name}.gate_up_proj", 0, index_U + width, expert),
            Member(f"{name}.down_proj", 1, index_U, expert, enters=True),
        )
        numbers = {name: dict.fromkeys(has, 1)} if has else {}
        yield Coupled(f"{name}.{expert}", "mlp", number, f"{name}:{key}", members, numbers, {key: 1})


def _width_key(config: Any, path: str, width: int) -> str:
    """The key of the configuration that says how wide this MLP is."""
    if "shared_expert" in path:
        return "shared_expert_intermediate_size"
    if path.endswith("experts") and getattr(config, "moe_intermediate_size", None) is not None:
        return "moe_intermediate_size"
    return next((key for key in _WIDTH_KEYS if hasattr(config, key)), _WIDTH_KEYS[-1])


def _linear_members(
    model: nn.Module, outputs: list[tuple[str, torch.Tensor]], inner: tuple[str, torch.Tensor]
) -> tuple[Member, ...]:
    """Members of linears: rows of those in `outputs`, with their biases, and columns of the last one."""
    found = [Member(f"{path}.weight", _dim(model, path, 0), index_UCF) for path, index_UCF in outputs]
    path, index_UCF = inner
    found.append(Member(f"{path}.weight", _dim(model, path, 1), index_UCF, enters=True))
    biased = [(path, index) for path, index in outputs if getattr(model.get_submodule(path), "bias", None) is not None]
    found += [Member(f"{path}.bias", 0, index_UCF, scored=False) for path, index_UCF in biased]
    return tuple(found)


def _hidden(model: PreTrainedModel, block_names: list[str]) -> Coupled:
    """The channels of the residual stream: one set for the whole model."""
    width: int = model.config.get_text_config().hidden_size
    index_U = torch.arange(width).view(width, 1, 1)
    kinds: tuple[Kind, ...] = ("query", "mlp")
    inner = {m.tensor: m.dim for one in coupled(model, block_names, kinds) for m in one.members if m.enters}
    attentions = [one for name in block_names for one in _find_attentions(model.get_submodule(name), name)]
    attention = tuple(f"{one.path}." for one in attentions)
    constants = {"head_dim": attentions[0].head_dim}
    inside = tuple(f"{name}." for name in block_names)
    members: list[Member] = []
    tied = model.all_tied_weights_keys
    for path, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{key}"
            if name in tied:
                continue
            scored, shape = name.startswith(inside), tuple(parameter.shape)
            if len(shape) == 1:
                linear = isinstance(module, nn.Linear) or is_conv1d(module)
                if f"{path}.weight" not in inner if linear else name.startswith(attention):
                    continue  # belongs to heads or channels
                if shape != (width,):
                    raise ModelError(f"a vector of {shape[0]} in a stream of {width} channels", layer=name)
                members.append(Member(name, 0, index_U, scored=scored and not linear))
                continue
            shape = shape[-2:]
            # linears that read the stream have it along their inputs, those that write it along their outputs
            dim = 1 - inner[name] if name in inner else _dim(model, path, 1) if is_conv1d(module) else 1
            if shape[dim] != width:
                raise ModelError(f"its shape {shape} does not fit a stream of {width} channels", layer=name)
            count = parameter.shape[0] if parameter.dim() == 3 else None
            for expert in [None] if count is None else range(count):
                members.append(Member(name, dim, index_U, expert, scored=scored, enters=scored and name not in inner))
    members.sort(key=lambda one: "norm" not in one.tensor)  # the root is a norm
    return Coupled("", "hidden", None, "hidden", tuple(members), {}, {"hidden_size": 1}, constants)


def _dim(model: nn.Module, path: str, dim: int) -> int:
    """Where a linear's outputs (0) or inputs (1) lie: a Conv1D keeps its weight the other way round."""
    return 1 - dim if is_conv1d(model.get_submodule(path)) else dim


def _size(module: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear."""
    rows, columns = module.get_parameter("weight").shape
    return (columns, rows) if is_conv1d(module) else (rows, columns)
