"""An evaluation computes on the device that it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress import devices
from compress.evaluation import evaluate
from tests.support import tiny_suite
from tests.support.fake_device import fake_device


def test_an_evaluation_on_a_device_gives_what_it_gives_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: int(kind == "cuda"))
    tiny_suite.model().save_pretrained(tmp_path / "model")
    tiny_suite.tokenizer().save_pretrained(tmp_path / "model")
    here = evaluate(tmp_path / "model", suite=tiny_suite.suite(), device="cpu")
    with fake_device():
        there = evaluate(tmp_path / "model", suite=tiny_suite.suite(), device="cuda")
    assert there.settings["device"] == "cuda" and here.settings["device"] == "cpu"
    assert there.text.perplexity == pytest.approx(here.text.perplexity, rel=1e-5)
    assert {name: family.score for name, family in there.families.items()} == pytest.approx(
        {name: family.score for name, family in here.families.items()}, rel=1e-5
    )
