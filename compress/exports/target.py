"""The interface of a target, and the choice of one by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch

from compress.errors import OutputError, unknown
from compress.exports.linear import Linear
from compress.format.packed import PackedTensor

TARGETS = {
    "compressed-tensors": "vLLM, SGLang, transformers",
    "gguf": "llama.cpp, Ollama, LM Studio",
    "mlx": "MLX, LM Studio on Apple computers",
    "gptq": "vLLM, SGLang, GPTQModel, ONNX Runtime GenAI, llama.cpp's converter",
    "awq": "vLLM, SGLang, MLX, ONNX Runtime GenAI",
    "aqlm": "transformers with the package aqlm",
    "dense": "every program that reads the original model",
}
"""Target -> programs that read it. The file of a target has its name."""


class Target(Protocol):
    """A file of this package that writes one format."""

    def reason(self, linear: Linear) -> str | None:
        """Returns why the format cannot hold the linear exactly, or None if it can."""

    def arrange(self, linears: Mapping[str, Linear]) -> dict[str, Linear]:
        """Returns the linears in the groups that are written, for formats that want equal ones side by side.

        Raises:
            OutputError: linears that an engine joins have options that do not fit together.
        """

    def tensors(self, linear: Linear, packed: PackedTensor) -> dict[str, torch.Tensor]:
        """Returns what is stored for the linear: suffix behind its name -> tensor."""

    def decode(self, linear: Linear, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the weight that engines see in the tensors of `tensors`, float32 [N, K]."""

    def describe(self, linears: Mapping[str, Linear], dense: list[str]) -> dict[str, Any]:
        """Returns what is added to config.json.

        Args:
            linears: those that are stored in the format.
            dense: names of all other linears, the head among them.
        """


def load(name: str) -> Target:
    """Returns the target `name`; OutputError for one that does not exist."""
    if name not in TARGETS:
        raise OutputError(unknown("target", name, TARGETS), allowed=", ".join(TARGETS))
    return cast("Target", importlib.import_module(f"compress.exports.{name.replace('-', '_')}"))
