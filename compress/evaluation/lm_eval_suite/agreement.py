"""Scores a given text under a model: its likelihood, and the number of its tokens that are the model's likeliest.

lm-eval reports only whether all tokens are the likeliest, so the count needs a separate pass. T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from compress.evaluation.finite import not_finite
from compress.evaluation.suites.base import Followed

if TYPE_CHECKING:
    from compress.evaluation.lm_eval_suite.checked_lm import CheckedLM


@torch.inference_mode()
def follow(lm: CheckedLM, prompt: str, text: str) -> Followed:
    """Returns the teacher-forced scores of `text` after `prompt`, computed in fp32.

    Raises EvaluationError for non-finite scores, and if prompt and text are longer than the model's context.
    """
    if not text:
        return Followed(0.0, 0, 0)
    before = lm.tok_encode(prompt)
    whole = lm.tok_encode(prompt + text)
    together = whole[: len(before)] == before
    wanted = whole[len(before) :] if together else lm.tok_encode(text, add_special_tokens=False)
    lm.check_room(len(before) + len(wanted))
    tokens_1T = torch.tensor([before + wanted])
    logits: Any = lm.model(tokens_1T.to(lm.device), use_cache=False).logits
    log_prob_TV = torch.log_softmax(logits[0, len(before) - 1 : -1].float(), dim=-1).cpu()
    if not torch.isfinite(log_prob_TV.amax(-1)).all():
        raise not_finite(lm.model, tokens_1T, "While reading an answer,")
    wanted_T = torch.tensor(wanted)
    picked_T = log_prob_TV.gather(1, wanted_T[:, None])[:, 0]
    agreed = int((log_prob_TV.argmax(-1) == wanted_T).sum())
    return Followed(-float(picked_T.double().sum()), len(wanted), agreed)
