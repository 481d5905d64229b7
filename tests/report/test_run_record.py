"""run.json: the day and the machine of a run, and its settings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from compress.errors import FormatError
from compress.recipe import Recipe, StageSpec
from compress.report import run_record

RECIPE = Recipe(model="path/to/model", limit=7, skip=("*.down_proj",), stages=(StageSpec(method="rtn"),))


def test_it_tells_day_machine_and_settings(tmp_path: Path) -> None:
    assert run_record.read(tmp_path) is None
    run_record.update(tmp_path, RECIPE, seconds=12.34)
    record = run_record.read(tmp_path)
    assert record is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["finished"])
    assert record["seconds"] == 12.3
    assert record["machine"]["cores"] >= 1 and record["machine"]["memory_bytes"] > 1 << 28
    assert record["machine"]["processor"]
    assert record["settings"] == {"model": "path/to/model", "limit": 7, "skip": ["*.down_proj"]}


def test_a_run_that_is_asked_for_again_keeps_its_date(tmp_path: Path) -> None:
    (tmp_path / "compress.json").write_text("{}", encoding="utf-8")
    run_record.update(tmp_path, RECIPE, seconds=100)
    run_record.update(tmp_path, RECIPE, seconds=1)
    assert (run_record.read(tmp_path) or {})["seconds"] == 100
    (tmp_path / "eval.json").write_text("{}", encoding="utf-8")
    run_record.update(tmp_path, RECIPE, seconds=1)
    assert (run_record.read(tmp_path) or {})["seconds"] == 1, "it was evaluated now"


@pytest.mark.parametrize(
    ("change", "told"), [({"schema_version": 2}, "schema version 2"), ({"seconds": "long"}, "seconds")]
)
def test_a_damaged_record_is_an_error(tmp_path: Path, change: dict[str, object], told: str) -> None:
    run_record.update(tmp_path, RECIPE, seconds=1)
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) | change
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(FormatError, match=told):
        run_record.read(tmp_path)
