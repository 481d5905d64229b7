"""Rows read block by block from disk have the logits of the model in memory, dense and packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compress.evaluation import heldout
from compress.evaluation.finite import NotFiniteError
from compress.evaluation.reading import scoring
from compress.evaluation.reading.in_memory import InMemoryReader
from compress.evaluation.reading.rows import Row
from compress.evaluation.reading.streamed import StreamedReader
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.runtime import load
from tests.evaluation.reading.test_in_memory import rows
from tests.support import packed_checkpoints
from tests.support import tiny_suite as tiny


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    tiny.model().save_pretrained(folder)
    return folder


def streamed(folder: Path, batch_size: int = 4, **options: Any) -> StreamedReader:
    return StreamedReader(BlockWalker(ModelSource.open(folder)), batch_size, **options)


def collected(reader: Any, wanted: list[Row], **options: Any) -> dict[int, torch.Tensor]:
    return {index: logits.clone() for batch in reader.read(wanted, **options) for index, logits in batch}


@pytest.mark.parametrize("waiting_bytes", [1, 1 << 14, 1 << 28], ids=["one batch", "some", "all"])
def test_logits_are_those_of_the_model_in_memory(dense: Path, waiting_bytes: int) -> None:
    wanted = rows()
    reader = streamed(dense, waiting_bytes=waiting_bytes)
    ticks: list[int] = []
    read, expected = collected(reader, wanted, tick=ticks.append), collected(InMemoryReader(tiny.model(), 4), wanted)
    assert read.keys() == expected.keys()
    for index in expected:
        torch.testing.assert_close(read[index], expected[index], rtol=1e-4, atol=1e-4)
    assert sum(ticks) == reader.cost(wanted)


def test_a_second_reading_gives_the_same_bits(dense: Path) -> None:
    reader, wanted = streamed(dense), rows()
    whole = collected(reader, wanted)
    known = [index for index, _ in next(iter(reader.read(wanted)))]
    rest = collected(reader, wanted, known=known)
    assert rest.keys() == whole.keys() - set(known)
    assert all(torch.equal(rest[index], whole[index]) for index in rest)


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2", "mixtral"])
def test_a_packed_folder_is_read_as_its_kernels_compute_it(architecture: str, tmp_path: Path) -> None:
    model = packed_checkpoints.tiny(architecture)
    packed = packed_checkpoints.pack_in_place(model, packed_checkpoints.rtn4, skip="a^")
    packed_checkpoints.write(tmp_path / "packed", model, packed)
    wanted = [Row(tuple(range(3, 3 + size)), size // 2) for size in (9, 4, 17)]
    expected = collected(InMemoryReader(load(tmp_path / "packed", dtype=torch.float32), 2), wanted)
    read = collected(streamed(tmp_path / "packed", 2), wanted)
    for index in expected:
        torch.testing.assert_close(read[index], expected[index], rtol=1e-4, atol=1e-5)


def test_perplexity_divergence_and_likelihoods_are_those_in_memory(dense: Path, tmp_path: Path) -> None:
    tiny.model(1).save_pretrained(tmp_path / "other")
    one, other = streamed(dense), streamed(tmp_path / "other")
    in_memory, other_in_memory = InMemoryReader(tiny.model(), 4), InMemoryReader(tiny.model(1), 4)
    windows = heldout.cut(tiny.suite().heldout(), tiny.tokenizer(), room=64)
    expected = heldout.divergence(in_memory, other_in_memory, windows)
    measured = heldout.divergence(one, other, windows)
    for index in (0, 1):
        assert measured[index].nll_per_token == pytest.approx(expected[index].nll_per_token, rel=1e-5)
    assert measured[2].mean == pytest.approx(expected[2].mean, rel=1e-4)
    assert measured[2].same_top1 == expected[2].same_top1
    pairs = [((3, 4, 5), (6, 7)), ((3, 4, 5), (9,)), ((8,), (4, 4, 4))]
    replies = {i: r for batch in scoring.follow(one, pairs) for i, r in batch}
    for index, reply in ((i, r) for batch in scoring.follow(in_memory, pairs) for i, r in batch):
        assert replies[index].nll == pytest.approx(reply.nll, rel=1e-5)
        assert replies[index].agreed == reply.agreed


def test_nothing_but_one_block_is_in_memory(dense: Path) -> None:
    reader = streamed(dense)
    loaded: list[int] = []
    original = reader.walker.load_block

    def watched(index: int) -> Any:
        inside = [p for name in reader.walker.block_names for p in reader.walker.model.get_submodule(name).parameters()]
        loaded.append(sum(p.device.type != "meta" for p in inside))
        return original(index)

    reader.walker.load_block = watched  # type: ignore[method-assign]
    collected(reader, rows())
    assert loaded and not any(loaded)


def test_scores_that_are_not_finite_name_their_layer(tmp_path: Path) -> None:
    model = tiny.model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1e30)
        model.model.layers[1].mlp.gate_proj.weight.mul_(1e30)
    model.save_pretrained(tmp_path)
    reader = streamed(tmp_path)
    with pytest.raises(NotFiniteError) as caught:
        list(scoring.follow(reader, [((3, 4), (5, 6))]))
    assert "model.layers.1.mlp" in str(caught.value)
