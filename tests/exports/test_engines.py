"""Exports loaded by the engines themselves: their logits are those of the weights that we mean.

Slow: an engine is installed into an environment of its own the first time. `make slow` runs these tests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from compress.exports import export
from tests.support.engines import checkpoint, damaged, difference
from tests.support.exports import Solve, books, integers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

EXACT = 1e-5
"""Largest difference in float32."""
ROUNDED = {"vllm": 5e-3, "llama.cpp": 3e-2}
"""Largest difference of engines that round the inputs of packed linears: to float16, to 8 bits."""
Case = tuple[str, str, Callable[[], Solve]]
PLAIN, WIDE, ROWS = partial(integers, 4, 32), partial(integers, 4, 64), partial(integers, 8, None)
THREE, ZEROS = partial(integers, 3, 32), partial(integers, 4, 32, symmetric=False)
EXACT_ZEROS = partial(ZEROS, scale=torch.float32)  # where a reader rounds to the dtype of the scales
CASES: list[Case] = [
    ("transformers", "compressed-tensors", PLAIN), ("transformers", "compressed-tensors", THREE),
    ("transformers", "compressed-tensors", ROWS), ("transformers", "compressed-tensors", EXACT_ZEROS),
    ("mlx-lm", "mlx", PLAIN), ("mlx-lm", "mlx", THREE), ("mlx-lm", "mlx", ZEROS),
    ("onnxruntime-genai", "gptq", PLAIN), ("onnxruntime-genai", "awq", ZEROS),
    ("aqlm", "aqlm", partial(books, 2, 8)),
    ("openvino", "gguf", PLAIN), ("openvino", "gguf", ROWS), ("llama.cpp-float32", "gguf", PLAIN),
    ("llama.cpp-float32", "gguf", ZEROS), ("llama.cpp", "gguf", PLAIN),
    ("llama.cpp", "gguf", partial(books, 1, 4)),
    ("vllm-float32", "compressed-tensors", PLAIN), ("vllm-float32", "compressed-tensors", ZEROS),
    ("vllm-float32", "compressed-tensors", partial(integers, 4, None)), ("vllm-float32", "dense", THREE),
    ("vllm", "compressed-tensors", PLAIN), ("vllm", "gptq", WIDE), ("vllm", "awq", ZEROS),
]  # fmt: skip
OTHER_MODELS = [
    (*case, kind)
    for case in CASES
    if case[1] in ("compressed-tensors", "mlx", "gptq") and case[2] in (PLAIN, WIDE) and case[0] != "vllm"
    for kind in ("qwen2", "qwen3")
]
"""Biases; norms of q and k, and heads wider than the stream."""
CONTROLS = [
    (engine, to, what)
    for engine, to in (
        ("transformers", "compressed-tensors"), ("mlx-lm", "mlx"), ("onnxruntime-genai", "awq"),
        ("openvino", "gguf"), ("llama.cpp-float32", "gguf"), ("vllm-float32", "compressed-tensors"),
    )
    for what in ("two rows", "a zero point")
    if (to, what) != ("gguf", "a zero point")
]  # fmt: skip

CONTROLLED = {"compressed-tensors": EXACT_ZEROS, "gguf": PLAIN}


def name(value: object) -> str | None:
    """Returns the words of a case for the name of its test."""
    return "-".join(map(str, (*value.args, *value.keywords))) if isinstance(value, partial) else None


@pytest.mark.parametrize(("engine", "to", "solve", "kind"), [*((*c, "llama") for c in CASES), *OTHER_MODELS], ids=name)
def test_the_engine_computes_our_logits(
    tmp_path: Path, engine: str, to: str, solve: Callable[[], Solve], kind: str
) -> None:
    ours = checkpoint(tmp_path / "a", kind, solve())
    folder = export(ours.folder, to, allow_dense=to == "gguf")
    rounding = ROUNDED.get(engine, EXACT) if solve in (PLAIN, WIDE, ZEROS) else EXACT
    assert difference(ours, folder, engine) < rounding


@pytest.mark.parametrize(("engine", "to", "what"), CONTROLS)
def test_damage_shows(tmp_path: Path, engine: str, to: str, what: str) -> None:
    """Guards the tests above: they fail on an export with one wrong row or zero point."""
    ours = checkpoint(tmp_path / "a", "llama", CONTROLLED.get(to, ZEROS)())
    folder = damaged(export(ours.folder, to), to, what)
    assert difference(ours, folder, engine) > 10 * EXACT


def test_vllm_decodes_our_own_folder(tmp_path: Path) -> None:
    """The plugin is found by its entry point, and holds what no other format holds."""
    ours = checkpoint(tmp_path / "a", "llama", books(1, 4))
    assert difference(ours, ours.folder, "vllm-plugin") < EXACT
