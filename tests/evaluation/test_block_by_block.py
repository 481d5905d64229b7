"""Models that do not fit below a limit are evaluated block by block, with the figures of the evaluation in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from compress.errors import EvaluationError, MemoryLimitError
from compress.evaluation import EvalResult, evaluate
from compress.evaluation.gate.decide import gate
from compress.evaluation.reading.residence import Size, choose, enforce
from compress.progress import Silent
from tests.support import packed_checkpoints
from tests.support import tiny_suite as tiny

GB = 10**9


class Noted(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dense model, and the same packed, both with a tokenizer."""
    dense, packed = tmp_path_factory.mktemp("dense"), tmp_path_factory.mktemp("packed")
    model = tiny.model()
    model.save_pretrained(dense)
    packed_checkpoints.write(packed, model, packed_checkpoints.pack_in_place(model, packed_checkpoints.rtn4, "^$"))
    for folder in (dense, packed):
        tiny.tokenizer().save_pretrained(folder)
    return dense, packed


def below() -> int:
    """A limit that holds the process, its libraries and blocks of a tiny model, but not a batch in memory."""
    return int(psutil.Process().memory_info().rss) + 700 * 10**6


def measure(folders: tuple[Path, Path], **options: Any) -> EvalResult:
    return evaluate(folders[1], suite=tiny.suite(), baseline=options.pop("baseline", folders[0]), **options)


@pytest.fixture(scope="module")
def in_memory(folders: tuple[Path, Path]) -> EvalResult:
    return measure(folders)


def test_the_figures_are_those_in_memory(folders: tuple[Path, Path], in_memory: EvalResult) -> None:
    streamed = measure(folders, max_memory=below())
    assert streamed.divergence is not None and in_memory.divergence is not None
    assert streamed.divergence.mean == pytest.approx(in_memory.divergence.mean, rel=1e-4)
    assert streamed.divergence.mean > 0.001
    for own, other in ((streamed, in_memory), (streamed.baseline, in_memory.baseline)):
        assert own is not None and other is not None
        assert own.text.nll_per_token == pytest.approx(other.text.nll_per_token, rel=1e-5)
        assert own.model == other.model
        assert own.settings == other.settings | {"by_block": True}
        assert list(own.families) == ["chosen"]  # the others are written
        for item, same in zip(own.families["chosen"].items, other.families["chosen"].items, strict=True):
            assert (item.id, item.outcome, item.answers, item.prompt_hash) == (
                same.id, same.outcome, same.answers, same.prompt_hash,
            )  # fmt: skip
    assert streamed.comparison is not None and list(streamed.comparison.families) == ["chosen"]
    warning = next(text for text in streamed.warnings if "left out" in text)
    assert "said, recalled" in warning and "written token by token" in warning and "GB" in warning


def test_a_known_evaluation_with_more_families_is_paired(folders: tuple[Path, Path], in_memory: EvalResult) -> None:
    streamed = measure(folders, max_memory=below(), baseline=in_memory.baseline, reference=folders[0])
    assert streamed.comparison is not None and list(streamed.comparison.families) == ["chosen"]
    assert streamed.divergence is not None


def test_a_loaded_model_is_paired_with_one_on_disk(folders: tuple[Path, Path], in_memory: EvalResult) -> None:
    noted = Noted()
    loaded, dense = tiny.model(), folders[0]
    result = evaluate(
        loaded, tokenizer=tiny.tokenizer(), suite=tiny.suite(), baseline=dense, max_memory=below(), progress=noted
    )
    assert list(result.families) == ["chosen"] and result.comparison is not None
    assert result.divergence is not None and result.divergence.mean < 1e-6
    assert any("one decoder block at a time" in note for note in noted.notes)


def test_without_a_limit_models_that_fit_stay_in_memory(in_memory: EvalResult) -> None:
    assert "by_block" not in in_memory.settings
    assert list(in_memory.families) == ["said", "chosen", "recalled"]


def test_an_evaluation_from_disk_is_kept_apart_in_the_cache(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for limit in (None, below()):
        measure(folders, cache=tmp_path, max_memory=limit)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_gate_judges_what_both_models_were_asked(folders: tuple[Path, Path], in_memory: EvalResult) -> None:
    """Also where only one of them is evaluated now, below a limit, and the other was in memory."""
    free = {"floor": {"chosen": 0}, "margin": 90, "suite": tiny.suite(), "max_memory": below()}
    alone = replace(in_memory, baseline=None)
    for dense, candidate in ((folders[0], folders[1]), (folders[0], alone), (in_memory.baseline, folders[1])):
        assert list(gate(dense, candidate, **free).families) == ["chosen"]


def test_tasks_whose_answers_are_written_are_refused_before_work(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "Say it", "a": "it"}\n' * 2)
    task = tmp_path / "written.yaml"
    task.write_text(
        "task: written\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
    )
    with pytest.raises(EvaluationError, match="written"):
        measure(folders, max_memory=below(), tasks=[str(task)])


def test_a_ceiling_below_one_block_is_refused_before_any_weight_is_read(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.models.weights import Weights

    monkeypatch.setattr(Weights, "load", lambda *args, **more: pytest.fail("a weight was read"))
    with pytest.raises(MemoryLimitError, match=r"block by block.*more than the limit of 100 MB.*--max-memory"):
        measure(folders, max_memory=100 * 10**6)


def size(parameters: int = 1_240_000_000, packed: int = 0, stored: int = 2_480_000_000) -> Size:
    return Size(parameters, packed, stored, 4 * 61_000_000, 128_256, 2048)


def test_models_lie_in_memory_where_they_fit() -> None:
    models = [size(packed=970_000_000, stored=900_000_000), size()]

    def on_disk(limit: int | None, free: int) -> bool:
        return choose(models, limit, GB // 2, free).on_disk

    assert not on_disk(None, 64 * GB)
    assert not on_disk(64 * GB, 2 * GB)
    assert on_disk(None, 6 * GB)
    assert on_disk(4 * GB, 64 * GB)
    below_limit = choose(models, 5 * GB // 2, GB // 2, 64 * GB)
    assert below_limit.on_disk and below_limit.peak_bytes <= 5 * GB // 2 < below_limit.in_memory_bytes


def test_less_waits_below_a_lower_limit() -> None:
    def waiting(limit: int) -> int:
        return choose([size(), size()], limit, GB // 2, 64 * GB).waiting_bytes

    assert waiting(4 * GB) > waiting(5 * GB // 2) >= 4 * 2048 * 2048


def test_a_limit_that_is_passed_stops_the_evaluation() -> None:
    enforce(None)
    enforce(10**15)
    with pytest.raises(MemoryLimitError, match="above the limit of 1 MB"):
        enforce(10**6)
