"""The device that a command computes on."""

from __future__ import annotations

import pytest
import torch

from compress import devices
from compress.errors import RecipeError
from compress.recipe import Recipe, StageSpec


def having(monkeypatch: pytest.MonkeyPatch, **counts: int) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: counts.get(kind, 0))


@pytest.mark.parametrize(
    ("counts", "chosen"), [({}, "cpu"), ({"mps": 1}, "mps"), ({"xpu": 1, "mps": 1}, "xpu"), ({"cuda": 2}, "cuda")]
)
def test_auto_takes_the_first_accelerator(monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], chosen: str) -> None:
    having(monkeypatch, **counts)
    assert devices.resolve("auto") == torch.device(chosen)


def test_an_accelerator_that_is_not_there_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, mps=1)
    with pytest.raises(RecipeError, match=r"but torch .* Allowed: auto, cpu, mps\. Install .*--device cpu"):
        devices.resolve("cuda")


def test_a_number_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, cuda=2)
    assert devices.resolve("cuda:1") == torch.device("cuda:1")
    with pytest.raises(RecipeError, match=r"device='cuda:2'\. Allowed: cuda:0, cuda:1"):
        devices.resolve("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "", "cpu:0", "tpu"])
def test_a_text_that_names_no_device_is_refused_by_the_recipe(name: str) -> None:
    with pytest.raises(RecipeError, match="Allowed: auto, cpu, cuda, cuda:N, xpu or mps"):
        Recipe(stages=(StageSpec(method="rtn"),), device=name)
