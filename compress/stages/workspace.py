"""The output folder of a run, with its lock and the state from which a killed run goes on.

    <output>/.work/lock             locked while a process works here; the kernel unlocks it when that process dies
    <output>/.work/run.json         identity of the run; a run with another recipe or source is refused
    <output>/.work/block-003.json   block 3 is finished: record of its shard, entries of its linears
    <output>/.work/hidden-004.safetensors   inputs of block 4: outputs of the packed blocks before it

A block is finished when its json file exists, which is written after its shard and the hidden states. The folder
`.work` is removed at the end of the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from compress.calibration import kept_tokens
from compress.errors import OutputError
from compress.format.files import write_json
from compress.format.manifest import MANIFEST
from compress.json_files import read_object

_WORK = ".work"
_RUN = "run.json"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A locked output folder."""

    folder: Path
    identity: dict[str, Any]

    @property
    def work(self) -> Path:
        """The folder of the resume state."""
        return work_folder(self.folder)

    @property
    def finished(self) -> bool:
        """Whether the checkpoint of this run is complete."""
        return (self.folder / MANIFEST).is_file()

    def records(self) -> list[dict[str, Any]]:
        """Returns the records of the finished blocks, from the first to the last before a gap."""
        records: list[dict[str, Any]] = []
        while (path := self._block(len(records))).is_file():
            records.append(read_object(path, error=OutputError, do="Start over with --fresh"))
        return records

    def hidden_path(self, block: int) -> Path:
        """Returns where the inputs of `block` are kept."""
        return self.work / f"hidden-{block:03d}.safetensors"

    def finish_block(self, block: int, record: dict[str, Any]) -> None:
        """Marks `block` as finished and deletes its inputs."""
        write_json(self._block(block), record)
        self.hidden_path(block).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the resume state at the end of the run."""
        shutil.rmtree(self.work)

    def _block(self, block: int) -> Path:
        return self.work / f"block-{block:03d}.json"


def work_folder(folder: Path) -> Path:
    """Returns the folder of the resume state of the run in `folder`."""
    return folder / _WORK


@contextmanager
def open_workspace(folder: Path, identity: dict[str, Any], *, fresh: bool = False) -> Iterator[Workspace]:
    """Yields the locked workspace of a run in `folder`, new or with the state of an earlier run.

    Args:
        folder: output folder.
        identity: see `finish.identity`.
        fresh: remove what an earlier run left there.

    Raises:
        OutputError: another process is working in the folder, or it holds a run of another identity, or files that no
            run wrote; or it cannot be made.

    A run that fails before anything is done leaves no folder behind: what was made here is removed again.
    """
    with _file_errors(folder):
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        _refuse_foreign(folder)
        (folder / _WORK).mkdir(parents=True, exist_ok=True)
        lock = (folder / _WORK / "lock").open("a")
    with lock:
        with _file_errors(folder):
            _lock(lock, folder)
            if fresh:
                _empty(folder)
            _claim(folder, identity)
        try:
            yield Workspace(folder, identity)
        except BaseException:
            _remove_unused(folder, missing)
            raise


def check_folder(folder: Path, identity: dict[str, Any] | None = None, *, fresh: bool = False) -> None:
    """Raises the OutputError with which `open_workspace` would refuse the folder; nothing is written.

    Args:
        folder: output folder of a stage.
        identity: see `finish.identity`; None where it is not known yet.
        fresh: whether what an earlier run left there would be removed.
    """
    with _file_errors(folder):
        _refuse_foreign(folder)
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise OutputError(
                f"{there} is a file, so that {folder} cannot be made", do="Give another one with --output"
            )
        if not os.access(there, os.W_OK):
            raise OutputError(f"{there} cannot be written", do="Give another folder with --output")
        if not folder.is_dir():
            return
        if (lock := folder / _WORK / "lock").is_file():
            with lock.open("a") as file:
                _lock(file, folder)
        if identity is not None and not fresh:
            _refuse_other(folder, identity)


@contextmanager
def _file_errors(folder: Path) -> Iterator[None]:
    """Turns errors of the file system into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the folder {folder} cannot be used: {error.strerror or error}", do="Give another folder with --output"
        ) from error


def identity_of(folder: Path) -> dict[str, Any] | None:
    """Returns the identity of the run in `folder`, finished or not; None when there is none."""
    if (folder / _WORK / _RUN).is_file():
        return read_object(folder / _WORK / _RUN)
    if (folder / MANIFEST).is_file():
        manifest = read_object(folder / MANIFEST)
        source = manifest.get("source")
        fingerprint = source.get("fingerprint") if isinstance(source, dict) else None
        identity = {"recipe_hash": manifest.get("recipe_hash"), "source": fingerprint}
        return identity | ({"teacher": manifest["teacher"]} if "teacher" in manifest else {})
    return None


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file", do="Give a folder with --output")
    if (
        folder.is_dir()
        and any(folder.iterdir())
        and not (folder / _WORK).is_dir()
        and not (folder / MANIFEST).is_file()
    ):
        raise OutputError(
            f"{folder} holds something else: files that compress did not write",
            do="Give an empty or new folder with --output",
        )


def _lock(file: TextIO, folder: Path) -> None:
    """Locks an open file until it is closed; OutputError where another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"another run is working in {folder}", do="Wait for it to end, or give another folder with --output"
        ) from error


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    if identity_of(folder) is None or not _anything_done(folder):
        write_json(folder / _WORK / _RUN, identity)
    _refuse_other(folder, identity)


def _refuse_other(folder: Path, identity: dict[str, Any]) -> None:
    """Raises OutputError where the folder holds work of a run of another identity."""
    earlier = identity_of(folder)
    if earlier is not None and _anything_done(folder) and earlier != identity:
        labels = {"recipe_hash": "recipe", "source": "source model", "teacher": "teacher"}
        differing = [label for key, label in labels.items() if earlier.get(key) != identity.get(key)]
        raise OutputError(
            f"{folder} holds a run with another {differing[0] if differing else 'identity'}",
            do="Give another folder with --output, or --fresh to replace what is there",
        )


def _anything_done(folder: Path) -> bool:
    """Returns whether an earlier run got further than to write its identity; a run that was refused did not."""
    beside = any(path.name != _WORK for path in folder.iterdir())
    # calibration tokens have a key of their own: a run of another recipe takes them where they suit it
    state = (folder / _WORK).iterdir() if (folder / _WORK).is_dir() else ()
    names = (path.name for path in state if not path.name.startswith(kept_tokens.PREFIX))
    return beside or any(name not in (_RUN, "lock") for name in names)


def _remove_unused(folder: Path, made: list[Path]) -> None:
    """Removes the resume state of a run that has done nothing, then those of the folders `made` that are empty.

    Calibration text counts as something: a model may have written it for an hour.
    """
    state = {path.name for path in (folder / _WORK).iterdir()} if (folder / _WORK).is_dir() else set()
    if _anything_done(folder) or not state <= {_RUN, "lock"}:
        return
    shutil.rmtree(folder / _WORK, ignore_errors=True)
    with contextlib.suppress(OSError):  # a folder that holds something stays, with those around it
        for path in made:
            path.rmdir()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == _WORK:
            for state in path.iterdir():
                if state.name != "lock":
                    state.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
