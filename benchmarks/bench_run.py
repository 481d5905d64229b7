"""Measures where the CPU seconds of a run go: forward passes, statistics, solving, writing, proof, evaluation.

    python benchmarks/bench_run.py --model DIR [--method spqr] [--blocks 4] [--samples 128] [OPTION=VALUE ...]

OPTION=VALUE are options of the method or of the run, as in Python (`bits=3`, `suite=kick-atlas`, `tune=block`). With
`--blocks N` a copy of the model with its first N decoder blocks is compressed. `seconds` are user and system seconds
of this process and of those that it starts and waits for; each second counts in the innermost part alone. The digest is
that of all written shards: it tells whether two versions of this package write the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import importlib
import json
import os
import re
import resource
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _print import show

PARTS = {
    "calibration text": ["calibration.data:load_tokens"],
    "reading": ["models.blocks:BlockWalker.load_block", "models.blocks:BlockWalker.read_dense"],
    "embedding and head": ["models.blocks:BlockWalker.embed", "models.blocks:BlockWalker.differentiable_logits"],
    "forward": ["models.blocks:BlockWalker.call_with", "calibration.paused:PausedForward.proceed"],
    "statistics": ["calibration.stats:LayerStats.update"],
    "solving": ["stages.pack.solve_linear:solve"],
    "factorising": ["numerics.sweep:inverse_factor"],
    "packing planes": [f"format.layouts.{name}:pack" for name in ("int_group", "spqr", "additive", "low_rank")],
    "unpacking": ["format.layouts:unpack"],
    "describing": ["stages.pack.solve_linear:describe"],
    "tuning": ["tuning.block:fit", "tuning.full:fit"],
    "writing": ["format.files:write_whole"],
    "planning": ["stages.plan.plan:plan_pack"],
    "proof of load": ["stages.finish:prove"],
    "evaluation": ["stages.finish:evaluate"],
}
"""Part -> the functions of `compress` that do it; those that a version does not have are left out."""


class Clock:
    """Adds up CPU seconds by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._stack = ["other"]
        self._last = _cpu_seconds()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the seconds until the context is left for `name`, but for those of parts inside it."""
        self._count()
        self._stack.append(name)
        try:
            yield
        finally:
            self._count()
            self._stack.pop()

    def _count(self) -> None:
        now = _cpu_seconds()
        self.seconds[self._stack[-1]] += now - self._last
        self._last = now

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `function`, counted as `name` where the main thread calls it."""

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)
            with self.part(name):
                return function(*args, **kwargs)

        return counted


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def install(clock: Clock) -> None:
    """Has the clock count every function of `PARTS`."""
    for part, places in PARTS.items():
        for place in places:
            module, _, path = place.partition(":")
            *outer, name = path.split(".")
            try:
                owner = functools.reduce(getattr, outer, importlib.import_module(f"compress.{module}"))
                function = getattr(owner, name)
            except (ImportError, AttributeError):
                continue
            setattr(owner, name, clock.wrap(part, function))


def first_blocks(source: Path, folder: Path, blocks: int) -> None:
    """Writes a copy of the model with its first `blocks` decoder blocks to `folder`."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tensors = {}
    for shard in sorted(source.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file, not a dictionary
                number = re.search(r"\.(\d+)\.", name)
                if number is None or int(number[1]) < blocks:
                    tensors[name] = file.get_tensor(name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:blocks]
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": blocks}))
    for path in source.iterdir():
        if path.is_file() and path.name != "config.json" and ".safetensors" not in path.name:
            (folder / path.name).symlink_to(path.resolve())


def _options(given: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for pair in given:
        name, _, text = pair.partition("=")
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    return options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder with config.json and safetensors")
    parser.add_argument("--method", default="spqr")
    parser.add_argument("--blocks", type=int, help="compress only the first blocks")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("options", nargs="*", metavar="OPTION=VALUE")
    given = parser.parse_args()
    clock = Clock()
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(given.model)
        if given.blocks:
            with clock.part("(copying the first blocks)"):
                first_blocks(model, model := Path(temporary) / "model", given.blocks)
        with clock.part("imports"):
            import compress
            import compress.pipeline
        install(clock)
        options = {"suite": "none", "samples": given.samples, "seq_len": given.seq_len} | _options(given.options)
        out = Path(temporary) / "out"
        compress.run(str(model), given.method, output=out, **options)
        clock._count()
        digest = hashlib.sha256()
        for shard in sorted(out.glob("*.safetensors")):
            digest.update(shard.read_bytes())
        manifest = json.loads((out / "compress.json").read_text())
    del clock.seconds["(copying the first blocks)"]
    total = sum(clock.seconds.values())
    parts = sorted(clock.seconds, key=lambda part: -clock.seconds[part])
    errors = [entry["relative_error"] for entry in manifest["tensors"].values()]
    show(
        f"{given.method} on {Path(given.model).name}: {total:.1f} CPU seconds",
        [{"part": p, "seconds": clock.seconds[p], "share %": 100 * clock.seconds[p] / total} for p in parts],
        total=total, method=given.method, blocks=given.blocks, samples=given.samples, seq_len=given.seq_len,
        options=_options(given.options), threads=os.environ.get("OMP_NUM_THREADS"), digest=digest.hexdigest(),
        bits_per_weight=manifest["bits_per_weight"],
        mean_relative_error=sum(errors) / len(errors),
        peak_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )  # fmt: skip


if __name__ == "__main__":
    main()
