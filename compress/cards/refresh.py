"""Writes the card of a checkpoint from the files beside it, whenever one of them is new."""

from __future__ import annotations

from pathlib import Path

from compress.cards import files, metadata, snippet, text
from compress.cards.text import Facts
from compress.evaluation.result import EvalResult
from compress.format.manifest import MANIFEST, fingerprint, read_manifest
from compress.report import manifest as manifests
from compress.report.page import sources

KEPT = "README.md was edited and stays as it is; delete it to have it written anew"


def facts_of(folder: Path, source: Path | None = None) -> Facts:
    """Returns what the card of the checkpoint in a folder tells.

    An eval.json or a gate.json of another checkpoint than the one beside it is left out.

    Args:
        folder: a finished checkpoint.
        source: folder of the model that it was made of, whose licence it has; None takes that of its own card.
    """
    card = files.read(folder) if source is None else files.read(source)
    evaluation, verdict = None, None
    if (folder / sources.EVALUATION).is_file():
        found = EvalResult.read(folder / sources.EVALUATION)
        evaluation = found if found.model.get("fingerprint") == fingerprint(folder) else None
    if evaluation is not None and (gate := sources.read_gate(folder)) is not None:
        verdict = str(gate["verdict"])
    return Facts(
        manifest=manifests.checked(read_manifest(folder)),
        evaluation=evaluation,
        kept=metadata.inherited(card),
        chat=snippet.has_template(folder),
        verdict=verdict,
    )


def write(folder: Path, source: Path | None = None) -> str | None:
    """Writes the card of a checkpoint; returns why it was not written, None where it was.

    Args:
        folder: a finished checkpoint.
        source: see `facts_of`.
    """
    return None if files.write(folder, text.of_checkpoint(facts_of(folder, source))) else KEPT


def beside(path: Path) -> None:
    """Writes the card of the checkpoint beside a new eval.json or gate.json; elsewhere it does nothing."""
    if (path.parent / MANIFEST).is_file():
        write(path.parent)
