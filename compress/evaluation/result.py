"""Holds EvalResult and Comparison: evaluation outcomes by item. Standard library only; schema in docs/EVAL.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from compress.errors import EvaluationError, in_words
from compress.json_files import parse

SCHEMA_VERSION = 1
_ROUNDING = 1e-12
"""Differences of scores up to this size are rounding."""


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """Outcome of one item. `answers` maps a question name to the model's answer: a text, or the index of a choice."""

    id: str
    outcome: float
    answers: Mapping[str, str | int]
    prompt_hash: str
    metrics: Mapping[str, float]
    cluster: str | None = None
    """Items of one cluster (a passage, a subject) are not independent; None: the item is independent."""

    @property
    def answer(self) -> str | int:
        """The answer to the first question, from which the outcome is computed."""
        return next(iter(self.answers.values()))


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """Result of one family: the outcome of every item, in the order of the suite."""

    name: str
    primary: str
    """Name of the metric that is the outcome."""
    kind: str
    """`binary` (outcomes 0 and 1) or `continuous`."""
    chance: float
    items: Sequence[ItemOutcome]
    left_out: int = 0
    """Number of drawn items that are too long for the model."""

    @property
    def score(self) -> float:
        """The mean outcome."""
        return fmean(item.outcome for item in self.items)

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of every metric."""
        return {name: fmean(item.metrics[name] for item in self.items) for name in self.items[0].metrics}


def recovery(dense: FamilyResult, candidate: FamilyResult) -> float | None:
    """Returns (candidate − chance) / (dense − chance) of the scores; None if the dense model is not above chance."""
    room = dense.score - dense.chance
    return (candidate.score - dense.chance) / room if room > _ROUNDING else None


@dataclass(frozen=True, slots=True)
class TextResult:
    """Likelihood of the held-out text under one model."""

    nll_per_token: float
    """Nats."""
    bits_per_byte: float
    tokens: int
    bytes: int
    windows: int

    @property
    def perplexity(self) -> float:
        """Perplexity per token of this model's tokenizer."""
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
    """Lower end of the confidence interval of the mean; the bootstrap resamples windows of text."""
    high: float
    """Upper end of the confidence interval."""
    p99: float
    same_top1: float
    """Share of the positions where both models have the same likeliest token."""
    tokens: int
    confidence: float = 0.95
    by_position: Sequence[PositionKL] = ()
    """Means over equal spans of positions in the window, to show the effect of the context length."""


@dataclass(frozen=True, slots=True)
class FamilyComparison:
    """Comparison of two models on one family, paired by item. Differences are compressed − dense."""

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
    """Number of items with a lower outcome than the dense model's."""
    gained: int
    answers_changed: int
    """Number of items with a different answer, right or wrong."""
    metrics: Mapping[str, float]
    """The difference of every metric."""
    metric_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Confidence interval of each difference: paired bootstrap, which resamples whole clusters of items."""

    @property
    def flips(self) -> int:
        """Number of items whose outcome changed in either direction."""
        return self.lost + self.gained


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two results on the same items, by family."""

    families: Mapping[str, FamilyComparison]
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """Verdicts of a judge on one answer against the dense model's, in both orders, `Judgement.repeats` times."""

    id: str
    question: str
    """Name of the question."""
    verdicts: Sequence[str]
    """`candidate`, `dense` or `tie`; two per repeat: first with the dense answer shown first, then the other order."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Preferences of a judge model between the answers. Reported, never gated."""

    judge: str
    """Name of the judge model, as its endpoint reports it."""
    prompt_sha256: str
    repeats: int
    items: Sequence[JudgedItem]

    @property
    def score(self) -> float:
        """Share of the comparisons that the candidate won; a tie counts half, so 0.5 means no preference."""
        worth = {"candidate": 1.0, "tie": 0.5, "dense": 0.0}
        return fmean(worth[verdict] for item in self.items for verdict in item.verdicts)

    @property
    def consistent(self) -> float:
        """Share of the comparisons with the same verdict in both orders: a measure of the judge's reliability."""
        pairs = [pair for item in self.items for pair in zip(item.verdicts[::2], item.verdicts[1::2], strict=True)]
        return fmean(float(first == second) for first, second in pairs)


@dataclass(frozen=True, slots=True)
class Sample:
    """An item for people to read: its question, and what both models answered (`evaluation.samples`)."""

    kind: str
    """`sample` (spread over the items), or `lost` (of the worst losses of its family)."""
    family: str | None
    """None for a prompt that is no item of the suite."""
    id: str
    question: str | None
    """None where it is not at hand."""
    expected: str | None
    dense: str
    compressed: str


@dataclass(frozen=True, slots=True, repr=False)
class EvalResult:
    """Evaluation of one model: suite, settings, the outcome of every item and the held-out text result."""

    suite: Mapping[str, Any]
    """`name`, `version`, `items_sha256`, and for public data `sources` (dataset to file, or hub id and revision)."""
    model: Mapping[str, Any]
    """`name`, `kind` (dense or compressed), `fingerprint` (None in memory or without a manifest), `dtype`."""
    settings: Mapping[str, Any]
    """`limit`, `chat`, `batch_size`, `device`, `seeds`, and if given `tier`, `tasks`: what outcomes depend on."""
    libraries: Mapping[str, str]
    families: Mapping[str, FamilyResult]
    text: TextResult
    divergence: Divergence | None = None
    comparison: Comparison | None = None
    baseline: EvalResult | None = None
    warnings: Sequence[str] = ()
    """Messages about items or datasets that were left out."""
    judgement: Judgement | None = None
    samples: Sequence[Sample] = ()
    """A few items with their questions and both answers, with a baseline."""

    def __repr__(self) -> str:
        """Returns one line with the scores, because notebooks show the repr."""
        if self.comparison is None:
            scores = [f"{name} {100 * family.score:.1f} %" for name, family in self.families.items()]
        else:
            paired = self.comparison.families.items()
            scores = [f"{name} {100 * pair.compressed:.1f} % ({100 * pair.difference:+.1f})" for name, pair in paired]
        scores = scores or [f"perplexity {self.text.perplexity:.3f}"]
        return f"EvalResult({self.model['name']} on {self.suite['name']}: {', '.join(scores)})"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data in the schema of docs/EVAL.md."""
        data = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        for name, family in self.families.items():
            data["families"][name] |= {"n": len(family.items), "score": family.score, "metrics": family.metrics}
            data["families"][name]["items"] = data["families"][name].pop("items")  # the long part last
        data["text"]["perplexity"] = self.text.perplexity
        if self.judgement is not None:
            data["judgement"] |= {"score": self.judgement.score, "consistent": self.judgement.consistent}
        if self.comparison is not None:
            for name, paired in self.comparison.families.items():
                data["comparison"]["families"][name]["flips"] = paired.flips
        data["baseline"] = self.baseline.to_dict() if self.baseline is not None else None
        return data

    def to_json(self) -> str:
        """Returns the JSON text; EvaluationError for a figure that is not finite."""
        try:
            return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise EvaluationError("a figure of the evaluation is not a finite number") from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EvalResult:
        """Returns the result from the data of `to_dict`; EvaluationError for another schema or incomplete data."""
        if data.get("schema_version") != SCHEMA_VERSION:
            raise EvaluationError(
                f"an evaluation of schema version {data.get('schema_version')!r}",
                allowed=f"schema version {SCHEMA_VERSION}",
                do="Evaluate again, or update the package",
            )
        try:
            return _parse(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise EvaluationError(f"an incomplete evaluation: {in_words(error)}", do="Evaluate again") from error

    @classmethod
    def from_json(cls, text: str) -> EvalResult:
        """Returns the result from the text of `to_json`; EvaluationError for any other text, NaN included."""
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
        """Returns the result from an eval.json; EvaluationError, with the path, for any other file."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise EvaluationError(
                f"the evaluation {path} cannot be read: {error.strerror}",
                do="Give the eval.json of a finished evaluation",
            ) from error
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
        samples=tuple(Sample(**sample) for sample in data.get("samples", ())),  # absent from older files
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
