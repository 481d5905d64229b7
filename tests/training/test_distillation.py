"""Distillation: every kind of student learns, LoRA is merged exactly, a kept teacher says what a live one says."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compress.errors import CalibrationError, MethodError, OutputError
from compress.format import layouts
from compress.format.layouts import sparse_nm
from compress.methods import magnitude, svd_llm
from compress.methods.distill import Config
from compress.methods.protocol import Trained
from compress.progress import Silent
from compress.runtime import skeleton
from compress.training import distillation, losses, teacher, trainable
from compress.tuning.sequences import split_held_out
from tests.support.killing import KilledError, KillsAfter
from tests.support.models import tiny_model, tiny_tokenizer, tiny_tokens
from tests.support.packed_model import packed_model

TOKENS_ST = tiny_tokens(24, 16)
QUICK = Config(steps=12, batch=4, micro_batch=2, rate=3e-3, checkpoint_every=5, evaluate_every=4, held_out=0.125)


def shaken(model: nn.Module, share: float = 0.3) -> nn.Module:
    """Returns a copy whose matrices have noise on them: a student that was good once."""
    student, generator = deepcopy(model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_((share * parameter.float().std() * noise).to(parameter.dtype))
    return student


def distil(student: nn.Module, model: nn.Module, folder: Path, config: Config = QUICK) -> Trained:
    return distillation.train(student, model, TOKENS_ST, config, folder, Silent())


def put(model: nn.Module, dense: dict[str, torch.Tensor]) -> nn.Module:
    changed = deepcopy(model)
    for name, value in dense.items():
        assert changed.get_parameter(name).dtype == value.dtype
        changed.get_parameter(name).data.copy_(value)
    return changed


def divergence(model: nn.Module, student: nn.Module, chosen_S: torch.Tensor) -> float:
    with torch.no_grad():
        wanted, found = (m(input_ids=TOKENS_ST[chosen_S]).logits.float().log_softmax(-1) for m in (model, student))
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


HELD_S = split_held_out(24, QUICK.held_out, QUICK.training_seed)[1]


@pytest.mark.parametrize("train", ["all", "lora"])
@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2", "mixtral", "phi3", "opt"])
def test_a_dense_student_comes_nearer_and_the_report_is_true(tmp_path, kind, train):
    model = tiny_model(kind)
    given = shaken(model)
    made = distil(deepcopy(given), model, tmp_path, replace(QUICK, train=train))
    enough = 0.9 if train == "all" else 0.97  # updates of half the matrices' width, from few sequences
    assert made.report["after"] < enough * made.report["before"] and made.report["steps"] == 12
    assert made.report["before"] == pytest.approx(divergence(model, given, HELD_S), rel=1e-3)
    assert divergence(model, put(given, made.dense), HELD_S) == pytest.approx(made.report["after"], rel=1e-3)
    assert not made.packed


@pytest.mark.parametrize("method,options", [(svd_llm, dict(ratio=0.4)), (magnitude, dict(n=2, m=4))])
def test_factors_and_kept_weights_of_composite_layouts_learn(tmp_path, method, options):
    model = tiny_model()
    given = {
        name: layer.packed for name, layer in skeleton.packed_layers(packed_model(model, method, **options)).items()
    }
    made = distil(packed_model(model, method, **options), model, tmp_path, replace(QUICK, train="packed", rate=0.02))
    assert made.report["after"] < 0.97 * made.report["before"]
    for name, one in made.packed.items():
        layouts.check(one, name)
        assert one.scheme == given[name].scheme and not torch.equal(one.planes["weight"], given[name].planes["weight"])
        if method is magnitude:
            assert torch.equal(sparse_nm.mask(one), sparse_nm.mask(given[name]))
            assert bool((layouts.unpack(one)[~sparse_nm.mask(one)] == 0).all())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_packed_student_keeps_its_codes(tmp_path, kind):
    model = tiny_model(kind)
    given = packed_model(model)
    codes = {name: layer.packed for name, layer in skeleton.packed_layers(given).items()}
    made = distil(packed_model(model), model, tmp_path, replace(QUICK, train="packed", rate=0.01))
    assert made.report["after"] < 0.97 * made.report["before"]
    assert made.packed.keys() == codes.keys()
    for name, one in made.packed.items():
        layouts.check(one, name)
        assert torch.equal(one.planes["weight"], codes[name].planes["weight"])
        assert not torch.equal(one.planes["scale"], codes[name].planes["scale"])


def test_dtypes_and_teacher_stay(tmp_path):
    model = tiny_model(dtype=torch.bfloat16)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    made = distil(shaken(model), model, tmp_path)
    assert {value.dtype for value in made.dense.values()} == {torch.bfloat16}
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("train", ["all", "lora", "packed"])
@pytest.mark.parametrize("steps", [3, 8])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, train, steps):
    model = tiny_model()
    config = replace(QUICK, train=train, top_k=8, temperature=2.0, ce_weight=0.3)

    def student() -> nn.Module:
        return packed_model(model) if train == "packed" else shaken(model)

    (tmp_path / "whole").mkdir()
    whole = distil(student(), model, tmp_path / "whole", config)
    with pytest.raises(KilledError):
        distillation.train(student(), model, TOKENS_ST, config, tmp_path, KillsAfter(steps))
    resumed = distil(student(), model, tmp_path, config)
    for a, b in (
        (whole.dense, resumed.dense),
        *((whole.packed[n].planes, resumed.packed[n].planes) for n in whole.packed),
    ):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert whole.report == resumed.report


def test_another_teacher_or_student_is_another_run(tmp_path):
    model = tiny_model()
    distil(shaken(model), model, tmp_path)
    with pytest.raises(OutputError, match="another model"):
        distil(shaken(model), tiny_model(seed=1), tmp_path)
    with pytest.raises(OutputError, match="another model"):
        distil(shaken(model, 0.2), model, tmp_path)


def test_lora_is_merged_exactly(tmp_path):
    """What is stored computes what was trained, and only the linears of the blocks have changed."""
    model = tiny_model()
    lora = trainable.make_trainable(shaken(model), replace(QUICK, train="lora"))
    for number, master in enumerate(lora.masters().values()):
        noise = torch.randn(master.shape, generator=torch.Generator().manual_seed(number))
        master.data.copy_(0.1 * noise)
    with torch.no_grad():
        trained = lora(TOKENS_ST, hidden=False).logits
    dense, packed = lora.result()
    merged = put(shaken(model), dense)
    assert len(dense) == 3 * 7 and not packed
    assert not torch.equal(dense["model.layers.0.mlp.up_proj.weight"], shaken(model).model.layers[0].mlp.up_proj.weight)
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=TOKENS_ST).logits, trained, rtol=0, atol=5e-5)


@pytest.mark.parametrize("loss", ["kl", "reverse_kl"])
def test_a_kept_teacher_says_what_a_live_one_says(tmp_path, loss):
    model = tiny_model()
    config = replace(QUICK, steps=4, loss=loss, temperature=2.0)
    found = {}
    for k in (0, 2, 95):
        folder = tmp_path / str(k)
        folder.mkdir()
        found[k] = distil(shaken(model), model, folder, replace(config, top_k=k))
        assert (folder / "teacher-0000.safetensors").is_file() == bool(k)
    assert found[95].report["losses"] == pytest.approx(found[0].report["losses"], rel=1e-4)
    assert found[2].report["before"] < found[0].report["before"]
    for name, value in found[0].dense.items():
        torch.testing.assert_close(found[95].dense[name], value, rtol=1e-3, atol=1e-4)


def test_kept_shares_are_asked_for_once(tmp_path, monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(teacher, "_SEQUENCES_PER_FILE", 5)
    asked = dict(k=4, temperature=1.0, micro_batch=2, precision=lambda: torch.autocast("cpu", enabled=False))
    teacher.cache_predictions(model, TOKENS_ST, tmp_path, Silent(), **asked)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 5 and load_file(paths[-1])["token_ids"].shape == (4, 16, 4)
    times = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    teacher.cache_predictions(model, TOKENS_ST, tmp_path, Silent(), **asked)
    assert [path.stat().st_mtime_ns == time for path, time in zip(paths, times, strict=True)] == [1, 0, 1, 1, 1]
    said = teacher.CachedTeacher(tmp_path)(torch.tensor([23, 7]))
    places, shares = losses.top_log_probs(teacher.LiveTeacher(model, TOKENS_ST)(torch.tensor([23, 7])).logits_BTV[1], 4)
    torch.testing.assert_close(said.top[0][1], places)
    torch.testing.assert_close(said.top[1][1], shares)


def test_hidden_states_and_text_are_learned_from_too(tmp_path):
    model = tiny_model()
    for number, config in enumerate((replace(QUICK, hidden_weight=1.0), replace(QUICK, ce_weight=1.0))):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = distil(shaken(model), model, folder, config)
        assert made.report["after"] < made.report["before"]
    # cross-entropy alone: what a plain evaluation of the text gives
    with torch.no_grad():
        plain = shaken(model)(input_ids=TOKENS_ST[HELD_S], labels=TOKENS_ST[HELD_S]).loss
    assert made.report["before"] == pytest.approx(float(plain), rel=1e-4)


def test_bf16_reaches_about_the_same(tmp_path):
    model = tiny_model()
    made = distil(shaken(model), model, tmp_path, replace(QUICK, bf16=True))
    assert made.report["after"] < 0.9 * made.report["before"]
    assert {value.dtype for value in made.dense.values()} == {torch.float32}


def test_what_cannot_be_is_refused(tmp_path):
    model = tiny_model()
    with pytest.raises(MethodError, match=r"the teacher has a vocabulary of 104 tokens\. Allowed: 96"):
        distil(shaken(model), tiny_model(vocab_size=104), tmp_path)
    with pytest.raises(MethodError, match=r"model.layers.0.self_attn.q_proj: train='all' .* 21 packed linears"):
        distil(packed_model(model), model, tmp_path)
    with pytest.raises(MethodError, match="without packed linears"):
        distil(shaken(model), model, tmp_path, replace(QUICK, train="packed"))
    with pytest.raises(MethodError, match="hidden states of 2 layers, 32 wide, against 3 of 32"):
        distil(tiny_model(num_hidden_layers=2), model, tmp_path, replace(QUICK, hidden_weight=1.0))
    with pytest.raises(MethodError, match=r"top_k=96\. Allowed: 1 to 95"):
        distil(shaken(model), model, tmp_path, replace(QUICK, top_k=96))
    with pytest.raises(CalibrationError, match=r"at least 2 sequences \(1 is held out\); got 1\. Raise --samples"):
        distillation.train(shaken(model), model, TOKENS_ST[:1], QUICK, tmp_path, Silent())
    tokenizer, other = tiny_tokenizer(), tiny_tokenizer()
    teacher.check_tokenizers(tokenizer, other)
    other.add_tokens(["new"])
    with pytest.raises(MethodError, match="another vocabulary: 1 token differs, such as 'new'"):
        teacher.check_tokenizers(tokenizer, other)


def test_weights_that_are_not_finite_stop_at_the_first_step(tmp_path):
    model = tiny_model()
    student = shaken(model)
    student.model.norm.weight.data[0] = torch.inf
    with pytest.raises(MethodError, match="the loss is nan at step 1 of 12"):
        distil(student, model, tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"loss": "mse"}, {"train": "some"}, {"temperature": 0.0}, {"ce_weight": 1.5}, {"hidden_weight": -1.0},
              {"lora_rank": 0}, {"lora_alpha": 0.0}, {"top_k": -1}, {"top_k": 4, "hidden_weight": 1.0}]
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(MethodError, match=next(iter(wrong))):
        Config(**wrong)
