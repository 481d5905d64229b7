"""Measures whole models: each in its own process, in turns; prefill and decoding separately."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any

import psutil

from compress.bench.speed import Figures
from compress.errors import CompressError

DTYPES = ("bfloat16", "float32")
_SPARE = 1.1
"""Free memory that a model needs at least, in sizes of its weight files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Lengths of prompt and answer, number of rounds and threads, device."""

    prompt_tokens: int = 128
    new_tokens: int = 33
    """Generated tokens, 2 or more; all but the first count as decoded."""
    rounds: int = 5
    threads: int
    device: str = "cpu"
    """Name of the device, as `devices.resolve` takes it."""

    def check(self) -> None:
        """Raises CompressError for numbers that are too small to measure with."""
        if self.new_tokens < 2 or self.prompt_tokens < 1 or self.rounds < 1:
            raise CompressError(
                f"{self.prompt_tokens} prompt tokens, {self.new_tokens} new tokens, {self.rounds} rounds",
                allowed="at least 1, 2 and 1",
            )


@dataclass(slots=True)
class Entrant:
    """One model in one dtype, with its measurements."""

    name: str
    folder: Path
    dtype: str
    loaded: dict[str, Any] = field(default_factory=dict)
    prefill_seconds: list[float] = field(default_factory=list)
    decode_seconds: list[float] = field(default_factory=list)

    def figures(self, settings: Settings) -> Figures:
        """Returns the medians over the rounds."""
        return Figures(
            prefill_tokens_per_s=settings.prompt_tokens / median(self.prefill_seconds),
            decode_tokens_per_s=(settings.new_tokens - 1) / median(self.decode_seconds),
            load_seconds=self.loaded["load_seconds"],
            resident_bytes=self.loaded["resident_bytes"],
            peak_bytes=self.loaded["peak_bytes"],
            device_bytes=self.loaded["device_bytes"],
        )


def measure(
    entrants: Sequence[Entrant], settings: Settings, progress: Callable[[str], None] = lambda text: None
) -> None:
    """Fills in the measurements: loads the models one after another, then gives each a turn in every round.

    Raises:
        CompressError: a model cannot be loaded or run, or they do not fit into memory side by side.
    """
    settings.check()
    with ExitStack() as stack:
        workers = []
        for number, entrant in enumerate(entrants, 1):
            progress(f"loading {number}/{len(entrants)}: {entrant.name} in {entrant.dtype}")
            _refuse_too_large(entrant)
            workers.append(worker := stack.enter_context(_worker(entrant, settings)))
            entrant.loaded = worker.answer()
        order = random.Random(0)
        for number in range(settings.rounds):
            progress(f"round {number + 1}/{settings.rounds}")
            for worker in order.sample(workers, len(workers)):
                seconds = worker.run_round()
                worker.entrant.prefill_seconds.append(seconds["prefill_seconds"])
                worker.entrant.decode_seconds.append(seconds["decode_seconds"])


class _Worker:
    """A process that runs `compress.bench.worker`."""

    def __init__(self, entrant: Entrant, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self.entrant, self._process, self._errors = entrant, process, errors

    def run_round(self) -> Mapping[str, Any]:
        """Makes the process run one round and returns the seconds of prefill and decoding."""
        assert self._process.stdin
        try:
            self._process.stdin.write("round\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended; the reason is in its last answer
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Returns the next line of the process; CompressError if it failed."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        message: dict[str, Any] = json.loads(line) if line else {}
        if "error" in message:
            raise CompressError(message["error"])
        if not message:
            code = self._process.wait()
            self._errors.seek(0)
            stderr = self._errors.read().strip()[-2000:]
            raise CompressError(f"{self.entrant.folder} in {self.entrant.dtype} ended with code {code}: {stderr}")
        return message


@contextmanager
def _worker(entrant: Entrant, settings: Settings) -> Iterator[_Worker]:
    options = {
        "folder": str(entrant.folder),
        "dtype": entrant.dtype,
        "prompt_tokens": settings.prompt_tokens,
        "new_tokens": settings.new_tokens,
        "threads": settings.threads,
        "device": settings.device,
    }
    command = [sys.executable, "-m", "compress.bench.worker", json.dumps(options)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        ) as process,
    ):
        try:
            yield _Worker(entrant, process, errors)
        finally:
            process.kill()


def _refuse_too_large(entrant: Entrant) -> None:
    """Raises CompressError if the weights alone do not fit into the free memory."""
    size = sum(path.stat().st_size for path in entrant.folder.glob("*.safetensors"))
    free = psutil.virtual_memory().available
    if _SPARE * size > free:
        raise CompressError(
            f"{entrant.folder} has {size / 1e9:.1f} GB of weights, and {free / 1e9:.1f} GB of memory are free",
            do="Measure fewer models side by side (--dtype bfloat16, --no-dense)",
        )
