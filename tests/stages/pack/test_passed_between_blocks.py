"""Gemma 3n: embeddings of the tokens, and keys and values of earlier blocks, reach each block, after a kill too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compress
from tests.support.digests import digests
from tests.support.entries import put_decoded
from tests.support.families import save_family
from tests.support.killing import killed_before_record
from tests.support.models import tiny_tokenizer, tiny_tokens

pytestmark = pytest.mark.usefixtures("proof_in_this_process")


def test_a_killed_run_goes_on_with_the_same_bytes(tmp_path: Path, token_file: Path) -> None:
    dense = save_family("gemma3n_text", tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")

    def run(name: str) -> Path:
        return compress.run(
            tmp_path / "model", "gptq", output=tmp_path / name, calibration=token_file, samples=6,
            seq_len=24, suite="none",
        ).checkpoint  # fmt: skip

    for step in (2, 4):  # after the first block; between two blocks that read keys and values of others
        with killed_before_record(step):
            run("out")
    resumed = run("out")
    assert digests(resumed) == digests(run("whole"))
    tokens_ST = tiny_tokens(2, 16, seed=5)
    with torch.inference_mode():
        before = dense(tokens_ST).logits
        expected = put_decoded(dense, resumed)(tokens_ST).logits
        found = compress.load(resumed)(tokens_ST).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - before).abs().max() > 1e-3, "nothing was compressed"
