"""Checks group sizes and weights of the integer methods, and chooses the dtype of their scales.

Shape letters: N out features, G groups.
"""

from __future__ import annotations

import torch

from compress.errors import MethodError
from compress.format.layouts import int_group

WHOLE_ROW = -1
"""The group size that stands for the whole row, as in other projects' configurations."""
_USUAL = (128, 64, 32, 16)


def group_width(in_features: int, group_size: int | None) -> int:
    """Returns the columns of a group.

    Args:
        in_features: columns of the weight.
        group_size: a divisor of `in_features`; -1 for the whole row; None for 128, or for the next of 64, 32 and 16
            that divides `in_features`, or else the whole row. Engines have kernels for these sizes.

    Raises:
        MethodError: `group_size` does not divide `in_features`; the sizes that do are named.
    """
    if group_size is None:
        return next((size for size in _USUAL if in_features % size == 0), in_features)
    return in_features if group_size == WHOLE_ROW else divisor(in_features, group_size)


def divisor(in_features: int, group_size: int) -> int:
    """Returns `group_size`; MethodError when it does not divide `in_features`."""
    if group_size < 1 or in_features % group_size:
        sizes = [size for size in range(8, in_features + 1) if in_features % size == 0][-8:]
        raise MethodError(
            f"group_size={group_size} does not divide in_features={in_features}",
            allowed=", ".join(map(str, sizes)),
            do="Give one of these, or leave the layer dense with --skip",
        )
    return group_size


def check_finite(w_NK: torch.Tensor) -> None:
    """Raises MethodError for weights with NaN or infinity."""
    if not w_NK.isfinite().all():
        raise MethodError(
            f"{int((~w_NK.isfinite()).sum())} of {w_NK.numel()} weights are NaN or infinite",
            do="Repair the source checkpoint: rounding would spread the damage",
        )


SCALE_DTYPES: dict[str, torch.dtype | None] = {"auto": None, **int_group.SCALE_DTYPES}
"""Name of an option -> dtype of the scales; None: chosen by `storable`."""


def scale_dtype(name: str) -> torch.dtype | None:
    """Returns the dtype that an option names; MethodError for an unknown one."""
    if name not in SCALE_DTYPES:
        raise MethodError(f"scale_dtype={name!r}", allowed=", ".join(SCALE_DTYPES))
    return SCALE_DTYPES[name]


def storable(scale_NG: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Returns the scales in `dtype`, or in the smallest one that holds them: float16 in its normal range, else float32.

    Zero or denormal scales (groups of zeros) become the least normal number, so that a division by them is safe. One
    scale out of the range makes all of the tensor float32: a plane has one dtype.

    Raises:
        MethodError: a scale is too large for `dtype`.
    """
    if dtype is None:
        positive = scale_NG[scale_NG > 0]
        half = torch.finfo(torch.float16)
        fits = positive.numel() == 0 or (positive.min() >= half.tiny and positive.max() <= half.max)
        dtype = torch.float16 if fits else torch.float32
    elif scale_NG.numel() and scale_NG.max() > torch.finfo(dtype).max:
        raise MethodError(
            f"a scale of {float(scale_NG.max()):.3g} does not fit into {dtype}", do="Give scale_dtype=auto"
        )
    return scale_NG.clamp_min(torch.finfo(dtype).tiny).to(dtype)
