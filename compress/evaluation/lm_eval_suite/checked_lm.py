"""Holds CheckedLM: lm-eval's HFLM with its silent failures turned into errors, and with readers of this package.

Log-likelihoods come from a `Reader`, greedy answers from `reading.answers`; sampled ones are left to lm-eval. Imports
lm-eval: import this module inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from compress.errors import EvaluationError
from compress.evaluation.finite import not_finite
from compress.evaluation.journal import Journal, key
from compress.evaluation.reading import answers, scoring
from compress.evaluation.reading.in_memory import InMemoryReader
from compress.evaluation.reading.rows import Reader, Tick
from compress.evaluation.suites.base import Followed
from compress.texts.special_tokens import text_encoder

_GREEDY = {"until", "max_gen_toks", "do_sample", "temperature"}


class CheckedLM(HFLM):  # type: ignore[misc]
    """HFLM that does not tie the head again, truncate prompts or append EOS to them, and that stops each row by itself.

    Replies that are in the journal are not computed again; new ones are added to it batch by batch. Raises
    EvaluationError for non-finite scores and for prompts longer than the context, and TextError for a tokenizer whose
    special tokens cannot be controlled.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        tick: Tick = lambda tokens: None,
        journal: Journal | None = None,
        reader: Reader | None = None,
    ) -> None:
        """`reader` reads the model where it is not loaded; it then writes no answers."""
        self.encoder = text_encoder(tokenizer)
        self.reader: Reader = reader or InMemoryReader(model, batch_size)
        self.journal = journal or Journal()
        self.tick = tick
        self._rolling = False
        # HFLM calls tie_weights(), which would silently replace a separately compressed head by the embedding
        model.tie_weights = lambda *args, **kwargs: None
        try:
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")
        finally:
            del model.tie_weights

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
        if not isinstance(self.reader, InMemoryReader):
            raise EvaluationError("a model that is read block by block writes no answers", do="Raise --max-memory")
        if any(set(how) - _GREEDY or how.get("do_sample") or how.get("temperature") for _, how in _args(requests)):
            result: list[str] = super().generate_until(requests, disable_tqdm=True)
            return result
        replies: list[str | None] = [None] * len(requests)
        alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for index, (_, how) in enumerate(_args(requests)):
            kwargs = normalize_gen_kwargs(how, self.max_gen_toks)
            alike.setdefault((kwargs["max_gen_toks"], tuple(kwargs["until"])), []).append(index)
        for (most, stops), indices in alike.items():
            texts = self._answers([_args(requests)[index][0] for index in indices], most, stops)
            for index, text in zip(indices, texts, strict=True):
                replies[index] = text
        return [reply for reply in replies if reply is not None]

    def follow(self, pairs: Sequence[tuple[str, str]]) -> list[Followed]:
        """Returns the teacher-forced scores of texts after prompts, in fp32.

        Raises EvaluationError for non-finite scores, and if a prompt with its text is longer than the context.
        """
        split = [self.split(prompt, text) for prompt, text in pairs]
        return self._followed("follow", split)

    def pair(self, context: str, continuation: str) -> scoring.Pair:
        """Returns the token ids of a prompt and of the text that is scored after it, as `loglikelihood` has them."""
        if context:
            before, after = self._encode_pair(context, continuation)
            return before, after
        after = self.tok_encode(continuation, add_special_tokens=False)
        return ([self.prefix_token_id], after) if after[:1] != [self.prefix_token_id] else (after[:1], after[1:])

    def known(self, kind: str, asked: Sequence[Any]) -> frozenset[int]:
        """Returns the indices of the questions whose replies are in the journal."""
        keys = (key(kind, *each) for each in asked)
        return frozenset(index for index, name in enumerate(keys) if name in self.journal.replies)

    def answers_asked(self, contexts: Sequence[str], most: int, stops: Sequence[str]) -> list[tuple[Any, ...]]:
        """Returns what the replies of generated answers depend on, for `known`."""
        return [(self.encoder(context), most, list(stops)) for context in contexts]

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
        self.check_room(max(map(len, rows)), left_truncate_len)
        return self._padded(rows)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, rows))
        ids_BT = torch.tensor([[self.tokenizer.pad_token_id] * (longest - len(row)) + list(row) for row in rows])
        mask_BT = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return ids_BT, mask_BT

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        scores = self._followed("loglikelihood", [(context, text) for _, context, text in requests])
        return [(-score.nll, score.agreed == score.tokens) for score in scores]

    def split(self, prompt: str, text: str) -> scoring.Pair:
        """Returns the tokens of prompt and text; a text that shares a token with its prompt is encoded by itself."""
        before, whole = self.tok_encode(prompt), self.tok_encode(prompt + text)
        together = whole[: len(before)] == before
        return before, whole[len(before) :] if together else self.tok_encode(text, add_special_tokens=False)

    def _followed(self, kind: str, pairs: list[scoring.Pair]) -> list[Followed]:
        """Returns the scores of every pair, from the journal or from the model; an empty text scores 0."""
        for prompt, text in pairs:
            self.check_room(len(prompt) + len(text))
        scored = [pair for pair in pairs if pair[1]]
        known = self.known(kind, scored)
        for batch in scoring.follow(self.reader, scored, known=known, tick=self.tick):
            self.journal.add({key(kind, *scored[index]): [s.nll, s.tokens, s.agreed] for index, s in batch})
        return [Followed(*self.journal.replies[key(kind, *pair)]) if pair[1] else Followed(0.0, 0, 0) for pair in pairs]

    def _answers(self, contexts: Sequence[str], most: int, stops: Sequence[str]) -> list[str]:
        """Returns the greedy answers, cut at the first stop, from the journal or from the model."""
        asked = self.answers_asked(contexts, most, stops)
        prompts = [tuple(tokens) for tokens, *_ in asked]
        for prompt in prompts:
            self.check_room(len(prompt), self.max_length - most)
        for batch in answers.batches(prompts, self.batch_size, self.known("answer", asked)):
            written = self._written([prompts[index] for index in batch], most, stops)
            self.journal.add(
                {
                    key("answer", *asked[index]): self._cut(tokens, stops)
                    for index, tokens in zip(batch, written, strict=True)
                }
            )
        return [self.journal.replies[key("answer", *each)] for each in asked]

    def _written(self, prompts: list[answers.Prompt], most: int, stops: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of the answers to one batch."""
        assert isinstance(self.reader, InMemoryReader)
        if answers.can_write(self.reader):
            long, ends = [text for text in stops if len(text) > 1], self._ends(stops)

            def ended(tokens: list[int]) -> bool:
                return tokens[-1] in ends or (bool(long) and any(text in self.tok_decode(tokens) for text in long))

            return answers.write(self.reader, prompts, most, ended, self.tick)
        ids_BT, mask_BT = self._padded(prompts)
        length = ids_BT.shape[1]
        made = self._model_generate(
            ids_BT.to(self.device), length + most, list(stops), attention_mask=mask_BT.to(self.device), do_sample=False
        )
        self.tick(len(prompts) * length + answers.written(len(prompts), most))
        return [row[length:] for row in made.tolist()]

    def _cut(self, tokens: Sequence[int], stops: Sequence[str]) -> str:
        """Returns the text of an answer up to its first stop, or to the name of the end token."""
        text = self.tok_decode(tokens)
        for stop in (*stops, self.tok_decode(self.eot_token_id, skip_special_tokens=False)):
            text = text.split(stop)[0] if stop else text
        return str(text)

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
        return super()._model_generate(
            context,
            max_length,
            [text for text in stop if len(text) > 1 and text != self.tokenizer.eos_token],
            eos_token_id=sorted(self._ends(stop)),
            logits_processor=LogitsProcessorList([_FiniteScores(self)]),
            **kwargs,
        )

    def _ends(self, stops: Sequence[str]) -> frozenset[int]:
        """Returns the tokens that end an answer: those of the model's settings, and all that hold a one-character
        stop."""
        named = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        ids = named if isinstance(named, list | tuple) else [named]
        short = (token for text in stops if len(text) == 1 for token in self._tokens_with(text))
        return frozenset((self.eot_token_id, *(token for token in ids if token is not None), *short))

    def _tokens_with(self, character: str) -> list[int]:
        return [i for i, text in enumerate(self._vocabulary) if character in text]

    @cached_property
    def _vocabulary(self) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        return texts


def _args(requests: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [request.args for request in requests]


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
