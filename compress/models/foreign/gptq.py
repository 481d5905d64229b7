"""GPTQ, as GPTQModel, AutoGPTQ and AutoRound write it: codes in a stream down the columns of the weight.

    X.qweight  int32 [K·b/32, N]   stream of the codes down each column
    X.qzeros   int32 [G, N·b/32]   stream of the zero points along each row; version 1 stores them less 1, modulo 2^b
    X.scales   [G, N]
    X.g_idx    int32 [K]           group of every column; with act-order in any order

Version 1 is ambiguous where a zero point of 0 was stored: some readers take it for 2^b. It is 0 here.

Shape letters: N out features, K in features, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import ModelError
from compress.format.layouts import bits as bitstream
from compress.models.foreign.integers import Integers
from compress.models.foreign.weight import ForeignWeight, Found, Stored, modules_with, parts_of, unusable

if TYPE_CHECKING:
    from compress.models.folder.tensor_files import TensorFiles

_BITS = (2, 3, 4, 8)
_LESS_ONE = {"gptq": 1, "gptq_v2": 0}
"""Version -> what was subtracted from the zero points."""


def find(settings: Mapping[str, Any], files: TensorFiles) -> Found:
    """See `Format`."""
    version = str(settings.get("checkpoint_format") or settings.get("format") or "gptq")
    if "auto_round" in str(settings.get("packing_format")) or settings.get("quant_method") == "auto-round":
        version = "gptq"
    if settings.get("is_marlin_format"):
        version = "marlin"
    if version not in _LESS_ONE or settings.get("pack_dtype", "int32") != "int32":
        raise ModelError(
            f"the checkpoint is packed as {version}, in words of {settings.get('pack_dtype', 'int32')}",
            allowed=f"{', '.join(_LESS_ONE)}, in words of int32",
            do="Save it again with checkpoint_format gptq or gptq_v2",
        )
    return Found([_weight(module, files, _LESS_ONE[version]) for module in modules_with(files, "qweight")])


def _weight(module: str, files: TensorFiles, less: int) -> ForeignWeight:
    tensors = files.tensors
    parts = parts_of(module, files, ("qweight", "qzeros", "scales"), ("g_idx",))
    words, (groups, rows) = tensors[parts["qweight"]].shape, tensors[parts["scales"]].shape
    bits, rest = divmod(32 * tensors[parts["qzeros"]].shape[-1], rows)
    if rest or bits not in _BITS or words[1:] != (rows,) or words[0] * 32 % bits:
        raise unusable(
            module,
            f"its tensors qweight {list(words)}, qzeros {list(tensors[parts['qzeros']].shape)} and scales "
            f"{[groups, rows]} do not fit together",
            f"codes of {', '.join(map(str, _BITS))} bits",
        )
    columns = words[0] * 32 // bits
    if "g_idx" in parts:
        if tensors[parts["g_idx"]].shape != (columns,):
            raise unusable(module, f"its g_idx {list(tensors[parts['g_idx']].shape)} is not one for each of {columns}")
    elif columns % groups:
        raise unusable(module, f"it has {groups} groups for {columns} columns and no g_idx")
    return ForeignWeight(f"{module}.weight", (rows, columns), parts, (bits, less))


def read(weight: ForeignWeight, stored: Stored) -> Integers:
    """See `Format`."""
    (rows, columns), (bits, less) = weight.shape, weight.details
    zero_GN = bitstream.unpack_rows(stored["qzeros"], bits, rows).int() + less
    group_K = stored.get("g_idx")
    scale_NG = stored["scales"].T.contiguous()
    if group_K is not None and not bool(((group_K >= 0) & (group_K < scale_NG.shape[1])).all()):
        raise unusable(weight.module, "its g_idx names a group that is not there")
    return Integers(
        bits=bits,
        shape=(rows, columns),
        codes=partial(_codes, stored, bits, columns),
        scale_NG=scale_NG,
        zero_NG=(zero_GN & ((1 << bits) - 1)).T.to(torch.uint8),
        group_K=group_K,
    )


def _codes(stored: Stored, bits: int, columns: int) -> torch.Tensor:
    return bitstream.unpack_rows(stored["qweight"].T.contiguous(), bits, columns)
