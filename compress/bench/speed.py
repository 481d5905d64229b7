"""Reads and writes speed.json: the speed of a checkpoint and its dense model on one machine. No torch.

    {"format": 1, "compress_version": "0.1.0", "machine": "<CPU>", "device": "cpu", "threads": 2,
     "prompt_tokens": 128, "new_tokens": 32, "rounds": 5, "versions": {"torch": "…"}, "fingerprint": "<checkpoint>",
     "dense":      {"<dtype>": {"prefill_tokens_per_s", "decode_tokens_per_s", "load_seconds", "resident_bytes",
                                "peak_bytes", "device_bytes"}},
     "compressed": {"<dtype>": {the same}}}

dtypes are those of the arithmetic, `float32` or `bfloat16`. Rates are medians over the rounds, in which all models took
turns; `dense` is empty where no dense model was found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compress import __version__
from compress.errors import FormatError, in_words
from compress.json_files import parse, write_text

FILE = "speed.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Measurements of one model in one dtype, batch 1, in its own process."""

    prefill_tokens_per_s: float
    """Prompt tokens over the seconds of their one forward pass."""
    decode_tokens_per_s: float
    """Greedily generated tokens after the first over their seconds, with a KV cache."""
    load_seconds: float
    """Seconds from opening the folder to the end of the first forward pass, in which kernels prepare the weights."""
    resident_bytes: int
    """Resident memory after the first `generate`, mapped files included."""
    peak_bytes: int | None = None
    """Peak of the resident memory until then; None if the system does not report it."""
    device_bytes: int | None = None
    """Peak of the accelerator's memory until then; None on the CPU, and if torch does not report it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The content of speed.json."""

    machine: str
    """Name of the processor, or of the accelerator if the models ran on one."""
    threads: int
    prompt_tokens: int
    new_tokens: int
    rounds: int
    compressed: dict[str, Figures]
    """Measurements by dtype, at least one."""
    dense: dict[str, Figures] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    """`cpu`, `cuda:N`, …; files of versions that knew no other have none."""
    fingerprint: str | None = None
    """Fingerprint of the checkpoint (`format.manifest.fingerprint`); None in files of versions that wrote none."""

    def times_faster(self, dense_dtype: str, dtype: str | None = None) -> float | None:
        """Returns decoding speed relative to the dense model in `dense_dtype`; None if that was not measured.

        `dtype` is that of the checkpoint's arithmetic; None: its fastest.
        """
        if dense_dtype not in self.dense:
            return None
        return self.fastest(dtype)[1].decode_tokens_per_s / self.dense[dense_dtype].decode_tokens_per_s

    def fastest(self, dtype: str | None = None) -> tuple[str, Figures]:
        """Returns (dtype, figures) of the checkpoint in `dtype`, or in the one in which it decodes fastest."""
        candidates = self.compressed if dtype is None else {dtype: self.compressed[dtype]}
        return max(candidates.items(), key=lambda item: item[1].decode_tokens_per_s)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the file."""
        return {"format": FORMAT, "compress_version": __version__, **asdict(self)}

    def write(self, folder: str | Path) -> Path:
        """Writes speed.json into `folder` and returns its path."""
        path = Path(folder) / FILE
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")
        return path


def read(folder: str | Path) -> Speed | None:
    """Returns the content of speed.json in `folder`, None where there is none; FormatError for a damaged file."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        content = parse(path.read_text(encoding="utf-8"))
        if (version := content["format"]) != FORMAT:
            raise FormatError(f"{path} has format {version}", allowed=str(FORMAT), do="Measure again: compress bench")
        return _speed(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise FormatError(
            f"{path} is damaged: {in_words(error)}", do=f"Measure again: compress bench {Path(folder)}"
        ) from error


def _speed(content: Mapping[str, Any]) -> Speed:
    compressed = {str(dtype): _figures(entry) for dtype, entry in content["compressed"].items()}
    if not compressed:
        raise ValueError("no measurements of the checkpoint")
    return Speed(
        machine=str(content["machine"]),
        threads=int(content["threads"]),
        prompt_tokens=int(content["prompt_tokens"]),
        new_tokens=int(content["new_tokens"]),
        rounds=int(content["rounds"]),
        compressed=compressed,
        dense={str(dtype): _figures(entry) for dtype, entry in content["dense"].items()},
        versions={str(name): str(version) for name, version in content.get("versions", {}).items()},
        device=str(content.get("device", "cpu")),
        fingerprint=None if content.get("fingerprint") is None else str(content["fingerprint"]),
    )


def _figures(entry: Mapping[str, Any]) -> Figures:
    figures = Figures(
        prefill_tokens_per_s=float(entry["prefill_tokens_per_s"]),
        decode_tokens_per_s=float(entry["decode_tokens_per_s"]),
        load_seconds=float(entry["load_seconds"]),
        resident_bytes=int(entry["resident_bytes"]),
        peak_bytes=None if entry.get("peak_bytes") is None else int(entry["peak_bytes"]),
        device_bytes=None if entry.get("device_bytes") is None else int(entry["device_bytes"]),
    )
    if not min(figures.prefill_tokens_per_s, figures.decode_tokens_per_s) > 0:
        raise ValueError("a rate that is not positive")
    return figures
