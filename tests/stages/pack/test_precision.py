"""Forwards in bfloat16: chosen where the device is fast at it, near float32 in quality, and proved in float32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import compress
from compress.errors import RecipeError
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.recipe import Recipe, StageSpec
from compress.stages.pack.precision import forward_dtype
from tests.support.digests import digests
from tests.support.models import save_tiny, save_tokens, tiny_tokens

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "capabilities", "expected"),
    [
        ("auto", {"avx512_vnni": True, "avx512_bf16": False}, torch.float32),
        ("auto", {"avx512_bf16": True}, torch.bfloat16),
        ("auto", {"amx_bf16": True, "amx_tile": True}, torch.bfloat16),
        ("float32", {"amx_bf16": True}, torch.float32),
        ("bfloat16", {}, torch.bfloat16),
    ],
)
def test_bfloat16_is_for_processors_that_are_fast_at_it(
    name: str, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    assert forward_dtype(name, CPU, capabilities) == expected


def test_another_dtype_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"float16.*bfloat16"):
        Recipe(stages=(StageSpec(method="gptq"),), forward_dtype="float16")


@pytest.mark.parametrize("kind", ["llama", "mixtral", "gpt2"])
def test_products_are_rounded_and_hidden_states_are_not(tmp_path: Path, kind: str) -> None:
    source = ModelSource.open(save_tiny(tmp_path, kind))
    exact, rounded = BlockWalker(source), BlockWalker(source, forward_dtype=torch.bfloat16)
    hidden_STH = exact.embed(tiny_tokens())
    wanted, found = (walker.call(walker.load_block(0), hidden_STH) for walker in (exact, rounded))
    assert found.dtype == torch.float32 and not torch.equal(found, wanted)
    assert (found - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.usefixtures("proof_in_this_process")
@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_the_run_is_proved_in_float32(tmp_path: Path, method: str) -> None:
    model, tokens = save_tiny(tmp_path / "model", "llama"), save_tokens(tmp_path, tiny_tokens(6, 24))
    errors, shards = {}, {}
    for dtype in ("float32", "bfloat16"):
        result = compress.run(
            model,
            method,
            output=tmp_path / dtype,
            calibration=str(tokens),
            samples=6,
            seq_len=24,
            suite="none",
            group_size=16,
            forward_dtype=dtype,
            device="cpu",
        )
        folder = Path(result.checkpoint)
        entries = json.loads((folder / "compress.json").read_text())["tensors"]
        errors[dtype] = sum(entry["relative_error"] for entry in entries.values())
        shards[dtype] = digests(folder, "*.safetensors")
    assert errors["bfloat16"] == pytest.approx(errors["float32"], rel=0.05)
    assert (shards["bfloat16"] == shards["float32"]) == (method == "rtn"), "only a method with statistics sees it"
