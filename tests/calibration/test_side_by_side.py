"""Forwards that wait give the sums and outputs of forwards that are computed again, and end however they are left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compress.calibration import side_by_side
from compress.calibration.collect import collect, input_groups
from compress.calibration.paused import PausedForward
from compress.calibration.stats import LayerStats
from compress.errors import CalibrationError
from compress.models import linears
from compress.models.blocks import Block, BlockWalker
from compress.models.linears import LinearRef
from compress.models.source import ModelSource
from tests.support.models import EXPERT_LAYOUTS, TINY, save_tiny, tiny_tokens

SAMPLES, LENGTH, MICRO_BATCH = 5, 12, 2
PARTS = 3


def opened(folder: Path, kind: str) -> tuple[BlockWalker, Block, torch.Tensor]:
    walker = BlockWalker(ModelSource.open(save_tiny(folder, kind)))
    return walker, walker.load_block(len(walker.block_names) - 1), walker.embed(tiny_tokens(SAMPLES, LENGTH))


def halved(block: Block, refs: list[LinearRef]) -> None:
    """Stands for packing: every linear gets other weights."""
    for ref in refs:
        linears.set_weight(block, ref, linears.weight(block, ref) * 0.5)


def packed_with(
    walker: BlockWalker, block: Block, hidden_STH: torch.Tensor, kept: int, experts_at_once: int = 16
) -> tuple[dict[str, LayerStats], torch.Tensor]:
    """Returns all statistics of a block that is packed group by group, and its outputs."""
    groups, stats = input_groups(walker, block, hidden_STH), {}
    refs = [ref for group in groups for ref in group]
    running = side_by_side.forwards(walker, block, refs, hidden_STH, micro_batch=MICRO_BATCH, kept=kept)
    with running as forwards:
        for group in groups:
            for part in linears.in_batches(group, experts_at_once):
                stats |= forwards.collect(part)
                halved(block, part)
        return stats, forwards.finish()


@pytest.mark.parametrize("kind", sorted({*TINY, *EXPERT_LAYOUTS}))
def test_the_sums_are_those_of_computing_again_to_the_last_bit(tmp_path: Path, kind: str) -> None:
    walker, block, hidden_STH = opened(tmp_path, kind)
    dense = {ref.name: linears.weight(block, ref) for ref in walker.linears(block.index)}
    results = []
    for kept in (PARTS, 1, 0):
        for ref in walker.linears(block.index):
            linears.set_weight(block, ref, dense[ref.name])
        results.append(packed_with(walker, block, hidden_STH, kept, experts_at_once=3))
    for stats, outputs_STH in results[:2]:
        assert torch.equal(outputs_STH, results[2][1])
        assert stats.keys() == results[2][0].keys() == dense.keys()
        for name, sums in stats.items():
            assert sums.num_tokens == results[2][0][name].num_tokens
            assert torch.equal(sums.gram_KK, results[2][0][name].gram_KK), name
    torch.testing.assert_close(results[0][1], walker.forward(block, hidden_STH, micro_batch=MICRO_BATCH))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "gpt-oss"])
def test_the_sums_are_those_of_a_forward_for_each_group(tmp_path: Path, kind: str) -> None:
    walker, block, hidden_STH = opened(tmp_path, kind)
    dense = {ref.name: linears.weight(block, ref) for ref in walker.linears(block.index)}
    stats, _ = packed_with(walker, block, hidden_STH, PARTS)
    for ref in walker.linears(block.index):
        linears.set_weight(block, ref, dense[ref.name])
    for group in input_groups(walker, block, hidden_STH):
        for name, sums in collect(walker, block, group, hidden_STH, micro_batch=MICRO_BATCH).items():
            assert torch.equal(sums.gram_KK, stats[name].gram_KK) and sums.num_tokens == stats[name].num_tokens
        halved(block, group)


def test_each_micro_batch_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walker, block, hidden_STH = opened(tmp_path, "llama")
    applied: list[str] = []
    for ref in walker.linears(block.index):
        module = block.module.get_submodule(ref.name.removeprefix(f"{block.name}."))
        module.register_forward_hook(lambda *_, name=ref.name: applied.append(name))
    input_groups(walker, block, hidden_STH)
    applied.clear()
    groups_run, wait = len(walker.linears(block.index)), packed_with(walker, block, hidden_STH, PARTS)
    probed = groups_run  # by input_groups
    assert len(applied) - probed == PARTS * groups_run and wait[1].isfinite().all()


def threads() -> int:
    return threading.active_count()


def left_by(error: BaseException | None) -> Callable[[], None]:
    def leave() -> None:
        if error is not None:
            raise error

    return leave


@pytest.mark.parametrize("error", [None, ValueError("a solver's"), KeyboardInterrupt()])
def test_no_thread_is_left(tmp_path: Path, error: BaseException | None) -> None:
    walker, block, hidden_STH = opened(tmp_path, "llama")
    before, groups = threads(), input_groups(walker, block, hidden_STH)
    refs = [ref for group in groups for ref in group]
    raised: BaseException | None = None
    try:
        with side_by_side.forwards(walker, block, refs, hidden_STH, micro_batch=MICRO_BATCH, kept=PARTS) as forwards:
            forwards.collect(groups[0])
            assert threads() == before + PARTS
            left_by(error)()
    except (ValueError, KeyboardInterrupt) as caught:
        raised = caught
    assert raised is error and threads() == before
    assert not any(module._forward_pre_hooks for module in block.module.modules())


def test_an_error_in_a_forward_comes_out(tmp_path: Path) -> None:
    walker, block, hidden_STH = opened(tmp_path, "llama")
    groups, before = input_groups(walker, block, hidden_STH), threads()
    refs = [ref for group in groups for ref in group]

    def fails(*_: object) -> None:
        raise ValueError("in the model's code")

    with (
        pytest.raises(ValueError, match="in the model's code"),
        side_by_side.forwards(walker, block, refs, hidden_STH, micro_batch=MICRO_BATCH, kept=PARTS) as forwards,
    ):
        forwards.collect(groups[0])
        block.module.get_submodule("mlp").register_forward_pre_hook(fails)
        for group in groups[1:]:
            forwards.collect(group)
    assert threads() == before


def test_a_forward_that_runs_when_it_is_abandoned_ends_at_its_next_linear() -> None:
    reached, go_on = threading.Event(), threading.Event()

    def run() -> torch.Tensor:
        reached.set()
        go_on.wait()
        forward.check()
        raise AssertionError("it went on")

    forward = PausedForward(run)
    forward._thread.start()  # as `proceed` does before Ctrl-C interrupts its wait
    reached.wait()
    threading.Timer(0.01, go_on.set).start()
    forward.abandon()
    assert not forward._thread.is_alive() and forward.output is None


def test_infinite_inputs_are_refused(tmp_path: Path) -> None:
    walker, block, hidden_STH = opened(tmp_path, "llama")
    hidden_STH[4, 0] = float("nan")
    with pytest.raises(CalibrationError, match="NaN"):
        packed_with(walker, block, hidden_STH, PARTS)
