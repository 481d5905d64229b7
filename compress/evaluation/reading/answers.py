"""Writes answers to prompts, greedily. Shape letters: B rows, T tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

from compress.evaluation.finite import not_finite
from compress.evaluation.reading.plan import PASS
from compress.evaluation.reading.rows import Tick

if TYPE_CHECKING:
    from compress.evaluation.reading.in_memory import InMemoryReader

Prompt = tuple[int, ...]
_ADJUSTED = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "min_length": 0,
    "min_new_tokens": None, "bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "sequence_bias": None, "guidance_scale": None,
    "exponential_decay_length_penalty": None, "watermarking_config": None,
}  # fmt: skip
"""Generation settings that change greedy answers, with the values that do not."""


def batches(prompts: Sequence[Prompt], rows: int, known: Collection[int] = ()) -> list[list[int]]:
    """Returns the indices of the prompts in batches, the longest first, without the batches that are known."""
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), prompts[index]))
    parts = (order[start : start + rows] for start in range(0, len(order), rows))
    return [part for part in parts if not all(index in known for index in part)]


def cost(prompts: Sequence[Prompt], rows: int, most: int, known: Collection[int] = ()) -> int:
    """Returns what `batches` cost in tokens to read, if every answer has its largest length.

    A step that writes one token of every answer waits for all weights: it costs `plan.PASS` tokens more than its rows.
    """
    return sum(len(part) * len(prompts[part[0]]) + written(len(part), most) for part in batches(prompts, rows, known))


def written(rows: int, steps: int) -> int:
    """Returns the cost of steps that write one token of every row, in tokens to read."""
    return steps * (rows + PASS)


def can_write(reader: InMemoryReader) -> bool:
    """Returns whether `write` gives the answers of `generate`: positions can be given, and nothing adjusts scores."""
    settings = getattr(reader.model, "generation_config", None)
    plain = all(getattr(settings, name, value) in (value, None) for name, value in _ADJUSTED.items())
    return plain and "position_ids" in reader.arguments and reader.keeps_plain_cache


@torch.inference_mode()
def write(
    reader: InMemoryReader,
    prompts: Sequence[Prompt],
    most: int,
    ended: Callable[[list[int]], bool],
    tick: Tick,
) -> list[list[int]]:
    """Returns the answer to every prompt of one batch, as token ids.

    Unlike `generate`, which computes every row until the longest answer is complete, rows that have ended are dropped
    from the batch.

    Args:
        reader: the model.
        prompts: token ids.
        most: largest number of tokens of an answer.
        ended: function from the tokens of an answer to whether it is complete.
        tick: receives the cost so far (see `cost`); an answer that ends early counts as `most`.
    """
    model, length = reader.model, max(map(len, prompts))
    ids_BT = torch.tensor([[0] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask_BT = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    position_BT = (mask_BT.cumsum(-1) - 1).clamp_min(0)
    answers: list[list[int]] = [[] for _ in prompts]
    live = list(range(len(prompts)))  # the prompts in the batch, row by row
    open_prompts = set(live)
    cache: Any = None
    for step in range(1, most + 1):
        made = model(
            ids_BT, attention_mask=mask_BT, position_ids=position_BT, past_key_values=cache, use_cache=True,
            **reader.last(1),
        )  # fmt: skip
        tick(len(live) * length if cache is None else 0)
        cache, scores_BV = made.past_key_values, made.logits[:, -1].float()
        best_B = scores_BV.amax(-1)  # NaN propagates through the maximum; single -inf scores may be a mask
        if not torch.isfinite(best_B).all():
            row = live[int((~torch.isfinite(best_B)).nonzero()[0])]
            raise not_finite(model, torch.tensor([[*prompts[row], *answers[row]]]), "While answering,")
        token_B = scores_BV.argmax(-1)
        for row, token in zip(live, token_B.tolist(), strict=True):
            if row in open_prompts:
                answers[row].append(token)
                over = len(answers[row]) == most or ended(answers[row])
                tick(1 + (most - len(answers[row]) if over else 0))
                if over:
                    open_prompts.discard(row)
        tick(PASS if open_prompts else (most - step + 1) * PASS)
        if not open_prompts:
            break
        position_B1, ids_B1 = position_BT[:, -1:] + 1, token_B[:, None]
        if 4 * len(open_prompts) <= 3 * len(live):  # copying the cache costs less than the rows that are dropped
            kept = torch.tensor([place for place, row in enumerate(live) if row in open_prompts], device=model.device)
            cache.batch_select_indices(kept)
            live = [row for row in live if row in open_prompts]
            mask_BT, position_B1, ids_B1 = mask_BT[kept], position_B1[kept], ids_B1[kept]
        mask_BT = torch.cat([mask_BT, torch.ones_like(ids_B1)], dim=-1)
        ids_BT, position_BT = ids_B1, position_B1
    return answers
