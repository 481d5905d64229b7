"""Checks the stored dtypes and the values of the dense tensors of a loaded checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from compress.errors import FormatError
from compress.format.dtypes import TORCH_DTYPES

_CURE = "Copy the folder again, or compress again"


def stored_dtypes(folder: Path) -> dict[str, str]:
    """Returns the dtype of every tensor that transformers has just loaded from `folder`, as safetensors names it."""
    from safetensors import safe_open

    dtypes: dict[str, str] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            dtypes |= {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
    return dtypes


def check_dense(model: torch.nn.Module, dtypes: Mapping[str, str]) -> None:
    """Raises FormatError for a dense parameter that is stored as integers or contains NaN or infinite values.

    `dtypes` are those of the stored tensors, by name. Planes of packed linears are buffers, and not checked here.
    transformers silently accepts integers for such a parameter. Buffers are not checked, because they may be infinite
    (bounds of clipped linears in Gemma 4), and neither are parameters on the meta device, which are read on use.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, stored in dtypes.items():
        parameter = parameters.get(name)
        if parameter is None:
            continue
        if not TORCH_DTYPES[stored].is_floating_point:
            raise FormatError(f"it is stored as {stored}", allowed="F64, F32, F16, BF16", do=_CURE, layer=name)
        if parameter.is_meta or not parameter.numel():
            continue
        # NaN passes through minimum and maximum: one pass, and no mask as large as the tensor
        if not all(bool(bound.isfinite()) for bound in torch.aminmax(parameter.detach())):
            raise FormatError("it holds NaN or infinite values", do=_CURE, layer=name)
