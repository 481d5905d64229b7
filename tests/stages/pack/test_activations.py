"""Runs that round inputs: blocks are packed, proved and evaluated with the rounding; what cannot round is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import compress
from compress.errors import CompressError, FormatError
from compress.format import activations
from compress.format.packed import PackedTensor
from compress.format.reader import open_checkpoint
from compress.kernels import reference
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.stages.pack import block_loop
from compress.stages.pack.block import LinearStage
from tests.support.models import save_tiny, save_tokens, tiny_tokens

CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("rtn", {"bits": 8, "activations": "int8"}),
    ("gptq", {"bits": 8, "activations": "int8"}),
    ("rtn", {"grid": "fp8_tensor", "activations": "fp8_static"}),
    ("rtn", {"grid": "nvfp4", "activations": "nvfp4"}),
    ("gptq", {"grid": "nvfp4", "activations": "nvfp4"}),
    ("gptq", {"grid": "nvfp4"}),
]


def run(folder: Path, source: Path, method: str, **options: Any) -> Any:
    tokens = {"calibration": str(save_tokens(folder)), "samples": 4, "seq_len": 12}
    return compress.run(str(source), method, output=folder / "out", suite="none", **tokens, **options)


def walked(folder: Path, tokens_ST: torch.Tensor) -> torch.Tensor:
    """Returns the logits of a folder that is read block by block."""
    walker = BlockWalker(ModelSource.open(folder))
    hidden_STH = walker.embed(tokens_ST)
    for index in range(len(walker.block_names)):
        block = walker.load_block(index)
        hidden_STH = walker.forward(block, hidden_STH, micro_batch=1)
        walker.free_block(block)
    return walker.logits(hidden_STH)


@pytest.mark.usefixtures("proof_in_this_process")
@pytest.mark.parametrize(("method", "options"), CHOICES, ids=str)
def test_a_run_is_proved_with_its_rounding(
    tmp_path: Path, method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, save_tiny(tmp_path / "model", "llama"), method, **options)
    folder, kind = tmp_path / "out", options.get("activations")
    entries = open_checkpoint(folder).manifest["tensors"].values()
    kinds = {entry["scheme"]["options"].get("activations") for entry in entries if "role" not in entry}
    assert kinds == {kind}
    tokens_ST = tiny_tokens(1, 12)
    with torch.no_grad():
        found = compress.load(folder, dtype=torch.float32)(tokens_ST).logits
        assert torch.allclose(walked(folder, tokens_ST), found, rtol=0, atol=1e-5)
        monkeypatch.setenv("COMPRESS_KERNEL", "reference")  # the native kernel rounds by itself
        monkeypatch.setattr(activations, "rounded", lambda x, *_: x)
        monkeypatch.setattr(activations, "int8_codes", lambda x: (x, torch.ones(())))
        moved = (compress.load(folder, dtype=torch.float32)(tokens_ST).logits - found).abs().max()
        assert bool(moved > 1e-4) is (kind is not None)


@pytest.mark.usefixtures("proof_in_this_process")
@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_a_block_is_calibrated_on_what_the_packed_block_before_it_gives(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forwards that wait while linears are packed go on with the rounding."""
    compress_block, seen = block_loop.compress_block, []

    def checked(stage: LinearStage, block: Any, hidden_STH: torch.Tensor, task: Any) -> Any:
        made = compress_block(stage, block, hidden_STH, task)
        again_STH = stage.walker.forward(block, hidden_STH, micro_batch=stage.memory_plan.micro_batch)
        seen.append(torch.equal(made.outputs_STH, again_STH))
        return made

    monkeypatch.setattr(block_loop, "compress_block", checked)
    run(tmp_path, save_tiny(tmp_path / "model", "llama"), method, grid="fp8", activations="fp8_static")
    assert seen == [True] * 3


@pytest.mark.usefixtures("proof_in_this_process")
def test_a_proof_without_the_rounding_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference of a run rounds inputs; a runtime that would not round them is found out."""
    source = save_tiny(tmp_path / "model", "llama")
    prepare = reference.prepare

    def forgetful(packed: PackedTensor, dtype: torch.dtype) -> Any:
        options = {name: value for name, value in packed.scheme.options.items() if name != "activations"}
        return prepare(PackedTensor(packed.shape, replace(packed.scheme, options=options), packed.planes), dtype)

    monkeypatch.setattr(reference, "prepare", forgetful)
    with pytest.raises(FormatError, match="does not reproduce its reference logits"):
        run(tmp_path, source, "rtn", grid="fp8", activations="fp8")


@pytest.mark.usefixtures("proof_in_this_process")
def test_joined_linears_share_the_scale_of_all_weights(tmp_path: Path) -> None:
    """q, k and v become one matrix in engines, which have one global scale for it, and one for its inputs."""
    run(tmp_path, save_tiny(tmp_path / "model", "llama"), "rtn", grid="nvfp4", activations="nvfp4", workers=1)
    checkpoint = open_checkpoint(tmp_path / "out")
    for joined in (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")):
        planes = [checkpoint.packed(f"model.layers.1.{name}").planes for name in joined]
        for name in ("global_scale", "input_global_scale"):
            assert len({float(one[name]) for one in planes}) == 1


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("llama", {"method": "rtn", "grid": "mxfp4"}, r"in_features=48 with grid='mxfp4'.*multiple of 32.*--skip"),
        ("llama", {"method": "rtn", "activations": "int8"}, r"activations='int8' with bits=4.*--bits 8"),
        ("llama", {"method": "gptq", "grid": "fp8", "group_size": 32}, r"group_size=32 with grid='fp8'.*the whole row"),
        ("llama", {"method": "gptq", "grid": "nvfp4", "bits": 8}, r"bits=8 with grid='nvfp4'.*Leave --bits out"),
        ("llama", {"method": "rtn", "activations": "nvfp4"}, r"activations='nvfp4' with grid='int'.*--grid nvfp4"),
        ("llama", {"method": "rtn", "grid": "nvfp5"}, r"grid='nvfp5'.*int, fp8, fp8_tensor, nvfp4, mxfp4"),
        ("llama", {"method": "rtn", "grid": "fp8", "symmetric": False}, r"symmetric=False with grid='fp8'"),
        ("llama", {"method": "rtn", "grid": "nvfp4", "scale_dtype": "float32"}, r"scale_dtype='float32' with grid"),
        ("llama", {"method": "spqr", "activations": "int8"}, r"unknown option of method 'spqr': 'activations'"),
        ("llama", {"method": "rtn", "grid": "fp8", "activations": "fp8", "tune": "block"}, r"'fp8' with --tune block"),
        ("mixtral", {"method": "rtn", "grid": "fp8", "activations": "fp8"}, r"for experts.*--skip 'experts\*'"),
    ],
)  # fmt: skip
def test_what_cannot_round_is_refused(tmp_path: Path, kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        run(tmp_path, save_tiny(tmp_path / "model", kind), **options)


@pytest.mark.usefixtures("proof_in_this_process")
def test_training_what_rounds_its_inputs_is_refused(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model", "llama")
    run(tmp_path, source, "rtn", grid="fp8", activations="fp8")
    with pytest.raises(CompressError, match="rounding has no gradient"):
        compress.run(
            str(tmp_path / "out"), "distill", output=tmp_path / "more", suite="none", train="packed",
            teacher=str(source), calibration=str(save_tokens(tmp_path)), samples=4, seq_len=12,
        )  # fmt: skip
