"""Perplexity and divergence on text in windows."""

from __future__ import annotations

from math import log
from operator import mul
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from compress.errors import EvaluationError
from compress.evaluation import heldout
from compress.evaluation.reading.in_memory import InMemoryReader
from tests.support import tiny_suite as tiny
from tests.support.tokenizers import processed

DOCUMENTS = tiny.suite().heldout()


def reader(model: Any) -> InMemoryReader:
    return InMemoryReader(model, 4)


def windows(room: int = 64, limit: int | None = None) -> heldout.Windows:
    return heldout.cut(DOCUMENTS, tiny.tokenizer(), room=room, limit=limit)


def test_every_byte_of_text_is_predicted_once() -> None:
    cut = windows()
    assert cut.bytes == cut.tokens == sum(len(d.encode()) for d in DOCUMENTS)  # one token per byte
    targets = cut.targets[cut.targets != -100]
    assert tiny.tokenizer().decode(targets) == "".join(DOCUMENTS)
    assert cut.inputs.shape[1] == 64


def test_a_limit_leaves_out_whole_documents() -> None:
    cut = windows(limit=5)
    assert len(cut.inputs) <= 5
    text = tiny.tokenizer().decode(cut.targets[cut.targets != -100])
    assert "".join(DOCUMENTS).startswith(text)
    assert text in {"".join(DOCUMENTS[:n]) for n in range(1, len(DOCUMENTS))}


def test_a_model_that_guesses_has_the_size_of_the_vocabulary_as_perplexity() -> None:
    model = tiny.model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = heldout.perplexity(reader(model), windows())
    assert found.perplexity == pytest.approx(len(tiny.tokenizer()), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(log(len(tiny.tokenizer())) / log(2), rel=1e-5)


def test_perplexity_is_that_of_the_loss() -> None:
    cut = windows()
    model = tiny.model()
    with torch.inference_mode():
        logits = model(cut.inputs).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), cut.targets.flatten())
    assert heldout.perplexity(reader(model), cut).nll_per_token == pytest.approx(float(expected), rel=1e-5)


def test_equal_windows_share_their_logits_and_count_once_each() -> None:
    """Logits become log-probabilities in place: of a window that occurs twice, once only."""
    cut, model = windows(), tiny.model()
    one, twice = (heldout.Windows(cut.inputs[rows], cut.targets[rows], 1) for rows in ([0, 1], [0, 1, 0, 1, 0]))
    with torch.inference_mode():
        logits = model(cut.inputs[[0, 1]]).logits
    lost = [float(F.cross_entropy(logits[i], cut.targets[i], reduction="sum")) for i in (0, 1)]
    tokens = [int((cut.targets[i] != -100).sum()) for i in (0, 1)]
    for found, counts in ((one, (1, 1)), (twice, (3, 2))):
        expected = sum(map(mul, counts, lost)) / sum(map(mul, counts, tokens))
        assert heldout.perplexity(reader(model), found).nll_per_token == pytest.approx(expected, rel=1e-6)


def test_a_model_does_not_diverge_from_itself() -> None:
    dense, same, found = heldout.divergence(reader(tiny.model()), reader(tiny.model()), windows())
    assert dense == same
    assert found.mean == pytest.approx(0, abs=1e-6)
    assert found.same_top1 == 1


def test_divergence_is_the_mean_over_tokens_with_an_interval() -> None:
    dense, other, cut = tiny.model(0), tiny.model(1), windows()
    counted: list[int] = []
    _, text, found = heldout.divergence(reader(dense), reader(other), cut, tick=counted.append)
    with torch.inference_mode():
        p, q = (m(cut.inputs).logits.double().log_softmax(-1) for m in (dense, other))
    kl = (p.exp() * (p - q)).sum(-1)[cut.targets != -100]
    assert found.mean == pytest.approx(float(kl.mean()), rel=1e-4)
    assert found.low < found.mean < found.high < found.p99 <= float(kl.max()) * 1.001
    assert found.p99 == pytest.approx(float(kl.quantile(0.99)), rel=0.05)
    assert 0 <= found.same_top1 < 0.5
    assert text == heldout.perplexity(reader(other), cut)
    assert sum(counted) == 2 * cut.inputs.numel()


def test_the_divergence_by_position_is_that_of_the_tokens_there() -> None:
    dense, other, cut = tiny.model(0), tiny.model(1), windows(room=60)
    _, _, found = heldout.divergence(reader(dense), reader(other), cut)
    with torch.inference_mode():
        p, q = (m(cut.inputs).logits.double().log_softmax(-1) for m in (dense, other))
    kl = torch.where(cut.targets != -100, (p.exp() * (p - q)).sum(-1), torch.nan)
    spans = found.by_position
    assert [spans[0].start, spans[-1].end] == [0, 60]
    assert all(span.end - span.start == 2 for span in spans)
    assert sum(span.tokens for span in spans) == found.tokens
    for span in (spans[0], spans[-1]):
        assert span.mean == pytest.approx(float(kl[:, span.start : span.end].nanmean()), rel=1e-4)
    assert sum(span.mean * span.tokens for span in spans) / found.tokens == pytest.approx(found.mean, rel=1e-6)


@pytest.mark.parametrize("layer", ["model.layers.0.self_attn.v_proj", "lm_head"])
def test_a_nan_is_an_error_that_names_the_layer(layer: str) -> None:
    with pytest.raises(EvaluationError, match="not finite") as caught:
        heldout.perplexity(reader(tiny.poisoned(layer)), windows())
    assert caught.value.layer == layer
    with pytest.raises(EvaluationError) as caught:
        heldout.divergence(reader(tiny.model()), reader(tiny.poisoned(layer)), windows())
    assert caught.value.layer == layer


def test_other_windows_are_not_the_same() -> None:
    assert windows().same_as(windows())
    assert not windows().same_as(windows(room=32))
    assert not windows().same_as(windows(limit=2))


@pytest.mark.parametrize(
    ("template", "separator"), [("$A", 2), ("$A <eos>", 2), ("<bos> $A", 1), ("<bos> $A <eos>", 1)]
)
def test_the_separator_is_the_start_of_a_text_or_its_end(template: str, separator: int) -> None:
    windows = heldout.cut(["w5 w6", "w7"], processed(template), room=5)
    assert windows.inputs.tolist() == [[separator, 5, 6, separator, 7]]
    assert windows.targets.tolist() == [[5, 6, -100, 7, -100]] and windows.tokens == 3
