"""bitsandbytes: LLM.int8 with a scale for each row, and 4-bit codes of a table (NF4, FP4) with a scale for each block.

    X.weight         int8 [N, K]              LLM.int8, with X.SCB float32 [N], the largest weight of each row
    X.weight         uint8 [N·K/2, 1]         4 bits, the upper half of each byte first, row by row
    X.weight.absmax  float32 or uint8         the largest weight of each block; as uint8 a code of nested_quant_map
    X.weight.quant_map  float32 [16]          value of each code
    X.weight.quant_state.bitsandbytes__nf4    uint8, JSON: shape, blocksize, nested_offset …

Shape letters: N out features, K in features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import ModelError
from compress.models.foreign.integers import Integers
from compress.models.foreign.weight import Content, Decoded, ForeignWeight, Found, Stored, modules_with, unusable

if TYPE_CHECKING:
    from compress.models.folder.tensor_files import TensorFiles

_STATE = ".weight.quant_state.bitsandbytes__"
_KINDS = ("nf4", "fp4")
_NESTED = ("nested_absmax", "nested_quant_map")


def find(settings: Mapping[str, Any], files: TensorFiles) -> Found:
    """See `Format`."""
    found = Found()
    for module in modules_with(files, "SCB"):
        shape = files.tensors[f"{module}.weight"].shape if f"{module}.weight" in files.tensors else ()
        if len(shape) != 2 or files.tensors[f"{module}.weight"].dtype != "I8":
            raise unusable(module, "its weight is no matrix of int8, though it has SCB")
        parts = {"weight": f"{module}.weight", "SCB": f"{module}.SCB"}
        found.weights.append(ForeignWeight(f"{module}.weight", shape, parts))
        found.unread.extend(name for name in (f"{module}.weight_format",) if name in files.tensors)
    for name in files.tensors:
        module, is_state, kind = name.partition(_STATE)
        if is_state:
            found.weights.append(_of_four_bits(module, kind, name, files))
    kinds = dict.fromkeys(["8 bits"] * any("SCB" in each.parts for each in found.weights))
    kinds |= dict.fromkeys(name.partition(_STATE)[2] for name in files.tensors if _STATE in name)
    found.label = f"bitsandbytes, {' and '.join(kinds)}"
    return found


def _of_four_bits(module: str, kind: str, state_name: str, files: TensorFiles) -> ForeignWeight:
    try:
        state = json.loads(bytes(files.read(state_name).tolist()))
        rows, columns = state["shape"]
        block, inner = int(state["blocksize"]), int(state.get("nested_blocksize", 1))
        offset = float(state.get("nested_offset", 0.0))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"its quant_state cannot be read: {error}", do="Download it again", layer=module) from error
    parts = {part: f"{module}.weight.{part}" for part in ("absmax", "quant_map", *_NESTED)}
    parts = {part: name for part, name in parts.items() if name in files.tensors} | {"weight": f"{module}.weight"}
    needed = {"absmax", "quant_map", *(_NESTED if "nested_absmax" in parts else ())}
    if kind not in _KINDS or not needed <= parts.keys() or parts["weight"] not in files.tensors:
        raise unusable(module, f"its weight of kind {kind} lacks a tensor", ", ".join(_KINDS))
    if files.tensors[parts["weight"]].shape != ((rows * columns + 1) // 2, 1):
        raise unusable(module, f"its weight does not hold {[rows, columns]} codes of 4 bits")
    return ForeignWeight(f"{module}.weight", (rows, columns), parts | {"state": state_name}, (block, inner, offset))


def read(weight: ForeignWeight, stored: Stored) -> Content:
    """See `Format`."""
    return _of_rows(weight, stored) if "SCB" in stored else Decoded(partial(_decode, weight, stored))


def _of_rows(weight: ForeignWeight, stored: Stored) -> Integers:
    rows, columns = weight.shape
    return Integers(
        bits=8,
        shape=(rows, columns),
        codes=lambda: torch.add(stored["weight"].int(), 128).to(torch.uint8),
        scale_NG=stored["SCB"].float().view(-1, 1) / 127,
        zero_NG=None,
    )


def _decode(weight: ForeignWeight, stored: Stored) -> torch.Tensor:
    (rows, columns), (block, inner, offset) = weight.shape, weight.details
    absmax = stored["absmax"]
    if "nested_absmax" in stored:
        spread = stored["nested_absmax"].float().repeat_interleave(inner)[: absmax.numel()]
        absmax = stored["nested_quant_map"].float()[absmax.int()] * spread + offset
    codes = stored["weight"].view(-1)
    codes = torch.stack([codes >> 4, codes & 15], dim=-1).view(-1)[: rows * columns]
    value = stored["quant_map"].float()[codes.int()]
    return value.mul_(absmax.float().repeat_interleave(block)[: rows * columns]).view(rows, columns)
