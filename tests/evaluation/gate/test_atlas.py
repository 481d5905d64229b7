"""The gate on the bundled model, from compression to verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import compress

pytestmark = pytest.mark.slow
ITEMS = 100


@pytest.mark.parametrize(
    ("options", "verdict"),
    [({"method": "rtn", "bits": 2}, "fail"), ({"method": "spqr", "bits": 4}, "pass"), (None, "pass")],
    ids=["rtn-2", "spqr-4", "itself"],
)
def test_a_candidate_gets_its_verdict(options: dict[str, Any] | None, verdict: str, tmp_path: Path) -> None:
    candidate: str | Path = "atlas"
    if options is not None:
        candidate = compress.run("atlas", **options, suite="none", output=str(tmp_path / "packed")).checkpoint
    report = compress.gate("atlas", candidate, limit=ITEMS, cache=tmp_path / "cache")
    assert report.verdict == verdict, str(report)
    assert all(family.n == ITEMS for family in report.families.values())
    assert report.divergence is not None


def test_too_few_items_leave_it_open() -> None:
    report = compress.gate("atlas", "atlas", limit=20)
    assert (report.verdict, report.exit_code()) == ("inconclusive", 3)
