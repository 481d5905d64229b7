"""Holds GateReport, the verdict on a candidate by family. Standard library only; schema in docs/GATE.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from compress.errors import EvaluationError

SCHEMA_VERSION = 1
Verdict = Literal["pass", "fail", "inconclusive", "reported", "cannot tell", "unusable"]
"""`reported`: shown but not judged. `cannot tell`: not judged, because the dense model scores too low for a loss to be
seen. `unusable`: the inputs cannot be compared."""
NOT_JUDGED: tuple[Verdict, ...] = ("reported", "cannot tell")
EXIT_CODES: Mapping[str, int] = {"pass": 0, "fail": 1, "unusable": 2, "inconclusive": 3}


@dataclass(frozen=True, slots=True)
class FamilyVerdict:
    """Verdict on one family of questions. Scores and differences are in units of the outcome; a point is 0.01 of it."""

    name: str
    verdict: Verdict
    reason: str
    """Explanation of the verdict."""
    n: int
    clusters: int | None
    """Number of groups of dependent items; None if all items are independent."""
    primary: str
    """Name of the judged metric."""
    dense: float
    candidate: float
    difference: float
    """candidate − dense."""
    low: float
    """One-sided lower bound of the true difference."""
    high: float
    """One-sided upper bound of the true difference."""
    method: str
    """`tango` or `bootstrap`."""
    margin: float | None
    """Tolerated loss; None if the family is not judged."""
    lost: int
    gained: int
    answers_changed: int
    mcnemar_p: float | None
    """Two-sided mid-p value of McNemar's test; None for continuous outcomes."""
    recovery: float | None
    """(candidate − chance) / (dense − chance); None if the dense model is not better than chance."""
    floor: float | None
    """Lowest allowed score of the dense model; None if the family is not judged."""
    empty: tuple[float, float] | None
    """Shares of empty answers of the dense model and the candidate; None for multiple choice."""
    items_needed: int | None
    """Estimated number of items that would settle an `inconclusive` verdict; None for other verdicts, and if no number
    of items is enough."""

    @property
    def flips(self) -> int:
        """Number of items whose outcome changed in either direction."""
        return self.lost + self.gained


@dataclass(frozen=True, slots=True)
class DivergenceVerdict:
    """Verdict on KL(dense ‖ candidate) on held-out text, in nats per token."""

    verdict: Verdict
    reason: str
    mean: float
    low: float
    high: float
    p99: float
    same_top1: float
    maximum: float | None
    """Largest allowed mean; None if the divergence is not judged."""


@dataclass(frozen=True, slots=True, repr=False)
class GateReport:
    """Verdict of the gate, with the figures, models and settings behind it."""

    verdict: Verdict
    reasons: Sequence[str]
    """Explanations of every verdict that is not a pass; empty for a pass."""
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
    """The settings of the gate (`GateSettings` as plain data)."""

    @property
    def carried_by(self) -> list[str]:
        """Names of the families, and `divergence`, that were judged: the verdict rests on them alone."""
        verdicts = {name: family.verdict for name, family in self.families.items()}
        if self.divergence is not None:
            verdicts["divergence"] = self.divergence.verdict
        return [name for name, verdict in verdicts.items() if verdict not in NOT_JUDGED]

    def exit_code(self, *, inconclusive_ok: bool = False) -> int:
        """Returns 0 pass, 1 fail, 2 unusable input, 3 inconclusive (0 with `inconclusive_ok`)."""
        if self.verdict == "inconclusive" and inconclusive_ok:
            return 0
        return EXIT_CODES[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data in the schema of docs/GATE.md."""
        data = {"schema_version": SCHEMA_VERSION, **asdict(self), "carried_by": self.carried_by}
        for name, family in self.families.items():
            data["families"][name]["flips"] = family.flips
        return data

    def to_json(self) -> str:
        """Returns the JSON text; EvaluationError for a non-finite figure."""
        try:
            return json.dumps(self.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
        except ValueError as error:
            raise EvaluationError("a figure of the gate is not a finite number") from error

    def __repr__(self) -> str:
        families = ", ".join(f"{family.name} {family.verdict}" for family in self.families.values())
        return "; ".join([f"{self.verdict}: {families}" if families else self.verdict, *self.reasons])


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Returns the worst verdict: `unusable`, then `fail`, then `inconclusive`, else `pass`.

    All families must pass, so no correction for multiple tests is needed.
    """
    for verdict in ("unusable", "fail", "inconclusive"):
        if verdict in verdicts:
            return verdict  # type: ignore[return-value]
    return "pass"


def unusable(reason: str, criteria: Mapping[str, Any], dense: str, candidate: str) -> GateReport:
    """Returns the report for inputs that cannot be compared."""
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
