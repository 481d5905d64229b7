"""The gate on evaluations that are there: verdicts, preconditions, and what it says of them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

import compress
from compress.errors import EvaluationError
from compress.evaluation.gate.decide import gate
from compress.evaluation.result import EvalResult, FamilyResult
from tests.support.gate_results import divergence, family, result, shares


def test_a_model_that_lost_nothing_passes() -> None:
    report = gate(result(family()), result(family(lost=2, gained=2), name="packed"))
    found = report.families["factoid"]
    assert (report.verdict, report.exit_code(), list(report.reasons)) == ("pass", 0, [])
    assert (found.verdict, found.n, found.lost, found.gained, found.flips) == ("pass", 400, 2, 2, 4)
    assert found.margin == 0.05
    assert found.low >= -0.05
    assert found.mcnemar_p == 1.0
    assert found.recovery == 1.0


def test_a_model_that_lost_much_fails() -> None:
    report = gate(result(family()), result(family(lost=60)))
    assert (report.verdict, report.exit_code(inconclusive_ok=True)) == ("fail", 1)
    assert report.families["factoid"].high < -0.05
    assert "more than 5 points" in report.reasons[0]


def test_an_open_verdict_says_how_many_items_would_tell() -> None:
    report = gate(result(family()), result(family(lost=20, gained=4)))
    found = report.families["factoid"]
    assert (report.verdict, report.exit_code(), report.exit_code(inconclusive_ok=True)) == ("inconclusive", 3, 0)
    assert found.items_needed is not None
    assert found.items_needed > 400
    assert "items would tell" in report.reasons[0]


@pytest.mark.parametrize(
    ("limit", "cure"),
    [(None, "more than the suite has: tolerate more with --margin"), (400, "ask more with --limit or --tier"),
     (500, "more than the suite has: tolerate more with --margin")],
)  # fmt: skip
def test_an_open_verdict_says_where_more_items_are(limit: int | None, cure: str) -> None:
    """400 items were asked: with a limit of 400 there may be more, with one of 500 there are not."""
    dense = result(family())
    dense = dataclasses.replace(dense, settings={**dense.settings, "limit": limit})
    reason = gate(dense, result(family(lost=20, gained=4))).reasons[0]
    assert reason.startswith("factoid: ") and reason.endswith(cure)


def test_one_point_is_singular() -> None:
    few = gate(result(family(n=50)), result(family(n=50)), margin=1)
    assert "50 items cannot show that no more than 1 point is lost" in few.reasons[0]


def test_the_same_model_passes_where_n_allows_and_is_open_where_not() -> None:
    assert gate(result(family(n=80)), result(family(n=80))).verdict == "pass"
    few = gate(result(family(n=50)), result(family(n=50)))
    assert few.verdict == "inconclusive"
    assert "not even if nothing is lost: that takes 59" in few.reasons[0]
    assert "the same model" in " ".join(few.remarks)


def test_one_failed_family_fails_all_and_an_open_one_leaves_all_open() -> None:
    dense = result(family(), family("multiple_choice"))
    assert gate(dense, result(family(lost=60), family("multiple_choice", lost=20))).verdict == "fail"
    assert gate(dense, result(family(), family("multiple_choice", lost=20))).verdict == "inconclusive"
    assert gate(dense, result(family(), family("multiple_choice"))).verdict == "pass"


@pytest.mark.parametrize(("n", "margin"), [(1499, 0.05), (1500, 0.02), (3999, 0.02), (4000, 0.01)])
def test_the_margin_follows_the_number_of_items(n: int, margin: float) -> None:
    assert gate(result(family(n=n)), result(family(n=n))).families["factoid"].margin == margin


def test_a_given_margin_counts() -> None:
    dense, candidate = result(family(), family("multiple_choice")), result(family(lost=60), family("multiple_choice"))
    assert gate(dense, candidate, margin={"factoid": 30}).verdict == "pass"
    assert gate(dense, candidate, margin=30).families["multiple_choice"].margin == 0.3
    assert gate(dense, candidate, margin={"default": 30, "multiple_choice": 3}).verdict == "pass"
    with pytest.raises(EvaluationError, match="did you mean 'factoid'"):
        gate(dense, candidate, margin={"factiod": 2})
    with pytest.raises(EvaluationError, match="less than 100 points"):
        gate(dense, candidate, margin=0)


def test_shares_are_judged_by_the_bootstrap() -> None:
    dense = result(shares(spread=0.0))
    assert gate(dense, result(shares(change=0.0))).families["summarisation"].method == "bootstrap"
    assert gate(dense, result(shares(change=0.0))).verdict == "pass"
    assert gate(dense, result(shares(change=-0.2))).verdict == "fail"
    assert gate(dense, result(shares(change=-0.05))).verdict == "inconclusive"
    assert gate(dense, result(shares(spread=0.0))).verdict == "pass"


def test_items_of_a_cluster_widen_the_bounds() -> None:
    def clustered(found: FamilyResult) -> FamilyResult:
        items = [dataclasses.replace(item, cluster=f"passage {i // 8}") for i, item in enumerate(found.items)]
        return dataclasses.replace(found, items=items)

    alone = gate(result(family()), result(family(lost=8))).families["factoid"]
    together = gate(result(clustered(family())), result(clustered(family(lost=8)))).families["factoid"]
    assert (alone.clusters, together.clusters) == (None, 50)
    assert together.low < alone.low


def test_a_model_that_answers_nothing_fails_with_that_reason() -> None:
    report = gate(result(family()), result(family(empty=320)))
    assert report.verdict == "fail"
    assert report.families["factoid"].empty == (0.0, 0.8)
    assert "80.0 % of the answers are empty" in report.reasons[0]


def test_a_few_more_empty_answers_are_let_pass_and_no_more() -> None:
    dense = result(family(n=4000))
    assert gate(dense, result(family(n=4000, empty=200)), margin=20).verdict == "pass"
    assert gate(dense, result(family(n=4000, empty=204)), margin=20).verdict == "fail"
    assert gate(dense, result(family(n=4000, empty=204)), margin=20, max_empty=6).verdict == "pass"


def nan_in(found: EvalResult, where: str) -> EvalResult:
    if where == "text":
        return dataclasses.replace(found, text=dataclasses.replace(found.text, nll_per_token=float("nan")))
    if where == "divergence":
        return dataclasses.replace(found, divergence=divergence(float("inf")))
    name, first = next(iter(found.families.items()))
    values: dict[str, Any] = {"outcome": float("nan")} if where == "outcome" else {"metrics": {"hit": float("inf")}}
    items = [dataclasses.replace(first.items[0], **values), *first.items[1:]]
    return dataclasses.replace(found, families={**found.families, name: dataclasses.replace(first, items=items)})


@pytest.mark.parametrize("where", ["outcome", "metric", "text", "divergence"])
def test_scores_that_are_not_finite_fail_the_candidate_and_disqualify_the_dense_model(where: str) -> None:
    good = result(family())
    report = gate(good, nan_in(good, where))
    assert report.verdict == "fail"
    assert "not a finite number" in report.reasons[0]
    json.loads(report.to_json(), parse_constant=pytest.fail)
    with pytest.raises(EvaluationError, match="dense model is not usable"):
        gate(nan_in(good, where), good)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (result(family(n=399)), "asked of one model only"),
        (result(family(prompt_hash="q")), "prompts of 400 items differ"),
        (result(family(), suite="kick"), "suite name"),
        (result(family(), family("multiple_choice")), "multiple_choice in one only"),
        (result(dataclasses.replace(family(), kind="continuous")), "cannot be paired"),
        (result(dataclasses.replace(family(), items=[*family().items, family().items[0]])), "is repeated"),
        (result(family(outcome=0.5)), "outcome 0.5"),
    ],
)
def test_other_questions_are_unusable(candidate: EvalResult, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        gate(result(family()), candidate)


def test_a_dense_model_below_its_floor_cannot_be_compared_with() -> None:
    guessing = result(family("multiple_choice", score=0.29))
    with pytest.raises(EvaluationError, match=r"choice 29\.0, below its floor of 30\.0 .guessing scores 25\.0"):
        gate(guessing, guessing)
    assert gate(guessing, guessing, floor={"multiple_choice": 29}).verdict == "pass"
    both = result(family(score=0.04), family("multiple_choice", score=0.29))
    with pytest.raises(EvaluationError, match=r"factoid 4\.0.*multiple_choice 29\.0.*--report-only multiple_choice"):
        gate(both, both)
    with pytest.raises(EvaluationError, match="below its floor of 90"):
        gate(result(family()), result(family()), floor={"factoid": 90})
    shown = gate(result(*guessing.families.values(), family()), result(*guessing.families.values(), family()),
                 report_only=["multiple_choice"])  # fmt: skip
    assert (shown.verdict, shown.families["multiple_choice"].verdict) == ("pass", "reported")
    with pytest.raises(EvaluationError, match="nothing is judged"):
        gate(guessing, guessing, report_only=["multiple_choice"])


def test_the_small_families_of_kick_are_shown_and_judged_when_asked() -> None:
    dense, candidate = (
        result(family(), shares(n=72, spread=0.0), suite="kick"),
        result(family(), shares(n=72, change=-0.3), suite="kick"),
    )
    report = gate(dense, candidate)
    assert (report.verdict, report.families["summarisation"].verdict) == ("pass", "reported")
    assert gate(dense, candidate, margin={"summarisation": 10}).verdict == "fail"
    assert gate(dense, candidate, report_only=[]).verdict == "fail"


def test_recovery_counts_from_chance() -> None:
    report = gate(
        result(family("multiple_choice", score=0.45)), result(family("multiple_choice", score=0.45, lost=80)), margin=5
    )
    found = report.families["multiple_choice"]
    assert found.candidate == pytest.approx(0.25)
    assert found.recovery == pytest.approx(0.0)


def test_the_divergence_is_shown_and_judged_when_asked() -> None:
    dense, candidate = result(family()), result(family(), divergence=divergence(0.02))
    shown = gate(dense, candidate).divergence
    assert shown is not None
    assert (shown.verdict, shown.p99, shown.same_top1) == ("reported", 0.2, 0.98)
    assert [gate(dense, candidate, max_kl=kl).verdict for kl in (0.03, 0.02, 0.01)] == ["pass", "inconclusive", "fail"]
    with pytest.raises(EvaluationError, match="has no divergence"):
        gate(dense, result(family()), max_kl=0.1)


def test_other_circumstances_are_remarked() -> None:
    other = result(family(), name="packed", libraries={"torch": "2.12.0"}, settings={"batch_size": 8, "device": "cpu"},
                   warnings=("two files were left out",))  # fmt: skip
    remarks = gate(result(family()), other).remarks
    assert "two files were left out" in remarks
    assert "another version of torch: 2.13.0 for the dense model, 2.12.0 for the candidate" in remarks
    assert any("batch_size" in remark for remark in remarks)


def test_an_evaluation_brings_its_baseline() -> None:
    dense = result(family())
    assert gate(None, result(family(), name="packed", baseline=dense)).verdict == "pass"
    with pytest.raises(EvaluationError, match="no dense model"):
        gate(None, result(family()))


def test_answers_changed_and_the_report_as_data() -> None:
    report = compress.gate(result(family()), result(family(lost=3, gained=1), name="packed"))
    data = json.loads(report.to_json())
    assert data["schema_version"] == 1
    assert data["families"]["factoid"]["answers_changed"] == data["families"]["factoid"]["flips"] == 4
    assert data["candidate"]["model"]["name"] == "packed"
    assert data["criteria"]["confidence"] == 0.95
    assert str(report) == "pass: factoid pass"


def test_how_to_ask_is_no_use_with_evaluations() -> None:
    with pytest.raises(EvaluationError, match="limit given, but both evaluations exist already"):
        gate(result(family()), result(family()), limit=5)
