"""Every stage computes on the device of the run: tensors of another device stop it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import PartialState

import compress
from compress import devices, pipeline
from compress.errors import RecipeError
from compress.format import layouts
from compress.format.reader import open_checkpoint
from compress.methods.protocol import PackMethod
from compress.models.linears import LinearRef
from compress.recipe import Recipe, StageSpec
from compress.stages.pack import solve_linear
from compress.training import trainer
from compress.training.schedule import Schedule
from tests.support.digests import digests
from tests.support.fake_device import DEVICE, fake_device
from tests.support.models import save_tiny

SMALL = {"samples": 4, "seq_len": 16, "suite": "none"}


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch, proof_in_this_process: None) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: int(kind == "cuda"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    return {name: layouts.unpack(checkpoint.packed(name)) for name in checkpoint.manifest["tensors"]}


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize(
    "options",
    [
        {"method": "gptq"},
        {"method": "spqr", "tune": "block"},
        {"method": "rtn", "tune": "full"},
        {"method": "rtn"},
        {"method": "svd_llm", "ratio": 0.3},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_run_on_a_device_gives_what_it_gives_on_the_cpu(
    options: dict[str, str], tmp_path: Path, token_file: str
) -> None:
    model = save_tiny(tmp_path / "model", num_hidden_layers=1)
    given = {**SMALL, **options, "calibration": token_file}
    with fake_device():
        remote = compress.run(model, device="cuda", output=tmp_path / "remote", **given)
    local = compress.run(model, device="cpu", output=tmp_path / "local", **given)
    expected = weights(local.checkpoint)
    for name, value in weights(remote.checkpoint).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-3)  # last bits of float16 may differ


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("method", ["rtn", "easyquant"])
def test_linears_that_need_no_data_are_solved_on_the_device(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_tiny(tmp_path / "model", num_hidden_layers=2)
    solved: list[torch.device] = []
    solve = solve_linear.solve

    def recorded(method: PackMethod, ref: LinearRef, w_NK: torch.Tensor, *others: Any) -> Any:
        solved.append(w_NK.device)
        return solve(method, ref, w_NK, *others)

    monkeypatch.setattr(solve_linear, "solve", recorded)
    with fake_device():
        remote = compress.run(model, method, device="cuda", output=tmp_path / "remote", suite="none")
    assert solved == [DEVICE] * 14
    local = compress.run(model, method, device="cpu", output=tmp_path / "local", suite="none")
    shards = digests(remote.checkpoint, "*.safetensors")
    assert shards and shards == digests(local.checkpoint, "*.safetensors")
    recipe = Recipe.from_options(str(model), method, {"device": "cuda", "workers": 2})
    with fake_device(), pytest.raises(RecipeError, match="Leave --workers out, or use --device cpu"):
        pipeline.plan(recipe)


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("name", ["cuda", "cpu"])
def test_pruning_and_training_stay_on_the_device(
    name: str, tmp_path: Path, token_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, other = (DEVICE, torch.device("cpu")) if name == "cuda" else (torch.device("cpu"), DEVICE)
    monkeypatch.setattr(PartialState, "default_device", property(lambda _: other))  # what accelerate would take
    trained_on: set[torch.device] = set()
    adamw = trainer._adamw

    def recorded(masters: Mapping[str, torch.Tensor], schedule: Schedule) -> Any:
        trained_on.update(master.device for master in masters.values())
        return adamw(masters, schedule)

    monkeypatch.setattr(trainer, "_adamw", recorded)
    stages = (StageSpec(method="llm_pruner", options={"ratio": 0.3}), StageSpec(method="distill", options={"steps": 2}))
    recipe = Recipe(model=str(save_tiny(tmp_path / "model", num_hidden_layers=1)), stages=stages, device=name)
    PartialState._reset_state()
    with fake_device():
        result = compress.run(
            recipe.with_options({**SMALL, "calibration": token_file, "output": str(tmp_path / "trained")})
        )
    PartialState._reset_state()
    assert result.manifest["training"]["steps"] == 2 and trained_on == {chosen}
