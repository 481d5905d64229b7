"""Runs one model in a process of its own, one round of generation per line of input.

    python -m compress.bench.worker '{"folder": …, "dtype": …, "prompt_tokens": …, "new_tokens": …, "threads": …,
                                     "device": …}'

prints a line of JSON when the model is ready, and one for every line that it reads. It sleeps in between, so it does
not disturb the models in other processes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from compress import devices
from compress.errors import CompressError
from compress.format.manifest import MANIFEST


class _Clock:
    """A streamer for transformers' `generate` that records the time of each token; the prompt comes first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, tokens: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Does nothing: every token was recorded when it came."""


class Runner:
    """A loaded model and a random prompt."""

    def __init__(
        self, folder: Path, dtype: torch.dtype, prompt_tokens: int, new_tokens: int, device: torch.device
    ) -> None:
        """Loads a folder of ours or of transformers, and generates two tokens, so that kernels and caches are ready."""
        start = time.perf_counter()
        self.model = _load(folder, dtype, device)
        self.model.generation_config.eos_token_id = None  # so that generation never stops early
        size = self.model.config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(0)
        self.prompt_1T = torch.randint(0, size, (1, prompt_tokens), generator=generator).to(device)
        self.new_tokens = new_tokens
        with torch.inference_mode():
            self.model(self.prompt_1T[:, :1], use_cache=False)
        devices.synchronise(device)
        self.load_seconds = time.perf_counter() - start
        self.generate(2)

    def round(self) -> tuple[float, float]:
        """Returns the seconds up to the first new token, and the seconds of all further ones."""
        start = time.perf_counter()
        times = self.generate(self.new_tokens)
        return times[0] - start, times[-1] - times[0]

    def generate(self, tokens: int, **options: Any) -> list[float]:
        """Generates greedily and returns the time of each new token. `options` go to transformers' GenerationConfig."""
        from transformers import GenerationConfig

        clock = _Clock()
        config = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0, **options)
        self.model.generate(
            self.prompt_1T, attention_mask=torch.ones_like(self.prompt_1T), generation_config=config, streamer=clock
        )
        times = clock.times[1:]
        if len(times) != tokens:
            raise CompressError(f"{type(self.model).__name__} generated {len(times)} tokens", allowed=str(tokens))
        return times


def _load(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    if (folder / MANIFEST).is_file():
        from compress.runtime import load

        return load(folder, dtype=dtype, device=device, verify=False)
    from compress.models.load_dense import load_dense

    return load_dense(folder, dtype).to(device)


def memory(device: torch.device) -> dict[str, int | None]:
    """Returns the resident bytes of this process, now and at their peak, and the peak on an accelerator."""
    info = psutil.Process().memory_info()
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), info.rss)
    there = 0 if device.type == "cpu" else torch.accelerator.max_memory_allocated(device)
    return {"resident_bytes": info.rss, "peak_bytes": peak, "device_bytes": there or None}


def main() -> int:
    """Runs the protocol in the docstring of this file."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    try:
        device = devices.resolve(options["device"])
        lengths = options["prompt_tokens"], options["new_tokens"]
        runner = Runner(Path(options["folder"]), getattr(torch, options["dtype"]), *lengths, device)
        _print({"load_seconds": runner.load_seconds, **memory(device)})
        for _ in sys.stdin:
            prefill, decode = runner.round()
            _print({"prefill_seconds": prefill, "decode_seconds": decode})
    except CompressError as error:
        _print({"error": str(error)})
        return error.exit_code
    return 0


def _print(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.exit(main())
