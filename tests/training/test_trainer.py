"""The training loop: exact resume, ranks that make the same steps, a stop where numbers are not finite."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compress.errors import CalibrationError, MethodError, OutputError
from compress.training import trainer
from compress.training.schedule import Schedule
from compress.tuning import sequences
from tests.support.killing import KilledError, KillsAfter
from tests.support.ranks import TRAININGS, numbers
from tests.support.toy import PLAN, SEQUENCES, Toy, learn


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("steps", [0, 3, 4, 9, 10])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, steps, keep):
    """Killed before the first checkpoint, at one, between two and right before the end."""
    plan = replace(PLAN, keep=keep)
    (tmp_path / "whole").mkdir()
    whole, outcome = learn(tmp_path / "whole", plan)
    with pytest.raises(KilledError):
        learn(tmp_path, plan, progress=KillsAfter(steps))
    assert (tmp_path / "training.safetensors").is_file() == (steps >= 3)
    resumed, again = learn(tmp_path, plan)
    assert same(whole.found(), resumed.found())
    assert (tmp_path / "training.safetensors").read_bytes() == (tmp_path / "whole/training.safetensors").read_bytes()
    assert (again.before, again.after, again.losses) == (outcome.before, outcome.after, outcome.losses)


def test_a_finished_run_is_not_run_again(tmp_path):
    first, outcome = learn(tmp_path)
    second, again = learn(tmp_path)
    assert same(first.found(), second.found()) and again.losses == outcome.losses and not second.rates


def test_it_learns_and_keeps_the_best(tmp_path):
    task, outcome = learn(tmp_path, replace(PLAN, steps=200))
    assert outcome.after < 0.2 * outcome.before and outcome.steps == 200 == len(outcome.losses)
    held_S = sequences.split_held_out(SEQUENCES, PLAN.held_out, PLAN.training_seed)[1]
    assert float(task.held_out_loss(held_S).detach()) / len(held_S) == pytest.approx(outcome.after, rel=1e-6)


def test_steps_that_harm_are_taken_back_unless_the_last_state_is_wanted(tmp_path):
    wild = replace(PLAN, rate=50.0, warmup=0.0, weight_decay=0.0, steps=6)
    for keep, kept in (("best", True), ("last", False)):
        folder = tmp_path / keep
        folder.mkdir()
        task, outcome = learn(folder, replace(wild, keep=keep))
        assert torch.equal(task.first, Toy().first) == kept
        assert (outcome.after == outcome.before) == kept and outcome.best_step == (0 if kept else 6)


@pytest.mark.parametrize("bad_at", [0, 6])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_state_before(tmp_path, bad_at):
    with pytest.raises(MethodError, match=rf"the loss is inf at step {bad_at + 1} of 11\..*Lower --rate") as error:
        learn(tmp_path, task=Toy(bad_at=bad_at))
    path = tmp_path / "training.safetensors"
    assert str(path) in str(error.value)
    (tmp_path / "short").mkdir()
    with pytest.raises(KilledError):
        learn(tmp_path / "short", task=(good := Toy()), progress=KillsAfter(bad_at - 1))
    kept = load_file(path)
    assert int(kept["step"]) == bad_at and all(bool(tensor.isfinite().all()) for tensor in kept.values())
    if bad_at:
        assert torch.equal(kept["weight:first.weight"], good.first)


def test_another_run_does_not_go_on_from_it(tmp_path):
    learn(tmp_path)
    with pytest.raises(OutputError, match="another model, other data or other settings"):
        learn(tmp_path, replace(PLAN, rate=0.01))
    (tmp_path / "training.safetensors").write_bytes(b"torn")
    with pytest.raises(OutputError, match="is damaged"):
        learn(tmp_path)


def test_the_note_says_loss_speed_and_time_left(tmp_path):
    watched = KillsAfter(PLAN.steps)
    learn(tmp_path, progress=watched)
    assert len(watched.notes) == PLAN.steps + 1
    assert all(word in watched.notes[-2] for word in ("loss ", "held-out ", "tokens/s", " s left"))


def launch(module: str, folder: Path) -> None:
    """Runs a module of the tests on two CPU processes, as `accelerate launch` starts them."""
    root = Path(__file__).parents[2]
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    run = [sys.executable, "-m", "accelerate.commands.launch", *options.split(), "--main_process_port", "0"]
    run += ["-m", module, str(folder)]
    done = subprocess.run(run, cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_make_the_steps_of_one(tmp_path):
    """The batch of five divides unevenly, and the last piece of a rank may leave a parameter out."""
    launch("tests.support.toy", tmp_path)
    ranks = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2)]
    assert same(*ranks)
    (tmp_path / "one").mkdir()
    toy, outcome = learn(tmp_path / "one")
    one = toy.found() | {
        "losses": torch.tensor(outcome.losses), "held": torch.tensor([outcome.before, outcome.after])
    }  # fmt: skip
    for name, value in one.items():
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-5, atol=1e-6)


def test_two_processes_train_models_as_one_does(tmp_path):
    launch("tests.support.ranks", tmp_path)
    for name, training in TRAININGS.items():
        ranks = [load_file(tmp_path / name / f"rank{rank}.safetensors") for rank in range(2)]
        assert same(*ranks), name
        (tmp_path / name / "one").mkdir()
        for tensor, value in numbers(training(tmp_path / name / "one")).items():
            # where a gradient is nothing but rounding, AdamW makes a step of its sign
            torch.testing.assert_close(ranks[0][tensor], value, rtol=1e-5, atol=1e-5, msg=f"{name}: {tensor}")


def test_one_sequence_is_too_few(tmp_path):
    with pytest.raises(CalibrationError, match=r"at least 2 sequences \(1 is held out\); got 1"):
        trainer.train(Toy(), 1, PLAN, tmp_path, [], KillsAfter(0))


def test_the_rate_rises_and_falls():
    plan = Schedule(steps=100, rate=2.0, warmup=0.1)
    rates = [plan.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == 2.0 == max(rates)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] == pytest.approx(0, abs=0.01)
    assert rates[55] == pytest.approx(1.0)


def test_every_epoch_takes_every_sequence_once_in_another_order():
    plan = Schedule(steps=1, rate=1.0, batch=4)
    sequences_S = torch.arange(10, 16)
    drawn = torch.cat([plan.batch_at(step, sequences_S) for step in range(3)]).tolist()
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == sequences_S.tolist() and drawn[:6] != drawn[6:]


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"rate": math.nan}, {"batch": 0}, {"warmup": 1.5}, {"clip": 0.0}, {"held_out": 1.0},
              {"weight_decay": -1.0}, {"checkpoint_every": 0}]
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(MethodError, match=next(iter(wrong))):
        Schedule(**({"steps": 1, "rate": 1.0} | wrong))
