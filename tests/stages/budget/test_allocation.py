"""Mixed precision on tiny models: what is measured is the model's divergence, what is allotted is what is stored."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import compress
from compress import pipeline
from compress.calibration.stats import LayerStats
from compress.errors import RecipeError
from compress.format import layouts
from compress.methods import registry, rtn
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.progress import Silent
from compress.recipe import Recipe
from compress.stages import memory
from compress.stages.budget import allocation, linear_sets, sensitivity
from compress.stages.budget.candidates import least_bits, settings
from compress.stages.budget.linear_sets import Candidate, LinearSet
from compress.stages.pack.block import LinearStage
from compress.stages.workspace import open_workspace
from tests.support.digests import digests
from tests.support.entries import linears
from tests.support.killing import killed_before_record
from tests.support.models import save_tiny, tiny_model, tiny_tokenizer, tiny_tokens

pytestmark = pytest.mark.usefixtures("proof_in_this_process")
DATA = {"samples": 12, "seq_len": 24, "suite": "none"}
OPTIONS = {"rtn": {"group_size": 16}, "spqr": {"group_size": 8, "stats_group": 8, "act_order": False}}

BUDGETS = [
    ("rtn", 5.5), ("rtn", 4.3), ("gptq", 3.6), ("easyquant", 5.0), ("finequant", 4.5), ("spqr", 6.5), ("spqr", 8.0),
]  # fmt: skip


def loud_model():
    """A tiny model in which the block in the middle says most, and one linear of it rounds badly: in every group it
    has heavy weights, whose inputs hardly count."""
    model = tiny_model()
    with torch.no_grad():
        for place in (0, 2):
            model.model.layers[place].self_attn.o_proj.weight *= 0.1
            model.model.layers[place].mlp.down_proj.weight *= 0.1
        model.model.layers[1].mlp.gate_proj.weight[::8] *= 1e-3
        model.model.layers[1].mlp.down_proj.weight[:, ::8] *= 20
    return model


@pytest.fixture
def one_loud_linear(tmp_path) -> Path:
    return saved(loud_model(), tmp_path / "model")


def saved(model, folder):
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def stage_of(source: Path, folder: Path, method: str = "rtn", **options) -> LinearStage:
    with open_workspace(folder, {"recipe_hash": "x"}) as workspace:
        return LinearStage(
            walker=BlockWalker(ModelSource.open(source)),
            writer=None,
            workspace=workspace,
            method=registry.load_pack(method),
            config=registry.configure(method, options),
            skipped=frozenset(),
            memory_plan=memory.MemoryPlan(0, micro_batch=4, experts_at_once=3),
            memory_limit=None,
        )


def run(source, folder, token_file, method="rtn", **options):
    return compress.run(
        source, method, output=folder, calibration=token_file, **OPTIONS.get(method, {}) | DATA | options
    )


def divergence(model, other, tokens):
    with torch.inference_mode():
        one, two = (m(tokens).logits.double().log_softmax(-1) for m in (model, other))
    return float((one.exp() * (one - two)).sum(-1).mean())


def bits_of(folder: Path, manifest) -> float:
    """Bits per weight counted on the bytes in the shards."""
    stored = {}
    for shard in folder.glob("*.safetensors"):
        stored |= load_file(shard)
    size = sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in stored.items()
        if name.rpartition(".")[0] in linears(manifest) and not name.endswith(".bias")
    )
    return 8 * size / sum(math.prod(entry["shape"]) for entry in linears(manifest).values())


def test_a_loss_is_the_divergence_of_the_model_with_that_set_packed(tmp_path):
    source, tokens = save_tiny(tmp_path / "model"), tiny_tokens(16, 24)
    sets = sensitivity.measure(stage_of(source, tmp_path / "out", group_size=8), tokens, Silent())
    assert [len(one.linears) for one in sets] == [3, 1, 2, 1] * 3
    for one in (sets[0], sets[6]):
        for choice in one.candidates[:3]:
            model = tiny_model()
            for name in one.linears:
                weight = model.get_submodule(name).weight
                packed = rtn.solve(weight.detach(), None, rtn.Config(group_size=8, **choice.options))
                weight.data.copy_(layouts.unpack(packed))
            expected = divergence(tiny_model(), model, tokens[: sensitivity.PROBES_AT_MOST])
            assert choice.loss == pytest.approx(expected, rel=1e-2)
        assert [choice.loss for choice in one.candidates] == sorted((c.loss for c in one.candidates), reverse=True)


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_parts_of_the_model_give_what_the_whole_gives(kind, tmp_path, monkeypatch):
    source, tokens = save_tiny(tmp_path / "model", kind), tiny_tokens(12, 24)
    monkeypatch.setattr(sensitivity, "PROBES_AT_MOST", 1)
    whole = sensitivity.measure(stage_of(source, tmp_path / "whole", group_size=8), tokens, Silent())
    monkeypatch.setattr(sensitivity, "PROBE_BYTES", 0)
    parts = sensitivity.measure(stage_of(source, tmp_path / "parts", group_size=8), tokens, Silent())
    count = len(list((tmp_path / "parts" / ".work").glob("candidates-*.json")))
    assert count > 1 == len(list((tmp_path / "whole" / ".work").glob("candidates-*.json")))
    for one, two in zip(whole, parts, strict=True):
        assert one.linears == two.linears
        for a, b in zip(one.candidates, two.candidates, strict=True):
            assert (a.options, a.size_bits) == (b.options, b.size_bits)
            # divergences of 1e-5 nats and less are differences of nearly equal float32 numbers
            assert a.loss == pytest.approx(b.loss, rel=1e-3, abs=1e-7)


def test_measuring_leaves_the_model_as_it_was_and_goes_on(tmp_path, monkeypatch):
    source, tokens = save_tiny(tmp_path / "model"), tiny_tokens(12, 24)
    monkeypatch.setattr(sensitivity, "PROBE_BYTES", 0)
    stage = stage_of(source, tmp_path / "out", group_size=8)
    first = sensitivity.measure(stage, tokens, Silent())
    (tmp_path / "out" / ".work" / "candidates-001.json").unlink()
    solved = []
    solve = stage.method.solve
    monkeypatch.setattr(stage.method, "solve", lambda *args: solved.append(1) or solve(*args))
    assert sensitivity.measure(stage, tokens, Silent()) == first
    assert len(solved) == 7 * len(settings(stage.method, stage.config)), "one block alone is measured again"


@pytest.mark.parametrize(("method", "target"), BUDGETS)
def test_the_budget_is_kept_and_used_on_stored_bytes(method, target, tmp_path, token_file, one_loud_linear):
    result = run(one_loud_linear, tmp_path / "out", token_file, method, target_bits=target)
    stored = bits_of(result.checkpoint, result.manifest)
    assert 0.97 * target <= stored <= target
    assert result.manifest["bits_per_weight"] == pytest.approx(stored, abs=1e-5)
    allotted = result.manifest["allocation"]
    assert stored <= allotted["bits_per_weight"] + 1e-6
    assert not result.manifest["warnings"]
    for one in allotted["sets"]:  # what shares an input has the same codes
        schemes = [result.manifest["tensors"][name]["scheme"] for name in one["linears"]]
        assert len({(scheme["bits"], scheme["group_size"]) for scheme in schemes}) == 1
        assert schemes[0]["bits"] == one["options"]["bits"]


def test_it_loses_less_than_the_same_bits_everywhere(tmp_path, token_file, one_loud_linear):
    uniform = run(one_loud_linear, tmp_path / "uniform", token_file, bits=3)
    mixed = run(one_loud_linear, tmp_path / "mixed", token_file, target_bits=uniform.manifest["bits_per_weight"])
    assert mixed.manifest["bits_per_weight"] <= uniform.manifest["bits_per_weight"]
    tokens = tiny_tokens(8, 24, seed=9)
    lost, of_uniform = (divergence(loud_model(), compress.load(one.checkpoint), tokens) for one in (mixed, uniform))
    assert lost < 0.8 * of_uniform
    bits = {name: entry["scheme"]["bits"] for name, entry in linears(mixed.manifest).items()}
    assert bits["model.layers.1.mlp.down_proj"] == max(bits.values()) > min(bits.values())


def skewed(folder: Path, kind: str) -> Path:
    """A tiny mixture of experts whose router takes experts 0 and 1 nearly always, 2 and 3 seldom."""
    model = tiny_model(kind)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] += 4
        for layer in model.model.layers:
            if hasattr(layer.mlp, "gate"):
                layer.mlp.gate.weight[:, 0] = torch.tensor([0.8, 0.7, -0.1, -0.2])
    return saved(model, folder)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe"])
def test_experts_that_are_chosen_more_get_no_fewer_bits(kind, tmp_path, token_file):
    source = skewed(tmp_path / "model", kind)
    manifest = run(source, tmp_path / "out", token_file, target_bits=4.0).manifest
    groups: dict[str, list[dict]] = {}
    for name, entry in manifest["tensors"].items():
        if "experts" in name:
            groups.setdefault(name.rpartition(".")[0], []).append(entry)
    seen_apart = 0
    tokens = {one["linears"][0]: one for one in manifest["allocation"]["sets"]}
    for path, entries in groups.items():
        losses = [tokens[f"{path}.{number}"]["loss_at_coarsest"] for number in range(4)]
        assert min(losses[:2]) > 3 * max(losses[2:])
        often, rare = [entry["scheme"]["bits"] for entry in entries[:2]], [e["scheme"]["bits"] for e in entries[2:]]
        assert min(often) >= max(rare)
        seen_apart += min(often) > max(rare)
    assert seen_apart
    compress.load(tmp_path / "out")


def test_an_expert_that_no_token_reaches_gets_the_least(tmp_path, token_file):
    model = tiny_model("mixtral")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()  # all logits equal: the same two experts for every token
    manifest = run(saved(model, tmp_path / "model"), tmp_path / "out", token_file, target_bits=4.0).manifest
    bits = [
        entry["scheme"]["bits"] for name, entry in manifest["tensors"].items() if "experts" in name and "down" in name
    ]
    assert sorted(bits[:4])[:2] == sorted(bits[4:])[:2] == [2, 2] and max(bits) > 2


@pytest.mark.parametrize("method", ["rtn", "spqr"])
def test_same_bytes_twice_and_a_stopped_run_keeps_its_allocation(
    method, tmp_path, token_file, monkeypatch, one_loud_linear
):
    whole = run(one_loud_linear, tmp_path / "whole", token_file, method, target_bits=7.0).checkpoint
    with killed_before_record(2):
        run(one_loud_linear, tmp_path / "out", token_file, method, target_bits=7.0)
    assert (tmp_path / "out" / ".work" / "allocation.json").is_file()
    monkeypatch.setattr(sensitivity, "measure", None)
    resumed = run(one_loud_linear, tmp_path / "out", token_file, method, target_bits=7.0).checkpoint
    assert digests(resumed) == digests(whole)


def test_a_budget_that_nothing_fits_into_names_the_least(tmp_path, token_file):
    source = save_tiny(tmp_path / "model")
    with pytest.raises(RecipeError, match=r"target_bits=2\.5 is below the \d\.\d+ bits") as caught:
        run(source, tmp_path / "out", token_file, target_bits=2.5)
    least = float(str(caught.value).split("below the ")[1].split()[0])
    assert 3 <= least < 3.2, "2 bits, and a scale of 16 bits for every 16 weights"
    result = run(source, tmp_path / "least", token_file, target_bits=least + 0.001)
    assert {entry["scheme"]["bits"] for entry in linears(result.manifest).values()} == {2}


@pytest.mark.parametrize("method", ["rtn", "gptq", "easyquant", "finequant", "spqr"])
def test_the_least_is_known_without_the_model(method):
    shapes = [(32, 64), (48, 64), (20, 96)]
    module, config = registry.load_pack(method), registry.configure(method, OPTIONS.get(method, {}))
    coarsest = dataclasses.replace(config, **settings(module, config)[0])
    generator = torch.Generator().manual_seed(0)
    packed = [
        module.solve(torch.randn(*shape, generator=generator), LayerStats(1, torch.eye(shape[1])), coarsest)
        for shape in shapes
    ]
    stored = 8 * sum(one.size_bytes for one in packed) / sum(n * k for n, k in shapes)
    least = least_bits(module, config, shapes)
    assert 2 <= least <= stored
    if not any(one.scheme.outliers for one in packed) and method != "finequant":  # which chooses sizes by the weights
        assert least == pytest.approx(stored)


def test_a_method_without_anything_to_choose_is_refused(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Config:
        share: float = 0.5

    with pytest.raises(RecipeError, match="--target-bits with the method"):
        settings(registry.load_pack("rtn"), Config())
    monkeypatch.setattr(rtn, "candidates", lambda config: [{"bits": 1}, {"bits": 9}], raising=False)
    with pytest.raises(RecipeError, match="its other options rule out all of its candidates"):
        settings(registry.load_pack("rtn"), rtn.Config())


def test_the_plan_shows_the_target(tmp_path, token_file):
    source = save_tiny(tmp_path / "model")
    options = {"calibration": token_file, "group_size": 8, "target_bits": 5.0, **DATA}
    plan = pipeline.plan(Recipe.from_options(str(source), "rtn", options))
    assert plan.bits_per_weight == 5.0 and plan.allotted["candidates"] == 6 and plan.calibration["samples"] == 12
    with pytest.raises(RecipeError, match="below the"):
        pipeline.plan(Recipe.from_options(str(source), "rtn", options | {"target_bits": 2.0}))


def test_an_allocation_survives_its_file():
    some = LinearSet(
        ["a", "b"], 100, [Candidate({"threshold": math.inf}, {"a": {"threshold": math.inf}, "b": {}}, 300, 0.1)]
    )
    made = allocation.Allocation(3.0, (some,), ((0.5, 0.01),))
    assert allocation.Allocation.from_dict(made.to_dict()) == made
    assert linear_sets.from_json(linear_sets.to_json([some])) == [some]
    assert made.to_dict()["sets"][0]["options"] == {"threshold": "inf"}
