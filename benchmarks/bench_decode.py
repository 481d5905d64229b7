"""Measures the time per token outside the kernels, and the changes that would reduce it.

    python benchmarks/bench_decode.py [--layout int4-g128] [--prompt-tokens 512] [--folder DIR]

Greedy decoding in bfloat16 as it is, with transformers' own attention, with a static cache, and with a static cache and
torch.compile; before that the linears of a block one by one, against queries, keys and values (gate and up) as one
weight, which several weights in one call could reach at best. All take turns. The model is that of `bench_generate.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _print import show
from bench_generate import packed_model

from compress.bench import machine, planes
from compress.bench.worker import Runner
from compress.kernels import native
from compress.kernels.native import loader
from compress.runtime import attention

_NEW_TOKENS = 17
_BLOCKS = 12
_STATIC = {"cache_implementation": "static", "disable_compile": True}


class _Timed:
    """The native library; notes when each of its products began and how long it took."""

    def __init__(self) -> None:
        self._library = loader.library()
        self.products: list[tuple[float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def cn_linear(self, *arguments: Any) -> int:
        start = time.perf_counter()
        error: int = self._library.cn_linear(*arguments)
        self.products.append((start, time.perf_counter() - start))
        return error


def token_seconds(runner: Runner, library: _Timed, options: dict[str, Any]) -> tuple[float, float]:
    """Returns seconds of a token after the first, and how many of them the kernels took."""
    library.products.clear()
    times = runner.generate(_NEW_TOKENS, **options)
    kernels = sum(seconds for start, seconds in library.products if start > times[0])
    return (times[-1] - times[0]) / (_NEW_TOKENS - 1), kernels / (_NEW_TOKENS - 1)


def loop(folder: Path, prompt_tokens: int, rounds: int) -> list[dict[str, Any]]:
    library = _Timed()
    loader.library = lambda: library  # type: ignore[assignment, return-value]
    runner = Runner(folder, torch.bfloat16, prompt_tokens, _NEW_TOKENS, torch.device("cpu"))
    model = runner.model
    plain = model.forward
    compiled = torch.compile(plain, dynamic=False)

    def one_token_compiled(*arguments: Any, **named: Any) -> Any:
        return (compiled if named["input_ids"].shape[1] == 1 else plain)(*arguments, **named)

    modes: dict[str, tuple[Callable[..., Any], Callable[[Any], None], dict[str, Any]]] = {
        "as it is": (plain, attention.install, {}),
        "with transformers' attention": (plain, attention.uninstall, {}),
        "with a static cache": (plain, attention.uninstall, _STATIC),
        "with a static cache, compiled": (one_token_compiled, attention.uninstall, _STATIC),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in modes}
    for turn in range(rounds + 1):
        for name, (forward, set_attention, options) in modes.items():
            model.forward = forward
            set_attention(model)
            seconds = token_seconds(runner, library, options)
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
    parser.add_argument("--layout", default="int4-g128")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=16, help="of the model")
    parser.add_argument("--folder", help="keep the model here, or take the one that is here already")
    options = parser.parse_args()
    facts = machine.description()
    with torch.inference_mode():
        show(f"linears, {options.layout}", blocks(options.layout, 3 * options.rounds), **facts)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = packed_model(Path(options.folder or temporary), options.blocks, options.layout)
        rows = loop(folder, options.prompt_tokens, options.rounds)
    show("a token", rows, **facts, prompt_tokens=options.prompt_tokens, rounds=options.rounds)


if __name__ == "__main__":
    main()
