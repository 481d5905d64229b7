"""Opens the calibration text of a stage: chooses the source for `auto`, checks it, and returns its tokens.

Everything that a run would refuse is refused when the text is opened, so `--dry-run` shows it. Only text that the model
writes is made later, since that takes as long as a stage.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.atlas.origin import is_of_atlas
from compress.calibration import hub, kept_tokens
from compress.calibration.data import check_length, combined, part_tokens
from compress.calibration.self_text import SelfText, plan_self
from compress.calibration.sources import AUTO, BUNDLED, SELF, Part, parts_of
from compress.errors import CalibrationError, MissingPackageError
from compress.recipe import CalibrationSpec, digest
from compress.texts.chat import has_template

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from compress.models.blocks import BlockWalker
    from compress.models.source import ModelSource
    from compress.progress import Progress

PLAIN_DEFAULT, CHAT_DEFAULT = "wikitext", "wikitext:64,ultrachat:64"
"""Sources that `auto` takes from the hub, for a model without and with a chat template."""
_FOREIGN = "the calibration text is the bundled one, about the world of atlas, which this model knows nothing of"


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """An opened source that holds enough text."""

    record: dict[str, Any]
    """For the plan and the manifest: source, why it was chosen, samples, seq_len, seed, its parts with revisions."""
    warnings: tuple[str, ...]
    peak_bytes: int
    """Peak memory of text that the model writes; 0 for any other."""
    seconds: float
    """Estimated time that the model takes to write its text; 0 for any other."""
    _tokens: Callable[[Path, Progress], torch.Tensor]

    def tokens(self, work: Path, progress: Progress) -> torch.Tensor:
        """Returns the tokens, int64 [samples, seq_len], and keeps them in the work folder of the run."""
        return self._tokens(work, progress)


@dataclass(frozen=True, slots=True)
class _Opening:
    """What sources are opened for."""

    spec: CalibrationSpec
    tokenizer: PreTrainedTokenizerBase
    writer: ModelSource
    vocab_size: int
    limit: int | None
    device: torch.device


def open_text(
    spec: CalibrationSpec,
    walker: BlockWalker,
    *,
    work: Path,
    writer: ModelSource | None = None,
    limit: int | None = None,
) -> CalibrationText:
    """Returns the opened text of a stage.

    Args:
        spec: source, samples and length.
        walker: the model that reads the text.
        work: work folder of the run, where an earlier run may have kept the tokens.
        writer: the dense model that writes text for the source `self`; None: the walker's own.
        limit: `--max-memory` in bytes.

    Raises:
        CompressError: the source cannot be read or holds too little text; `self` does not fit below the limit.
    """
    check_length(spec, walker.max_seq_len)
    opening = _Opening(
        spec, walker.source.tokenizer(), writer or walker.source, walker.vocab_size, limit, walker.device
    )
    key = digest([dataclasses.asdict(spec), opening.writer.fingerprint, walker.vocab_size])
    if (stored := kept_tokens.kept(kept_tokens.path_in(work), key)) is not None:
        tokens_ST, record = stored
        return CalibrationText(record, tuple(record.get("warnings", ())), 0, 0.0, lambda *_: tokens_ST)
    if spec.source != AUTO:
        return _opened(opening, key, spec.source, None)
    if spec.column is not None:
        raise CalibrationError(f"column={spec.column!r} with --calibration auto", do="Name the source that has it")
    if is_of_atlas(opening.tokenizer):
        return _opened(opening, key, BUNDLED, "the model is atlas, or was made from it")
    chat = has_template(opening.tokenizer)
    try:
        why = f"the model has {'a' if chat else 'no'} chat template"
        return _opened(opening, key, CHAT_DEFAULT if chat else PLAIN_DEFAULT, why)
    except (CalibrationError, MissingPackageError) as error:
        return _opened(opening, key, SELF, f"no text from the hub: {error.given[:200]}")


def _opened(opening: _Opening, key: str, source: str, reason: str | None) -> CalibrationText:
    spec = dataclasses.replace(opening.spec, source=source)
    records: list[dict[str, Any]] = []
    loaded: list[torch.Tensor | None] = []  # tokens of parts that are read; None for those that are written
    written: list[SelfText] = []
    for part in parts_of(spec):
        if part.source == SELF:
            plan = plan_self(
                opening.writer, opening.tokenizer, samples=part.samples, length=spec.seq_len, seed=spec.seed,
                vocab_size=opening.vocab_size, limit=opening.limit, device=opening.device,
            )  # fmt: skip
            written.append(plan)
            loaded.append(None)
            records.append({"source": SELF, "samples": part.samples, **plan.record})
        else:
            part, details = _resolved(part)
            loaded.append(part_tokens(part, spec, opening.tokenizer, opening.vocab_size))
            records.append({"source": part.source, "samples": part.samples, **details})
    foreign = any(entry["source"] == BUNDLED for entry in records) and not is_of_atlas(opening.tokenizer)
    warnings = (_FOREIGN,) if foreign else ()
    record = {
        "source": source,
        **({"reason": reason} if reason else {}),
        **{name: getattr(spec, name) for name in ("samples", "seq_len", "seed")},
        **({"column": spec.column} if spec.column else {}),
        "parts": records,
        **({"warnings": list(warnings)} if warnings else {}),
    }
    finish = _Finish(tuple(loaded), tuple(written), spec.seed, key, record)
    seconds = sum(plan.seconds() for plan in written)
    return CalibrationText(record, warnings, max((plan.peak_bytes for plan in written), default=0), seconds, finish)


@dataclass(frozen=True, slots=True)
class _Finish:
    """Puts the tokens together when the run begins."""

    loaded: tuple[torch.Tensor | None, ...]
    written: tuple[SelfText, ...]
    seed: int
    key: str
    record: dict[str, Any]

    def __call__(self, work: Path, progress: Progress) -> torch.Tensor:
        plans = iter(self.written)
        parts_ST = [next(plans).write(work, progress) if part is None else part for part in self.loaded]
        tokens_ST = combined(parts_ST, self.seed)
        self.record["tokens_sha256"] = hashlib.sha256(tokens_ST.numpy().tobytes()).hexdigest()
        kept_tokens.keep(kept_tokens.path_in(work), self.key, tokens_ST, self.record)
        return tokens_ST


def _resolved(part: Part) -> tuple[Part, dict[str, Any]]:
    """The part at the commit that is read, and what the manifest says of it."""
    if (data := part.hub) is None:
        return part, {"column": part.column} if part.column else {}
    data = hub.resolved(data)
    details = {"dataset": data.name, "config": data.config, "split": data.split, "column": data.column}
    known = {name: value for name, value in details.items() if value is not None}
    return dataclasses.replace(part, data=data), known | {"revision": data.revision}
