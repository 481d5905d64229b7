"""Families whose modules do something out of the ordinary are walked like transformers runs them, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.errors import CompressError
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from tests.support.families import VOCABULARY, save_family


def tokens() -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("family", "dense"),
    [
        ("bert", None),  # the bias of the head stands under two names
        ("falcon_h1", None),
        ("gemma3", None),  # the vision tower is deeper than the decoder
        ("gemma3n_text", None),  # blocks exchange three copies of the hidden states, and keys and values
        ("gemma4_text", None),  # blocks receive embeddings of the tokens
        ("gemma4_text-shared", None),  # blocks also read keys and values of blocks before them
        ("llava", None),  # AutoModelForImageTextToText
        ("git", None),  # the vision tower is as deep as the decoder
        ("idefics3", None),  # moves the embeddings to the device of its first parameter, which is the tower's
        ("mamba", "mixer.dt_proj.weight"),  # used without calling the linear
        ("openai-gpt", None),  # blocks return lists
        ("rwkv", "attention.output.weight"),  # rescaled by the model before it runs
    ],
)
def test_the_walk_equals_the_model(tmp_path: Path, family: str, dense: str | None) -> None:
    real = save_family(family, tmp_path)
    walker = BlockWalker(ModelSource.open(tmp_path))
    with torch.inference_mode():
        expected = real(input_ids=tokens(), use_cache=False).logits
    hidden_STH = walker.embed(tokens())
    assert hidden_STH.shape[2] == walker.state_size
    for index, name in enumerate(walker.block_names):
        block = walker.load_block(index)
        hidden_STH = walker.forward(block, hidden_STH, micro_batch=1)
        walker.free_block(block)
        parameters = {ref.parameter for ref in walker.linears(index)}
        assert parameters and (dense is None or f"{name}.{dense}" not in parameters)
        assert dense is None or f"{name}.{dense}" in walker.dense_tensors()
    torch.testing.assert_close(walker.logits(hidden_STH), expected, rtol=1e-5, atol=1e-5)


def test_a_block_whose_weights_are_shared_stays_dense_and_gets_the_embeddings(tmp_path: Path) -> None:
    real = save_family("zamba2", tmp_path)
    walker = BlockWalker(ModelSource.open(tmp_path))
    assert walker.rehearsal.state.by_tokens
    with torch.inference_mode():
        expected = real(input_ids=tokens(), use_cache=False).logits
    hidden_STH = walker.embed(tokens())
    for index in range(len(walker.block_names)):
        block = walker.load_block(index)
        hidden_STH = walker.forward(block, hidden_STH, micro_batch=1)
        walker.free_block(block)
        assert not {ref.parameter for ref in walker.linears(index)} & {*walker.tied, *walker.tied.values()}
    torch.testing.assert_close(walker.logits(hidden_STH), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("hrm_text", "out of order"),  # two stacks run in a loop
        ("prophetnet", "hidden states of shape"),
        ("reformer", "ReformerOutput"),
        ("xlnet", "hidden states of shape"),  # tokens first
    ],
)
def test_families_that_cannot_be_walked_are_refused(tmp_path: Path, family: str, message: str) -> None:
    save_family(family, tmp_path)
    walker = BlockWalker(ModelSource.open(tmp_path))
    with pytest.raises(CompressError, match=message) as caught:
        walker.linears(0)
    assert caught.value.layer is not None


def test_a_padding_row_that_is_lost_at_load_is_refused_early(tmp_path: Path) -> None:
    save_family("youtu", tmp_path)
    with pytest.raises(CompressError, match="sets row 0 to zero"):
        BlockWalker(ModelSource.open(tmp_path))
