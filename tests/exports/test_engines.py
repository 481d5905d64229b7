"""Exports loaded by the engines themselves: their logits are those of the weights that we mean.

Slow: an engine is installed into an environment of its own the first time. `make slow` runs these tests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import compress
from compress.exports import export
from tests.support.engines import (
    checkpoint,
    damaged,
    difference,
    llama_cpp_tokens,
    refusal,
    tokens,
    with_revealing_tokenizer,
)
from tests.support.exports import Solve, books, integers, rounding

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

EXACT = 1e-5
"""Largest difference in float32."""
ROUNDED = {"vllm": 5e-3, "llama.cpp": 3e-2}
"""Largest difference of engines that round the inputs of packed linears: to float16, to 8 bits."""
TABLE = 1e-4
"""Largest difference of llama.cpp in float32 where the activation is GELU, whose values it takes from a table."""
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
EXACT_PLAIN = partial(PLAIN, scale=torch.float32)  # transformers decodes experts in the dtype of the scales
FAMILIES: list[tuple[str, str, Callable[[], Solve], str]] = [
    ("transformers", "compressed-tensors", PLAIN, "gemma3"), ("mlx-lm", "mlx", PLAIN, "gemma3"),
    ("llama.cpp-float32", "gguf", PLAIN, "gemma3"), ("vllm-float32", "compressed-tensors", PLAIN, "gemma3"),
    ("vllm-float32", "dense", PLAIN, "qwen3_moe"),
    *(case for kind in ("mixtral", "qwen3_moe") for case in (
        ("transformers", "compressed-tensors", EXACT_PLAIN, kind), ("mlx-lm", "mlx", PLAIN, kind),
        ("llama.cpp-float32", "gguf", PLAIN, kind),
    )),
]  # fmt: skip
"""Windows and two rotary bases; mixtures of experts."""
REFUSED = {
    ("onnxruntime-genai", "gptq", "gemma3"): "KeyError: 'rope_type'",
    ("onnxruntime-genai", "gptq", "mixtral"): "model is not currently supported",
    ("onnxruntime-genai", "gptq", "qwen3_moe"): "model is not currently supported",
    ("openvino", "gguf", "gemma3"): "Unsupported model architecture 'gemma3'",
    ("openvino", "gguf", "mixtral"): "unordered_map::at",  # it looks for the matrices of a plain MLP
    ("openvino", "gguf", "qwen3_moe"): "unordered_map::at",
    # its kernel for packed experts on CPUs is for Arm
    ("vllm-float32", "compressed-tensors", "qwen3_moe"): "No WNA16 MoE backend supports the deployment configuration",
}
"""What an engine cannot run, and what it says."""
CONTROLS = [
    (engine, to, what)
    for engine, to in (
        ("transformers", "compressed-tensors"), ("mlx-lm", "mlx"), ("onnxruntime-genai", "awq"),
        ("openvino", "gguf"), ("llama.cpp-float32", "gguf"), ("vllm-float32", "compressed-tensors"),
    )
    for what in ("two rows", "a zero point")
    if (to, what) != ("gguf", "a zero point")
]  # fmt: skip

REFUSED_ROUNDING = {
    ("nvfp4", "nvfp4"): "Failed to find a kernel that can implement the NVFP4 linear layer",
    ("nvfp4", "none"): "Marlin FP4 not available",
    ("mxfp4", "mxfp4"): "Failed to find a kernel that can implement the MXFP4 linear layer",
    ("mxfp4", "none"): "Failed to find a kernel that can implement the MXFP4 linear layer",
    ("fp8", "none"): "Failed to find a kernel that can implement the ScaledMM linear layer",
    ("fp8_tensor", "fp8_static"): "static_scaled_fp8_quant() expected at most 0 argument(s)",
}
"""What vLLM's build for CPUs cannot run, and what it says."""
TEXTS = [
    "Hello, world!", "In 1969 there were 31 415 926 of them", "it's WE'VE been, they'll", "  two  spaces\tand a tab",
    "line\nline\r\n\n  end", "naïve café 東京 Привет", "a🙂b", "f(a)=a**12;//!?!\n", "one\u00a0two", "", "x" * 40,
]  # fmt: skip
"""Numbers, contractions, spaces, marks, letters of other scripts."""
CONTROLLED = {"compressed-tensors": EXACT_ZEROS, "gguf": PLAIN}


def name(value: object) -> str | None:
    """Returns the words of a case for the name of its test."""
    return "-".join(map(str, (*value.args, *value.keywords))) if isinstance(value, partial) else None


ALL = [*((*case, "llama") for case in CASES), *OTHER_MODELS, *FAMILIES]


@pytest.mark.parametrize(("engine", "to", "solve", "kind"), ALL, ids=name)
def test_the_engine_computes_our_logits(
    tmp_path: Path, engine: str, to: str, solve: Callable[[], Solve], kind: str
) -> None:
    ours = checkpoint(tmp_path / "a", kind, solve())
    folder = export(ours.folder, to, allow_dense=to == "gguf")
    rounding = ROUNDED.get(engine, EXACT) if solve in (PLAIN, WIDE, ZEROS) else EXACT
    if (engine, kind) == ("llama.cpp-float32", "gemma3"):
        rounding = TABLE
    assert difference(ours, folder, engine) < rounding


@pytest.mark.parametrize(("grid", "activations"), [("int", "int8"), ("fp8", "fp8")])
def test_vllm_rounds_inputs_as_we_do(
    tmp_path: Path, grid: str, activations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W8A8. For int8 vLLM divides the greatest input by 127, compressed-tensors and we by 127.5: that alone differs."""
    ours = checkpoint(tmp_path / "a", "llama", rounding(grid, activations))
    folder = export(ours.folder, "compressed-tensors")
    monkeypatch.setenv("COMPRESS_KERNEL", "reference")
    monkeypatch.setattr("compress.format.activations._INT8_RANGE", 127.0)
    ours.dense = compress.load(ours.folder, dtype=torch.float32)
    assert difference(ours, folder, "vllm-float32") < EXACT


@pytest.mark.parametrize(("grid", "activations"), REFUSED_ROUNDING)
def test_vllm_on_cpus_refuses_other_formats_with_floats(tmp_path: Path, grid: str, activations: str) -> None:
    ours = checkpoint(tmp_path / "a", "llama", rounding(grid, activations))
    folder = export(ours.folder, "compressed-tensors")
    assert REFUSED_ROUNDING[grid, activations] in refusal(folder, "vllm-float32")


@pytest.mark.parametrize(("engine", "to", "kind"), REFUSED)
def test_the_engine_refuses(tmp_path: Path, engine: str, to: str, kind: str) -> None:
    """Fails when an engine learns to run it: then it belongs to the cases above."""
    ours = checkpoint(tmp_path / "a", kind, PLAIN())
    folder = export(ours.folder, to, allow_dense=to == "gguf")
    assert REFUSED[engine, to, kind] in refusal(folder, engine)


@pytest.mark.parametrize(("engine", "to", "what"), CONTROLS)
def test_damage_shows(tmp_path: Path, engine: str, to: str, what: str) -> None:
    """Guards the tests above: they fail on an export with one wrong row or zero point."""
    ours = checkpoint(tmp_path / "a", "llama", CONTROLLED.get(to, ZEROS)())
    folder = damaged(export(ours.folder, to), to, what)
    assert difference(ours, folder, engine) > 10 * EXACT


def test_llama_cpp_reads_several_files(tmp_path: Path) -> None:
    ours = checkpoint(tmp_path / "a", "llama", PLAIN())
    folder = export(ours.folder, "gguf", allow_dense=True, max_shard_size="100kB")
    assert len(list(folder.glob("model-*-of-*.gguf"))) > 1
    assert difference(ours, folder, "llama.cpp") < ROUNDED["llama.cpp"]


def test_llama_cpp_splits_text_as_the_tokenizer_does(tmp_path: Path) -> None:
    source = with_revealing_tokenizer(checkpoint(tmp_path / "a", "llama", PLAIN()).folder)
    folder = export(source, "gguf", allow_dense=True)
    assert llama_cpp_tokens(folder, TEXTS) == tokens(source, TEXTS)


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2"])
def test_a_wrong_pre_tokenizer_shows(tmp_path: Path, pre: str) -> None:
    """Guards the test above: its texts tell ways of splitting apart."""
    source = with_revealing_tokenizer(checkpoint(tmp_path / "a", "llama", PLAIN()).folder)
    folder = export(source, "gguf", allow_dense=True, pre=pre)
    assert llama_cpp_tokens(folder, TEXTS) != tokens(source, TEXTS)


def test_vllm_decodes_our_own_folder(tmp_path: Path) -> None:
    """The plugin is found by its entry point, and holds what no other format holds."""
    ours = checkpoint(tmp_path / "a", "llama", books(1, 4))
    assert difference(ours, ours.folder, "vllm-plugin") < EXACT
