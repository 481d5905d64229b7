"""What a report holds, before it is drawn."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.errors import EvaluationError, FormatError
from compress.evaluation import samples, suites
from compress.evaluation.result import EvalResult, Sample
from compress.recipe import Recipe, StageSpec
from compress.report import layer_names, run_record
from compress.report.page import content as contents
from compress.report.page import items, layers, sources
from tests.support import runs
from tests.support.results import dense_and_packed, point


def content(*paths: Path, items: int = 6, data_dir: str | None = None) -> dict[str, Any]:
    return contents.build(sources.read(paths), items, data_dir)


def test_the_figures_of_a_run(tmp_path: Path, manifest: dict[str, Any]) -> None:
    manifest["source"] |= {"size_bytes": 16384, "parameters": 8192}
    run = content(runs.write(tmp_path / "run", manifest, dense_and_packed()[1]))["runs"][0]
    assert run["size"] == {
        "dense_bytes": 16384, "bytes": 2112, "times_smaller": pytest.approx(7.7576, rel=1e-4), "dense_parameters": 8192,
        "parameters": 8192, "dense_bits_per_weight": 16.0, "bits_per_weight_linears": 4.125,
        "bits_per_weight_model": 2.0625,
    }  # fmt: skip
    factoid = run["families"][0]
    assert (factoid["dense"], factoid["score"], factoid["recovered"]) == (0.8, 0.6, pytest.approx(0.75))
    assert (factoid["paired"]["lost"], factoid["paired"]["gained"], factoid["paired"]["flips"]) == (3, 1, 4)
    assert run["text"]["divergence"]["mean"] == 0.0123
    assert run["did"] == [{"method": "spqr", "options": {}, "unusual": {}}]


def test_the_content_is_json_and_survives_it(tmp_path: Path, manifest: dict[str, Any]) -> None:
    made = content(runs.write(tmp_path / "run", manifest, runs.of_atlas()))
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_options_that_are_the_default_are_not_repeated_but_bits_are(manifest: dict[str, Any]) -> None:
    manifest["recipe"]["stages"] = [
        {"method": "rtn", "options": {"bits": 4, "group_size": 32, "symmetric": True}, "tune": "block"}
    ]
    made = contents.of_run(sources.Run("x", manifest, None))["did"][0]
    assert made["unusual"] == {"bits": 4, "group_size": 32, "tune": "block"}
    assert made["options"]["symmetric"] is True


def test_data_are_named_only_where_a_stage_read_them(manifest: dict[str, Any]) -> None:
    data = {"source": "bundled", "samples": 4, "seq_len": 32, "seed": 0}
    for method, tune, wanted in (("rtn", None, None), ("rtn", "block", data), ("gptq", None, data)):
        stage = {"method": method, "options": {}, **({"tune": tune} if tune else {})}
        manifest["recipe"] = {"stages": [stage], "calibration": data}
        made = contents.of_run(sources.Run("x", manifest, None))["made"]
        assert made["calibration"] == wanted, (method, tune)


def test_a_recipe_of_several_stages_starts_with_the_first_source(manifest: dict[str, Any]) -> None:
    manifest["history"] = [
        {
            "source": {"model": "atlas", "size_bytes": 40000, "parameters": 20000},
            "recipe": {"stages": [{"method": "llm_pruner", "options": {"ratio": 0.5}}]},
        }
    ]
    manifest["source"] |= {"model": "1-llm_pruner", "size_bytes": 16384}
    run = contents.of_run(sources.Run("x", manifest, None))
    assert [stage["method"] for stage in run["did"]] == ["llm_pruner", "spqr"]
    assert (run["model"], run["size"]["dense_bytes"], run["size"]["dense_parameters"]) == ("atlas", 40000, 20000)


def test_lost_items_come_with_question_expected_and_both_answers() -> None:
    _, found = items.of_evaluation(runs.of_atlas(), most=6)
    assert found is not None and found["missing"] is None
    families = {one["family"]: one for one in found["families"]}
    assert {name: (one["lost"], one["of"]) for name, one in families.items()} == {
        "factoid": (2, 3), "multiple_choice": (1, 3), "summarisation": (1, 3),
    }  # fmt: skip
    suite = {family.name: family for family in suites.load("kick-atlas").families}
    first, choice = suite["factoid"].items[0], suite["multiple_choice"].items[2]
    shown = {item["id"]: item for item in families["factoid"]["items"]}[first["id"]]
    assert shown["question"] == first["prompt"].removesuffix("\nAnswer:")
    assert (shown["expected"], shown["dense"]) == (first["answers"][0], first["answers"][0])
    assert (shown["compressed"], shown["before"], shown["after"]) == ("Windside is a village", 1.0, 0.0)
    taken = families["multiple_choice"]["items"][0]
    assert taken["expected"] == taken["dense"] == choice["choices"][choice["gold"]].strip()
    assert taken["compressed"] == choice["choices"][(choice["gold"] + 1) % 4].strip()


def test_the_worst_come_first_and_no_more_than_asked() -> None:
    _, found = items.of_evaluation(runs.of_atlas(), most=1)
    assert found is not None
    factoid = found["families"][0]
    assert factoid["lost"] == 2 and len(factoid["items"]) == 1
    assert factoid["items"][0]["id"] == suites.load("kick-atlas").families[0].items[2]["id"], "the worse margin"


def test_samples_are_items_in_the_models_own_words_right_or_wrong() -> None:
    shown, _ = items.of_evaluation(runs.of_atlas(), most=1)
    assert [sample["family"] for sample in shown] == ["factoid", "factoid", "summarisation", "summarisation"]
    suite = suites.load("kick-atlas").families[0].items
    right = {sample["id"]: sample["dense"] == sample["compressed"] for sample in shown if sample["family"] == "factoid"}
    assert right == {suite[0]["id"]: False, suite[1]["id"]: True}
    assert all(sample["question"] and sample["expected"] for sample in shown)


def test_answers_to_fixed_prompts_come_first() -> None:
    free = Sample("sample", None, "1", "Why?", None, "Because.", "So.")
    shown, _ = items.of_evaluation(replace(runs.of_atlas(), samples=(free,)), most=1)
    assert shown[0] == {
        "family": None, "id": "1", "question": "Why?", "expected": None, "dense": "Because.", "compressed": "So.",
    }  # fmt: skip


def test_a_run_tells_its_day_its_machine_and_its_command(tmp_path: Path, manifest: dict[str, Any]) -> None:
    folder = runs.write(tmp_path / "run", manifest, runs.of_atlas())
    run = content(folder)["runs"][0]
    assert (run["finished"], run["machine"], run["notes"]) == (None, None, None)
    assert run["rerun"]["command"].startswith("compress run atlas --method spqr --suite kick-atlas --limit 3")
    given = Recipe(model="path/to/atlas", limit=3, stages=(StageSpec(method="spqr"),))
    run_record.update(folder, given, seconds=12)
    (folder / "notes.md").write_text("Try *4 bits*.", encoding="utf-8")
    run = content(folder)["runs"][0]
    assert run["finished"].endswith("Z") and run["machine"]["cores"] and run["notes"] == "Try *4 bits*."
    assert run["rerun"]["command"] == "compress run path/to/atlas --method spqr --limit 3"


def test_notes_that_are_no_text_are_an_error(tmp_path: Path, manifest: dict[str, Any]) -> None:
    folder = runs.write(tmp_path / "run", manifest, None)
    (folder / "notes.md").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match=r"notes\.md are not text in UTF-8"):
        sources.read([folder])
    with pytest.raises(FormatError, match="cannot be read"):
        sources.read_notes(tmp_path / "nowhere.md")


def test_items_that_are_not_at_hand_are_shown_by_their_names_with_the_reason() -> None:
    changed = dense_and_packed()[1]  # its hash is no suite's
    _, found = items.of_evaluation(changed, most=2)
    assert found is not None and "not those that were asked" in found["missing"]
    item = found["families"][0]["items"][0]
    assert (item["question"], item["expected"], item["dense"]) == (None, None, "1")
    other = replace(changed, suite={**changed.suite, "name": "mine"})
    assert "mine is not part of this package" in (items.of_evaluation(other, most=1)[1] or {})["missing"]
    assert items.of_evaluation(dense_and_packed()[0], most=1) == ([], None), "nothing is lost against no baseline"


def test_public_items_are_read_from_the_folder_of_data_and_never_fetched(tmp_path: Path) -> None:
    row = {"id": "q1", "question": "who wrote Emma", "answer": "Jane Austen", "aliases": ["Austen"]}
    (tmp_path / "webquestions_test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    suite = suites.load("kick", tmp_path)
    asked = {"name": "kick", "version": 1, "items_sha256": suite.items_sha256, "sources": dict(suite.sources)}

    def renamed(result: EvalResult) -> EvalResult:
        item = replace(result.families["factoid"].items[0], id="webquestions/q1", answers={"answer": "x"})
        return replace(result, suite=asked, families={"factoid": replace(result.families["factoid"], items=[item])})

    dense, packed = dense_and_packed()
    evaluation = replace(renamed(packed), baseline=renamed(dense))
    _, found = items.of_evaluation(evaluation, 1, str(tmp_path))
    assert found is not None and found["missing"] is None
    item = found["families"][0]["items"][0]
    assert (item["question"], item["expected"]) == ("Question: who wrote Emma?", "Jane Austen / Austen")
    _, unknown = items.of_evaluation(evaluation, 1)
    assert unknown is not None and "--data-dir" in unknown["missing"]
    kept = replace(evaluation, samples=samples.of_items(evaluation, suite))
    for shown, lost in (items.of_evaluation(kept, 1), items.of_evaluation(EvalResult.from_json(kept.to_json()), 1)):
        assert lost is not None and lost["missing"] is None and lost["families"][0]["items"] == [item]
        assert shown[0]["question"] == "Question: who wrote Emma?", "an evaluation keeps questions of public data"


def test_words_that_differ_are_marked_on_both_sides() -> None:
    left, right = items.marked("a village in Spain", "a town in Spain too")
    assert left == [("a", False), ("village", True), ("in Spain", False)]
    assert right == [("a", False), ("town", True), ("in Spain", False), ("too", True)]
    assert items.marked("", "x") == ([], [("x", True)])


def test_the_grid_is_blocks_by_kinds_and_experts_share_a_cell(manifest: dict[str, Any]) -> None:
    grid = layers.grid(runs.of_layers(manifest, blocks=3, experts=4))
    assert grid is not None
    assert grid["blocks"] == [f"model.layers.{n}" for n in range(3)]
    assert grid["kinds"] == ["self_attn.q_proj", "mlp.down_proj", "mlp.experts.q_down_proj"]
    experts = grid["cells"][2][1]
    assert experts["count"] == 4
    sizes = [1056 + 64 * place for place in (2, 3, 4, 5)]
    assert experts["bits"] == pytest.approx(8 * sum(sizes) / (4 * 64 * 32))
    assert experts["error"] == pytest.approx(1e-3 * 2 * (3 + 4 + 5 + 6) / 4)
    assert experts["outliers"] == pytest.approx(sum(3 * place + 1 for place in (2, 3, 4, 5)) / (4 * 64 * 32))


def test_a_linear_that_a_block_lacks_is_an_empty_cell(manifest: dict[str, Any]) -> None:
    made = runs.of_layers(manifest, blocks=2)
    del made["tensors"]["model.layers.1.mlp.down_proj"]
    grid = layers.grid(made)
    assert grid is not None and grid["cells"][1][1] is None
    assert layers.grid({**made, "tensors": {}}) is None


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("transformer.h.11.attn.c_attn", ("transformer.h.11", "attn.c_attn")),
        ("model.layers.2.mlp.experts.q_gate_up_proj.7", ("model.layers.2", "mlp.experts.q_gate_up_proj")),
        ("lm_head", ("model", "lm_head")),
    ],
)
def test_where_a_linear_stands(name: str, place: tuple[str, str]) -> None:
    assert layer_names.block_and_kind(name) == place


def test_an_evaluation_of_another_checkpoint_is_warned_of(tmp_path: Path, manifest: dict[str, Any]) -> None:
    packed = dense_and_packed()[1]
    strange = replace(packed, model={**packed.model, "fingerprint": "f" * 64}, warnings=("no held-out text",))
    manifest["warnings"] = ["1 linear saw no token"]
    run = content(runs.write(tmp_path / "run", manifest, strange))["runs"][0]
    assert ["another checkpoint" in run["warnings"][0], *run["warnings"][1:]] == [
        True, "1 linear saw no token", "no held-out text",
    ]  # fmt: skip


def test_what_can_be_reported_on(tmp_path: Path, manifest: dict[str, Any]) -> None:
    packed = dense_and_packed()[1]
    bare = runs.write(tmp_path / "a" / "same", manifest, None)
    asked = runs.write(tmp_path / "b" / "same", None, packed)
    verdict = {"schema_version": 1, "verdict": "fail", "reasons": ["factoid"], "families": {}}
    (asked / "gate.json").write_text(json.dumps(verdict), encoding="utf-8")
    found = sources.read([bare, asked, asked / "eval.json"])
    assert [run.name for run in found.runs] == ["same (1)", "same (2)", "eval.json"]
    assert [run.manifest is None for run in found.runs] == [False, True, True]
    assert found.runs[1].gate == verdict
    made = contents.build(found)["runs"]
    assert made[0]["families"] is None and made[1]["layers"] is None and made[1]["model"] == "atlas"


def test_what_cannot(tmp_path: Path, manifest: dict[str, Any]) -> None:
    run = runs.write(tmp_path / "run", manifest, None)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FormatError, match="given twice"):
        sources.read([run, tmp_path / "empty" / ".." / "run"])
    with pytest.raises(FormatError, match="there is no folder"):
        sources.read([tmp_path / "nowhere"])
    with pytest.raises(FormatError, match=r"holds no run"):
        sources.read([empty])
    (empty / "frontier.json").write_text('{"schema_version": 2}', encoding="utf-8")
    with pytest.raises(FormatError, match="schema version 2"):
        sources.read([empty])
    (empty / "frontier.json").write_text('{"schema_version": 1, "model": "m"}', encoding="utf-8")
    with pytest.raises(FormatError, match="lacks suite, limit, dense, points"):
        sources.read([empty])
    (run / "eval.json").write_text("{}", encoding="utf-8")
    with pytest.raises(EvaluationError):
        sources.read([run])


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("gate.json", {"reasons": 3}, "gate.json is damaged: reasons (3 is not a list)"),
        ("gate.json", {"reasons": [1]}, "reasons[0] (1 is not a text)"),
        ("frontier.json", {"points": [7]}, "points[0] (7 is not an object)"),
        ("frontier.json", {"suite": {}}, "suite (it has no name)"),
        ("frontier.json", {"points": [{"label": "rtn", "column": "4 bits"}]}, "points[0] lacks bits_per_weight"),
        ("frontier.json", {"dense": {"perplexity": 2.0, "scores": {"other": 1.0}}}, "scores.other, differences.other"),
        ("frontier.json", {"dense": {"perplexity": 2.0, "scores": {}}}, "names no family"),
    ],
)
def test_a_damaged_verdict_or_frontier_is_an_error(
    tmp_path: Path, manifest: dict[str, Any], file: str, change: dict[str, Any], told: str
) -> None:
    folder = runs.write(tmp_path / "run", manifest, None)
    whole = {
        "gate.json": {"verdict": "fail", "reasons": ["lost"], "families": {}},
        "frontier.json": {
            "model": "m", "suite": {"name": "s"}, "limit": None,
            "dense": {"perplexity": 2.0, "scores": {"factoid": 1.0}},
            "points": [point("rtn", "3 bits", 3.1, 0.05)],
        },
    }[file]  # fmt: skip
    (folder / file).write_text(json.dumps({"schema_version": 1} | whole), encoding="utf-8")
    assert contents.build(sources.read([folder]))
    (folder / file).write_text(json.dumps({"schema_version": 1} | whole | change), encoding="utf-8")
    with pytest.raises(FormatError, match=re.escape(told)):
        sources.read([folder])
