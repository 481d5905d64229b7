"""Says what the engines can hold that a run may compress for (`--for`). Data only: nothing heavy is imported.

The widths and groups are those of the engines' kernels for integer weights: vLLM 0.32, SGLang 0.5.23, mlx 0.32, and the
block types of GGUF. `docs/how-to/export.md` tells users the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from compress.errors import RecipeError, unknown

MODEL = "model"
"""Stands for the dtype of the model, in which an engine holds scales."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What one engine has kernels for."""

    target: str
    """Target of `compress export` that it reads."""
    bits: tuple[int, ...]
    """Widths of codes."""
    bits_with_zero_points: tuple[int, ...]
    """Widths at which zero points are possible."""
    groups: tuple[int, ...] | None
    """Sizes of groups, beside the whole row; None: as the target has them."""
    scale_dtype: str
    """Dtype of scales that it computes with: `MODEL`, or the name of one."""
    packs_ends: bool
    """Whether embedding and head may be packed."""


ENGINES = {
    "vllm": Engine("compressed-tensors", (4, 8), (4,), (32, 64, 128), MODEL, packs_ends=False),
    "sglang": Engine("compressed-tensors", (4, 8), (), (32, 64, 128), MODEL, packs_ends=False),
    "transformers": Engine("compressed-tensors", (2, 3, 4, 5, 6, 7, 8), (), None, MODEL, packs_ends=False),
    "llama.cpp": Engine("gguf", (2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 5, 6, 7), None, "float16", packs_ends=True),
    "mlx": Engine("mlx", (2, 3, 4, 5, 6, 8), (2, 3, 4, 5, 6, 8), None, "float16", packs_ends=True),
}


def check(name: str | None) -> None:
    """Raises RecipeError for a text that names no engine."""
    if name is not None and name not in ENGINES:
        raise RecipeError(unknown("engine", name, ENGINES), allowed=", ".join(ENGINES))
