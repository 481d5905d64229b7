"""End-to-end tuning in a run: what is shipped is what was fitted, and a run killed anywhere ends the same."""

from pathlib import Path

import pytest
import torch

import compress
from compress.format import files
from compress.json_files import read_object
from compress.runtime import load
from compress.stages.pack import full_tuning, shards
from compress.stages.pack import run as pack_run
from compress.stages.workspace import Workspace
from compress.tuning import sequences, settings
from tests.support.digests import digests
from tests.support.killing import KilledError
from tests.support.models import save_tiny, save_tokens, tiny_model, tiny_tokens

SETTINGS = settings.FullSettings(epochs=2, rate=0.01, batch=4, micro_batch=4, evaluate_every=2, checkpoint_every=2)
SAMPLES, LENGTH = 16, 16
OPTIONS = dict(bits=2, group_size=8, symmetric=False)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch, proof_in_this_process):
    """Every run fits for a few steps, and proves its load without another interpreter."""
    for module in (settings, pack_run):  # imported at the start, and looked up later
        monkeypatch.setattr(module, "FullSettings", lambda: SETTINGS)


def compressed(tmp_path: Path, name: str, kind: str = "llama", method: str = "rtn", **options) -> Path:
    source, tokens = tmp_path / kind, tmp_path / "tokens.safetensors"
    if not source.is_dir():
        save_tiny(source, kind, dtype=torch.bfloat16)
        save_tokens(tmp_path, tiny_tokens(SAMPLES, LENGTH))
    data = dict(samples=SAMPLES, seq_len=LENGTH, calibration=str(tokens), suite="none", tune="full")
    compress.run(source, method, output=tmp_path / name, **data, **(options or OPTIONS))
    return tmp_path / name


@pytest.mark.parametrize(
    "kind,method,options",
    [
        ("llama-tied", "rtn", OPTIONS),
        ("gpt2", "gptq", dict(bits=2, group_size=16)),
        ("qwen2-moe", "rtn", dict(bits=2, group_size=8)),
        ("mixtral", "rtn", OPTIONS),
        ("opt", "aqlm", dict(codebooks=1, code_bits=4, group_size=4)),
    ],
)
def test_what_is_shipped_is_what_was_fitted(tmp_path, kind, method, options):
    folder = compressed(tmp_path, "out", kind, method, **options)
    tuning = read_object(folder / "compress.json")["tuning"]
    report = tuning["did"].pop("model")
    assert report["after"] < report["before"] and report["steps"] == 8 and not report["diverged"]
    assert tuning["did"] and tuning["settings"].keys() == {"block", "full"}
    teacher, student = tiny_model(kind, dtype=torch.bfloat16).float(), load(folder, dtype=torch.float32)
    held_S = sequences.split_held_out(SAMPLES, SETTINGS.held_out, SETTINGS.seed)[1]
    with torch.no_grad():
        tokens_ST = calibration(tmp_path)[held_S]
        wanted, found = (m(input_ids=tokens_ST).logits.log_softmax(-1) for m in (teacher, student))
    assert float((wanted.exp() * (wanted - found)).sum(-1).mean()) == pytest.approx(report["after"], rel=1e-3)
    assert not (folder / ".work").exists()


def calibration(tmp_path: Path) -> torch.Tensor:
    from compress.calibration.data import load_tokens
    from compress.recipe import CalibrationSpec

    # a token file needs no tokenizer
    spec = CalibrationSpec(source=str(tmp_path / "tokens.safetensors"), samples=SAMPLES, seq_len=LENGTH)
    return load_tokens(spec, None)


def whole_run(tmp_path: Path) -> dict[str, str]:
    """Returns what a run that nobody stops ships, which is not what it would without fitting end to end."""
    folder = compressed(tmp_path, "whole")
    report = read_object(folder / "compress.json")["tuning"]["did"]["model"]
    assert report["after"] < report["before"]
    return digests(folder, "*.safetensors")


@pytest.mark.parametrize(
    "where", ["full-tuning.safetensors", "tuned-002.safetensors", "tuned-logits.safetensors", "tuned.json"]
)
def test_killed_after_any_file_of_its_own(tmp_path, where, monkeypatch):
    whole = whole_run(tmp_path)
    write = files.write_whole

    def writes_and_dies(path, chunks):
        result = write(path, chunks)
        if path.name == where:
            raise KilledError
        return result

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_whole", writes_and_dies)
        with pytest.raises(KilledError):
            compressed(tmp_path, "out")
    assert digests(compressed(tmp_path, "out"), "*.safetensors") == whole


@pytest.mark.parametrize("moves", [1, 3])
@pytest.mark.parametrize("before_record", [True, False])
def test_killed_while_the_shards_are_replaced(tmp_path, moves, before_record, monkeypatch):
    whole = whole_run(tmp_path)
    left = [moves]

    def dies(original):
        def wrapped(*args):
            result = original(*args)
            left[0] -= 1
            if left[0] == 0:
                raise KilledError
            return result

        return wrapped

    with monkeypatch.context() as patched:
        if before_record:
            patched.setattr(files, "move", dies(files.move))
        else:
            left[0] += 4  # the records of packing come first: the model's and three blocks'
            patched.setattr(Workspace, "finish_block", dies(Workspace.finish_block))
        with pytest.raises(KilledError):
            compressed(tmp_path, "out")
    assert digests(compressed(tmp_path, "out"), "*.safetensors") == whole


def test_a_second_call_fits_nothing(tmp_path, monkeypatch):
    from compress.stages import finish

    calls, fit = [], full_tuning._fit
    monkeypatch.setattr(full_tuning, "_fit", lambda *args: (calls.append(1), fit(*args)))

    def dies(*args):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(finish, "write_reference", dies)
        with pytest.raises(KilledError):
            compressed(tmp_path, "out")
    records = [read_object(path) for path in sorted((tmp_path / "out" / ".work").glob("block-*.json"))]
    assert all(shards.ShardRecord.from_dict(record["shard"]).matches(tmp_path / "out") for record in records)
    compressed(tmp_path, "out")
    assert calls == [1]
