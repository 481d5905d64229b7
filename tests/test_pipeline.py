"""The pipeline on tiny models: shipped is what was evaluated, a killed run goes on, mistakes cost nothing."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import compress
from compress.errors import CompressError
from compress.format import merge
from compress.format.reader import open_checkpoint
from compress.methods import spqr
from compress.models.blocks import BlockWalker
from tests.support import proofs
from tests.support.digests import digests
from tests.support.entries import put_decoded
from tests.support.killing import KilledError, killed_before_record
from tests.support.models import TINY, save_tiny, tiny_model, tiny_tokens

pytestmark = pytest.mark.usefixtures("proof_in_this_process")  # except those of the command line
DATA = {"samples": 6, "seq_len": 24, "suite": "none"}


def dense_with_unpacked(kind: str, folder: Path) -> torch.nn.Module:
    """The dense tiny model with every packed weight replaced by what `unpack` says it means."""
    return put_decoded(tiny_model(kind), folder)


@pytest.mark.parametrize("kind", sorted(TINY))
def test_packed_model_computes_what_unpack_means(kind, tmp_path, token_file):
    source = save_tiny(tmp_path / "model", kind)
    result = compress.run(source, "spqr", output=tmp_path / "out", calibration=token_file, group_size=8, **DATA)
    tokens = tiny_tokens(3, 20, seed=5)
    with torch.inference_mode():
        packed = compress.load(result.checkpoint)(tokens).logits
        expected = dense_with_unpacked(kind, result.checkpoint)(tokens).logits
        dense = tiny_model(kind)(tokens).logits
    assert (packed - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (packed - dense).abs().max() > 1e-3 * dense.abs().max(), "nothing was compressed"
    coverage = result.manifest["coverage"]
    routers = coverage["left_dense"].get("router", 0)  # the only matrices of a block that stay dense
    assert ("moe" in kind or kind == "mixtral") == (routers > 0)
    entries = result.manifest["tensors"].values()
    packed_weights = sum(math.prod(entry["shape"]) for entry in entries if "role" not in entry)
    ends = sum(math.prod(entry["shape"]) for entry in entries if "role" in entry)
    assert sum(coverage["packed_outside_blocks"].values()) == ends > 0
    assert coverage["share_of_model"] == pytest.approx((packed_weights + ends) / coverage["total_parameters"], abs=1e-6)
    assert coverage["compressed_parameters"] == packed_weights
    assert coverage["share_of_linears"] == pytest.approx(packed_weights / coverage["linear_parameters"], abs=1e-6)
    assert 0 <= coverage["linear_parameters"] - packed_weights <= routers
    assert routers or coverage["share_of_linears"] == 1.0
    assert not (result.checkpoint / ".work").exists()


def test_manifest_counts_the_bytes_that_were_written(tmp_path, token_file):
    result = compress.run(
        save_tiny(tmp_path / "model"), "spqr", output=tmp_path / "out", calibration=token_file, group_size=8, **DATA
    )
    stored = {}
    for shard in sorted(result.checkpoint.glob("*.safetensors")):
        stored |= load_file(shard)
    for name, entry in result.manifest["tensors"].items():
        planes = [
            tensor for key, tensor in stored.items() if key.rpartition(".")[0] == name and not key.endswith(".bias")
        ]
        assert sum(plane.numel() * plane.element_size() for plane in planes) == entry["size_bytes"]
        assert entry["tokens"] == (None if "role" in entry else 6 * 24) and 0 < entry["relative_error"] < 0.2


def test_same_bytes_twice_and_a_finished_run_is_not_repeated(tmp_path, token_file):
    source = save_tiny(tmp_path / "model")
    one = compress.run(source, "spqr", output=tmp_path / "one", calibration=token_file, group_size=8, **DATA).checkpoint
    two = compress.run(source, "spqr", output=tmp_path / "two", calibration=token_file, group_size=8, **DATA).checkpoint
    assert digests(one) == digests(two)
    times = {path: path.stat().st_mtime_ns for path in one.glob("*.safetensors")}
    compress.run(source, "spqr", output=one, calibration=token_file, group_size=8, **DATA)
    assert {path: path.stat().st_mtime_ns for path in one.glob("*.safetensors")} == times


@pytest.mark.parametrize("step", range(4))
def test_goes_on_at_the_block_where_it_stopped(step, tmp_path, token_file, monkeypatch):
    """Stopped right before the record of each step: shard and hidden states are there, the step is done again."""
    source = save_tiny(tmp_path / "model")
    whole = compress.run(
        source, "spqr", output=tmp_path / "whole", calibration=token_file, group_size=8, **DATA
    ).checkpoint
    with killed_before_record(step):
        compress.run(source, "spqr", output=tmp_path / "out", calibration=token_file, group_size=8, **DATA)
    solved = []
    solve = spqr.solve
    monkeypatch.setattr(spqr, "solve", lambda *args: solved.append(1) or solve(*args))
    resumed = compress.run(
        source, "spqr", output=tmp_path / "out", calibration=token_file, group_size=8, **DATA
    ).checkpoint
    assert digests(resumed) == digests(whole)
    assert len(solved) == 1 + 7 * (3 - max(step - 1, 0)), "one sample for the plan, then the unfinished blocks alone"


def test_killed_while_the_shards_are_joined(tmp_path, monkeypatch):
    source = save_tiny(tmp_path / "model")
    whole = compress.run(source, "rtn", output=tmp_path / "whole", max_shard_size="14kB", **DATA).checkpoint
    files = [path.name for path in sorted(whole.glob("model-*"))]
    assert 1 < len(files) < 4 and files[-1] == f"model-0000{len(files)}-of-0000{len(files)}.safetensors"
    assert [shard["file"] for shard in open_checkpoint(whole).manifest["shards"]] == files
    write = merge._write

    def killed(folder, file, group):
        if file != files[0]:
            raise KilledError
        return write(folder, file, group)

    monkeypatch.setattr(merge, "_write", killed)
    with pytest.raises(KilledError):
        compress.run(source, "rtn", output=tmp_path / "out", max_shard_size="14kB", **DATA)
    assert (tmp_path / "out" / "model-00001-of-00004.safetensors").is_file()
    monkeypatch.undo()
    proofs.in_this_process(monkeypatch)
    resumed = compress.run(source, "rtn", output=tmp_path / "out", max_shard_size="14kB", **DATA).checkpoint
    assert digests(resumed) == digests(whole)


def test_a_shard_that_changed_meanwhile_is_noticed(tmp_path, token_file, monkeypatch):
    source = save_tiny(tmp_path / "model")

    def stop(*args):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(BlockWalker, "logits", stop)
        with pytest.raises(KilledError):
            compress.run(source, "rtn", output=tmp_path / "out", **DATA)
    shard = tmp_path / "out" / "model-00002-of-00004.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(CompressError, match="is not the shard that was written"):
        compress.run(source, "rtn", output=tmp_path / "out", **DATA)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, token_file):
    """The command line of a run without its folder, the folder that it makes, and how many seconds that takes."""
    home = tmp_path_factory.mktemp("uninterrupted")
    source = save_tiny(home / "model")
    command = [sys.executable, "-m", "compress", "run", "--model", str(source), "--group-size", "8", "--no-eval"]
    command += ["--calibration", token_file, "--samples", "6", "--seq-len", "24", "-o"]
    start = time.monotonic()
    subprocess.run([*command, str(home / "whole")], check=True, capture_output=True)
    return command, home / "whole", time.monotonic() - start


# where a run may stop is tested file by file above; this is the signal
@pytest.mark.parametrize(
    "share", [pytest.param(0.4, marks=pytest.mark.slow), 0.6, pytest.param(0.8, marks=pytest.mark.slow)]
)
def test_kill_9_and_resume_gives_the_same_bytes(share, uninterrupted, tmp_path):
    command, whole, seconds = uninterrupted
    process = subprocess.Popen([*command, str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(share * seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    assert digests(tmp_path / "out") == digests(whole)


def _nan_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


MISTAKES = {
    "unknown method": ({"method": "sqpr"}, None, "unknown method 'sqpr'; did you mean 'spqr'"),
    "unknown suite": ({"suite": "kick-atlsa"}, None, "did you mean 'kick-atlas'"),
    "unknown option": ({"bitz": 3}, None, "'bitz'; did you mean 'bits'"),
    "group size": ({"group_size": 12}, None, r"q_proj: group_size=12 does not divide in_features=32.*8, 16, 32"),
    "too little text": ({"samples": 10_000}, None, "tokens"),
    "context": ({"seq_len": 4096}, None, "up to 64"),
    "no such glob": ({"skip": ("*.nothing",)}, None, "matches no linear"),
    "coverage": ({"skip": ("*.mlp.*",)}, None, "--min-coverage"),
    "memory": ({"max_memory": "10MB"}, None, "--max-memory"),
    "nan": ({}, _nan_weight, r"model\.layers\.1\.mlp\.up_proj"),
    "truncated": ({}, _truncate, "model.safetensors"),
}


@pytest.mark.parametrize("case", MISTAKES, ids=str)
def test_mistakes_are_named_and_nothing_is_taken_for_complete(case, tmp_path, token_file):
    options, damage, message = MISTAKES[case]
    source = save_tiny(tmp_path / "model")
    if damage:
        damage(source)
    arguments = {"method": "spqr", "group_size": 8, "calibration": token_file, **DATA} | options
    with pytest.raises(CompressError, match=message) as error:
        compress.run(source, output=tmp_path / "out", **arguments)
    assert error.value.exit_code == 2
    assert not (tmp_path / "out" / "compress.json").exists()


def test_a_failed_proof_takes_the_manifest_away(tmp_path, token_file, monkeypatch):
    source = save_tiny(tmp_path / "model")
    logits = BlockWalker.logits
    monkeypatch.setattr(BlockWalker, "logits", lambda *args: logits(*args) + 1)
    with pytest.raises(CompressError, match="does not reproduce its reference logits"):
        compress.run(source, "rtn", output=tmp_path / "out", **DATA)
    assert not (tmp_path / "out" / "compress.json").exists()
    monkeypatch.undo()
    assert compress.run(source, "rtn", output=tmp_path / "out", **DATA).manifest["format_version"] == 2


def test_skipped_linears_stay_dense(tmp_path, token_file):
    source = save_tiny(tmp_path / "model", "mixtral")
    skip = ("*.o_proj", "model.layers.1.mlp.experts.*")
    result = compress.run(
        source,
        "spqr",
        output=tmp_path / "out",
        calibration=token_file,
        group_size=8,
        skip=skip,
        min_coverage=0.3,
        **DATA,
    )
    assert not any("o_proj" in name or ".1.mlp" in name for name in result.manifest["tensors"])
    assert len(result.manifest["coverage"]["skipped"]) == 2 + 8
    tokens = tiny_tokens(2, 16)
    with torch.inference_mode():
        expected = dense_with_unpacked("mixtral", result.checkpoint)(tokens).logits
        packed = compress.load(result.checkpoint)(tokens).logits
    assert (packed - expected).abs().max() <= 1e-5 * expected.abs().max()
    with pytest.raises(CompressError, match="some of its experts"):
        compress.run(
            source, output=tmp_path / "x", calibration=token_file, group_size=8, skip="*.q_down_proj.1", **DATA
        )


def test_experts_report_their_tokens(tmp_path, token_file):
    source = save_tiny(tmp_path / "model", "qwen3-moe")
    manifest = compress.run(source, output=tmp_path / "out", calibration=token_file, group_size=8, **DATA).manifest
    experts = [
        entry["tokens"] for name, entry in manifest["tensors"].items() if ".0.mlp.experts.q_gate_up_proj" in name
    ]
    assert len(experts) == 4 and sum(experts) == 2 * 6 * 24


def test_options_are_written_out_and_defaults_are_the_same_recipe(tmp_path, token_file):
    source = save_tiny(tmp_path / "model")
    options = {"calibration": token_file, "group_size": 8, "threshold": float("inf"), **DATA}
    result = compress.run(source, "spqr", output=tmp_path / "out", **options)
    stage = result.manifest["recipe"]["stages"][0]
    assert stage["options"]["bits"] == 3 and stage["options"]["threshold"] == "inf"
    assert compress.run(source, "spqr", output=tmp_path / "out", bits=3, **options).manifest == result.manifest


def test_what_is_left_out_of_the_source_is_said(tmp_path, token_file):
    source = save_tiny(tmp_path / "model")
    tensors = load_file(source / "model.safetensors") | {"mtp.0.weight": torch.ones(2, 2)}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    manifest = compress.run(source, "rtn", output=tmp_path / "out", **DATA).manifest
    assert any("mtp.0.weight" in warning for warning in manifest["warnings"])


def test_plan_writes_nothing(tmp_path, token_file):
    source = save_tiny(tmp_path / "model")
    recipe = compress.Recipe.from_options(str(source), "spqr", {"calibration": token_file, "group_size": 8, **DATA})
    plan = compress.pipeline.plan(recipe)
    assert plan.blocks == 3 and plan.linears == 21 and 3.5 < plan.bits_per_weight < 9
    assert plan.peak_memory_bytes > 0 and plan.output_bytes > 0
    json.dumps(dataclasses.asdict(plan))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
