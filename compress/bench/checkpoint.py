"""The bench of one checkpoint against the dense model that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compress.bench import machine, models
from compress.bench.models import Entrant, Settings
from compress.bench.speed import Speed
from compress.errors import CompressError, ModelError, unknown
from compress.format.manifest import fingerprint, read_manifest
from compress.models.folder.locate import locate


def measure(
    folder: str | Path,
    *,
    dense: str | Path | None = None,
    with_dense: bool = True,
    dtypes: Sequence[str] = models.DTYPES,
    settings: Settings,
    progress: Callable[[str], None] = lambda text: None,
) -> Speed:
    """Returns how fast the checkpoint in `folder` runs, and the dense model in the same rounds.

    `dense` is the model to compare with; None takes the one that the manifest names, if it can be found. Raises
    FormatError for a folder that is no checkpoint, ModelError for a dense model that was named and is not there.
    """
    for name in dtypes:
        if name not in models.DTYPES:
            raise CompressError(unknown("dtype", name, models.DTYPES), allowed=", ".join(models.DTYPES))
    manifest = read_manifest(folder)
    original = _dense_folder(manifest, dense, progress) if with_dense else None
    ours = [Entrant("compressed", Path(folder), dtype) for dtype in dtypes]
    theirs = [] if original is None else [Entrant("dense", original, dtype) for dtype in dtypes]
    models.measure([*ours, *theirs], settings, progress)
    return Speed(
        machine=machine.processor(),
        threads=settings.threads,
        prompt_tokens=settings.prompt_tokens,
        new_tokens=settings.new_tokens,
        rounds=settings.rounds,
        compressed={one.dtype: one.figures(settings) for one in ours},
        dense={one.dtype: one.figures(settings) for one in theirs},
        versions=machine.versions("transformers"),
        fingerprint=fingerprint(folder),
    )


def _dense_folder(manifest: Any, named: str | Path | None, progress: Callable[[str], None]) -> Path | None:
    """Returns the folder of the dense model; None, with a word about it, where the manifest's is not to be had."""
    if named is not None:
        return locate(named)
    first = [*manifest.get("history", []), manifest][0]
    model = (first.get("source") or {}).get("model")
    if not model:
        progress("no dense model: the manifest names none; give one with --dense")
        return None
    try:
        return locate(model)
    except ModelError as error:
        progress(f"no dense model: {error} Give one with --dense.")
        return None
