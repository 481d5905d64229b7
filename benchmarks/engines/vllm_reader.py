"""vLLM's build for CPUs as it comes, in float16: its kernels for packed weights take 16 bits only."""

from __future__ import annotations

import os
from pathlib import Path

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip

import numpy as np
from common import Answer, Logits, main
from vllm import LLM, SamplingParams


def load(folder: Path, dtype: str = "float16", load_format: str = "auto") -> tuple[Logits, Answer]:
    """Returns the model's logits and its own greedy answers."""
    engine = LLM(
        str(folder), dtype=dtype, load_format=load_format, enforce_eager=True, max_model_len=128, max_num_seqs=1,
        skip_tokenizer_init=True, logprobs_mode="raw_logits", max_logprobs=-1,
    )  # fmt: skip

    def logits(tokens: list[int]) -> np.ndarray:
        wanted = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=-1, logprobs=-1, detokenize=False)
        (result,) = engine.generate({"prompt_token_ids": tokens}, wanted, use_tqdm=False)
        rows = [*result.prompt_logprobs[1:], result.outputs[0].logprobs[0]]
        return np.array([[row[token].logprob for token in range(len(row))] for row in rows], dtype=np.float32)

    def answer(tokens: list[int], count: int) -> list[int]:
        wanted = SamplingParams(max_tokens=count, temperature=0, ignore_eos=True, detokenize=False)
        (result,) = engine.generate({"prompt_token_ids": tokens}, wanted, use_tqdm=False)
        return list(result.outputs[0].token_ids)

    return logits, answer


if __name__ == "__main__":
    main(load)
