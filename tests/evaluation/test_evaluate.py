"""evaluate and compare, from a model to eval.json and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.atlas import MODEL_DIR
from compress.errors import EvaluationError, ModelError
from compress.evaluation import EvalResult, compare, evaluate
from compress.evaluation.open_model import open_subject
from compress.evaluation.result import FamilyResult
from compress.models.source import ModelSource
from compress.runtime import load
from compress.runtime.skeleton import packed_layers
from tests.support import packed_checkpoints
from tests.support import tiny_suite as tiny


def measure(model: Any, **options: Any) -> EvalResult:
    return evaluate(model, tokenizer=tiny.tokenizer(), suite=tiny.suite(), **options)


@pytest.fixture(scope="module")
def paired() -> EvalResult:
    return measure(tiny.model(1), baseline=tiny.model(0))


def test_the_baseline_is_evaluated_and_paired(paired: EvalResult) -> None:
    assert paired.baseline is not None and paired.comparison is not None and paired.divergence is not None
    assert paired.baseline.baseline is None
    assert paired.divergence.mean > 0.1
    assert paired.text != paired.baseline.text
    said = paired.comparison.families["said"]
    assert (said.n, said.method) == (12, "tango")
    assert said.answers_changed > 0
    recalled = paired.comparison.families["recalled"]
    assert recalled.method == "bootstrap"
    assert recalled.flips == recalled.lost + recalled.gained == 12
    assert recalled.low < recalled.difference < recalled.high
    assert recalled.difference == pytest.approx(recalled.compressed - recalled.dense)
    assert recalled.metrics["nll"] == pytest.approx(recalled.difference)


def test_a_notebook_shows_a_line_and_not_all_items(paired: EvalResult) -> None:
    shown = repr(paired)
    assert len(shown) < 300 and "\n" not in shown
    assert all(f"{name} {100 * family.score:.1f} %" in shown for name, family in paired.families.items())
    assert paired.baseline is not None and "(" not in repr(paired.baseline).removeprefix("EvalResult(")


def test_json_brings_everything_back(paired: EvalResult, tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_text(paired.to_json(), encoding="utf-8")
    assert EvalResult.read(path) == paired
    assert EvalResult.read(path).to_json() == paired.to_json()
    plain = json.loads(paired.to_json())
    assert plain["schema_version"] == 1
    assert plain["families"]["said"]["score"] == paired.families["said"].score
    assert plain["text"]["perplexity"] == paired.text.perplexity
    assert plain["model"]["dtype"] == "float32"


def test_the_same_evaluation_is_the_same_text(paired: EvalResult) -> None:
    assert measure(tiny.model(1), baseline=tiny.model(0)).to_json() == paired.to_json()


def test_an_evaluation_or_its_file_will_do_as_baseline(paired: EvalResult, tmp_path: Path) -> None:
    assert paired.baseline is not None
    path = tmp_path / "dense.json"
    path.write_text(paired.baseline.to_json(), encoding="utf-8")
    again = measure(tiny.model(1), baseline=path, reference=tiny.model(0))
    assert again == paired
    assert measure(tiny.model(1), baseline=paired.baseline).divergence is None


def test_nothing_is_lost_against_oneself(paired: EvalResult) -> None:
    for family in compare(paired, paired).families.values():
        assert (family.difference, family.lost, family.gained, family.answers_changed) == (0, 0, 0, 0)
        assert family.low < 0 < family.high, "so few items do not show that nothing changes"


def test_every_metric_has_its_interval_and_clusters_widen_it(paired: EvalResult) -> None:
    assert paired.comparison is not None and paired.baseline is not None
    recalled = paired.comparison.families["recalled"]
    low, high = recalled.metric_intervals["nll"]
    assert (low, high) == (recalled.low, recalled.high), "items are units of their own"
    assert low < recalled.metrics["nll"] < high
    dense, packed = paired.baseline.families["recalled"], paired.families["recalled"]
    ranked = sorted(range(12), key=lambda i: packed.items[i].outcome - dense.items[i].outcome)
    unit = {index: f"c{place // 4}" for place, index in enumerate(ranked)}  # alike items in one cluster

    def clustered(result: EvalResult) -> EvalResult:
        family = result.families["recalled"]
        items = [replace(item, cluster=unit[i]) for i, item in enumerate(family.items)]
        return replace(result, families={"recalled": replace(family, items=items)})

    again = compare(clustered(paired.baseline), clustered(paired)).families["recalled"]
    wide = again.metric_intervals["nll"]
    assert wide[1] - wide[0] > 1.2 * (high - low)
    assert again.metrics["nll"] == recalled.metrics["nll"]


def changed(result: EvalResult, **family: Any) -> EvalResult:
    return replace(result, families={**result.families, "said": replace(result.families["said"], **family)})


def other_prompt(family: FamilyResult) -> list[Any]:
    return [replace(family.items[0], prompt_hash="0"), *family.items[1:]]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda r: changed(r, items=r.families["said"].items[:-1]), "asked of one model only"),
        (lambda r: changed(r, items=other_prompt(r.families["said"])), "the prompts of 1 item differ"),
        (lambda r: replace(r, suite={**r.suite, "version": 99}), "suite version"),
        (lambda r: replace(r, suite={**r.suite, "items_sha256": "0"}), "suite items_sha256"),
        (lambda r: replace(r, families={}), "different families"),
    ],
)
def test_what_was_asked_something_else_is_not_paired(
    paired: EvalResult, spoil: Callable[[EvalResult], EvalResult], complaint: str
) -> None:
    with pytest.raises(EvaluationError, match=complaint):
        compare(paired, spoil(paired))


def test_lost_and_gained_go_the_right_way(paired: EvalResult) -> None:
    items = paired.families["said"].items
    none = changed(paired, items=[replace(item, outcome=0.0) for item in items])
    all_but_one = changed(paired, items=[replace(item, outcome=float(i > 0)) for i, item in enumerate(items)])
    lost = compare(all_but_one, none).families["said"]
    assert (lost.lost, lost.gained, lost.difference) == (11, 0, pytest.approx(-11 / 12))
    assert lost.high < -0.4


def test_a_figure_that_is_no_number_is_never_written(paired: EvalResult) -> None:
    broken = replace(paired, text=replace(paired.text, bits_per_byte=float("nan")))
    with pytest.raises(EvaluationError, match="not a finite number"):
        broken.to_json()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not the JSON"),
        ("[]", "no object"),
        ('{"schema_version": 2}', "schema version 2"),
        ('{"schema_version": 1}', "incomplete"),
        ('{"schema_version": 1, "text": NaN}', "NaN is not a number"),
    ],
)
def test_what_is_no_evaluation_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(EvaluationError, match=complaint):
        EvalResult.from_json(text)


def test_a_loaded_model_needs_its_tokenizer() -> None:
    with pytest.raises(EvaluationError, match="tokenizer"):
        evaluate(tiny.model(), suite=tiny.suite())


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_of_nothing_is_refused(limit: int) -> None:
    with pytest.raises(EvaluationError, match="1 or more"):
        measure(tiny.model(), limit=limit)


def test_a_folder_is_evaluated_by_path(tmp_path: Path) -> None:
    tiny.model().save_pretrained(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    found = evaluate(tmp_path / "m", suite=tiny.suite(), limit=3)
    assert found.model["name"] == "m"
    assert found.model["kind"] == "dense"
    assert len(str(found.model["fingerprint"])) == 64
    assert evaluate(ModelSource.open(tmp_path / "m"), suite=tiny.suite(), limit=3) == found
    assert found.families["said"].items == measure(tiny.model(), limit=3).families["said"].items


@pytest.mark.skipif(not (MODEL_DIR / "model.safetensors").is_file(), reason="atlas is not trained yet")
def test_atlas_knows_its_world() -> None:
    found = evaluate("atlas", limit=8)
    assert {name: len(family.items) for name, family in found.families.items()} == dict.fromkeys(
        ("factoid", "multiple_choice", "retrieval", "summarisation", "instruction"), 8
    )
    assert found.families["factoid"].score > 0.7
    assert found.text.perplexity < 4


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder that save_pretrained of a packed model wrote, with a tokenizer beside it."""
    model = packed_checkpoints.tiny("llama")
    planes = packed_checkpoints.pack_in_place(model, packed_checkpoints.rtn4, r"^$")
    packed_checkpoints.write(tmp_path / "packed", model, planes)
    load(tmp_path / "packed").save_pretrained(tmp_path / "saved")
    tiny.tokenizer().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_what_save_pretrained_of_a_packed_model_wrote_can_be_opened(saved: Path) -> None:
    subject = open_subject(saved)
    assert (subject.name, subject.kind, subject.fingerprint) == ("saved", "compressed", None)
    assert packed_layers(subject.model)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "tokenizer.json"])
def test_a_damaged_tokenizer_beside_packed_weights_is_named(saved: Path, file: str) -> None:
    (saved / file).write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ModelError, match="saved has no tokenizer that can be loaded"):
        open_subject(saved)
