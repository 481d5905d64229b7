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
from tests.support.engines import damaged, difference
from tests.support.exports import Solve, books, integers, packed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# heads as wide as real ones: engines have kernels for few widths
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2, "num_key_value_heads": 1}
WIDER = {"qwen3": {"head_dim": 128}}
EXACT = 1e-5
"""Largest difference in float32."""
HALF = 5e-3
"""Largest difference in float16, ten times what this arithmetic alone costs."""


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
        ("vllm-float32", "compressed-tensors"),
    )
    for what in ("two rows", "a zero point")
]  # fmt: skip


def name(value: object) -> str | None:
    """Returns the words of a case for the name of its test."""
    return "-".join(map(str, (*value.args, *value.keywords))) if isinstance(value, partial) else None


@pytest.mark.parametrize(("engine", "to", "solve", "kind"), [*((*c, "llama") for c in CASES), *OTHER_MODELS], ids=name)
def test_the_engine_computes_our_logits(
    tmp_path: Path, engine: str, to: str, solve: Callable[[], Solve], kind: str
) -> None:
    ours = packed(tmp_path / "a", kind, solve(), **SIZES, **WIDER.get(kind, {}))
    assert difference(ours, export(ours.folder, to), engine) < (HALF if engine == "vllm" else EXACT)


@pytest.mark.parametrize(("engine", "to", "what"), CONTROLS)
def test_damage_shows(tmp_path: Path, engine: str, to: str, what: str) -> None:
    """Guards the tests above: they fail on an export with one wrong row or zero point."""
    ours = packed(tmp_path / "a", "llama", (EXACT_ZEROS if to == "compressed-tensors" else ZEROS)(), **SIZES)
    folder = damaged(export(ours.folder, to), to, what)
    assert difference(ours, folder, engine) > 10 * EXACT


def test_vllm_decodes_our_own_folder(tmp_path: Path) -> None:
    """The plugin is found by its entry point, and holds what no other format holds."""
    ours = packed(tmp_path / "a", "llama", books(1, 4), **SIZES)
    assert difference(ours, ours.folder, "vllm-plugin") < EXACT
