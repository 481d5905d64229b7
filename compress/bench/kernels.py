"""The bench of kernels: layouts against dense products and peers, each case in one interleaved run."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from compress.bench import contenders, machine, peers, planes
from compress.bench.contenders import DTYPES, Case
from compress.bench.timing import Contender, interleave
from compress.errors import CompressError, FormatError, unknown
from compress.kernels import select

FORMAT = 1
SHAPES = ((4096, 4096), (4096, 14336), (14336, 4096), (4099, 4352))
"""(N, K): those of a model of eight billion parameters, and a ragged one."""
TOKENS = (1, 4, 16, 512)
_READ_BYTES = 1 << 28
_READER = "read memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, and how long."""

    layouts: tuple[str, ...] = tuple(planes.LAYOUTS)
    shapes: tuple[tuple[int, int], ...] = SHAPES[:1]
    tokens: tuple[int, ...] = (1, 16)
    dtype: str = "float32"
    """Of inputs and outputs of our kernels, and of those peers that leave a choice."""
    kernel: str | None = None
    """One kernel; None takes the one that would be selected."""
    peers: bool = True
    seconds: float = 20.0
    """Of timing, per case."""
    rounds: int | None = None
    """Turns of every contender, in place of `seconds`."""

    def check(self) -> None:
        """Raises CompressError for names that there are not."""
        for name in self.layouts:
            planes.layout(name)
        if self.dtype not in DTYPES:
            raise CompressError(unknown("dtype", self.dtype, DTYPES), allowed=", ".join(DTYPES))
        if self.kernel is not None and self.kernel not in select.KERNELS:
            raise CompressError(unknown("kernel", self.kernel, select.KERNELS), allowed=", ".join(select.KERNELS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender in one case."""

    name: str
    kernel: str
    seconds: float
    """Median of a call."""
    low: float
    """Seconds that a tenth of the calls stay below."""
    high: float
    """Seconds that a tenth of the calls exceed."""
    calls: int
    packed_bytes: int
    """Bytes of the weights as stored, which every call reads."""
    gigabytes_per_s: float
    bandwidth_share: float
    """Of what the machine was measured to read in the same run."""
    times_faster: dict[str, float]
    """Than torch's dense product, by its dtype."""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One case: all its contenders, timed in turns."""

    shape: tuple[int, int]
    tokens: int
    dtype: str
    """Of our inputs."""
    rounds: int
    read_gigabytes_per_s: float
    rows: list[Row]
    left_out: dict[str, str]
    """Contender -> why it did not take part."""


def run(settings: Settings, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Returns the content of the JSON file: machine, versions, settings and every case."""
    settings.check()
    cases = [(shape, tokens) for shape in settings.shapes for tokens in settings.tokens]
    measured = []
    for number, (shape, tokens) in enumerate(cases, 1):
        progress(f"{number}/{len(cases)}: {shape[0]}×{shape[1]}, {_count(tokens)}")
        measured.append(measure(settings, shape, tokens))
    return {
        "format": FORMAT,
        "machine": machine.description(),
        "versions": machine.versions("torchao", "aqlm", "numba", "llama_cpp_python"),
        "settings": asdict(settings),
        "cases": [asdict(case) for case in measured],
    }


def measure(settings: Settings, shape: tuple[int, int], tokens: int) -> Measured:
    """Returns one case; a layout that the shape does not fit is left out, a kernel that cannot run it is an error."""
    case = Case(shape, tokens, DTYPES[settings.dtype], machine.last_level_cache())
    left_out: dict[str, str] = {}
    dense = {name: contenders.dense(case, name) for name in ("float32", "bfloat16")}
    ours = _ours(case, settings, left_out)
    others = _peers(case, left_out) if settings.peers else []
    readers = [Contender(_READER, [call], _READ_BYTES) for call in machine.readers(_READ_BYTES)]
    with torch.inference_mode():
        rounds = interleave(
            [*dense.values(), *ours, *others, *readers], seconds=settings.seconds, rounds=settings.rounds
        )
    speed = max(reader.packed_bytes / reader.median for reader in readers)
    rows = [_row(one, dense, speed) for one in (*dense.values(), *ours, *others)]
    return Measured(
        shape=shape, tokens=tokens, dtype=settings.dtype, rounds=rounds, read_gigabytes_per_s=speed / 1e9, rows=rows,
        left_out=left_out,
    )  # fmt: skip


def _ours(case: Case, settings: Settings, left_out: dict[str, str]) -> list[Contender]:
    found = []
    for name in settings.layouts:
        try:
            weight = planes.random_weight(name, case.shape)
        except FormatError as error:
            left_out[name] = str(error)
            continue
        found.append(contenders.ours(case, name, weight, settings.kernel))
    return found


def _peers(case: Case, left_out: dict[str, str]) -> list[Contender]:
    found = []
    for name, make in peers.PEERS.items():
        answer = make(case)
        if isinstance(answer, str):
            left_out[f"peer-{name}"] = answer
        else:
            found.append(answer)
    return found


def _row(one: Contender, dense: dict[str, Contender], speed: float) -> Row:
    low, *_, high = statistics.quantiles(one.seconds, n=10, method="inclusive") if len(one.seconds) > 1 else (
        one.median, one.median
    )  # fmt: skip
    return Row(
        name=one.name,
        kernel=str(one.facts["kernel"]),
        seconds=one.median,
        low=low,
        high=high,
        calls=len(one.seconds),
        packed_bytes=one.packed_bytes,
        gigabytes_per_s=one.packed_bytes / one.median / 1e9,
        bandwidth_share=one.packed_bytes / one.median / speed,
        times_faster={name: other.median / one.median for name, other in dense.items()},
        facts={name: value for name, value in one.facts.items() if name != "kernel"},
    )


def parse_shape(text: str) -> tuple[int, int]:
    """Returns (N, K) of `4096x14336`; CompressError for another form."""
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) != 2 or not all(side.strip().isdigit() and int(side) > 0 for side in sides):
        raise CompressError(f"shape {text!r}", allowed="outputs x inputs, such as 4096x14336")
    return int(sides[0]), int(sides[1])


def shapes(text: str) -> tuple[tuple[int, int], ...]:
    """Returns the shapes in a list with commas."""
    return tuple(map(parse_shape, names(text)))


def counts(text: str) -> tuple[int, ...]:
    """Returns the numbers of tokens in a list with commas; CompressError for what is none."""
    found = names(text)
    if wrong := [name for name in found if not name.isdigit() or int(name) < 1]:
        raise CompressError(f"tokens {wrong[0]!r}", allowed="numbers from 1 on, with commas")
    return tuple(map(int, found))


def _count(tokens: int) -> str:
    return f"{tokens} token" + ("s" if tokens > 1 else "")


def names(text: str) -> tuple[str, ...]:
    """Returns the names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
