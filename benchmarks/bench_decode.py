"""Where the time of a token goes besides the kernels, and what would cut it.

    python benchmarks/bench_generate.py --layout int4-g128 --folder DIR      # makes DIR/int4-g128-16
    python benchmarks/bench_decode.py DIR/int4-g128-16 [--prompt-tokens 512]

Greedy decoding in bfloat16 as it is, with transformers' own attention, with a static cache, and with a static cache and
torch.compile; before that the linears of a block one by one, against queries, keys and values (gate and up) as one
weight, which several weights in one call could reach at best. All take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from _print import show
from transformers import GenerationConfig

import compress
from compress.bench import machine, planes
from compress.kernels import native
from compress.kernels.native import loader
from compress.runtime import attention

_NEW_TOKENS = 17
_BLOCKS = 12
_STATIC = {"cache_implementation": "static", "disable_compile": True}


class _Timed:
    """The native library, with the seconds that its products take."""

    def __init__(self) -> None:
        self._library, self.seconds = loader.library(), 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def cn_linear(self, *arguments: Any) -> int:
        start = time.perf_counter()
        error: int = self._library.cn_linear(*arguments)
        self.seconds += time.perf_counter() - start
        return error


class _Clock:
    """A streamer that notes when tokens come; what the kernels took before the first of them does not count."""

    def __init__(self, library: _Timed):
        self.times: list[float] = []
        self._library = library

    def put(self, tokens: object) -> None:
        self.times.append(time.perf_counter())
        if len(self.times) == 2:  # the prompt, then the first token
            self._library.seconds = 0.0

    def end(self) -> None:
        """Nothing is held back."""


def token_seconds(model: Any, prompt_1T: torch.Tensor, library: _Timed, **options: Any) -> tuple[float, float]:
    """Returns seconds of a token after the first, and how many of them the kernels took."""
    clock = _Clock(library)
    config = GenerationConfig(max_new_tokens=_NEW_TOKENS, do_sample=False, pad_token_id=0, **options)
    model.generate(prompt_1T, attention_mask=torch.ones_like(prompt_1T), generation_config=config, streamer=clock)
    tokens = len(clock.times) - 2
    return (clock.times[-1] - clock.times[1]) / tokens, library.seconds / tokens


def loop(folder: str, prompt_tokens: int, rounds: int) -> list[dict[str, Any]]:
    library = _Timed()
    loader.library = lambda: library  # type: ignore[assignment, return-value]
    model: Any = compress.load(folder, dtype=torch.bfloat16, verify=False)
    model.generation_config.eos_token_id = None
    prompt_1T = torch.randint(0, model.config.vocab_size, (1, prompt_tokens))
    plain = model.forward
    compiled = torch.compile(plain, dynamic=False)

    def one_token_compiled(*arguments: Any, **named: Any) -> Any:
        return (compiled if named["input_ids"].shape[1] == 1 else plain)(*arguments, **named)

    modes: dict[str, tuple[Callable[..., Any], str, dict[str, Any]]] = {
        "as it is": (plain, attention.NAME, {}),
        "with transformers' attention": (plain, "sdpa", {}),
        "with a static cache": (plain, "sdpa", _STATIC),
        "with a static cache, compiled": (one_token_compiled, "sdpa", _STATIC),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in modes}
    for turn in range(rounds + 1):
        for name, (forward, implementation, options) in modes.items():
            model.forward = forward
            model.set_attn_implementation(implementation)
            seconds = token_seconds(model, prompt_1T, library, **options)
            if turn:  # the first makes tiles and graphs
                found[name].append(seconds)
    medians = {name: [statistics.median(part) for part in zip(*each, strict=True)] for name, each in found.items()}
    return [
        {"decoding": name, "ms a token": 1e3 * whole, "of it in kernels": 1e3 * kernels}
        for name, (whole, kernels) in medians.items()
    ]


def blocks(layout: str, rounds: int) -> list[dict[str, Any]]:
    """Times the linears of a Llama block of one billion parameters: hidden 2048, 512 for keys and values, MLP 8192."""
    single = {"q": (2048, 2048), "k": (512, 2048), "v": (512, 2048), "o": (2048, 2048),
              "gate": (8192, 2048), "up": (8192, 2048), "down": (2048, 8192)}  # fmt: skip
    joined = {"qkv": (3072, 2048), "o": (2048, 2048), "gate up": (16384, 2048), "down": (2048, 8192)}
    inputs = {columns: torch.randn(1, columns, dtype=torch.bfloat16) for columns in (2048, 8192)}
    weights = {
        name: [native.prepare(planes.random_weight(layout, shape, seed=i), torch.bfloat16) for i in range(_BLOCKS)]
        for name, shape in (single | joined).items()
    }
    found: dict[str, list[float]] = {"one by one": [], "joined": []}
    for _ in range(rounds):
        for name, shapes in (("one by one", single), ("joined", joined)):
            start = time.perf_counter()
            for i in range(_BLOCKS):
                for linear, (_, columns) in shapes.items():
                    native.linear(inputs[columns], weights[linear][i], None)
            found[name].append((time.perf_counter() - start) / _BLOCKS)
    return [{"linears of a block": name, "ms": 1e3 * statistics.median(times)} for name, times in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a packed model of bench_generate.py")
    parser.add_argument("--layout", default="int4-g128", help="of the linears that are timed by themselves")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    facts = machine.description()
    with torch.inference_mode():
        show(f"linears, {options.layout}", blocks(options.layout, 3 * options.rounds), **facts)
    rows = loop(options.folder, options.prompt_tokens, options.rounds)
    show("a token", rows, **facts, prompt_tokens=options.prompt_tokens, rounds=options.rounds)


if __name__ == "__main__":
    main()
