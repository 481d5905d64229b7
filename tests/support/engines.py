"""Engines in environments of their own, run on exports, and damage that an engine must show in its logits.

What installs and runs them is `benchmarks/_engines.py`, the same as for docs/ENGINES.md. The environments are kept in
the folder of kept files, or in that of `COMPRESS_TEST_ENGINES`, so that only the first run installs anything.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.support.exports import Solve, packed
from tests.support.packed_checkpoints import Packed

ROOT = Path(__file__).parents[2]
SIZES = {
    "hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 256, "vocab_size": 2048,
}  # fmt: skip
OTHER_SIZES = {
    "qwen3": {"head_dim": 128},
    "gemma3": {"hidden_size": 256, "head_dim": 64, "query_pre_attn_scalar": 64},  # MLX rounds √hidden_size to bfloat16
    "qwen3_moe": {"head_dim": 128, "moe_intermediate_size": 192},
}  # fmt: skip
PROMPT = list(range(12))


def checkpoint(folder: Path, kind: str, solve: Solve) -> Packed:
    """Returns a model of the kind, packed into `folder`, of sizes that engines have kernels for, with a tokenizer."""
    ours = packed(folder, kind, solve, **(SIZES | OTHER_SIZES.get(kind, {})))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "compress" / "atlas" / "model" / name, folder)
    return ours


def with_revealing_tokenizer(folder: Path) -> Path:
    """Gives the folder a tokenizer with words that other ways of splitting text would find, and its own does not."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("1", "2"), ("!", "Ċ"), ("(", "a"), ("h", "e")]  # two digits; marks and line ends; a mark and a letter
    words = ["<eos>", *alphabet, *("".join(pair) for pair in merges)]
    made = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>").save_pretrained(folder)
    return folder


def difference(ours: Packed, export: Path, engine: str) -> float:
    """Returns ‖a − b‖ / ‖b‖ over the logits of all positions: a of the engine, b of the weights that we mean."""
    machinery: Any = _machinery()
    result = export.with_name(f"{export.name}-{engine}.npz")
    found = machinery.read(engine, export, [PROMPT], 1, result, Path(os.environ["COMPRESS_TEST_ENGINES"]))
    with torch.no_grad():
        expected = ours.dense(torch.tensor([PROMPT])).logits[0].float().numpy()
    assert found["logits"].shape == expected.shape and np.isfinite(found["logits"]).all()
    return float(machinery.difference(engine, found["logits"], expected))


def llama_cpp_tokens(export: Path, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each text in llama.cpp."""
    machinery: Any = _machinery()
    environments = Path(os.environ["COMPRESS_TEST_ENGINES"])
    found: list[list[int]] = machinery.llama_cpp_tokens(export, texts, environments)
    return found


def tokens(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each text by tokenizer.json."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def refusal(export: Path, engine: str) -> str:
    """Returns what the engine wrote when it refused the export; fails if it ran it."""
    machinery: Any = _machinery()
    result = export.with_name(f"{export.name}-{engine}.npz")
    with pytest.raises(machinery.RefusedError) as caught:
        machinery.read(engine, export, [PROMPT], 1, result, Path(os.environ["COMPRESS_TEST_ENGINES"]))
    return str(caught.value)


def _machinery() -> Any:
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("_engines")
    finally:
        sys.path.remove(folder)


def _rows(tensor: torch.Tensor) -> None:
    tensor[[0, 1]] = tensor[[1, 0]]


def _columns(tensor: torch.Tensor) -> None:
    tensor[:, [0, 1]] = tensor[:, [1, 0]]


def _words(tensor: torch.Tensor) -> None:
    """Exchanges the first two codes of every word of four-bit codes: in AWQ, output rows 0 and 2 of eight."""
    low, next_one = tensor & 15, (tensor >> 4) & 15
    tensor.copy_((tensor & ~255) | (low << 4) | next_one)


def _lowest_bit(tensor: torch.Tensor) -> None:
    tensor[0, 0] ^= 1


def _by_one_step(tensor: torch.Tensor) -> None:
    """Moves a bias of MLX, −zero · scale, by half its size, some steps of the grid."""
    tensor[0, 0] *= 1.5


DAMAGE: dict[str, dict[str, tuple[str, Callable[[torch.Tensor], None]]]] = {
    "two rows": {
        "compressed-tensors": ("weight_packed", _rows), "mlx": ("weight", _rows), "gptq": ("qweight", _columns),
        "awq": ("qweight", _words), "aqlm": ("codes", _rows),
    },
    "a zero point": {
        "compressed-tensors": ("weight_zero_point", _lowest_bit), "mlx": ("biases", _by_one_step),
        "gptq": ("qzeros", _lowest_bit), "awq": ("qzeros", _lowest_bit),
    },
}  # fmt: skip
"""What is damaged -> target -> the suffix of the tensor, and the change."""


def damaged(export: Path, target: str, what: str, linear: str = "model.layers.0.self_attn.q_proj") -> Path:
    """Changes one tensor of one linear in the export, and returns the folder."""
    if target == "gguf":
        return _damaged_gguf(export, linear)
    suffix, change = DAMAGE[what][target]
    name = f"{linear}.{suffix}"
    (path,) = (path for path in export.glob("*.safetensors") if name in load_file(path))
    tensors = load_file(path)
    before = tensors[name].clone()
    unsigned = tensors[name].dtype == torch.uint32  # torch cannot index those
    change(tensors[name].view(torch.int32) if unsigned else tensors[name])
    assert not torch.equal(tensors[name], before)
    save_file(tensors, path, metadata={"format": "mlx" if target == "mlx" else "pt"})
    return export


def _damaged_gguf(export: Path, linear: str) -> Path:
    """Exchanges two rows of blocks."""
    from gguf import GGUFReader

    assert linear == "model.layers.0.self_attn.q_proj"
    reader = GGUFReader(export / "model.gguf", "r+")
    rows = next(tensor.data for tensor in reader.tensors if tensor.name == "blk.0.attn_q.weight")
    rows[[0, 1]] = rows[[1, 0]]
    rows.flush()
    return export
