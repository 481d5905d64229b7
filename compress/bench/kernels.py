"""Measures kernels: every layout against dense products and other programs, in one interleaved run per case."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from compress import devices
from compress.bench import contenders, machine, peers, planes
from compress.bench.contenders import DTYPES, Case
from compress.bench.timing import Contender, interleave
from compress.errors import CompressError, FormatError, unknown
from compress.kernels import select

FORMAT = 1
SHAPES = ((4096, 4096), (4096, 14336), (14336, 4096), (4099, 4352))
"""(N, K): the linears of a model of eight billion parameters, and one that no block size divides."""
TOKENS = (1, 4, 16, 512)
_READ_BYTES = 1 << 28
"""Memory that is read to measure the bandwidth: larger than any last-level cache."""
_READER = "read memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which layouts, shapes and token counts are measured, and for how long."""

    layouts: tuple[str, ...] = tuple(planes.LAYOUTS)
    shapes: tuple[tuple[int, int], ...] = SHAPES[:1]
    tokens: tuple[int, ...] = (1, 16)
    dtype: str = "float32"
    """Type of the inputs and outputs of our kernels, and of peers that support several."""
    kernel: str | None = None
    """Name of the kernel to measure; None: the one that would be selected."""
    peers: bool = True
    device: str = "cpu"
    """Name of the device, as `devices.resolve` takes it."""
    seconds: float = 20.0
    """Seconds of timing per case."""
    rounds: int | None = None
    """Number of turns of every contender, instead of `seconds`."""

    def check(self) -> None:
        """Raises CompressError for an unknown layout, dtype, device or kernel."""
        devices.resolve(self.device)
        for name in self.layouts:
            planes.layout(name)
        if self.dtype not in DTYPES:
            raise CompressError(unknown("dtype", self.dtype, DTYPES), allowed=", ".join(DTYPES))
        if self.kernel is not None and self.kernel not in select.KERNELS:
            raise CompressError(unknown("kernel", self.kernel, select.KERNELS), allowed=", ".join(select.KERNELS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result of one contender in one case."""

    name: str
    kernel: str
    seconds: float
    """Median seconds of a call."""
    low: float
    """Tenth percentile of the seconds of a call."""
    high: float
    """Ninetieth percentile of the seconds of a call."""
    calls: int
    packed_bytes: int
    """Bytes of the weights as stored, which every call reads."""
    gigabytes_per_s: float
    bandwidth_share: float
    """Share of the read bandwidth that was measured in the same run."""
    times_faster: dict[str, float]
    """Speed relative to torch's dense product, by the dtype of that."""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The results of one case: all its contenders, timed in turns."""

    shape: tuple[int, int]
    tokens: int
    dtype: str
    """Type of our inputs."""
    rounds: int
    read_gigabytes_per_s: float
    rows: list[Row]
    left_out: dict[str, str]
    """Reason why a contender did not take part, by its name."""


def run(settings: Settings, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Returns the content of the result file, as JSON: machine, versions, settings and every case."""
    settings.check()
    cases = [(shape, tokens) for shape in settings.shapes for tokens in settings.tokens]
    results = []
    for number, (shape, tokens) in enumerate(cases, 1):
        progress(f"{number}/{len(cases)}: {shape[0]}×{shape[1]}, {_count(tokens)}")
        results.append(measure(settings, shape, tokens))
    return {
        "format": FORMAT,
        "machine": machine.description(devices.resolve(settings.device)),
        "versions": machine.versions("torchao", "aqlm", "numba", "llama_cpp_python"),
        "settings": asdict(settings),
        "cases": [asdict(case) for case in results],
    }


def measure(settings: Settings, shape: tuple[int, int], tokens: int) -> Measured:
    """Returns the results of one case.

    A layout that the shape does not fit is left out; a kernel that cannot run a layout is a CompressError.
    """
    device = devices.resolve(settings.device)
    case = Case(shape, tokens, DTYPES[settings.dtype], machine.last_level_cache(device), device)
    left_out: dict[str, str] = {}
    dense = {name: contenders.dense(case, name) for name in ("float32", "bfloat16")}
    ours = _ours(case, settings, left_out)
    others = _peers(case, left_out) if settings.peers else []
    calls = machine.readers(_READ_BYTES, device)
    readers = [Contender(_READER, [call], _READ_BYTES, device=device) for call in calls]
    with torch.inference_mode():
        rounds = interleave(
            [*dense.values(), *ours, *others, *readers], seconds=settings.seconds, rounds=settings.rounds
        )
    speed = max(reader.packed_bytes / reader.median for reader in readers)
    rows = [_row(contender, dense, speed) for contender in (*dense.values(), *ours, *others)]
    return Measured(
        shape=shape, tokens=tokens, dtype=settings.dtype, rounds=rounds, read_gigabytes_per_s=speed / 1e9, rows=rows,
        left_out=left_out,
    )  # fmt: skip


def _ours(case: Case, settings: Settings, left_out: dict[str, str]) -> list[Contender]:
    ours = []
    for name in settings.layouts:
        try:
            weight = planes.random_weight(name, case.shape)
        except FormatError as error:
            left_out[name] = str(error)
            continue
        ours.append(contenders.ours(case, name, weight, settings.kernel))
    return ours


def _peers(case: Case, left_out: dict[str, str]) -> list[Contender]:
    others = []
    for name, make in peers.PEERS.items():
        peer = make(case) if case.device.type == "cpu" else f"it is measured on the CPU only, not on {case.device}"
        if isinstance(peer, str):
            left_out[f"peer-{name}"] = peer
        else:
            others.append(peer)
    return others


def _row(contender: Contender, dense: dict[str, Contender], speed: float) -> Row:
    low = high = contender.median
    if len(contender.seconds) > 1:
        low, *_, high = statistics.quantiles(contender.seconds, n=10, method="inclusive")
    return Row(
        name=contender.name,
        kernel=str(contender.facts["kernel"]),
        seconds=contender.median,
        low=low,
        high=high,
        calls=len(contender.seconds),
        packed_bytes=contender.packed_bytes,
        gigabytes_per_s=contender.packed_bytes / contender.median / 1e9,
        bandwidth_share=contender.packed_bytes / contender.median / speed,
        times_faster={name: other.median / contender.median for name, other in dense.items()},
        facts={name: value for name, value in contender.facts.items() if name != "kernel"},
    )


def parse_shape(text: str) -> tuple[int, int]:
    """Returns (N, K) for a text such as `4096x14336`; CompressError for any other form."""
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) != 2 or not all(side.strip().isdigit() and int(side) > 0 for side in sides):
        raise CompressError(f"shape {text!r}", allowed="outputs x inputs, such as 4096x14336")
    return int(sides[0]), int(sides[1])


def shapes(text: str) -> tuple[tuple[int, int], ...]:
    """Returns the shapes in a comma-separated list."""
    return tuple(map(parse_shape, names(text)))


def counts(text: str) -> tuple[int, ...]:
    """Returns the numbers of tokens in a comma-separated list; CompressError for anything else."""
    parts = names(text)
    if wrong := [name for name in parts if not name.isdigit() or int(name) < 1]:
        raise CompressError(f"tokens {wrong[0]!r}", allowed="numbers from 1 on, separated by commas")
    return tuple(map(int, parts))


def _count(tokens: int) -> str:
    return f"{tokens} token" + ("s" if tokens > 1 else "")


def names(text: str) -> tuple[str, ...]:
    """Returns the names in a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
