"""Plans and caches the Triton kernels for each scheme and shape.

Each layout's module has `reject(scheme, shape)`, which returns a reason or None, and `plan(scheme, shape)`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import torch

from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

LAYOUTS = ("int_group.v1", "spqr.v1", "additive.v1", "sparse_nm.v1", "low_rank.v1")
"""Layouts that have kernels."""
_PARTS = ("dense.v1",)


class Plan(Protocol):
    """How tensors of one scheme and shape run."""

    @property
    def operands(self) -> int:
        """How many tensors `prepare` returns."""
        ...

    def prepare(self, packed: PackedTensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Returns the form of the planes that the kernels work on, for inputs of `dtype`, on the planes' device."""
        ...

    def product(self, x_MK: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        """Returns contiguous x times the weight, plus `bias`: [M, N] in the dtype of x."""
        ...

    def weight(self, operands: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Returns the weight [N, K]: that of `layouts.unpack`, rounded once if `dtype` is not float32."""
        ...


def spec_of(scheme: Scheme, shape: tuple[int, int]) -> str:
    """Returns scheme and shape as text, the form in which an op takes them."""
    return json.dumps([scheme.to_dict(), *shape], sort_keys=True, separators=(",", ":"))


@cache
def parse(spec: str) -> tuple[Scheme, tuple[int, int]]:
    """Returns scheme and shape of a spec."""
    data, rows, features = json.loads(spec)
    return Scheme.from_dict(data), (rows, features)


def interpreted() -> bool:
    """Returns whether the kernels were made for Triton's interpreter. Imports triton."""
    launch = importlib.import_module("compress.kernels.triton.launch")
    return bool(launch.INTERPRETED)


def reject(scheme: Scheme, shape: tuple[int, int]) -> str | None:
    """Returns why no kernel can run such a tensor, or None. Imports triton."""
    if scheme.layout not in (*LAYOUTS, *_PARTS):
        return f"no Triton kernel for {scheme.layout}"
    reason: str | None = _module(scheme).reject(scheme, shape)
    return reason


def plan(scheme: Scheme, shape: tuple[int, int]) -> Plan:
    """Returns how tensors of this scheme and shape run. Imports triton."""
    return plan_of(spec_of(scheme, shape))


@cache
def plan_of(spec: str) -> Plan:
    """Returns how tensors of this spec run."""
    scheme, shape = parse(spec)
    made: Plan = _module(scheme).plan(scheme, shape)
    return made


def _module(scheme: Scheme):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"compress.kernels.triton.{scheme.layout.split('.')[0]}")
