"""Generates with a GGUF file in llama.cpp, one round per line of input; the protocol of compress/bench/worker.py.

python llama_cpp_speed.py '{"file": …, "prompt_tokens": …, "new_tokens": …, "threads": …}'
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import xllamacpp


def main() -> None:
    """Prints a line of JSON when the model is ready, and one for every line read."""
    options = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = options["file"]
    params.n_ctx = 1024
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options["threads"]
    server = xllamacpp.Server(params)
    prompt = [random.Random(0).randrange(1000, 40000) for _ in range(options["prompt_tokens"])]

    def complete(count: int) -> dict[str, Any]:
        question = {"prompt": prompt, "n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = server.handle_completions(question)
        parsed: dict[str, Any] = answer if isinstance(answer, dict) else json.loads(answer)
        return parsed

    complete(2)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        times = complete(options["new_tokens"])["timings"]
        assert times["predicted_n"] == options["new_tokens"], times
        # the clock of the new tokens starts when the first is there, as in our worker
        seconds = {"prefill_seconds": times["prompt_ms"] / 1000, "decode_seconds": times["predicted_ms"] / 1000}
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
