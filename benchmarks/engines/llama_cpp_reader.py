"""llama.cpp on the CPU, with keys and values in float32 and plain attention.

Its products with blocks round the inputs to 8 bits (Q8_0 or Q8_K); those with float32 weights do not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp
from common import Answer, Logits, main


def load(folder: Path) -> tuple[Logits, Answer]:
    """Returns the logarithms of the model's probabilities, and its own greedy answers."""
    params = xllamacpp.CommonParams()
    params.model.path = str(min(folder.glob("*.gguf")))  # of several the first
    params.n_ctx, params.n_parallel, params.warmup = 256, 1, False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)

    def ask(tokens: list[int], candidates: int) -> list[dict[str, Any]]:
        """Returns the likeliest next tokens with the logarithms of their probabilities, the first one first."""
        question = {
            "prompt": tokens, "n_predict": 1, "temperature": 0, "n_probs": candidates, "cache_prompt": False,
            # it keeps quiet about ends of text and parts of characters, so that another token is drawn; the
            # probabilities are those before
            "logit_bias": [["a", 1000]],
        }  # fmt: skip
        found = server.handle_completions(question)
        parsed: dict[str, Any] = found if isinstance(found, dict) else json.loads(found)
        return list(parsed["choices"][0]["logprobs"]["content"][0]["top_logprobs"])

    def logits(tokens: list[int]) -> np.ndarray:
        rows = []
        for length in range(1, len(tokens) + 1):  # it gives those of new tokens only
            candidates = ask(tokens[:length], 1 << 20)
            row = np.full(len(candidates), np.nan, dtype=np.float32)
            row[[one["id"] for one in candidates]] = [one["logprob"] for one in candidates]
            rows.append(row)
        return np.stack(rows)

    def answer(tokens: list[int], count: int) -> list[int]:
        known = list(tokens)
        for _ in range(count):  # by itself it stops at an end of text
            known.append(ask(known, 1)[0]["id"])
        return known[len(tokens) :]

    return logits, answer


if __name__ == "__main__":
    main(load)
