"""Measures one checkpoint against the dense model that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress import devices
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
    """Returns the speed of the checkpoint in `folder`, and of the dense model in the same rounds.

    Args:
        folder: a checkpoint of ours.
        dense: the model to compare with; None: the one that the manifest names, if it can be found.
        with_dense: whether to compare at all.
        dtypes: those of the arithmetic, names from `models.DTYPES`.
        settings: see `models.Settings`.
        progress: receives a line before each step.

    Raises:
        CompressError: an unknown dtype, a device that is not there, or a model that cannot be run or does not fit into
            memory.
        FormatError: the folder is not a checkpoint.
        ModelError: the dense model that `dense` names was not found.
    """
    for name in dtypes:
        if name not in models.DTYPES:
            raise CompressError(unknown("dtype", name, models.DTYPES), allowed=", ".join(models.DTYPES))
    device = devices.resolve(settings.device)
    manifest = read_manifest(folder)
    original = _dense_folder(manifest, dense, progress) if with_dense else None
    ours = [Entrant("compressed", Path(folder), dtype) for dtype in dtypes]
    theirs = [] if original is None else [Entrant("dense", original, dtype) for dtype in dtypes]
    models.measure([*ours, *theirs], settings, progress)
    return Speed(
        machine=machine.device_name(device),
        device=str(device),
        threads=settings.threads,
        prompt_tokens=settings.prompt_tokens,
        new_tokens=settings.new_tokens,
        rounds=settings.rounds,
        compressed={entrant.dtype: entrant.figures(settings) for entrant in ours},
        dense={entrant.dtype: entrant.figures(settings) for entrant in theirs},
        versions=machine.versions("transformers"),
        fingerprint=fingerprint(folder),
    )


def _dense_folder(manifest: Any, named: str | Path | None, progress: Callable[[str], None]) -> Path | None:
    """Returns the folder of the dense model; None, with a message, where the one of the manifest is not found."""
    if named is not None:
        return locate(named)
    model = _source_model(manifest)
    if model is None:
        progress("no dense model: the manifest does not name it; give it with --dense")
        return None
    try:
        return locate(model)
    except ModelError as error:
        progress(f"no dense model: {error} Give it with --dense.")
        return None


def _source_model(manifest: Mapping[str, Any]) -> str | None:
    """Returns the model that the first stage began with; None if the manifest has no such text."""
    history = manifest.get("history")
    first = history[0] if isinstance(history, list) and history else manifest
    source = first.get("source") if isinstance(first, Mapping) else None
    model = source.get("model") if isinstance(source, Mapping) else None
    return model if isinstance(model, str) and model else None
