"""Opens the models of a chat: the one given, and the dense one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress import devices
from compress.chat import DTYPES, RECORDED
from compress.chat.conversation import Conversation
from compress.chat.speaker import Settings, Speaker
from compress.errors import FormatError, ModelError, RecipeError
from compress.evaluation.open_model import open_subject
from compress.format.manifest import MANIFEST, read_manifest
from compress.models.source import ModelSource
from compress.report import manifest as manifests

if TYPE_CHECKING:
    from compress.evaluation.open_model import Subject
    from compress.progress import Progress


def open_conversation(
    model: str,
    against: str | None,
    settings: Settings,
    *,
    device: str = "auto",
    dtype: str = "float32",
    progress: Progress,
) -> Conversation:
    """Returns a conversation with a model.

    Args:
        model: `atlas`, `smollm2`, a folder (compressed, dense or quantised by another program) or a hub id.
        against: another one that gets the same questions, `RECORDED`, or None.
        settings: how answers are generated.
        device: `auto`, `cpu`, `cuda[:N]`, `xpu` or `mps`.
        dtype: one of `DTYPES`; models are evaluated in float32.
        progress: is told what is opened.

    Raises:
        CompressError: a setting is out of range, a model cannot be opened, or no dense model is recorded.
    """
    if not 0 <= settings.temperature <= 10:
        raise RecipeError(f"temperature {settings.temperature}", allowed="0 (greedy) to 10")
    if dtype not in DTYPES:
        raise RecipeError(f"dtype={dtype!r}", allowed=", ".join(DTYPES))
    target = devices.resolve(device)
    # the dense model first: that it is missing should be said before seconds of loading
    beside = None if against is None else recorded(Path(model)) if against == RECORDED else ModelSource.open(against)

    def opened(each: str | ModelSource) -> Subject:
        progress.note(f"Opening {each.name if isinstance(each, ModelSource) else each} ...")
        return open_subject(each, device=target, dtype=getattr(torch, dtype))

    subject = opened(model)
    other = None if beside is None else Speaker(opened(beside), settings)
    return Conversation(Speaker(subject, settings), other, subject.fingerprint)


def recorded(folder: Path) -> ModelSource:
    """Returns the dense model that the run in `folder` began with, opened.

    Of a local model the run records the name alone, so that it is looked for here and beside the folder.

    Raises:
        FormatError: the folder is not that of a run.
        ModelError: the model is not here, or is another one than the run's.
    """
    if not (folder / MANIFEST).is_file():
        raise FormatError(
            f"--against without a model, and {folder} is no folder of a run that records one",
            do="Name the model: --against MODEL",
        )
    origin = manifests.origin(manifests.checked(read_manifest(folder)))
    name, revision, wanted = (origin.get(key) for key in ("model", "revision", "fingerprint"))
    if name is None:
        raise FormatError(f"{folder} does not record the model it was made from", do="Name it: --against MODEL")
    beside = folder.resolve().parent / name
    try:
        source = ModelSource.open(str(beside) if beside.is_dir() else name, revision=revision)
    except ModelError as error:
        raise ModelError(
            f"the run began with {name!r}, which cannot be opened from here: {error.given}",
            do="Give its folder: --against FOLDER",
        ) from error
    if wanted is not None and source.fingerprint != wanted:
        raise ModelError(
            f"the run began with a model called {name!r}, and the one found here ({source.path}) is another",
            do="Give its folder: --against FOLDER",
        )
    return source
