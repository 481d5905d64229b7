"""Holds CheckedLM, lm-eval's HFLM with its silent failures turned into errors and explicit special tokens.

Imports lm-eval: import this module inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from compress.errors import EvaluationError
from compress.evaluation.finite import not_finite
from compress.texts.special_tokens import text_encoder


class CheckedLM(HFLM):  # type: ignore[misc]
    """HFLM that does not tie the head again, truncate prompts or append EOS to them, and that stops each row by itself.

    Raises EvaluationError for non-finite scores and for prompts longer than the context, and TextError for a tokenizer
    whose special tokens cannot be controlled.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int, done: Callable[[], None]
    ) -> None:
        self.encoder = text_encoder(tokenizer)
        self._rolling = False
        # HFLM calls tie_weights(), which would silently replace a separately compressed head by the embedding
        model.tie_weights = lambda *args, **kwargs: None
        try:
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")
        finally:
            del model.tie_weights
        self.set_cache_hook(_Watch(self, done))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        result: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return result

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        self._rolling = True
        try:
            result: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        finally:
            self._rolling = False
        return result

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        result: list[str] = super().generate_until(requests, disable_tqdm=True)
        return result

    @property
    def eot_token_id(self) -> int:
        if self.encoder.end is None:
            raise EvaluationError(
                "the tokenizer has no end-of-text token, so answers would never end", do="Set its eos_token"
            )
        return self.encoder.end

    @property
    def prefix_token_id(self) -> int:
        """The token that precedes a text without a prompt."""
        return (self.encoder.separator or (self.eot_token_id,))[-1]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        # for a text that is scored as a whole, lm-eval itself adds prefix_token_id at the start
        bare = add_special_tokens is False or (add_special_tokens is None and self._rolling)
        return self.encoder.plain(string) if bare else self.encoder(string)

    def tok_batch_encode(self, strings: list[str], *, left_truncate_len: int, **kwargs: Any) -> Any:
        """Returns ids and mask, int64 [rows, tokens], padded on the left."""
        rows = [self.encoder(text) for text in strings]
        longest = max(map(len, rows))
        self.check_room(longest, left_truncate_len)
        ids_BT = torch.tensor([[self.tokenizer.pad_token_id] * (longest - len(row)) + row for row in rows])
        mask_BT = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return ids_BT, mask_BT

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        for _, context, continuation in requests:
            self.check_room(len(context) + len(continuation))
        kwargs["disable_tqdm"] = True
        result: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, **kwargs)
        return result

    def check_room(self, length: int, room: int | None = None) -> None:
        """Raises EvaluationError if `length` tokens do not fit into the model's context."""
        room = self.max_length + 1 if room is None else room
        if length > room:
            raise EvaluationError(
                f"a prompt of {length} tokens is longer than the {room} that the model takes",
                do="Evaluate a model with a longer context, or with a suite of shorter prompts",
            )

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **kwargs: Any) -> Any:
        # lm-eval decodes the last tokens of every row at every step and stops when all rows are done; a one-character
        # stop is a set of tokens, which transformers handles by row and without decoding
        short = [text for text in stop if len(text) == 1]
        ends = {self.eot_token_id, *(i for text in short for i in self._tokens_with(text))}
        return super()._model_generate(
            context,
            max_length,
            [text for text in stop if text not in short and text != self.tokenizer.eos_token],
            eos_token_id=sorted(ends),
            logits_processor=LogitsProcessorList([_FiniteScores(self)]),
            **kwargs,
        )

    def _tokens_with(self, character: str) -> list[int]:
        return [i for i, text in enumerate(self._vocabulary) if character in text]

    @cached_property
    def _vocabulary(self) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        return texts


class _FiniteScores(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, lm: CheckedLM) -> None:
        self.lm = lm

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        best_B = scores.amax(dim=-1)  # NaN propagates through the maximum; single -inf scores may be a mask
        if not torch.isfinite(best_B).all():
            row_T = input_ids[~torch.isfinite(best_B)][0]
            text_T = row_T[row_T != self.lm.tokenizer.pad_token_id]
            raise not_finite(self.lm.model, text_T[None], "While answering,")
        return scores


class _Watch:
    """Replaces lm-eval's cache hook, which receives every finished request: checks the score and reports progress."""

    def __init__(self, lm: CheckedLM, done: Callable[[], None]) -> None:
        self.lm, self.done = lm, done

    def add_partial(self, kind: str, request: Any, response: Any) -> None:
        if kind == "loglikelihood" and not abs(response[0]) < float("inf"):
            tokens = self.lm.tok_encode("".join(request))
            raise not_finite(self.lm.model, torch.tensor([tokens]), "While scoring a text,")
        self.done()
