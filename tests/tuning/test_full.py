"""End-to-end tuning: the divergence falls, a killed run ends with the same bytes, the report is true."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import CalibrationError, OutputError
from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.methods import aqlm, rtn, spqr
from compress.progress import Silent
from compress.runtime import skeleton
from compress.runtime.linear import PackedLinear
from compress.tuning import full, sequences
from compress.tuning.settings import FullSettings
from tests.support.killing import KilledError, KillsAfter
from tests.support.models import tiny_model, tiny_tokens
from tests.support.packed_model import RTN2, packed_model

QUICK = FullSettings(epochs=2, rate=0.01, batch=4, micro_batch=2, evaluate_every=3, checkpoint_every=2)
TOKENS_ST = tiny_tokens(24, 16)
HELD_S = sequences.split_held_out(24, QUICK.held_out, QUICK.seed)[1]


def divergence(teacher: nn.Module, student: nn.Module, chosen_S: torch.Tensor) -> float:
    with torch.no_grad():
        wanted, found = (m(input_ids=TOKENS_ST[chosen_S]).logits.log_softmax(-1) for m in (teacher, student))
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


def fit(teacher: nn.Module, student: nn.Module, folder: Path, settings: FullSettings = QUICK) -> full.TunedModel:
    return full.fit(student, teacher, TOKENS_ST, settings, folder, Silent())


def tensors(tuned: full.TunedModel) -> dict[str, torch.Tensor]:
    planes = {f"{name}.{plane}": t for name, one in tuned.packed.items() for plane, t in one.planes.items()}
    return planes | tuned.dense


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "gemma2", "opt"])
@pytest.mark.parametrize("method,options", [(rtn, RTN2), (spqr, dict(bits=2, group_size=8, threshold=2.0))])
def test_the_divergence_falls_and_is_that_of_what_is_stored(tmp_path, kind, method, options):
    teacher = tiny_model(kind)
    student, given = (packed_model(teacher, method, **options) for _ in range(2))
    weights = {name: parameter.clone() for name, parameter in teacher.named_parameters()}
    tuned = fit(teacher, student, tmp_path)
    assert tuned.after < 0.97 * tuned.before and not tuned.diverged and tuned.recoded == 0
    assert tuned.before == pytest.approx(divergence(teacher, given, HELD_S), rel=1e-3)
    codes = {name: layer.packed for name, layer in skeleton.packed_layers(given).items()}
    assert tuned.packed.keys() == codes.keys()
    for name, one in tuned.packed.items():
        layouts.check(one, name)
        real = layouts.continuous(one)
        assert same(*({n: p for n, p in x.planes.items() if n not in real} for x in (one, codes[name])))
        given.set_submodule(name, PackedLinear.from_packed(one, given.get_submodule(name).bias))
    for name, value in tuned.dense.items():
        given.get_parameter(name).data.copy_(value)
    assert divergence(teacher, given, HELD_S) == pytest.approx(tuned.after, rel=1e-3)
    assert all(torch.equal(weights[name], parameter) for name, parameter in teacher.named_parameters())


@pytest.mark.parametrize("steps", [0, 4, 9])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, steps):
    """Stopped before the first checkpoint, between two of them, and after the best state was found."""
    teacher = tiny_model(dtype=torch.bfloat16).float()
    (tmp_path / "whole").mkdir()
    whole = fit(teacher, packed_model(teacher), tmp_path / "whole")
    with pytest.raises(KilledError):
        full.fit(packed_model(teacher), teacher, TOKENS_ST, QUICK, tmp_path, KillsAfter(steps, "Fitting all blocks"))
    assert (tmp_path / "full-tuning.safetensors").is_file() == (steps > 0)
    resumed = fit(teacher, packed_model(teacher), tmp_path)
    assert same(tensors(whole), tensors(resumed))
    assert (whole.before, whole.after, whole.steps) == (resumed.before, resumed.after, resumed.steps)


def test_another_run_does_not_go_on_from_it(tmp_path):
    teacher = tiny_model()
    fit(teacher, packed_model(teacher), tmp_path)
    with pytest.raises(OutputError, match="another model, other data or other settings"):
        fit(teacher, packed_model(teacher), tmp_path, replace(QUICK, rate=0.02))
    with pytest.raises(OutputError, match="another model"):
        fit(teacher, packed_model(teacher, bits=3, group_size=8), tmp_path)
    (tmp_path / "full-tuning.safetensors").write_bytes(b"cut off")
    with pytest.raises(OutputError, match="damaged"):
        fit(teacher, packed_model(teacher), tmp_path)


def test_micro_batches_change_nothing_but_rounding(tmp_path):
    teacher, found = tiny_model(), []
    for size in (1, 4):
        (tmp_path / str(size)).mkdir()
        settings = replace(QUICK, epochs=1, micro_batch=size)
        found.append(fit(teacher, packed_model(teacher), tmp_path / str(size), settings).after)
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_vectors_are_rounded_to_the_dtype_they_came_in(tmp_path):
    teacher = tiny_model("qwen2")
    student = packed_model(teacher).to(torch.bfloat16)
    tuned = fit(teacher, student, tmp_path)
    assert {value.dtype for value in tuned.dense.values()} == {torch.bfloat16} and tuned.after < tuned.before
    assert {"model.norm.weight", "model.layers.1.self_attn.q_proj.bias"} <= tuned.dense.keys()


def test_never_worse_and_divergence_is_said(tmp_path):
    teacher = tiny_model()
    given = {name: layer.packed for name, layer in skeleton.packed_layers(packed_model(teacher)).items()}
    for rate, diverged in ((3.0, False), (1e30, True)):
        (tmp_path / str(rate)).mkdir()
        tuned = fit(teacher, packed_model(teacher), tmp_path / str(rate), replace(QUICK, rate=rate))
        assert tuned.after == tuned.before and math.isfinite(tuned.after) and tuned.diverged is diverged
        assert all(same(tuned.packed[name].planes, given[name].planes) for name in given)


def test_patience_stops(tmp_path):
    teacher = tiny_model()
    tuned = fit(teacher, packed_model(teacher), tmp_path, replace(QUICK, rate=3.0, patience=1))
    assert tuned.steps == QUICK.evaluate_every


def test_one_sequence_is_refused(tmp_path):
    teacher = tiny_model()
    with pytest.raises(CalibrationError, match=r"at least 2 sequences \(1 is held out\); got 1"):
        full.fit(packed_model(teacher), teacher, TOKENS_ST[:1], QUICK, tmp_path, Silent())


def test_bfloat16_arithmetic_keeps_masters(tmp_path):
    teacher = tiny_model()
    tuned = fit(teacher, packed_model(teacher), tmp_path, replace(QUICK, bf16=True))
    assert tuned.after < tuned.before
    one: PackedTensor = next(iter(tuned.packed.values()))
    assert one.planes["scale"].dtype == torch.float16


AQLM = dict(codebooks=1, code_bits=4, group_size=4)
RECODE = replace(QUICK, recode_share=0.05, code_rate=1.0, recode_every=2)


@pytest.mark.parametrize("kind", ["llama", "qwen3-moe"])
def test_codes_of_additive_linears_change_within_their_share(tmp_path, kind):
    teacher = tiny_model(kind)
    given = {n: x.packed for n, x in skeleton.packed_layers(packed_model(teacher, aqlm, **AQLM)).items()}
    tuned, fixed = (
        fit(
            teacher,
            packed_model(teacher, aqlm, **AQLM),
            _new(tmp_path / str(share)),
            replace(RECODE, recode_share=share),
        )
        for share in (RECODE.recode_share, 0.0)
    )
    assert fixed.recoded == 0 and fixed.after < fixed.before
    assert tuned.recoded > 0 and tuned.after < tuned.before
    changed = {
        name for name in given if not torch.equal(given[name].planes["weight"], tuned.packed[name].planes["weight"])
    }
    assert changed and not any(
        not torch.equal(given[name].planes["weight"], fixed.packed[name].planes["weight"]) for name in given
    )
    groups = sum(one.shape[0] * one.shape[1] // 4 for one in given.values())
    assert tuned.recoded <= RECODE.recode_share * groups * tuned.steps
    for name, one in tuned.packed.items():
        layouts.check(one, name)


def test_a_killed_run_with_changes_of_codes_ends_with_the_same_bytes(tmp_path):
    teacher, settings = tiny_model(), replace(RECODE, recode_every=3)
    whole = fit(teacher, packed_model(teacher, aqlm, **AQLM), _new(tmp_path / "whole"), settings)
    with pytest.raises(KilledError):
        full.fit(
            packed_model(teacher, aqlm, **AQLM),
            teacher,
            TOKENS_ST,
            settings,
            tmp_path,
            KillsAfter(4, "Fitting all blocks"),
        )
    resumed = fit(teacher, packed_model(teacher, aqlm, **AQLM), tmp_path, settings)
    assert same(tensors(whole), tensors(resumed)) and whole.recoded == resumed.recoded > 0


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_change_of_codes_that_does_harm_is_taken_back(tmp_path):
    """With every divergence above the one before, no code may change, and fewer and fewer are tried."""
    from compress.tuning.recoding import Recoder
    from compress.tuning.student import Student

    student = Student(packed_model(tiny_model(), aqlm, **AQLM))
    recoder = Recoder(student, replace(RECODE, recode_share=0.5))
    codes = {name: layer.planes.packed.planes["weight"].clone() for name, layer in student.layers.items()}
    tried: list[int] = []
    for _ in range(3):
        student(TOKENS_ST[:2]).square().sum().backward()
        recoder.accumulate()
        rising = iter((1.0, 2.0))

        def divergence(rising=rising):
            now = {n: layer.planes.packed.planes["weight"] for n, layer in student.layers.items()}
            tried.append(sum(int((now[n] != codes[n]).sum()) for n in codes))
            return next(rising)

        assert recoder.step(divergence) == 0
        assert all(torch.equal(layer.planes.packed.planes["weight"], codes[n]) for n, layer in student.layers.items())
    assert tried[1] > tried[3] > tried[5] > 0 == tried[0] == tried[2]
    falling = iter((2.0, 1.0))
    student(TOKENS_ST[:2]).square().sum().backward()
    recoder.accumulate()
    assert recoder.step(lambda: next(falling)) > 0
    assert any(not torch.equal(layer.planes.packed.planes["weight"], codes[n]) for n, layer in student.layers.items())
