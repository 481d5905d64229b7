"""The dtypes of safetensors files under their names in the files, and which of them a checkpoint may hold."""

from __future__ import annotations

import torch

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Name in a safetensors header -> dtype. Everything that can be read."""

_READ_ONLY = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "U64", "U32")

NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
"""Dtype -> its name in a safetensors header."""

STORED_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items() if name not in _READ_ONLY}
"""Dtype -> its name in a safetensors header, for the dtypes that a checkpoint of this package may hold."""
