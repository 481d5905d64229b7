"""Block tuning: the error falls, codes stay, and what is reported is what is shipped."""

import math
from dataclasses import replace

import pytest
import torch

from compress.errors import CalibrationError
from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.methods import aqlm, rtn, spqr
from compress.tuning import block, sequences
from compress.tuning.settings import Settings
from tests.support.packing import SEQUENCES, Case

QUICK = Settings(epochs=4, rate=0.01, batch=4, micro_batch=4)
RTN2 = dict(bits=2, group_size=8, symmetric=False)
METHODS = {
    "rtn-2": (rtn, RTN2),
    "rtn-3": (rtn, dict(bits=3, group_size=8)),
    "spqr-2": (spqr, dict(bits=2, group_size=8, threshold=0.5)),
    "aqlm": (aqlm, dict(codebooks=1, code_bits=5, group_size=8)),
    "spqr-3": (spqr, dict(bits=3, group_size=8, threshold=0.5)),
}
# Conv1D with biases, experts in fused parameters beside a shared one, norms around one, two norms more, biases
KINDS = ["llama", "gpt2", "qwen2-moe", "mixtral", "gemma2", "opt", "falcon-alibi"]


def fit(case: Case, packed: dict[str, PackedTensor], settings: Settings = QUICK) -> block.TunedBlock:
    return block.fit(case.walker, case.block, packed, case.hidden_STH, case.targets_STH, settings)


def planes(packed: dict[str, PackedTensor]) -> dict[str, torch.Tensor]:
    return {f"{name}.{plane}": tensor for name, one in packed.items() for plane, tensor in one.planes.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2-moe"])
def test_the_held_out_error_falls_and_is_that_of_what_is_shipped(tmp_path, kind, method):
    case = Case(tmp_path, kind)
    packed = case.pack(METHODS[method][0], **METHODS[method][1])
    held_S = sequences.split_held_out(SEQUENCES, QUICK.held_out, QUICK.seed)[1]
    case.put(packed, {})
    before = case.error(held_S)
    tuned = fit(case, packed)
    assert tuned.before == pytest.approx(before, rel=1e-4)
    assert tuned.after < 0.97 * tuned.before and 1 <= tuned.epochs <= QUICK.epochs and not tuned.diverged
    assert case.error(held_S) == pytest.approx(tuned.after, rel=1e-4), "the block is left with other values"
    # the result alone, put into a block that knows nothing of fitting, gives the reported error
    fresh = Case(tmp_path / "again", kind)
    fresh.put(tuned.packed, tuned.dense)
    assert fresh.error(held_S) == pytest.approx(tuned.after, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_real_numbers_change(tmp_path, kind):
    case = Case(tmp_path, kind, dtype=torch.bfloat16)
    packed = case.pack(rtn, **RTN2)
    given = {name: plane.clone() for name, plane in planes(packed).items()}
    hidden_STH, targets_STH = case.hidden_STH.clone(), case.targets_STH.clone()
    vectors = {name: p.clone() for name, p in case.block.module.named_parameters() if p.dim() == 1}
    matrices = {r.parameter for r in case.walker.linears(0)}
    others = {
        name: p.clone()
        for name, p in case.block.module.named_parameters()
        if p.dim() > 1 and f"{case.block.name}.{name}" not in matrices
    }
    tuned = fit(case, packed)
    assert tuned.after < tuned.before
    assert same(planes(packed), given), "the given planes were written to"
    assert torch.equal(hidden_STH, case.hidden_STH) and torch.equal(targets_STH, case.targets_STH)
    changed = set()
    for name, plane in planes(tuned.packed).items():
        assert plane.dtype == given[name].dtype and plane.shape == given[name].shape
        if not torch.equal(plane, given[name]):
            changed.add(name.rpartition(".")[2])
    assert changed == {"scale"}
    assert tuned.dense.keys() == {f"{case.block.name}.{name}" for name in vectors}
    assert {value.dtype for value in tuned.dense.values()} <= {torch.bfloat16}
    for name, before in vectors.items():
        assert torch.equal(case.block.module.get_parameter(name), tuned.dense[f"{case.block.name}.{name}"].float())
        assert tuned.dense[f"{case.block.name}.{name}"].shape == before.shape
    assert any(not torch.equal(before, case.block.module.get_parameter(name)) for name, before in vectors.items())
    for name, before in others.items():
        assert torch.equal(before, case.block.module.get_parameter(name)), f"{name} is no vector and moved"
    for name, one in tuned.packed.items():
        layouts.check(one, name)
        assert one.scheme == packed[name].scheme


@pytest.mark.parametrize("method,plane", [("spqr-2", "delta_val"), ("aqlm", "codebooks")])
def test_all_continuous_planes_move_and_no_other(tmp_path, method, plane):
    case = Case(tmp_path)
    packed = case.pack(METHODS[method][0], **METHODS[method][1])
    tuned, name = fit(case, packed), "model.layers.0.mlp.down_proj"
    moved = {p for p in packed[name].planes if not torch.equal(packed[name].planes[p], tuned.packed[name].planes[p])}
    assert moved == layouts.continuous(packed[name]).keys() and plane in moved


def test_the_same_bytes_twice_and_other_bytes_for_another_seed(tmp_path):
    results = []
    for number, seed in enumerate((0, 0, 1)):
        case = Case(tmp_path / str(number), "mixtral")
        results.append(fit(case, case.pack(rtn, **RTN2), replace(QUICK, seed=seed)))
    first, second, third = results
    assert same(planes(first.packed) | first.dense, planes(second.packed) | second.dense)
    assert (first.before, first.after) == (second.before, second.after)
    assert not same(planes(first.packed), planes(third.packed))


def test_micro_batches_change_nothing_but_rounding(tmp_path):
    whole, parted = (
        fit(case, case.pack(rtn, **RTN2), replace(QUICK, epochs=1, batch=6, micro_batch=size))
        for size, case in ((6, Case(tmp_path / "a")), (2, Case(tmp_path / "b")))
    )
    assert parted.after == pytest.approx(whole.after, rel=1e-3)
    assert parted.after < parted.before


def test_a_later_block_of_a_mixture_and_skipped_linears(tmp_path):
    """Linears that stay dense keep their weights, and fitting makes up for the others."""
    case = Case(tmp_path, "qwen3-moe", index=1)
    packed = {name: one for name, one in case.pack(rtn, **RTN2).items() if "down_proj" not in name}
    kept = case.block.module.get_parameter("mlp.down_proj.weight").clone()
    tuned = fit(case, packed)
    assert tuned.packed.keys() == packed.keys() and tuned.after < tuned.before
    assert torch.equal(case.block.module.get_parameter("mlp.down_proj.weight"), kept)


def test_what_is_perfect_stays(tmp_path):
    """The state before fitting is a candidate: a block without error keeps every byte."""
    case = Case(tmp_path)
    packed = case.pack(rtn, **RTN2)
    case.put(packed, {})
    case.targets_STH = case.walker.forward(case.block, case.hidden_STH, micro_batch=8)
    tuned = fit(case, packed)
    assert tuned.after == tuned.before < 1e-10 and tuned.epochs <= QUICK.patience
    assert same(planes(tuned.packed), planes(packed))


def test_never_worse_with_a_rate_far_too_high(tmp_path):
    case = Case(tmp_path)
    packed = case.pack(rtn, bits=8, group_size=8)
    tuned = fit(case, packed, replace(QUICK, rate=3.0))
    assert tuned.after <= tuned.before and tuned.epochs == QUICK.patience
    assert all(plane.isfinite().all() for plane in planes(tuned.packed).values() if plane.is_floating_point())


def test_divergence_keeps_what_was_there_and_is_said(tmp_path):
    case = Case(tmp_path)
    packed = case.pack(rtn, **RTN2)
    tuned = fit(case, packed, replace(QUICK, rate=1e30))
    assert tuned.diverged and tuned.after == tuned.before and math.isfinite(tuned.after)
    assert same(planes(tuned.packed), planes(packed))
    assert case.error(torch.arange(SEQUENCES)) < 10, "the block was left with what diverged"


def test_no_epochs_means_no_change(tmp_path):
    case = Case(tmp_path)
    packed = case.pack(rtn, **RTN2)
    tuned = fit(case, packed, replace(QUICK, epochs=0))
    assert tuned.epochs == 0 and tuned.after == tuned.before and same(planes(tuned.packed), planes(packed))


def test_one_sequence_is_refused(tmp_path):
    case = Case(tmp_path)
    packed = case.pack(rtn, **RTN2)
    case.hidden_STH, case.targets_STH = case.hidden_STH[:1], case.targets_STH[:1]
    with pytest.raises(CalibrationError, match=r"model\.layers\.0: .*at least 2 sequences \(1 is held out\); got 1"):
        fit(case, packed)


def test_two_sequences_are_enough(tmp_path):
    case = Case(tmp_path)
    packed = case.pack(rtn, **RTN2)
    case.hidden_STH, case.targets_STH = case.hidden_STH[:2], case.targets_STH[:2]
    tuned = fit(case, packed)
    assert tuned.after <= tuned.before and tuned.epochs >= 1
