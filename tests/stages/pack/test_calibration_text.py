"""Calibration text from the plan to the manifest: what a run says of it, and that it refuses what the plan does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress import pipeline
from compress.atlas import text as atlas_text
from compress.errors import CompressError
from compress.recipe import Recipe
from compress.report import calibration_text
from tests.support.models import save_tiny, tiny_text

pytestmark = pytest.mark.usefixtures("proof_in_this_process")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def recipe(folder: Path, output: Path, **options: Any) -> Recipe:
    values = {"bits": 4, "group_size": 8, "samples": 4, "seq_len": 16, "suite": "none", "output": str(output)}
    return Recipe.from_options(str(folder), "gptq", values | options)


def test_the_manifest_says_what_auto_came_to(folder: Path, tmp_path: Path) -> None:
    asked = recipe(folder, tmp_path / "out")
    planned = pipeline.plan(asked)
    manifest = pipeline.run(asked).manifest
    assert planned.calibration is not None
    assert manifest["calibration"] == {**planned.calibration, "tokens_sha256": manifest["calibration"]["tokens_sha256"]}
    assert manifest["calibration"]["source"] == "self" and manifest["recipe"]["calibration"]["source"] == "auto"
    assert calibration_text.described(planned.calibration).startswith("self, 4 × 16 tokens, written by")


def test_bundled_text_for_another_model_is_a_warning(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas_text, "calibration_text", lambda: [tiny_text(400)])
    manifest = pipeline.run(recipe(folder, tmp_path / "out", calibration="bundled")).manifest
    assert any("about the world of atlas" in warning for warning in manifest["warnings"])


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([{"text": tiny_text(900)}], {"column": "body"}),
        ([{"messages": [{"role": "user", "content": " "}]}], {}),
        ([{"a": "w4 w5", "b": "w6 w7"}], {}),
        ([{"text": "w4"}], {}),
        ([{"text": tiny_text(900)}], {"seq_len": 65}),
    ],
)
def test_the_run_refuses_what_the_plan_refuses(
    folder: Path, tmp_path: Path, rows: list[Any], options: dict[str, Any]
) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    asked = recipe(folder, tmp_path / "out", calibration=str(path), **options)
    with pytest.raises(CompressError) as planned:
        pipeline.plan(asked)
    with pytest.raises(CompressError) as ran:
        pipeline.run(asked)
    assert str(ran.value) == str(planned.value)
    assert not any((tmp_path / "out").glob("*.safetensors"))
