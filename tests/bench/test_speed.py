"""speed.json: written and read back; what is damaged is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.bench import speed
from compress.errors import FormatError


def figures(decode: float) -> speed.Figures:
    return speed.Figures(
        prefill_tokens_per_s=100.0, decode_tokens_per_s=decode, load_seconds=1.5, resident_bytes=1 << 30
    )


@pytest.fixture
def measured() -> speed.Speed:
    return speed.Speed(
        machine="a processor", threads=2, prompt_tokens=64, new_tokens=16, rounds=3,
        compressed={"bfloat16": figures(30.0), "float32": figures(25.0)},
        dense={"float32": figures(5.0), "bfloat16": figures(10.0)}, versions={"torch": "2"},
    )  # fmt: skip


def test_what_is_written_is_read(measured: speed.Speed, tmp_path: Path) -> None:
    assert speed.read(tmp_path) is None
    path = measured.write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["speed.json"] == [path.name]
    assert speed.read(tmp_path) == measured


def test_the_fastest_is_compared(measured: speed.Speed) -> None:
    assert measured.fastest() == ("bfloat16", figures(30.0))
    assert measured.times_faster("bfloat16") == pytest.approx(3.0)
    assert measured.times_faster("float32", "float32") == pytest.approx(5.0)
    assert measured.times_faster("float16") is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"compressed": {}},
        {"compressed": {"bfloat16": {"decode_tokens_per_s": 3}}},
        {"dense": {"bfloat16": {"prefill_tokens_per_s": 0, "decode_tokens_per_s": 1, "load_seconds": 1,
                                "resident_bytes": 1}}},
        {"threads": "many"},
        {"dense": []},
    ],
)  # fmt: skip
def test_another_content_is_refused(measured: speed.Speed, tmp_path: Path, change: dict[str, object]) -> None:
    path = measured.write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FormatError, match="compress bench"):
        speed.read(tmp_path)


def test_a_cut_file_is_refused(measured: speed.Speed, tmp_path: Path) -> None:
    path = measured.write(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FormatError, match="damaged"):
        speed.read(tmp_path)
