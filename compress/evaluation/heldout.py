"""Measures perplexity on held-out text for one model, or for two models with the divergence between them.

Shape letters: S windows, T tokens, V vocabulary. Log-probabilities are fp32; logits are not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812

from compress.errors import EvaluationError
from compress.evaluation.reading.rows import Reader, Row, Tick
from compress.evaluation.result import Divergence, PositionKL, TextResult
from compress.evaluation.stats import bootstrap_interval
from compress.texts.special_tokens import text_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW = 512
_IGNORED = -100
_POSITIONS = 64
_SPANS = 32
"""Largest number of position spans for which the divergence is reported separately."""


@dataclass(frozen=True)
class Windows:
    """Text in windows without overlap; every token is predicted once, separators and padding are not predicted."""

    inputs: torch.Tensor
    """int64 [S, T]; the last window is padded."""
    targets: torch.Tensor
    """int64 [S, T], -100 where nothing is predicted."""
    bytes: int
    """UTF-8 bytes of the predicted text."""

    @property
    def tokens(self) -> int:
        """Number of predicted tokens."""
        return int((self.targets != _IGNORED).sum())

    def rows(self) -> list[Row]:
        """Returns the windows as rows of which all logits are wanted."""
        return [Row(tuple(tokens)) for tokens in self.inputs.tolist()]

    def same_as(self, other: Windows) -> bool:
        """Returns whether both models get the same tokens, so that their distributions can be compared."""
        return self.inputs.shape == other.inputs.shape and bool((self.inputs == other.inputs).all())


def cut(
    documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, room: int, limit: int | None = None
) -> Windows:
    """Returns the documents, each preceded by a separator, in windows of at most `WINDOW` and `room` tokens.

    The separator is the tokenizer's start token (BOS), or its end-of-text token if it adds no start token. `limit`
    bounds the number of windows by leaving out whole documents from the end.

    Raises EvaluationError for a tokenizer with neither token, and for one whose special tokens cannot be controlled.
    """
    length = min(WINDOW, room)
    encoder = text_encoder(tokenizer)
    separator = list(encoder.separator)
    if not separator:
        raise EvaluationError("the tokenizer has neither a start nor an end token", do="Add one to the tokenizer")
    stream: list[int] = []
    predicted: list[bool] = []
    size = 0
    for document in documents:
        ids = encoder.plain(document)
        if limit is not None and stream and len(stream) + len(ids) > limit * length:
            break
        stream += [*separator, *ids]
        predicted += [False] * len(separator) + [True] * len(ids)
        size += len(document.encode())
    count = -(-len(stream) // length)
    padded = torch.full((count * length + 1,), separator[-1])
    padded[: len(stream)] = torch.tensor(stream)
    target = padded[1:].clone()
    target[: len(stream) - 1][~torch.tensor(predicted[1:], dtype=torch.bool)] = _IGNORED
    target[len(stream) - 1 :] = _IGNORED
    return Windows(padded[:-1].view(count, length), target.view(count, length), size)


def perplexity(reader: Reader, windows: Windows, *, tick: Tick = lambda tokens: None) -> TextResult:
    """Returns the likelihood of the text under a model; EvaluationError if its scores are not finite."""
    nll = sum(_nll(log_prob_TV, windows.targets[index]) for index, log_prob_TV in _log_probs(reader, windows, tick))
    return _text_result(nll, windows)


def divergence(
    dense: Reader,
    compressed: Reader,
    windows: Windows,
    *,
    tick: Tick = lambda tokens: None,
) -> tuple[TextResult, TextResult, Divergence]:
    """Returns the text results of both models and KL(dense ‖ compressed), in one pass."""
    dense_nll, compressed_nll, same = 0.0, 0.0, 0
    per_window: list[torch.Tensor] = []
    length = windows.targets.shape[1]
    sum_T, count_T = torch.zeros(length, dtype=torch.float64), torch.zeros(length, dtype=torch.int64)
    of_compressed = _log_probs(compressed, windows, tick)
    for index, p_TV in _log_probs(dense, windows, tick):
        other, q_TV = next(of_compressed)
        assert index == other, "windows have one length, so that every reader yields them in their order"
        target_T = windows.targets[index]
        if p_TV.shape != q_TV.shape:
            raise EvaluationError(f"vocabularies of {p_TV.shape[1]} and {q_TV.shape[1]} tokens cannot be compared")
        dense_nll += _nll(p_TV, target_T)
        compressed_nll += _nll(q_TV, target_T)
        counted_T = target_T != _IGNORED
        kl_T = _kl(p_TV, q_TV)
        per_window.append(kl_T[counted_T])
        sum_T += torch.where(counted_T, kl_T, 0).double()
        count_T += counted_T
        same += int((p_TV.argmax(-1) == q_TV.argmax(-1))[counted_T].sum())
        del p_TV, q_TV  # else four arrays of a window are alive while the next ones are made
    kl = torch.cat(per_window).double()
    low, high = bootstrap_interval([float(w.double().sum()) for w in per_window], [len(w) for w in per_window])
    kl_summary = Divergence(
        mean=float(kl.mean()),
        low=low,
        high=high,
        p99=float(kl.kthvalue(max(1, round(0.99 * len(kl)))).values),
        same_top1=same / len(kl),
        tokens=len(kl),
        by_position=_by_position(sum_T, count_T),
    )
    return _text_result(dense_nll, windows), _text_result(compressed_nll, windows), kl_summary


def _kl(p_TV: torch.Tensor, q_TV: torch.Tensor) -> torch.Tensor:
    """Returns KL(p ‖ q) [T] of log-probabilities, some positions at a time: the terms of all would be a third array."""
    stretches = (slice(start, start + _POSITIONS) for start in range(0, len(p_TV), _POSITIONS))
    return torch.cat(
        [F.kl_div(q_TV[s], p_TV[s], reduction="none", log_target=True).sum(-1).clamp_min(0) for s in stretches]
    )


def _by_position(sum_T: torch.Tensor, count_T: torch.Tensor) -> tuple[PositionKL, ...]:
    """Returns the means over at most `_SPANS` spans of positions, without spans that have no predicted token."""
    width = -(-len(sum_T) // _SPANS)
    spans = []
    for start in range(0, len(sum_T), width):
        end = min(start + width, len(sum_T))
        if tokens := int(count_T[start:end].sum()):
            spans.append(PositionKL(start, end, float(sum_T[start:end].sum()) / tokens, tokens))
    return tuple(spans)


def _log_probs(reader: Reader, windows: Windows, tick: Tick) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields (index of the window, its log-probabilities, fp32 [T, V], on the CPU), in the order of the windows."""
    rows = windows.rows()
    for batch in reader.read(rows, tick=tick):
        done: set[int] = set()  # equal windows share their logits
        while batch:
            index, log_prob_TV = batch.pop(0)
            if log_prob_TV.data_ptr() not in done:
                done.add(log_prob_TV.data_ptr())
                _to_log_probs(log_prob_TV)
            if not torch.isfinite(log_prob_TV.amax(-1)).all():
                raise reader.not_finite(rows[index].tokens, "On held-out text")
            on_cpu_TV = log_prob_TV.cpu()
            del log_prob_TV  # a generator that waits would keep it in memory
            yield index, on_cpu_TV
            del on_cpu_TV


def _to_log_probs(logits_TV: torch.Tensor) -> None:
    """Replaces logits by log-probabilities where they are: with a large vocabulary there is no larger array."""
    with torch.inference_mode(logits_TV.is_inference()):  # such tensors change in this mode only
        for start in range(0, len(logits_TV), _POSITIONS):
            part = slice(start, start + _POSITIONS)
            logits_TV[part] = torch.log_softmax(logits_TV[part], dim=-1)


def _nll(log_prob_TV: torch.Tensor, target_T: torch.Tensor) -> float:
    picked_T = log_prob_TV.gather(1, target_T.clamp_min(0)[:, None])[:, 0]
    return -float(picked_T[target_T != _IGNORED].double().sum())


def _text_result(nll: float, windows: Windows) -> TextResult:
    return TextResult(
        nll_per_token=nll / windows.tokens,
        bits_per_byte=nll / log(2) / windows.bytes,
        tokens=windows.tokens,
        bytes=windows.bytes,
        windows=len(windows.inputs),
    )
