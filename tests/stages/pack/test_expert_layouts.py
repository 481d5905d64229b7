"""Experts in every layout are packed, with and without calibration, and load as what was packed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import compress
from compress.format.naming import guard, parse_expert
from compress.models import linears
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from tests.support.entries import put_decoded
from tests.support.models import EXPERT_LAYOUTS, save_tiny, save_tokens, tiny_tokens

pytestmark = pytest.mark.usefixtures("proof_in_this_process")
SAMPLES, LENGTH = 6, 24


def dense_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder.parent / "model", dtype=torch.float32).eval()


def packed_folder(tmp_path: Path, kind: str, method: str, **options: Any) -> Path:
    result = compress.run(
        save_tiny(tmp_path / "model", kind),
        method,
        output=tmp_path / method,
        calibration=str(save_tokens(tmp_path)),
        samples=SAMPLES,
        seq_len=LENGTH,
        suite="none",
        group_size=8,
        **options,
    )
    return Path(result.checkpoint)


def dense_with_unpacked(folder: Path) -> torch.nn.Module:
    """The dense model that was packed, with every packed weight replaced by the one it decodes to."""
    return put_decoded(dense_model(folder), folder)


@pytest.mark.parametrize(
    ("kind", "method"), [*((kind, "gptq") for kind in sorted(EXPERT_LAYOUTS)), ("gpt-oss", "rtn"), ("dbrx", "rtn")]
)
def test_the_packed_model_computes_with_the_decoded_weights(kind: str, method: str, tmp_path: Path) -> None:
    folder = packed_folder(tmp_path, kind, method, bits=4)
    manifest = json.loads((folder / "compress.json").read_text())
    tokens = tiny_tokens(3, 20, seed=5)
    with torch.inference_mode():
        packed = compress.load(folder)(tokens).logits
        expected = dense_with_unpacked(folder)(tokens).logits
        dense = dense_model(folder)(tokens).logits
    assert (packed - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (packed - dense).abs().max() > 1e-3 * dense.abs().max(), "nothing was compressed"
    coverage, refs = manifest["coverage"], linears.find_linears(dense_model(folder), "")
    assert {ref.name for ref in refs if ref.kind == "expert"} == {n for n in manifest["tensors"] if parse_expert(n)}
    assert 0.9 < coverage["share_of_linears"] < 1
    assert [entry["reason"] for entry in coverage["dense_matrices"]] == ["router"]
    assert "router" in manifest["warnings"][-1]


@pytest.mark.parametrize("kind", ["gpt-oss", "jetmoe", "llama4", "dbrx"])
def test_each_expert_is_calibrated_on_its_own_tokens(kind: str, tmp_path: Path) -> None:
    entries = json.loads((packed_folder(tmp_path, kind, "gptq", bits=2) / "compress.json").read_text())["tensors"]
    chosen = 1 if kind == "llama4" else 2
    tokens: dict[str, int] = {}
    for name, entry in entries.items():
        if parsed := parse_expert(name):
            stack = guard(*parsed[:2])
            tokens[stack] = tokens.get(stack, 0) + entry["tokens"]
    assert tokens and set(tokens.values()) == {chosen * SAMPLES * LENGTH}


def test_a_packed_model_is_the_source_of_another_run(tmp_path: Path) -> None:
    """Its decoded experts go back into the model the way round that the model holds them."""
    folder = packed_folder(tmp_path, "gpt-oss", "rtn", bits=8)
    walker = BlockWalker(ModelSource.open(folder))
    block, model = walker.load_block(0), dense_with_unpacked(folder)
    for ref in walker.linears(0):
        assert torch.equal(linears.weight(block, ref), linears.weight(model, ref))
