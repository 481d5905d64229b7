"""Reads the names of calibration sources: one source, or a mixture with the share of each. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from compress.calibration.presets import PRESETS, HubData
from compress.errors import CalibrationError, did_you_mean
from compress.recipe import CalibrationSpec
from compress.texts.decode import COMPRESSED, base_suffix
from compress.texts.folders import TEXT_FILES
from compress.texts.rows import ROW_FILES

AUTO, BUNDLED, SELF = "auto", "bundled", "self"
TOKEN_FILE = ".safetensors"
_HUB = "hub:"
_SHARE = re.compile(r"(.+):(\d{1,9})")
SOURCES = (
    f"auto, bundled, self, {', '.join(PRESETS)}, hub:NAME[@CONFIG][:SPLIT[:COLUMN]], a text file "
    f"({', '.join(TEXT_FILES)}), a file of rows ({', '.join(ROW_FILES)}; with --column or as FILE:COLUMN), each also "
    f"compressed ({', '.join(COMPRESSED)}), a folder of them, a token file ({TOKEN_FILE}), or a mixture such as "
    "c4:96,ultrachat:32"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One source, and how many samples are drawn from it."""

    source: str
    samples: int
    column: str | None = None
    data: HubData | None = None
    """The data set on the hub at the commit that is read; None: as the source names it."""

    @property
    def hub(self) -> HubData | None:
        """The data set on the hub that it names, by a preset or by `hub:`; None for any other source."""
        if self.data is not None:
            return self.data
        if self.source in PRESETS:
            return PRESETS[self.source]
        return _hub_data(self.source, self.column) if self.source.startswith(_HUB) else None

    @property
    def path(self) -> Path | None:
        """The local file or folder that it names; None for any other source."""
        if self.source in (BUNDLED, SELF) or self.hub is not None:
            return None
        return Path(self.source).expanduser()


def parts_of(spec: CalibrationSpec) -> list[Part]:
    """Returns the sources of a calibration with the samples of each, which sum to `spec.samples`.

    The numbers of a mixture are shares: `c4:96,ultrachat:32` is three to one, whatever the number of samples.

    Raises:
        CalibrationError: no such source; a mixture without numbers, or with more parts than samples; a column that
            could belong to several parts or to none.
    """
    shares = _mixture(spec.source)
    if shares is None:
        return [_part(spec.source, spec.samples, spec.column)]
    if spec.column is not None:
        raise CalibrationError(
            f"column={spec.column!r} with a mixture of {len(shares)} sources",
            do="Name the column in the source that has it, as FILE:COLUMN:SAMPLES",
        )
    counts = _divided(spec.samples, [share for _, share in shares])
    if min(counts) == 0:
        raise CalibrationError(
            f"samples={spec.samples} for the mixture {spec.source}: one of its parts would get none",
            do="Raise --samples, or leave the smallest part out",
        )
    return [_part(source, count, None) for (source, _), count in zip(shares, counts, strict=True)]


def _mixture(source: str) -> list[tuple[str, int]] | None:
    """The parts and their shares; None for one source."""
    if "," not in source or Path(source).expanduser().exists():
        return None
    matches = [_SHARE.fullmatch(part.strip()) for part in source.split(",")]
    shares = [(match[1], int(match[2])) for match in matches if match]
    if len(shares) < len(matches) or any(share == 0 for _, share in shares):
        raise CalibrationError(
            f"calibration source {source!r}", allowed="a mixture with a number after each source: c4:96,ultrachat:32"
        )
    return shares


def _divided(samples: int, shares: list[int]) -> list[int]:
    """Divides the samples by shares; what rounding leaves goes to the largest remainders."""
    exact = [samples * share / sum(shares) for share in shares]
    counts = [int(amount) for amount in exact]
    by_remainder = sorted(range(len(shares)), key=lambda place: counts[place] - exact[place])
    for place in by_remainder[: samples - sum(counts)]:
        counts[place] += 1
    return counts


def _part(source: str, samples: int, column: str | None) -> Part:
    named, after_colon = _file_and_column(source)
    if column is not None and after_colon is not None:
        raise CalibrationError(
            f"column={column!r} with the source {source}, which names a column", do="Give one of them"
        )
    part = Part(named, samples, column or after_colon)
    if part.column is not None and (named in (BUNDLED, SELF, *PRESETS) or base_suffix(Path(named)) == TOKEN_FILE):
        raise CalibrationError(f"column={part.column!r} with the source {named}, which has no columns to choose from")
    _check_path(part, source)
    return part


def _file_and_column(source: str) -> tuple[str, str | None]:
    """The source, and the column that may follow a file's name after a colon."""
    name, colon, column = source.rpartition(":")
    is_file = base_suffix(Path(name)) in ROW_FILES or (colon and Path(name).expanduser().is_dir())
    if colon and column and is_file and not source.startswith(_HUB) and not Path(source).exists():
        return name, column
    return source, None


def _check_path(part: Part, source: str) -> None:
    """Raises CalibrationError for a name that is neither a source nor a path of a kind that is read."""
    path = part.path
    if path is None or path.is_dir() or base_suffix(path) in (*TEXT_FILES, *ROW_FILES, TOKEN_FILE):
        return
    hint = None if path.exists() else did_you_mean(source, (AUTO, BUNDLED, SELF, *PRESETS))
    raise CalibrationError(f"calibration source {source!r}" + (f"; {hint}" if hint else ""), allowed=SOURCES)


def _hub_data(source: str, column: str | None) -> HubData:
    name, *rest = source.removeprefix(_HUB).split(":")
    name, at, config = name.partition("@")
    if not name or len(rest) > 2 or (at and not config):
        raise CalibrationError(f"calibration source {source!r}", allowed="hub:NAME[@CONFIG][:SPLIT[:COLUMN]]")
    split = rest[0] if rest and rest[0] else "train"
    named = rest[1] if len(rest) == 2 and rest[1] else None
    if column is not None and named is not None:
        raise CalibrationError(
            f"column={column!r} with the source {source}, which names a column", do="Give one of them"
        )
    return HubData(name, config or None, split, column or named)
