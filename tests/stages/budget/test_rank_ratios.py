"""The pass before a run that measures what each linear loses: on dense inputs, once, and the same after a kill."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from compress.calibration import collect as collecting
from compress.errors import MethodError
from compress.json_files import read_object
from compress.methods import registry, svd_llm
from compress.models import linears
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.progress import Silent
from compress.stages import memory
from compress.stages.budget import rank_ratios
from compress.stages.pack.block import LinearStage
from compress.stages.workspace import open_workspace
from tests.support.models import save_tiny, tiny_tokens

TOKENS = tiny_tokens(6, 20)


def stage_of(tmp_path: Path, kind: str = "llama", method: str = "svd_llm", skip: str = "-", **options) -> LinearStage:
    source = tmp_path / kind
    if not source.is_dir():
        save_tiny(source, kind)
    walker = BlockWalker(ModelSource.open(source))
    names = [ref.name for index in range(len(walker.block_names)) for ref in walker.linears(index)]
    with open_workspace(tmp_path / "out", {"recipe_hash": "x"}) as workspace:
        return LinearStage(
            walker=walker,
            writer=None,
            workspace=workspace,
            method=registry.load_pack(method),
            config=registry.configure(method, options),
            skipped=frozenset(name for name in names if skip in name),
            memory_plan=memory.MemoryPlan(0, micro_batch=4, experts_at_once=3),
            memory_limit=None,
        )


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3-moe"])
def test_losses_are_those_on_dense_inputs(tmp_path, kind):
    stage = stage_of(tmp_path, kind, skip="down_proj" if kind == "llama" else "-", ratio=0.3, multiple=1)
    overrides = rank_ratios.allot(stage, TOKENS, Silent())
    losses = read_object(stage.workspace.work / "losses.json")["losses"]
    walker = BlockWalker(ModelSource.open(tmp_path / kind))
    hidden_STH, seen = walker.embed(TOKENS), {}
    for index in range(len(walker.block_names)):
        block = walker.load_block(index)
        refs = [ref for ref in walker.linears(index) if ref.name not in stage.skipped]
        stats = collecting.collect(walker, block, refs, hidden_STH, micro_batch=6)
        for ref in refs:
            seen[ref.name] = svd_llm.measure(linears.weight(block, ref), stats[ref.name], stage.config)
        hidden_STH = walker.forward(block, hidden_STH, micro_batch=6)
        walker.free_block(block)
    assert losses.keys() == seen.keys() == overrides.keys()
    for name, loss in losses.items():
        assert loss == pytest.approx(seen[name], rel=1e-4)
    assert len({options["ratio"] for options in overrides.values()}) > 1
    shapes = {ref.name: ref.shape for i in range(len(walker.block_names)) for ref in walker.linears(i)}
    removed = sum(options["ratio"] * math.prod(shapes[name]) for name, options in overrides.items())
    assert removed / sum(math.prod(shapes[name]) for name in overrides) == pytest.approx(0.3, abs=0.02)
    for name, options in overrides.items():
        svd_llm.check(shapes[name], dataclasses.replace(stage.config, **options))


def test_a_killed_pass_goes_on_and_decides_the_same(tmp_path, monkeypatch):
    measured = []

    def counting(w_NK, stats, config):
        measured.append(w_NK.shape)
        if len(measured) == 10:
            raise KeyboardInterrupt
        return math.sqrt(float(w_NK.square().sum())) + len(measured)

    monkeypatch.setattr(svd_llm, "measure", counting)
    stage = stage_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        rank_ratios.allot(stage, TOKENS, Silent())
    kept = read_object(stage.workspace.work / "losses.json")["losses"]
    assert len(kept) == 7  # the first block
    found = rank_ratios.allot(stage, TOKENS, Silent())
    assert len(measured) == 10 + 14 and len(found) == 21
    again = read_object(stage.workspace.work / "losses.json")["losses"]
    assert {name: again[name] for name in kept} == kept
    assert rank_ratios.allot(stage, TOKENS, Silent()) == found and len(measured) == 24


def test_nothing_is_measured_where_nothing_is_allotted(tmp_path, monkeypatch):
    monkeypatch.setattr(svd_llm, "measure", lambda *_, **__: pytest.fail("measured"))
    assert rank_ratios.allot(stage_of(tmp_path, allocate=False), TOKENS, Silent()) == {}
    assert rank_ratios.allot(stage_of(tmp_path, method="rtn"), TOKENS, Silent()) == {}


def test_a_loss_that_is_not_finite_names_the_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(svd_llm, "measure", lambda *_, **__: math.nan)
    with pytest.raises(MethodError, match=r"model\.layers\.0\.self_attn\.\w+: the measured loss is nan"):
        rank_ratios.allot(stage_of(tmp_path), TOKENS, Silent())


def test_the_dense_model_is_left_as_it_was(tmp_path):
    stage = stage_of(tmp_path)
    before = stage.walker.embed(TOKENS)
    rank_ratios.allot(stage, TOKENS, Silent())
    assert torch.equal(before, stage.walker.embed(TOKENS))
