"""compressed-tensors, as llm-compressor writes it: the form of each linear by the tensors that it has.

    pack-quantized   X.weight_packed int32 [N, W]   codes of 2 to 8 bits, in a dense stream or in padded words
    int-quantized    X.weight int8 [N, K]           signed codes
    float-quantized  X.weight float8 [N, K]
    nvfp4-, mxfp4-   X.weight_packed uint8 [N, K/2] two 4-bit floats in a byte, groups of 16 or 32

with X.weight_scale for the whole, rows, groups or blocks, X.weight_zero_point where codes are not symmetric,
X.weight_shape, and X.weight_g_idx with act-order. Padded words are those of versions before 0.18.

Shape letters: N out features, K in features, G groups, W words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import ModelError
from compress.models.foreign.floats import Floats, nibbles, spread
from compress.models.foreign.integers import Integers, unpack_rows
from compress.models.foreign.weight import (
    Content,
    Decoded,
    ForeignWeight,
    Found,
    Stored,
    modules_with,
    parts_of,
    unusable,
)

if TYPE_CHECKING:
    from compress.models.folder.tensor_files import TensorFiles

_ACTIVATIONS = re.compile(r"\.((input|output|q|k|v)_(scale|zero_point)|(input|output)_(global_scale|g_idx))$")
_ASIDE = ("weight_zero_point", "weight_g_idx", "weight_global_scale", "weight_shape")
_FORMATS = (
    "dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized",
    "mxfp4-pack-quantized", "mixed-precision",
)  # fmt: skip


def find(settings: Mapping[str, Any], files: TensorFiles) -> Found:
    """See `Format`."""
    groups = [group for group in dict(settings.get("config_groups") or {}).values() if isinstance(group, Mapping)]
    _refuse_variants(settings, groups)
    found = Found(unread=[name for name in files.tensors if _ACTIVATIONS.search(name)], label=_label(groups))
    for module in modules_with(files, "weight_scale"):
        main = "weight_packed" if f"{module}.weight_packed" in files.tensors else "weight"
        parts = parts_of(module, files, (main, "weight_scale"), _ASIDE)
        found.weights.append(_weight(module, main, parts, files, _options(module, groups)))
    if inputs := next((group["input_activations"] for group in groups if group.get("input_activations")), None):
        found.warnings.append(
            f"the checkpoint was made for activations of {inputs.get('num_bits')} bits ({inputs.get('type')}); here "
            "activations are not rounded"
        )
    return found


def _label(groups: list[Mapping[str, Any]]) -> str:
    weights = [options for group in groups if isinstance(options := group.get("weights"), Mapping)]
    kinds = [f"{one.get('num_bits')} bits{' (float)' if one.get('type') == 'float' else ''}" for one in weights]
    return ", ".join(["compressed-tensors", " and ".join(dict.fromkeys(kinds))] if kinds else ["compressed-tensors"])


def _refuse_variants(settings: Mapping[str, Any], groups: list[Mapping[str, Any]]) -> None:
    """Raises ModelError for weights that are stored as more than codes with scales."""
    sparsity, rotated = settings.get("sparsity_config"), settings.get("transform_config")
    sparse = sparsity.get("format") if isinstance(sparsity, Mapping) else None
    written = {each.get("format") for each in (settings, *groups)} - {None}
    what = None
    if sparse not in (None, "dense"):
        what = f"its weights are stored as {sparse}"
    elif isinstance(rotated, Mapping) and rotated.get("config_groups"):
        what = "its weights are rotated, and the model would have to rotate its activations"
    elif strange := sorted(str(each) for each in written - set(_FORMATS)):
        what = f"its weights are stored as {strange[0]}"
    if what is not None:
        raise ModelError(
            f"a variant of compressed-tensors that is not read: {what}",
            allowed=", ".join(_FORMATS),
            do="Give the model in one of these formats, or the original model",
        )


def _options(module: str, groups: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the options of a module's weights: of the group that names it, else matches it, else is for its class."""

    def rank(target: str) -> int:
        if target == module:
            return 0
        if target.startswith("re:"):
            return 1 if re.match(target[3:], module) else 3
        return 3 if "." in target else 2

    ranked = [(rank(target), place) for place, group in enumerate(groups) for target in group.get("targets", ())]
    best, place = min(ranked, default=(3, 0))
    options = groups[place].get("weights") if best < 3 else None
    if not isinstance(options, Mapping) or not isinstance(options.get("num_bits"), int):
        raise unusable(module, "quantization_config in config.json describes no weights for it")
    return options


def _weight(
    module: str, main: str, parts: dict[str, str], files: TensorFiles, options: Mapping[str, Any]
) -> ForeignWeight:
    entry, bits, kind = files.tensors[parts[main]], options["num_bits"], options.get("type", "int")
    known = {
        ("weight_packed", "I32", "int"), ("weight", "I8", "int"), ("weight", "F8_E4M3", "float"),
        ("weight_packed", "U8", "float"),
    }  # fmt: skip
    if (main, entry.dtype, kind) not in known or len(entry.shape) != 2 or not 1 <= bits <= 8:
        raise unusable(
            module,
            f"its {main} is {entry.dtype} {list(entry.shape)}, for {kind} of {bits} bits",
            "a matrix of packed or 8-bit codes",
        )
    rows, columns = entry.shape
    if entry.dtype == "U8":
        columns *= 2
    elif entry.dtype == "I32":
        if "weight_shape" not in parts:
            raise unusable(module, "its weight_shape is missing")
        written = files.read(parts["weight_shape"]).tolist()
        fits = len(written) == 2 and written[0] == rows
        if not fits or unpack_rows(torch.zeros(1, columns).int(), bits, written[1]) is None:
            raise unusable(
                module, f"its weight_packed {list(entry.shape)} does not hold {written} codes of {bits} bits"
            )
        columns = written[1]
    return ForeignWeight(f"{module}.weight", (rows, columns), parts, dict(options) | {"dtype": entry.dtype})


def read(weight: ForeignWeight, stored: Stored) -> Content:
    """See `Format`."""
    try:
        return _READERS[weight.details["dtype"]](weight, stored)
    except ValueError as error:
        raise unusable(weight.module, str(error)) from error


def _packed_integers(weight: ForeignWeight, stored: Stored) -> Content:
    bits, (rows, columns) = weight.details["num_bits"], weight.shape

    def codes() -> torch.Tensor:
        codes_NK = unpack_rows(stored["weight_packed"], bits, columns)
        assert codes_NK is not None, "find compares the widths"
        return codes_NK

    zero_NG = None
    if "weight_zero_point" in stored:
        zero_NG = stored["weight_zero_point"]
        if zero_NG.dtype == torch.int32:
            unpacked_GN = unpack_rows(zero_NG.T.contiguous(), bits, rows)
            if unpacked_GN is None:
                raise ValueError(f"zero points {list(zero_NG.shape)} for {rows} rows")
            zero_NG = unpacked_GN.T
        else:
            zero_NG = (zero_NG.int() + (1 << (bits - 1))).to(torch.uint8)
    return _of_integers(weight, stored, codes, zero_NG)


def _integers(weight: ForeignWeight, stored: Stored) -> Content:
    middle = 1 << (weight.details["num_bits"] - 1)

    def unsigned(part: str) -> torch.Tensor:
        return torch.add(stored[part].int(), middle).to(torch.uint8)

    zero_NG = unsigned("weight_zero_point") if "weight_zero_point" in stored else None
    return _of_integers(weight, stored, partial(unsigned, "weight"), zero_NG)


def _of_integers(weight: ForeignWeight, stored: Stored, codes: Any, zero_NG: torch.Tensor | None) -> Integers:
    """Returns integers with a scale for each group of each row: those of the whole or of blocks are repeated."""
    rows, columns = weight.shape
    scale = stored["weight_scale"]
    group_K = stored.get("weight_g_idx")
    if group_K is not None and not bool(((group_K >= 0) & (group_K < scale.shape[-1])).all()):
        raise ValueError("its weight_g_idx names a group that is not there")
    groups = scale.shape[1] if scale.dim() == 2 else 1
    if columns % groups and group_K is None:
        raise ValueError(f"{groups} groups for {columns} columns")
    scale_NG = spread(scale, (rows, groups)).expand(rows, groups).contiguous()
    if zero_NG is not None:
        zero_NG = spread(zero_NG, (rows, groups)).expand(rows, groups)
    return Integers(weight.details["num_bits"], (rows, columns), codes, scale_NG, zero_NG, group_K)


def _float8(weight: ForeignWeight, stored: Stored) -> Content:
    block, scale = weight.details.get("block_structure"), stored["weight_scale"]
    if block is None and (scale.numel() == 1 or scale.shape[0] == weight.shape[0]):
        return Floats(
            element="e4m3",
            shape=(weight.shape[0], weight.shape[1]),
            codes=lambda: stored["weight"].view(torch.uint8),
            scale_NG=scale.view(1, 1) if scale.numel() == 1 else scale.view(len(scale), -1),
        )

    def decode() -> torch.Tensor:
        return stored["weight"].float().mul_(spread(scale.float(), weight.shape, tuple(block) if block else None))

    return Decoded(decode)


def _float4(weight: ForeignWeight, stored: Stored) -> Content:
    return Floats(
        element="e2m1",
        shape=(weight.shape[0], weight.shape[1]),
        codes=lambda: nibbles(stored["weight_packed"]),
        scale_NG=stored["weight_scale"],
        global_scale=stored.get("weight_global_scale"),
    )


_READERS = {"I32": _packed_integers, "I8": _integers, "F8_E4M3": _float8, "U8": _float4}
