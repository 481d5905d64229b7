"""Pruning as a whole: gradients against autograd on the whole model, checkpoints against the zeroed dense model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import compress
from compress import pipeline
from compress.errors import MemoryLimitError, MethodError, ModelError
from compress.format.writer import CheckpointWriter
from compress.methods.llm_pruner import Config
from compress.models import structure
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.models.surgery import remove_units
from compress.models.surgery.coupled import coupled
from compress.progress import Silent
from compress.recipe import Recipe
from compress.stages.rewrite import gradients, scoring
from compress.stages.rewrite import prune as pruning
from compress.stages.rewrite.prune import Pruned
from tests.support.families import save_family
from tests.support.models import save_tiny, tiny_tokens


class _Task:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


def prune(folder: Path, kind: str = "llama", *, given: dict[str, Any] | None = None, **options: Any) -> Pruned:
    if not (folder / "config.json").is_file():
        save_tiny(folder, kind, **(given or {}))
    source = ModelSource.open(folder)
    walker, config = BlockWalker(source), Config(**options)
    pruning.check_model(walker, config)
    return pruning.prune(walker, source, config, tiny_tokens(6, 16), None, Silent())


def write(pruned: Pruned, folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(pruned.config)))
    tensors: dict[str, torch.Tensor] = {}
    for shard in pruned.shards():
        assert not tensors.keys() & shard.keys()
        tensors |= shard
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tiny_tokens(2, 12), use_cache=False).logits


def stock(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt2", "gpt-neox", "mixtral", "gemma2"])
def test_gradients_block_by_block_are_those_of_the_whole_model(tmp_path: Path, kind: str) -> None:
    source = ModelSource.open(save_tiny(tmp_path, kind))
    walker, tokens_ST = BlockWalker(source), tiny_tokens(5, 10)
    model = stock(tmp_path)
    sums: dict[str, torch.Tensor] = {}
    squares: dict[str, torch.Tensor] = {}
    for tokens_T in tokens_ST:
        model.zero_grad()
        model(input_ids=tokens_T[None], labels=tokens_T[None], use_cache=False).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] = sums.get(name, 0) + parameter.grad / 5
                squares[name] = squares.get(name, 0) + parameter.grad.square() / 5
    names = [name for index in range(len(walker.block_names)) for name in {r.parameter for r in walker.linears(index)}]
    wanted = {i: {n for n in names if n.startswith(f"{b}.")} for i, b in enumerate(walker.block_names)}
    for micro_batch, square in ((1, True), (2, False)):
        hidden = gradients.borders(walker, remove_units.Cut(), tokens_ST, micro_batch, _Task())
        seen = set()
        for _, found in gradients.backward(
            walker, remove_units.Cut(), hidden, tokens_ST, wanted, micro_batch=micro_batch, square=square, task=_Task()
        ):
            for name, one in found.items():
                seen.add(name)
                torch.testing.assert_close(one.mean, sums[name], rtol=1e-3, atol=1e-6)
                if square:
                    torch.testing.assert_close(one.square, squares[name], rtol=1e-3, atol=1e-7)
        assert seen == set(names)


def test_taylor_of_a_key_head_is_the_sum_over_all_that_leaves_with_it(tmp_path: Path) -> None:
    source = ModelSource.open(save_tiny(tmp_path, "llama"))
    walker, tokens_ST = BlockWalker(source), tiny_tokens(4, 12)
    sets = coupled(walker.model, walker.block_names, ("kv", "mlp"))
    work = scoring.Scoring(walker, sets, Config(), tokens_ST, 2, Silent())
    found = scoring.scores(work, remove_units.Cut(), 0)
    model = stock(tmp_path)
    model(input_ids=tokens_ST, labels=tokens_ST, use_cache=False).loss.backward()
    attention = model.model.layers[1].self_attn
    worth = {n: (p.weight * p.weight.grad).abs().detach() for n, p in attention.named_children() if n.endswith("_proj")}
    for group in range(2):
        expected = sum(worth[name][8 * group : 8 * group + 8].sum() for name in ("k_proj", "v_proj"))
        heads = slice(16 * group, 16 * group + 16)
        expected = expected + worth["q_proj"][heads].sum() + worth["o_proj"][:, heads].sum()
        place = next(i for i, one in enumerate(sets) if one.kind == "kv" and one.block == 1)
        assert float(found[place][group]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "importance"),
    [("llama", "taylor1"), ("llama-tied", "taylor_mix"), ("qwen3", "taylor2"), ("phi3", "activation"),
     ("gemma2", "taylor1"), ("mixtral", "taylor1"), ("qwen3-moe", "activation"), ("qwen2-moe", "l2")],
)  # fmt: skip
def test_uniform_widths_are_a_plain_checkpoint_that_computes_the_same(
    tmp_path: Path, kind: str, importance: str
) -> None:
    pruned = prune(tmp_path / "dense", kind, ratio=0.2, importance=importance, multiple=1)
    assert pruned.structure is None
    dense, result = stock(tmp_path / "dense"), stock(write(pruned, tmp_path / "pruned"))
    before, after = (sum(p.numel() for p in model.parameters()) for model in (dense, result))
    assert (pruned.report["parameters_before"], pruned.report["parameters_after"]) == (before, after)
    assert 0.2 <= pruned.report["ratio"] < 0.35
    torch.testing.assert_close(logits(result), logits(zeroed(dense, pruned)), rtol=1e-4, atol=1e-4)
    BlockWalker(ModelSource.open(tmp_path / "pruned")).load_block(0)  # the next stage can read it
    saved = load_file(tmp_path / "dense" / "model.safetensors")
    assert saved.keys() == load_file(tmp_path / "pruned" / "model.safetensors").keys()


def zeroed(model: Any, pruned: Pruned) -> Any:
    """The dense model with zeros where the pruned one has lost something."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(pruned.cut.zeroed(name, parameter))
    return model


@pytest.mark.parametrize("kind", ["llama", "qwen3", "phi3", "gpt2", "gpt-neox", "mixtral", "opt", "falcon-40b"])
def test_widths_by_score_load_through_their_structure(tmp_path: Path, kind: str) -> None:
    pruned = prune(tmp_path / "dense", kind, ratio=0.15, scope="global", multiple=1, protect_first=1)
    assert pruned.structure is not None
    model = stock(tmp_path / "dense")
    expected = logits(zeroed(model, pruned))
    structure.apply(model, pruned.structure)
    tensors = {name: tensor for shard in pruned.shards() for name, tensor in shard.items()}
    for name, parameter in list(model.named_parameters()):
        assert parameter.shape == tensors[name].shape, name
        module = model.get_submodule(name.rpartition(".")[0])
        module._parameters[name.rpartition(".")[2]] = torch.nn.Parameter(tensors[name])
    model.tie_weights()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    untouched = json.loads((tmp_path / "dense" / "config.json").read_text())
    assert pruned.config == untouched
    assert not any(name.startswith(("model.layers.0.", "transformer.h.0.")) for name in pruned.structure["tensors"])


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2", "gpt-neox", "mixtral", "gemma2", "qwen3-moe"])
def test_whole_blocks_leave(tmp_path: Path, kind: str) -> None:
    given = {"num_hidden_layers": 4} if kind != "gpt2" else {"n_layer": 4}
    if kind == "qwen3-moe":
        given["mlp_only_layers"] = [2]
    pruned = prune(tmp_path / "dense", kind, given=given, ratio=0.2, units="depth")
    gone = pruned.report["blocks_removed"]
    assert gone and pruned.blocks == 4 - len(gone)
    dense = stock(tmp_path / "dense")
    result = stock(write(pruned, tmp_path / "pruned"))
    blocks = dense.get_submodule("transformer.h" if kind == "gpt2" else "gpt_neox.layers" if kind == "gpt-neox"
                                 else "model.layers")  # fmt: skip
    for index in gone:  # a block that gives what it gets
        blocks[index].forward = (lambda kind: lambda hidden, *_, **__: hidden)(kind)
    torch.testing.assert_close(logits(result), logits(dense), rtol=1e-4, atol=1e-4)


def test_the_block_that_changes_its_input_least_leaves_first(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "dense", num_hidden_layers=4)
    tensors = load_file(folder / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.2.{name}.weight"] *= 1e-3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert prune(folder, ratio=0.2, units="depth").report["blocks_removed"] == [2]
    assert prune(folder, ratio=0.2, units="depth", protect_last=2).report["blocks_removed"] != [2]


def test_hidden_channels_leave_in_the_whole_model(tmp_path: Path) -> None:
    pruned = prune(tmp_path / "dense", "llama-tied", ratio=0.2, hidden=True, attention="none", mlp=False, multiple=4)
    assert pruned.structure is None and pruned.config["hidden_size"] == 24
    result = stock(write(pruned, tmp_path / "pruned"))
    assert logits(result).isfinite().all()
    assert sum(p.numel() for p in result.parameters()) == pruned.report["parameters_after"]


def test_what_nothing_depends_on_leaves_first(tmp_path: Path) -> None:
    """A channel whose columns are tiny and a head that is not listened to are what all informed scores choose."""
    folder = save_tiny(tmp_path / "dense")
    tensors = load_file(folder / "model.safetensors")
    for layer in range(3):
        tensors[f"model.layers.{layer}.mlp.down_proj.weight"][:, 8:24] *= 1e-4
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"][8:24] *= 1e-2
        tensors[f"model.layers.{layer}.mlp.gate_proj.weight"][8:24] *= 1e-2
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    dense = logits(stock(folder))
    for importance in ("taylor1", "taylor2", "taylor_mix", "l1", "l2", "activation"):
        pruned = prune(folder, ratio=0.15, importance=importance, attention="none", multiple=1)
        assert pruned.config["intermediate_size"] < 48
        result = stock(write(pruned, tmp_path / importance))
        torch.testing.assert_close(logits(result), dense, rtol=1e-2, atol=1e-2)
    other = stock(write(prune(folder, ratio=0.15, importance="random", attention="none"), tmp_path / "random"))
    assert not torch.allclose(logits(other), dense, atol=1e-1)


def test_steps_score_anew_and_the_same_call_gives_the_same(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "dense")
    once, again = (prune(folder, ratio=0.3, steps=3, scope="global", multiple=1) for _ in range(2))
    for one, other in zip(once.shards(), again.shards(), strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    straight = prune(folder, ratio=0.3, scope="global", multiple=1)
    assert once.report["units"] != straight.report["units"]
    assert once.report["ratio"] == pytest.approx(straight.report["ratio"], abs=0.02)


def test_a_pruned_checkpoint_keeps_the_dtype_of_its_source(tmp_path: Path) -> None:
    pruned = prune(tmp_path, given={"dtype": torch.bfloat16}, ratio=0.2)
    shards = list(pruned.shards())
    assert len(shards) == 4 and {t.dtype for shard in shards for t in shard.values()} == {torch.bfloat16}
    assert sum(t.numel() for s in shards for t in s.values()) == pruned.report["parameters_after"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.8}, "would empty a layer"),
        ({"protect_first": 2, "protect_last": 1, "scope": "local"}, "leave no block"),
        ({"units": "depth", "ratio": 0.01}, "less than half a block"),
        ({"units": "depth", "ratio": 0.95}, "all blocks"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        prune(tmp_path, **options)


def test_a_ratio_out_of_reach_is_refused_before_any_text_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "scores", None)
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path, "llama")))
    with pytest.raises(MethodError, match="would empty a layer"):
        pruning.check_model(walker, Config(ratio=0.8))
    pruning.check_model(walker, Config(ratio=0.2))


def test_projections_that_are_no_linears_are_not_taken_for_heads(tmp_path: Path) -> None:
    """Moshi wraps each projection in a module that holds the linear."""
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path, "llama")))
    for module in walker.model.modules():
        if hasattr(module, "q_proj"):
            module.q_proj = torch.nn.Sequential(module.q_proj)
    with pytest.raises(ModelError, match="no attention with known projections"):
        pruning.check_model(walker, Config(ratio=0.2))


def test_an_mlp_without_a_gate_loses_channels(tmp_path: Path) -> None:
    save_family("arcee", tmp_path / "dense")
    pruned = prune(tmp_path / "dense", ratio=0.1, multiple=4)
    assert any(entry["kind"] == "mlp" and entry["after"] < entry["before"] for entry in pruned.report["units"].values())
    found = logits(stock(write(pruned, tmp_path / "out")))
    torch.testing.assert_close(found, logits(zeroed(stock(tmp_path / "dense"), pruned)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "part"), [("afmoe", "gate_proj"), ("codegen", "unknown order"), ("diffllama", "lambda_q1")]
)
def test_heads_with_parts_that_are_not_known_are_refused(tmp_path: Path, family: str, part: str) -> None:
    save_family(family, tmp_path)
    with pytest.raises(ModelError, match=rf"{part}.*attention=none"):
        prune(tmp_path, ratio=0.1)


def test_units_that_are_not_known_are_refused_before_text_is_read(tmp_path: Path) -> None:
    save_family("mamba", tmp_path / "dense")
    recipe = Recipe.from_options(str(tmp_path / "dense"), "llm_pruner", {"output": str(tmp_path / "out")})
    with pytest.raises(ModelError, match=r"no attention with known projections.*attention=none"):
        compress.run(recipe)
    assert not [path for path in (tmp_path / "out").rglob("*.safetensors")]
    with pytest.raises(ModelError, match="no attention with known projections"):
        pipeline.plan(recipe)


@pytest.mark.parametrize(("kind", "attention"), [("falcon-7b", "kv"), ("gpt2", "query")])
def test_heads_that_cannot_leave_are_not_passed_over(tmp_path: Path, kind: str, attention: str) -> None:
    with pytest.raises(MethodError, match="no head can be removed"):
        prune(tmp_path, kind, attention=attention)
    if kind == "falcon-7b":  # left to itself it takes query heads
        units = prune(tmp_path, kind, scope="global", multiple=1).report["units"]
        assert {entry["kind"] for entry in units.values()} == {"query", "mlp"}


def test_the_memory_is_estimated_before_the_work(tmp_path: Path) -> None:
    source = ModelSource.open(save_tiny(tmp_path))
    walker = BlockWalker(source)
    with pytest.raises(MemoryLimitError, match=r"scoring takes about .* more than the limit"):
        pruning.prune(walker, source, Config(), tiny_tokens(2, 8), 1 << 20, Silent())


def packed_up(pruned: Pruned, folder: Path) -> Path:
    """The folder as a run leaves it."""
    writer = CheckpointWriter(folder, shard_count=pruned.blocks + 1)
    records = [writer.write_shard(step, tensors) for step, tensors in enumerate(pruned.shards())]
    content = {"tensors": {}} | ({"structure": pruned.structure} if pruned.structure else {})
    writer.finish(records=records, config=pruned.config, manifest=content)
    return folder


@pytest.mark.parametrize("kind", ["llama-tied", "phi3", "gpt2", "mixtral"])
def test_a_checkpoint_of_several_widths_loads_and_is_pruned_again(tmp_path: Path, kind: str) -> None:
    first = prune(tmp_path / "dense", kind, ratio=0.1, scope="global", multiple=4, importance="random")
    assert first.structure is not None
    once = packed_up(first, tmp_path / "once")
    model = compress.load(once, dtype=torch.float32)
    expected = logits(zeroed(stock(tmp_path / "dense"), first))
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    second = prune(once, ratio=0.1, scope="global", multiple=4, attention="none")
    assert second.report["parameters_before"] == first.report["parameters_after"]
    twice = compress.load(packed_up(second, tmp_path / "twice"), dtype=torch.float32)
    assert sum(p.numel() for p in twice.parameters()) == second.report["parameters_after"]
    torch.testing.assert_close(logits(twice), logits(zeroed(model, second)), rtol=1e-4, atol=1e-4)
    shallow = prune(once, ratio=0.25, units="depth")
    assert shallow.structure is not None
    result = compress.load(packed_up(shallow, tmp_path / "shallow"), dtype=torch.float32)
    assert sum(p.numel() for p in result.parameters()) == shallow.report["parameters_after"]
    assert logits(result).isfinite().all()


def test_layers_of_several_widths_are_not_made_uniform(tmp_path: Path) -> None:
    first = prune(tmp_path / "dense", ratio=0.1, scope="global", multiple=1, importance="random")
    once = packed_up(first, tmp_path / "once")
    with pytest.raises(MethodError, match="cannot become equally wide"):
        prune(once, ratio=0.1)
