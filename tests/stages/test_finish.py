"""The end of a run: what the proof of load reads, and what it stops."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

import compress
from compress.errors import FormatError
from compress.format.manifest import MANIFEST
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.runtime import proof
from compress.runtime.linear import PackedLinear
from compress.stages import proof_reference
from tests.support.models import save_tiny


@pytest.mark.usefixtures("proof_in_this_process")
def test_a_wrong_logit_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: forward(self, x) * 1.001)
    with pytest.raises(FormatError, match="does not reproduce its reference logits"):
        compress.run(str(save_tiny(tmp_path / "model")), "rtn", output=tmp_path / "out", suite="none")
    assert not (tmp_path / "out" / MANIFEST).exists()
    assert (tmp_path / "out" / f"{MANIFEST}.unproven").exists()


def test_a_proof_that_a_fresh_process_denies_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes the proof, `finish.prove` looks at what it says."""
    monkeypatch.setattr(proof, "prove_in_fresh_process", lambda *_, **__: proof.Proof(0.5, 1e-5, holds=False))
    with pytest.raises(FormatError, match=r"relative error 0\.5"):
        compress.run(str(save_tiny(tmp_path / "model")), "rtn", output=tmp_path / "out", suite="none")


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_the_proof_reads_beyond_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    read = []

    def prove(folder: Path, reference: Path, **_: object) -> proof.Proof:
        read.extend(proof.read_reference(reference))
        return proof.prove(folder, reference)

    monkeypatch.setattr(proof, "prove_in_fresh_process", prove)
    folder = save_tiny(tmp_path / "model", "mistral", sliding_window=300, max_position_embeddings=512)
    compress.run(str(folder), method, output=tmp_path / "out", suite="none", samples=4, seq_len=24)
    assert [len(text.tokens) for text in read] == [24 if method == "gptq" else 32, 332]
    assert read[1].positions.tolist() == [*range(32), *range(300, 332)]
    assert read[1].logits.shape[0] == 64


@pytest.mark.parametrize(
    ("model_type", "values", "expected"),
    [
        ("llama", {}, set()),
        ("mistral", {"sliding_window": 300}, {300}),
        ("llama4_text", {"attention_chunk_size": 70}, {70}),
        ("deepseek_v32", {"index_topk": 256}, {256}),
        ("minimax_m3_vl_text", {"index_topk_blocks": 5, "index_block_size": 32}, {32, 160}),
        ("qwen2", {"use_sliding_window": False}, set()),
    ],
)
def test_lengths_from_which_on_attention_leaves_tokens_out(
    model_type: str, values: dict[str, int], expected: set[int]
) -> None:
    config = AutoConfig.for_model(model_type, **values).to_dict()
    assert {reach for reach in proof_reference.reaches(config) if reach > 2} == expected
    assert proof_reference.reaches({"text_config": config}) == proof_reference.reaches(config)


def walker(window: int, context: int | None) -> BlockWalker:
    config = AutoConfig.for_model("mistral", sliding_window=window, max_position_embeddings=context or 1)
    model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa"))
    source = SimpleNamespace(config=config)
    return SimpleNamespace(source=source, model=model, max_seq_len=context, hidden_size=64)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("window", "context", "memory", "expected"),
    [
        (4096, 8192, 1 << 40, (4128, 0)),
        (4096, 4100, 1 << 40, (4100, 0)),
        (4096, 4096, 1 << 40, (32, 0)),  # no token ever lies outside the window
        (4096, None, 1 << 40, (4128, 0)),
        (4096, 8192, 1 << 20, (32, 4096)),
        (7, 64, 1 << 40, (32, 0)),  # the short text crosses it
    ],
)
def test_the_length_of_the_text(window: int, context: int | None, memory: int, expected: tuple[int, int]) -> None:
    assert proof_reference.text_length(walker(window, context), memory) == expected


def test_a_window_that_memory_does_not_allow_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_reference, "_text_bytes", lambda walker, length: 1 << 60)
    notes: list[str] = []
    folder = save_tiny(tmp_path / "model", "mistral", sliding_window=300, max_position_embeddings=512)
    progress = SimpleNamespace(note=notes.append)
    text = proof.Text(torch.arange(32), torch.arange(32), torch.zeros(32, 96))
    assert proof_reference.complete([text], folder, progress) == [text]  # type: ignore[arg-type]
    assert "longer than the attention window of 300 does not fit" in notes[0]
    assert BlockWalker(ModelSource.open(folder)).max_seq_len == 512
