"""GateReport: the verdict on a candidate, family by family. Standard library only; schema in docs/GATE.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from compress.errors import EvaluationError

SCHEMA_VERSION = 1
Verdict = Literal["pass", "fail", "inconclusive", "reported", "unusable"]
"""`reported`: shown and not judged. `unusable`: nothing can be said, because the input is no good."""
EXIT_CODES: Mapping[str, int] = {"pass": 0, "fail": 1, "unusable": 2, "inconclusive": 3}


@dataclass(frozen=True, slots=True)
class FamilyVerdict:
    """One family of questions. Scores and differences are in units of the outcome; 0.01 of it is a point."""

    name: str
    verdict: Verdict
    reason: str
    """Why, in words."""
    n: int
    clusters: int | None
    """Groups of items that are not independent; None when every item stands alone."""
    primary: str
    """Metric that is judged."""
    dense: float
    candidate: float
    difference: float
    """candidate − dense."""
    low: float
    """Lower bound of the true difference, one-sided."""
    high: float
    method: str
    """`tango` or `bootstrap`."""
    margin: float | None
    """Loss that is tolerated; None where nothing is judged."""
    lost: int
    gained: int
    answers_changed: int
    mcnemar_p: float | None
    """Mid-p of McNemar's test, two-sided; None for outcomes that are not 0 or 1."""
    recovery: float | None
    """(candidate − chance) / (dense − chance); None where the dense model is not better than chance."""
    floor: float | None
    """What the dense model had to reach."""
    empty: tuple[float, float] | None
    """Shares of empty answers, dense and candidate; None where answers are chosen."""
    items_needed: int | None
    """About how many items would settle an `inconclusive` one; None for other verdicts, or where no number helps."""

    @property
    def flips(self) -> int:
        """Items whose outcome changed, either way."""
        return self.lost + self.gained


@dataclass(frozen=True, slots=True)
class DivergenceVerdict:
    """KL(dense ‖ candidate) on held-out text, nats per token."""

    verdict: Verdict
    reason: str
    mean: float
    low: float
    high: float
    p99: float
    same_top1: float
    maximum: float | None
    """Of the mean; None where nothing was asked for."""


@dataclass(frozen=True, slots=True, repr=False)
class GateReport:
    """What the gate found, and on what."""

    verdict: Verdict
    reasons: Sequence[str]
    """What decided, in words; empty for a pass."""
    families: Mapping[str, FamilyVerdict]
    divergence: DivergenceVerdict | None
    remarks: Sequence[str]
    """Remarks that accompany the verdict; they do not change it."""
    confidence: float
    suite: Mapping[str, Any]
    dense: Mapping[str, Any]
    """`model`, `settings` and `libraries` of the dense model's evaluation."""
    candidate: Mapping[str, Any]
    criteria: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for."""

    def exit_code(self, *, inconclusive_ok: bool = False) -> int:
        """Returns 0 pass, 1 fail, 2 unusable input, 3 inconclusive (0 with `inconclusive_ok`)."""
        if self.verdict == "inconclusive" and inconclusive_ok:
            return 0
        return EXIT_CODES[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data in the schema of docs/GATE.md."""
        made = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        for name, family in self.families.items():
            made["families"][name]["flips"] = family.flips
        return made

    def to_json(self) -> str:
        """Returns the JSON text, without NaN."""
        try:
            return json.dumps(self.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
        except ValueError as error:
            raise EvaluationError("a figure of the gate is not a finite number") from error

    def __repr__(self) -> str:
        families = ", ".join(f"{family.name} {family.verdict}" for family in self.families.values())
        return "; ".join([f"{self.verdict}: {families}" if families else self.verdict, *self.reasons])


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Returns `fail` if any fails, else `inconclusive` if any is, else `pass`: all must pass, so that no correction for
    several tests is needed."""
    for verdict in ("unusable", "fail", "inconclusive"):
        if verdict in verdicts:
            return verdict  # type: ignore[return-value]
    return "pass"


def unusable(reason: str, criteria: Mapping[str, Any], dense: str, candidate: str) -> GateReport:
    """Returns the report of a gate that could not be held."""
    return GateReport(
        verdict="unusable",
        reasons=(reason,),
        families={},
        divergence=None,
        remarks=(),
        confidence=criteria.get("confidence", 0.95),
        suite={},
        dense={"model": {"name": dense}},
        candidate={"model": {"name": candidate}},
        criteria=criteria,
    )
