"""Uploads a finished folder as one commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.cards.files import CARD
from compress.errors import OutputError, translated
from compress.hub.bundle import WEIGHTS, Bundle, collect
from compress.sizes import format_size

_CURE = "Check the name, the token's right to write there, and the network; the same command tries again"


@dataclass(frozen=True)
class Push:
    """A folder that was checked, and where it goes."""

    bundle: Bundle
    repo: str
    private: bool
    replace: bool
    revision: str | None

    def lines(self) -> list[tuple[str, str]]:
        """Returns what is uploaded as label and text."""
        kind = "private" if self.private else "public"
        branch = f", branch {self.revision}" if self.revision else ""
        lines = [("to", f"{self.repo}{branch}; {kind}, if it is made now")]
        lines += [("file", f"{name}, {format_size(path.stat().st_size)}") for name, path in self.bundle.files.items()]
        lines.append(("file", f"{CARD}, {format_size(len(self.bundle.card.encode()))}"))
        lines += [("note", f"compress.json names {path}, which readers will see") for path in self.bundle.paths]
        return [*lines, ("size", format_size(self.bundle.size_bytes))]

    def send(self) -> str:
        """Uploads everything as one commit and returns the address of the repository.

        Raises:
            OutputError: there is no token, the hub refuses or cannot be reached, or the repository holds weights.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise OutputError("HF_HUB_OFFLINE is set, so that nothing is sent to the hub", do="Unset it")
        if not get_token():
            raise OutputError("there is no token for the hub", do="Log in with `hf auth login`, or set HF_TOKEN")
        api = HfApi()
        with translated(f"{self.repo} cannot be made or opened", kind=OutputError, do=_CURE):
            address = api.create_repo(self.repo, private=self.private or None, exist_ok=True)
            repo = address.repo_id
            if self.revision:
                api.create_branch(repo, branch=self.revision, exist_ok=True)
            present = api.list_repo_files(repo, revision=self.revision)
        stale = sorted(name for name in present if name.endswith(WEIGHTS) and name not in self.bundle.files)
        self._check(present)
        content: dict[str, Any] = {**self.bundle.files, CARD: self.bundle.card.encode()}
        operations: list[Any] = [CommitOperationAdd(name, file) for name, file in content.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        with translated(f"the upload to {repo} failed", kind=OutputError, do=_CURE):
            api.create_commit(repo, operations, commit_message="Upload by compress push", revision=self.revision)
        return str(address)

    def _check(self, present: list[str]) -> None:
        """Raises OutputError where weights would be overwritten or deleted unasked."""
        weights = [name for name in present if name.endswith(WEIGHTS)]
        if weights and not self.replace:
            raise OutputError(
                f"{self.repo} holds weights already, such as {weights[0]}",
                do="Give another name, or --replace to put these in their place; its history keeps the old ones",
            )


def prepare(
    folder: str | Path, repo: str, *, private: bool = False, replace: bool = False, revision: str | None = None
) -> Push:
    """Checks a folder and returns the upload, of which nothing has been sent; see `push`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise OutputError(f"{repo!r} is no name of a repository", allowed="owner/name") from error
    return Push(collect(Path(folder), repo), repo, private, replace, revision)


def push(
    folder: str | Path, repo: str, *, private: bool = False, replace: bool = False, revision: str | None = None
) -> str:
    """Uploads a finished checkpoint or export to the Hugging Face hub and returns the address of the repository.

    All files arrive in one commit, with a model card. The token is that of `hf auth login` or of `HF_TOKEN`.

    Args:
        folder: a checkpoint of `run`, or an export. It is read only.
        repo: name of the repository, `owner/name`; it is made if it does not exist.
        private: make a new repository private; one that exists stays as it is.
        replace: overwrite weights that the repository holds, and delete those of other names.
        revision: branch to write, which is made if it does not exist; the default branch if None.

    Raises:
        FormatError: the folder is not finished, damaged, or was not written by this package.
        OutputError: there is no token, the hub refuses or cannot be reached, or the repository holds weights.
    """
    return prepare(folder, repo, private=private, replace=replace, revision=revision).send()
