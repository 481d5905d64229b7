"""Runs on models that another program quantised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compress
from compress.models.source import ModelSource
from tests.support import foreign
from tests.support.foreign import Foreign
from tests.support.models import save_tokens, tiny_tokenizer, tiny_tokens

pytestmark = pytest.mark.usefixtures("proof_in_this_process")


@pytest.fixture
def model(tmp_path: Path) -> Foreign:
    described = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    made = foreign.write(tmp_path / "awq", "llama", foreign.awq(32), described)
    (made.folder / "quant_log.csv").write_text("loss\n")
    tiny_tokenizer().save_pretrained(made.folder)
    return made


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_it_is_compressed_like_the_dense_model_that_it_means(model: Foreign, tmp_path: Path, method: str) -> None:
    """The same planes come out as of the decoded model, saved by transformers."""
    model.dense.save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    options = {"bits": 3, "group_size": 16, "suite": "none", "samples": 4, "seq_len": 24}
    options["calibration"] = str(save_tokens(tmp_path, tiny_tokens(1, 200) % 61))
    made = [
        compress.run(str(folder), method, output=tmp_path / f"out{number}", **options)
        for number, folder in enumerate((model.folder, tmp_path / "dense"))
    ]
    ours, expected = ((each.checkpoint / "model-00001-of-00001.safetensors").read_bytes() for each in made)
    assert ours == expected
    (entry,) = made[0].manifest["history"]
    assert entry["imported"] == "dequantised from awq, 4 bits, groups of 32"
    assert entry["source"]["model"] == "awq" and made[1].manifest["history"] == []
    assert any("quantised before" in warning for warning in made[0].manifest["warnings"])
    assert not (made[0].checkpoint / "quant_log.csv").exists()


def test_what_stays_dense_is_decoded(model: Foreign, tmp_path: Path) -> None:
    done = compress.run(str(model.folder), "rtn", output=tmp_path / "out", suite="none", skip="*mlp*", min_coverage=0)
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(ModelSource.open(done.checkpoint).read(f"{name}.weight"), model.weight(name))
