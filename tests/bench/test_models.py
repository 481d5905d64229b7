"""`compress bench FOLDER`: models in processes of their own, dense and compressed in the same rounds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from compress.bench import checkpoint, models, speed
from compress.cli import invoke
from compress.errors import CompressError
from compress.format.manifest import fingerprint
from tests.support import packed_checkpoints


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and the dense model that it means."""
    home = tmp_path_factory.mktemp("models")
    model = packed_checkpoints.tiny("llama-tied")
    packed = packed_checkpoints.pack_in_place(model, packed_checkpoints.rtn4, "nothing")
    packed_checkpoints.write(home / "packed", model, packed)
    model.save_pretrained(home / "dense")
    return home / "packed", home / "dense"


def test_the_command_measures_both_and_writes_speed_json(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, dense = folders
    args = ["bench", str(packed), "--dense", str(dense), "--dtype", "float32", "--threads", "1", "--rounds", "2"]
    args += ["--device", "cpu"]
    args += ["--prompt-tokens", "8", "--new-tokens", "4", "--json", str(tmp_path / "s.json")]
    assert invoke(args) == 0
    shown = capsys.readouterr()
    assert "decode tokens/s" in shown.out and "× dense float32" in shown.out and "round 2/2" in shown.err
    found = speed.read(packed)
    assert found is not None and json.loads((tmp_path / "s.json").read_text()) == found.to_dict()
    assert found.fingerprint == fingerprint(packed)
    assert (found.threads, found.prompt_tokens, found.new_tokens, found.rounds) == (1, 8, 4, 2)
    for figures in (found.compressed["float32"], found.dense["float32"]):
        values = dataclasses.asdict(figures)
        assert values.pop("device_bytes") is None, "the CPU has no memory of its own"
        assert min(values.values()) > 0 and values["peak_bytes"] >= values["resident_bytes"] > 1 << 26


def test_figures_are_medians_of_rates() -> None:
    settings = models.Settings(prompt_tokens=10, new_tokens=5, threads=1)
    loaded = {"load_seconds": 1.0, "resident_bytes": 2, "peak_bytes": 3, "device_bytes": 4}
    entrant = models.Entrant("x", Path(), "float32", loaded, [0.5, 0.1, 9.0], [2.0, 8.0, 1.0])
    found = entrant.figures(settings)
    assert (found.prefill_tokens_per_s, found.decode_tokens_per_s) == (20.0, 2.0)
    assert (found.resident_bytes, found.peak_bytes, found.device_bytes) == (2, 3, 4)


def test_a_model_that_cannot_be_loaded_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = models.Settings(threads=1)
    with pytest.raises(CompressError, match=r"cannot load the model in [\s\S]*model_type"):
        models.measure([models.Entrant("x", tmp_path, "float32")], settings)


def test_without_the_dense_model_the_checkpoint_is_measured_alone(folders: tuple[Path, Path]) -> None:
    told: list[str] = []
    manifest = {"source": {"model": "no/such-model"}}
    assert checkpoint._dense_folder(manifest, None, told.append) is None
    assert "no/such-model" in told[0] and "--dense" in told[0]
    assert checkpoint._dense_folder({"history": [{"source": {"model": "atlas"}}], **manifest}, None, told.append)
    assert checkpoint._dense_folder({}, None, told.append) is None and "does not name it" in told[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["FOLDER", "--dtype", "bf16"], "bfloat16, float32"),
        (["FOLDER", "--plot", "x.png"], "--plot is about kernels"),
        (["FOLDER", "--device", "cuda:99"], "or use --device cpu" if not torch.cuda.is_available() else "cuda:0"),
        (["--dense", "atlas"], "compress bench FOLDER"),
        (["FOLDER", "--dense", "nowhere/at/all"], "there is no folder nowhere/at/all"),
        (["no-folder"], "no-folder"),
    ],
)
def test_a_mistake_is_answered(
    folders: tuple[Path, Path], args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["bench", *(str(folders[0]) if arg == "FOLDER" else arg for arg in args)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("information", [{}, {"source": 3}, {"source": {"model": []}}, {"history": [7]}])
def test_a_manifest_that_does_not_say_its_source_gives_no_dense_model(information):
    assert checkpoint._source_model(information) is None
