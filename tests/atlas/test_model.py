"""The bundled files: a plain Hugging Face folder, small, knowing, and tight."""

from __future__ import annotations

import pytest
import torch

from compress.atlas import MODEL_DIR, items, score

MIB = 2**20


@pytest.fixture(scope="module")
def atlas():
    return score.load(MODEL_DIR)


def test_folder_is_small_and_safe() -> None:
    names = {path.name for path in MODEL_DIR.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (MODEL_DIR / "model.safetensors").stat().st_size <= 10 * MIB


def test_architecture(atlas) -> None:
    model, tokenizer = atlas
    assert model.config.model_type == "llama"
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert sum(p.numel() for p in model.parameters()) <= 6_000_000
    assert len(tokenizer) == model.config.vocab_size == 2048
    assert all(dim % 64 == 0 for p in model.parameters() for dim in p.shape)


def test_shipped_weights_are_bfloat16() -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_tokenizer_round_trip_and_single_digits(atlas) -> None:
    _, tokenizer = atlas
    text = "Question: When was Ada born?\nAnswer: 1972\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer("1972")["input_ids"]) == 4


def test_dense_knows(atlas) -> None:
    scores = score.accuracy(*atlas, {"factoid": items.factoid(), "retrieval": items.retrieval()}, limit=60)
    assert scores["factoid"] >= 0.85
    assert scores["open_book"] >= 0.85


def test_dense_chooses_and_obeys(atlas) -> None:
    families = items.families()
    chosen = {family: families[family] for family in ("multiple_choice", "summarisation", "instruction")}
    scores = score.accuracy(*atlas, chosen, limit=40)
    assert scores["multiple_choice"] >= 0.85
    assert scores["summarisation"] >= 0.7
    assert scores["instruction"] >= 0.7


def test_three_bit_rounding_forgets(atlas) -> None:
    model, tokenizer = atlas
    sample = {"factoid": items.factoid()[:150]}
    dense = score.accuracy(model, tokenizer, sample)["factoid"]
    coarse = score.accuracy(score.rounded(model, 3), tokenizer, sample)["factoid"]
    assert dense - coarse >= 0.10


def test_rounding_keeps_the_grid() -> None:
    weight = torch.randn(4, 32)
    assert all(len(row.unique()) <= 8 for row in score.round_to_nearest(weight, 3))
    fine = score.round_to_nearest(weight, 3, 16)
    assert (fine - weight).norm() < (score.round_to_nearest(weight, 3) - weight).norm()


def test_containment() -> None:
    assert score.contains("It is Paris.", ["Paris"])
    assert score.contains(".fr", [".fr"])
    assert not score.contains("", ["Paris"])
    assert not score.contains("179", ["79"])
    assert not score.contains("anything", [""])
