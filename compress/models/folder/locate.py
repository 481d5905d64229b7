"""Finds the local folder of a model: the bundled one, an existing folder, or the download of a hub id."""

from __future__ import annotations

import re
from pathlib import Path

from compress.atlas import MODEL_DIR
from compress.errors import ModelError, first_line
from compress.format.manifest import CONFIG
from compress.models.folder import smollm2
from compress.models.folder.extra_files import CHAT_TEMPLATES, WEIGHT_SUFFIXES
from compress.models.folder.other_kinds import refuse_file
from compress.models.foreign.gguf import opening as gguf_file

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

_INSIDE = [f"{CHAT_TEMPLATES}/*.jinja", "*/*.py"]
_PICKLES_AND_OTHERS = [f"*{suffix}" for suffix in WEIGHT_SUFFIXES if suffix not in (".safetensors", ".index.json")]
_UNWANTED = [*_PICKLES_AND_OTHERS, "*.bin.index.json", "consolidated*", "optimizer*", "events.out*"]


def locate(model: str | Path, revision: str | None = None) -> Path:
    """Returns the local folder of `model`: `atlas`, `smollm2` (made once), an existing folder, or a hub id (downloaded
    without pickles).

    Raises:
        ModelError: there is no such folder, and no such model on the hub or no way to reach it.
    """
    if (path := on_this_machine(model)) is not None:
        return _with_configuration(path)
    return smollm2.folder() if str(model) == smollm2.NAME else _download(str(model), revision)


def _with_configuration(path: Path) -> Path:
    """Returns the folder; where the configuration stands in a GGUF file, one with what was made of it."""
    if path.is_dir() and (path / CONFIG).is_file():
        return path
    file = gguf_file.file_of(path)
    return path if file is None else gguf_file.prepared(file)


def on_this_machine(model: str | Path) -> Path | None:
    """Returns the folder of `atlas` or of a local model, or a GGUF file; None for what must be downloaded first.

    Raises:
        ModelError: it is neither a folder nor a name that the hub could know.
    """
    if str(model) == "atlas":
        return MODEL_DIR
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if str(model) == smollm2.NAME:
        return None
    if path.exists():
        if gguf_file.file_of(path) is not None:
            return path
        refuse_file(path)
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model):
        raise ModelError(
            f"there is no folder {model}", allowed="atlas, smollm2, a local folder, or a hub id such as owner/name"
        )
    return None


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        # folders inside a repository hold other formats of the same weights, except for templates and remote code
        snapshot_download(hub_id, revision=revision, allow_patterns=_INSIDE)
        return Path(snapshot_download(hub_id, revision=revision, ignore_patterns=["*/*", *_UNWANTED]))
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no folder {hub_id}, and no model of that name on the hub that you may read",
            do="Check the spelling; for a gated model accept its terms and log in with `hf auth login`",
        ) from error
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise ModelError(
            f"there is no folder {hub_id}, and the hub cannot be reached (or offline mode is set)",
            do="Give a local folder, or download the model once while online",
        ) from error
    except (HFValidationError, OSError) as error:
        raise ModelError(
            f"{hub_id} could not be downloaded: {first_line(error)}",
            do="Check the connection, the space on the disk and the revision, then try again",
        ) from error
