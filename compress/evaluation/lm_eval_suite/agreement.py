"""Measures how well a model follows a given text: its likelihood, and how often its next token is the likeliest one.

lm-eval only says whether all of a text is the likeliest; the share needs a pass of its own. T tokens, V vocabulary.
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
    """Returns how `text` is followed after `prompt`, scores in fp32.

    Raises EvaluationError for scores that are not finite, and when both do not fit into the model.
    """
    if not text:
        return Followed(0.0, 0, 0)
    before = lm.tok_encode(prompt)  # what the answer was written after
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
