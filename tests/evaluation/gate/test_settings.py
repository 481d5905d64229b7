"""compress.toml: what it may say, and that what it may not say is an error with a suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import EvaluationError
from compress.evaluation.gate.settings import GateJob, GateSettings, points

WHOLE = """
[gate]
dense = "models/dense"
candidate = "org/packed"
suite = "kick"
data_dir = "data"
tier = "pr"
batch_size = 8
output = "gate"
inconclusive_ok = true
report_only = ["instruction"]
confidence = 0.9
max_empty = 3
max_kl = 0.05

[gate.margin]
default = 5
factoid = 2.5

[gate.floor]
factoid = 40
"""


def read(tmp_path: Path, text: str) -> GateJob:
    file = tmp_path / "compress.toml"
    file.write_text(text, encoding="utf-8")
    return GateJob.from_toml(file)


def test_every_key(tmp_path: Path) -> None:
    (tmp_path / "models/dense").mkdir(parents=True)
    job = read(tmp_path, WHOLE)
    assert job.dense == str(tmp_path / "models/dense")
    assert (job.candidate, job.suite, job.data_dir, job.tier) == ("org/packed", "kick", "data", "pr")
    assert (job.batch_size, job.output, job.inconclusive_ok) == (8, str(tmp_path / "gate"), True)
    assert job.settings == GateSettings(
        margin={"default": 5, "factoid": 2.5}, floor={"factoid": 40}, report_only=("instruction",),
        confidence=0.9, max_empty=3, max_kl=0.05,
    )  # fmt: skip
    assert job.settings.margin_of("factoid", 10_000) == 0.025
    assert job.settings.margin_of("retrieval", 10_000) == 0.05


def test_one_margin_for_all(tmp_path: Path) -> None:
    assert read(tmp_path, "[gate]\nmargin = 3").settings.margin == {"default": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gates]\n", "did you mean 'gate'"),
        ("", r"no table \[gate\]"),
        ("[gate\n", "not valid TOML"),
        ("gate = 3", "is 3"),
        ("[gate]\nmargins = 3", "did you mean 'margin'"),
        ("[gate]\nlimit = true", "limit = True"),
        ("[gate]\nlimit = 'ten'", "limit = 'ten'"),
        ("[gate]\ninconclusive_ok = 1", "inconclusive_ok = 1"),
        ("[gate]\nmargin = true", "margin of default: True"),
        ("[gate]\nfloor = 3", "floor = 3"),
        ("[gate.margin]\nfactoid = 'two'", "margin of factoid"),
        ("[gate.margin]\nfactoid = nan", "margin of factoid"),
        ("[gate.floor]\nfactoid = 101", "floor of factoid"),
        ("[gate]\nreport_only = 'factoid'", "report_only"),
        ("[gate]\nconfidence = 1.5", "confidence: 1.5"),
        ("[gate]\nmax_kl = 0", "max_kl"),
        ("[gate]\nmax_empty = -1", "max_empty"),
    ],
)
def test_what_it_may_not_say(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no file"):
        GateJob.from_toml(tmp_path / "compress.toml")


def test_flags_with_points() -> None:
    assert points(["3", "factoid=2", " retrieval = 1.5"], "margin") == {"default": 3, "factoid": 2, "retrieval": 1.5}
    with pytest.raises(EvaluationError, match="FAMILY=POINTS"):
        points(["factoid=two"], "margin")
