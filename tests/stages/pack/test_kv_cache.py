"""Keys and values that are rounded: in calibration, in the proof of load, in evaluation, with a cache and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import compress
from compress.errors import CompressError, FormatError
from compress.exports import export
from compress.exports import plan as planning
from compress.format import manifest
from compress.format.reader import open_checkpoint
from compress.models.walking import kv_cache
from tests.stages.pack.test_activations import walked
from tests.support.models import save_tiny, save_tokens, tiny_tokens


def run(folder: Path, kind: str = "llama", method: str = "rtn", **options: Any) -> Path:
    compress.run(
        str(save_tiny(folder / "model", kind)), method, output=folder / "out", suite="none", samples=4, seq_len=12,
        calibration=str(save_tokens(folder)), **options,
    )  # fmt: skip
    return folder / "out"


@pytest.mark.usefixtures("proof_in_this_process")
@pytest.mark.parametrize(("kind", "method"), [("llama", "rtn"), ("llama", "gptq"), ("gpt2", "rtn")])
def test_a_run_rounds_keys_and_values(tmp_path: Path, kind: str, method: str) -> None:
    folder = run(tmp_path, kind, method, kv_cache="fp8")
    content = open_checkpoint(folder).manifest
    assert content["format_version"] == 3 and len(content["kv_cache"]["scales"]) == 3
    tokens_ST = tiny_tokens(1, 12)
    with torch.no_grad():
        model = compress.load(folder, dtype=torch.float32)
        found = model(tokens_ST, use_cache=False).logits
        assert torch.allclose(walked(folder, tokens_ST), found, rtol=0, atol=1e-5)
        cached = model(tokens_ST, use_cache=True)
        assert torch.equal(cached.logits, found)
        keys, scales = cached.past_key_values.layers[0].keys, content["kv_cache"]["scales"]
        scale = torch.tensor(next(iter(scales.values()))[0])
        assert torch.equal((keys / scale).to(torch.float8_e4m3fn).float() * scale, keys)
        kv_cache.stop_rounding(model)
        assert (model(tokens_ST).logits - found).abs().max() > 1e-4


@pytest.mark.usefixtures("proof_in_this_process")
def test_transformers_rounds_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = run(tmp_path, grid="fp8", activations="fp8", kv_cache="fp8", embedding_bits=None, head_bits=None)
    exported, tokens_ST = export(folder, "compressed-tensors"), tiny_tokens(1, 12)
    theirs = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    with torch.no_grad():
        mine = compress.load(folder, dtype=torch.float32)
        found, expected = theirs(tokens_ST).logits, mine(tokens_ST).logits
        assert torch.equal(found, expected)
        kv_cache.stop_rounding(mine)
        assert not torch.equal(found, mine(tokens_ST).logits)
    plan = planning.make(folder, "compressed-tensors", allow_dense=False, dense_dtype="float32")
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    assert "model.layers.2.self_attn.v_scale" in index["weight_map"]
    tensors = [one for path in exported.glob("*.safetensors") for one in load_file(path).values()]
    assert plan.size_bytes == sum(one.numel() * one.element_size() for one in tensors)
    dense = planning.make(folder, "dense", allow_dense=False, dense_dtype="float32")
    assert any("scales of keys and values are left out" in text for text in dense.warnings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_cache": "int4"}, "kv_cache 'int4'.*fp8"),
        ({"kv_cache": "fp8", "tune": "block"}, "kv_cache='fp8' with tune='block'"),
        ({"kv_cache": "fp8", "workers": 2}, "workers=2 with --kv-cache fp8"),
        ({"kv_cache": "fp8", "method": "llm_pruner"}, "kv_cache with the method llm_pruner"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        run(tmp_path, **options)


@pytest.mark.parametrize("pair", [[0.0, 1.0], [1.0], "ab", [1.0, float("inf")]])
def test_scales_that_are_none_are_refused(pair: Any) -> None:
    with pytest.raises(FormatError, match="of keys and values"):
        manifest.check_kv_cache({"dtype": "fp8", "scales": {"model.layers.0.self_attn": pair}})
