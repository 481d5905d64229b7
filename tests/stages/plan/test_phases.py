"""`--max-memory` for what follows the compression: the plan, what is refused before work, and what a run then does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import psutil
import pytest

import compress
from compress import pipeline
from compress.errors import MemoryLimitError
from compress.evaluation import evaluator
from compress.evaluation.reading import residence
from compress.evaluation.reading.residence import Size
from compress.evaluation.result import EvalResult
from compress.format.manifest import MANIFEST
from compress.recipe import Recipe
from compress.report.table import plan as table
from compress.runtime import proof
from compress.stages import memory
from compress.stages.plan import phases
from tests.support import kick_data
from tests.support.models import save_tiny

GB = 10**9
BILLION = Size(1_240_000_000, 0, 2_480_000_000, 4 * 61_000_000, 128_256, 2048)
PACKED = BILLION.compressed(1_230_000_000, 770_000_000)


def test_a_proof_goes_block_by_block_where_the_packed_model_does_not_fit_beside_the_run() -> None:
    for limit, free, by_block in (
        (None, 16 * GB, False),
        (None, 2 * GB, True),
        (8 * GB, GB, False),
        (5 * GB // 2, GB, True),
    ):
        planned = phases.proof(PACKED, limit, GB // 2, available=free)
        assert planned.by_block == by_block, (limit, free)
        assert limit is None or planned.peak_bytes <= limit
    assert phases.proof(PACKED, 8 * GB, 7 * GB).by_block, "the process of the run counts, too"
    small, long = (phases.proof(PACKED, 3 * GB, GB // 2, text_bytes=size) for size in (0, GB))
    assert long.by_block and long.peak_bytes == phases.proof(PACKED, 2 * GB, GB // 2).peak_bytes + GB
    assert small.peak_bytes <= 3 * GB


def test_the_largest_need_is_named() -> None:
    parts = [phases.Phase("proof of load", 2 * GB, True), phases.Phase("evaluation", 3 * GB, True)]
    phases.check(parts, None)
    phases.check(parts, 3 * GB)
    with pytest.raises(MemoryLimitError, match=r"evaluation needs about 3 GB .* the limit of 1 GB.*--no-eval"):
        phases.check(parts, GB)
    with pytest.raises(MemoryLimitError, match=r"the proof of load needs about 2 GB .* Raise --max-memory\.$"):
        phases.check(parts[:1], GB)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save_tiny(tmp_path / "model"))


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> int:
    """A limit below which tiny models do not fit into memory, in the proof and in the evaluation, but blocks do."""
    monkeypatch.setattr(phases, "FRESH", 0)  # the proof is made in the process of the test
    monkeypatch.setattr(phases, "_BLOCK_COPIES", 0)
    monkeypatch.setattr(Size, "in_memory", 10 * GB)
    original = phases.proof_bytes
    monkeypatch.setattr(
        phases, "proof_bytes", lambda size, *, by_block: original(size, by_block=by_block) + (not by_block) * 10 * GB
    )
    return int(psutil.Process().memory_info().rss) + GB


def test_the_plan_shows_the_phases_and_what_is_left_out(model: str, tight: int, tmp_path: Path) -> None:
    def planned(**options: Any) -> tuple[pipeline.Plan, str]:
        plan = pipeline.plan(
            Recipe.from_options(model, "rtn", {"data_dir": kick_data.write(tmp_path / "data"), **options})
        )
        return plan, table.render(dataclasses.asdict(plan))

    plan, shown = planned(max_memory=tight)
    assert [phase.name for phase in plan.phases] == ["compression", "proof of load", "evaluation"]
    assert plan.peak_memory_bytes == max(phase.peak_bytes for phase in plan.phases) <= tight
    assert "proof of load" in shown and shown.count("(block by block)") == 2
    assert "left out     factoid, retrieval, summarisation, instruction: models that" in shown
    assert "multiple" not in shown.partition("left out")[2].partition("\n")[0]
    plan, shown = planned(max_memory="200GB")
    assert [phase.by_block for phase in plan.phases] == [False] * 3
    assert "(in memory)" in shown and "left out" not in shown
    plan, _ = planned(suite="none", data_dir=None)
    assert [phase.name for phase in plan.phases] == ["compression", "proof of load"]


def test_a_limit_below_one_block_of_each_is_refused_before_work(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "make_checkpoint", lambda *_: pytest.fail("the run has come to its work"))
    recipe = Recipe.from_options(model, "rtn", {"max_memory": "100MB", "output": str(tmp_path / "out")})
    for make in (pipeline.plan, pipeline.run):
        with pytest.raises(MemoryLimitError, match=r"(proof of load|evaluation) needs about .*block by block"):
            make(recipe)


@pytest.mark.usefixtures("proof_in_this_process")
def test_a_run_keeps_the_limit_in_its_proof_and_its_evaluation(
    model: str, tight: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs: list[bool] = []
    here = proof.prove_in_fresh_process

    def prove(*paths: Any, by_block: bool, **more: Any) -> proof.Proof:
        proofs.append(by_block)
        return here(*paths, by_block=by_block, **more)

    monkeypatch.setattr(proof, "prove_in_fresh_process", prove)
    options = {"output": tmp_path / "out", "data_dir": str(kick_data.write(tmp_path / "data")), "limit": 1}
    first = compress.run(model, "rtn", max_memory=tight, **options).evaluation
    assert proofs == [True]
    assert first is not None and first.settings["by_block"] and list(first.families) == ["multiple_choice"]
    assert first.comparison is not None and first.divergence is not None
    monkeypatch.setattr(evaluator, "residence_of", lambda *_: residence.Residence(True, 0, 0, 0))
    again = compress.run(model, "rtn", max_memory=tight, **options).evaluation
    assert again == first, "the evaluation stands while the models do not fit"
    monkeypatch.undo()
    more = compress.run(model, "rtn", **options).evaluation
    assert more is not None and "by_block" not in more.settings and len(more.families) == 5
    assert EvalResult.read(tmp_path / "out" / "eval.json").families.keys() == more.families.keys()


def test_a_proof_above_the_limit_is_stopped_and_the_folder_keeps_its_manifest(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Estimates may be wrong: the proof's process is watched, and counted with that of the run."""
    watched: list[list[int]] = []

    def enforce(limit: int | None, where: str, others: Any = ()) -> None:
        if watched_now := list(others):
            watched.append(watched_now)
            raise MemoryLimitError("too much", layer=where)

    monkeypatch.setattr(memory, "enforce", enforce)
    with pytest.raises(MemoryLimitError, match="proof of load"):
        compress.run(model, "rtn", output=tmp_path / "out", suite="none")
    assert len(watched) == 1 and not psutil.pid_exists(watched[0][0])
    assert (tmp_path / "out" / MANIFEST).is_file()
