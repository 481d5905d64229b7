"""EvalResult and Comparison: outcomes of evaluations, item by item. Standard library only; schema in docs/EVAL.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from compress.errors import EvaluationError
from compress.json_files import parse

SCHEMA_VERSION = 1
_ROUNDING = 1e-12
"""Differences of scores up to this size are rounding."""


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """One item. `answers` holds what the model said by question asked: a text, or the index of the choice taken."""

    id: str
    outcome: float
    answers: Mapping[str, str | int]
    prompt_hash: str
    metrics: Mapping[str, float]
    cluster: str | None = None
    """Items of one cluster (a passage, a subject) are not independent; None: on its own."""

    @property
    def answer(self) -> str | int:
        """The answer that the outcome judges."""
        return next(iter(self.answers.values()))


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """One family: the outcome of every item, in the order of the suite."""

    name: str
    primary: str
    """Metric that is the outcome."""
    kind: str
    """`binary` (outcomes 0 and 1) or `continuous`."""
    chance: float
    items: Sequence[ItemOutcome]
    left_out: int = 0
    """Items that were drawn and are too long for the model."""

    @property
    def score(self) -> float:
        """The mean outcome."""
        return fmean(item.outcome for item in self.items)

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of every metric."""
        return {name: fmean(item.metrics[name] for item in self.items) for name in self.items[0].metrics}


def recovery(dense: FamilyResult, candidate: FamilyResult) -> float | None:
    """Returns (candidate − chance) / (dense − chance) of the scores; None where the dense model is not above chance."""
    room = dense.score - dense.chance
    return (candidate.score - dense.chance) / room if room > _ROUNDING else None


@dataclass(frozen=True, slots=True)
class TextResult:
    """Held-out text: how well it was predicted."""

    nll_per_token: float
    """Nats."""
    bits_per_byte: float
    tokens: int
    bytes: int
    windows: int

    @property
    def perplexity(self) -> float:
        """Per token of this model's tokenizer."""
        return math.exp(min(self.nll_per_token, 700.0))  # e^709 is the largest double


@dataclass(frozen=True, slots=True)
class PositionKL:
    """Mean KL, in nats per token, over the positions `start` to `end` - 1 of the windows, counted from 0."""

    start: int
    end: int
    mean: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(dense ‖ this model) of the next-token distributions on held-out text, in nats per token."""

    mean: float
    low: float
    """Of the confidence interval of the mean; windows of text are the units that are resampled."""
    high: float
    p99: float
    same_top1: float
    """Share of the positions where both models put the same token first."""
    tokens: int
    confidence: float = 0.95
    by_position: Sequence[PositionKL] = ()
    """By how much text stood before, in equal spans of positions."""


@dataclass(frozen=True, slots=True)
class FamilyComparison:
    """One family of two models, paired by item. Differences are compressed − dense."""

    name: str
    n: int
    dense: float
    compressed: float
    difference: float
    low: float
    high: float
    method: str
    """`tango` (score interval of paired proportions) or `bootstrap` (paired, percentiles)."""
    lost: int
    """Items with a lower outcome than the dense model's."""
    gained: int
    answers_changed: int
    """Items answered differently, right or wrong."""
    metrics: Mapping[str, float]
    """The difference of every metric."""
    metric_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Ends of the interval of each of them: paired bootstrap, whole clusters of items resampled."""

    @property
    def flips(self) -> int:
        """Items whose outcome changed, either way."""
        return self.lost + self.gained


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results on the same items."""

    families: Mapping[str, FamilyComparison]
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """One answer that a judge compared with the dense model's, in both orders, as often as `Judgement.repeats` says."""

    id: str
    question: str
    """Name of the question asked about the item."""
    verdicts: Sequence[str]
    """`candidate`, `dense` or `tie`: the two orders of every repeat, the dense answer first in the first of a pair."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Another model's preferences between the answers. Reported, never gated."""

    judge: str
    """Name of the judging model, as its endpoint gives it."""
    prompt_sha256: str
    repeats: int
    items: Sequence[JudgedItem]

    @property
    def score(self) -> float:
        """Share of the comparisons that the candidate won, a tie counting half: 0.5 is a draw."""
        worth = {"candidate": 1.0, "tie": 0.5, "dense": 0.0}
        return fmean(worth[verdict] for item in self.items for verdict in item.verdicts)

    @property
    def consistent(self) -> float:
        """Share of the pairs of orders with the same verdict twice: how far the judge is to be trusted."""
        pairs = [pair for item in self.items for pair in zip(item.verdicts[::2], item.verdicts[1::2], strict=True)]
        return fmean(float(one == other) for one, other in pairs)


@dataclass(frozen=True, slots=True, repr=False)
class EvalResult:
    """Everything that one model was asked and answered."""

    suite: Mapping[str, Any]
    """`name`, `version`, `items_sha256`, and for public data `sources` (dataset -> file or hub id and revision)."""
    model: Mapping[str, Any]
    """`name`, `kind` (dense or compressed), `fingerprint` (None in memory or without a manifest), `dtype`."""
    settings: Mapping[str, Any]
    """`limit`, `batch_size`, `device`, `seeds`, and where given `tier` and `tasks`: what the outcomes may depend on
    beside the model."""
    libraries: Mapping[str, str]
    families: Mapping[str, FamilyResult]
    text: TextResult
    divergence: Divergence | None = None
    comparison: Comparison | None = None
    baseline: EvalResult | None = None
    warnings: Sequence[str] = ()
    """What was asked for and left out, in words."""
    judgement: Judgement | None = None

    def __repr__(self) -> str:
        """One line: a notebook shows it, and all items would be a book."""
        if self.comparison is None:
            told = [f"{name} {100 * family.score:.1f} %" for name, family in self.families.items()]
        else:
            paired = self.comparison.families.items()
            told = [f"{name} {100 * one.compressed:.1f} % ({100 * one.difference:+.1f})" for name, one in paired]
        return f"EvalResult({self.model['name']} on {self.suite['name']}: {', '.join(told)})"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data in the schema of docs/EVAL.md."""
        made = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        for name, family in self.families.items():
            made["families"][name] |= {"n": len(family.items), "score": family.score, "metrics": family.metrics}
            made["families"][name]["items"] = made["families"][name].pop("items")  # the long part last
        made["text"]["perplexity"] = self.text.perplexity
        if self.judgement is not None:
            made["judgement"] |= {"score": self.judgement.score, "consistent": self.judgement.consistent}
        if self.comparison is not None:
            for name, paired in self.comparison.families.items():
                made["comparison"]["families"][name]["flips"] = paired.flips
        made["baseline"] = self.baseline.to_dict() if self.baseline is not None else None
        return made

    def to_json(self) -> str:
        """Returns the JSON text; EvaluationError for a figure that is not finite."""
        try:
            return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise EvaluationError("a figure of the evaluation is not a finite number") from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EvalResult:
        """Reads what `to_dict` made; EvaluationError when it is of another schema or incomplete."""
        if data.get("schema_version") != SCHEMA_VERSION:
            raise EvaluationError(
                f"an evaluation of schema version {data.get('schema_version')!r}",
                allowed=f"schema version {SCHEMA_VERSION}",
                do="Evaluate again, or update the package",
            )
        try:
            return _parse(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise EvaluationError(f"an incomplete evaluation: {error!r}", do="Evaluate again") from error

    @classmethod
    def from_json(cls, text: str) -> EvalResult:
        """Reads what `to_json` wrote; EvaluationError for anything else, NaN included."""
        try:
            data = parse(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise EvaluationError(
                f"not the JSON of an evaluation ({error})", do="Evaluate again if it was cut off"
            ) from error
        if not isinstance(data, dict):
            raise EvaluationError("not the JSON of an evaluation: no object")
        return cls.from_dict(data)

    @classmethod
    def read(cls, path: str | Path) -> EvalResult:
        """Reads an eval.json; EvaluationError, with its path, for a file that is none."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise EvaluationError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise EvaluationError(f"{path} is not the JSON of an evaluation: {error}") from error
        except EvaluationError as error:
            raise EvaluationError(f"{path}: {error.given}", allowed=error.allowed, do=error.do) from error


def _parse(data: Mapping[str, Any]) -> EvalResult:
    families = {}
    for name, family in data["families"].items():
        items = [ItemOutcome(**item) for item in family["items"]]
        if not items:
            raise EvaluationError(f"family {name!r} of the evaluation has no items")
        left_out = family.get("left_out", 0)  # absent before there were suites of public data
        families[name] = FamilyResult(name, family["primary"], family["kind"], family["chance"], items, left_out)
    divergence, comparison, baseline = data["divergence"], data["comparison"], data["baseline"]
    return EvalResult(
        suite=data["suite"],
        model=data["model"],
        settings=data["settings"],
        libraries=data["libraries"],
        families=families,
        text=TextResult(**_without(data["text"], "perplexity")),
        divergence=_divergence(divergence),
        comparison=Comparison(
            {name: _family_comparison(family) for name, family in comparison["families"].items()},
            comparison["confidence"],
        )
        if comparison
        else None,
        baseline=EvalResult.from_dict(baseline) if baseline else None,
        warnings=tuple(data.get("warnings", ())),
        judgement=_judgement(data.get("judgement")),
    )


def _divergence(data: Mapping[str, Any] | None) -> Divergence | None:
    if not data:
        return None
    spans = tuple(PositionKL(**span) for span in data.get("by_position", ()))  # absent from older files
    return Divergence(**{**data, "by_position": spans})


def _family_comparison(data: Mapping[str, Any]) -> FamilyComparison:
    intervals = {name: (low, high) for name, (low, high) in data.get("metric_intervals", {}).items()}
    return FamilyComparison(**{**_without(data, "flips"), "metric_intervals": intervals})


def _judgement(data: Mapping[str, Any] | None) -> Judgement | None:
    if data is None:
        return None
    items = [JudgedItem(item["id"], item["question"], tuple(item["verdicts"])) for item in data["items"]]
    return Judgement(data["judge"], data["prompt_sha256"], data["repeats"], tuple(items))


def _without(data: Mapping[str, Any], derived: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != derived}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
