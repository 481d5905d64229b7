"""Runs on models that another program quantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import compress
from compress.errors import CompressError
from compress.exports import export
from compress.format import layouts
from compress.format.reader import open_checkpoint
from compress.models.source import ModelSource
from tests.support import foreign
from tests.support.exports import integers, packed
from tests.support.foreign import Foreign
from tests.support.models import save_tokens, tiny_tokenizer, tiny_tokens

pytestmark = pytest.mark.usefixtures("proof_in_this_process")


@pytest.fixture
def model(tmp_path: Path) -> Foreign:
    described = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    made = foreign.write(tmp_path / "awq", "llama", foreign.awq(32), described)
    (made.folder / "quant_log.csv").write_text("loss\n")
    tiny_tokenizer().save_pretrained(made.folder)
    return made


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_it_is_compressed_like_the_dense_model_that_it_means(model: Foreign, tmp_path: Path, method: str) -> None:
    """The same planes come out as of the decoded model, saved by transformers."""
    model.dense.save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    options = {"bits": 3, "group_size": 16, "suite": "none", "samples": 4, "seq_len": 24}
    options["calibration"] = str(save_tokens(tmp_path, tiny_tokens(1, 200) % 61))
    made = [
        compress.run(str(folder), method, output=tmp_path / f"out{number}", **options)
        for number, folder in enumerate((model.folder, tmp_path / "dense"))
    ]
    ours, expected = ((each.checkpoint / "model-00001-of-00001.safetensors").read_bytes() for each in made)
    assert ours == expected
    (entry,) = made[0].manifest["history"]
    assert entry["imported"] == "dequantised from awq, 4 bits, groups of 32"
    assert entry["source"]["model"] == "awq" and made[1].manifest["history"] == []
    assert any("quantised before" in warning for warning in made[0].manifest["warnings"])
    assert not (made[0].checkpoint / "quant_log.csv").exists()


def test_what_stays_dense_is_decoded(model: Foreign, tmp_path: Path) -> None:
    done = compress.run(str(model.folder), "rtn", output=tmp_path / "out", suite="none", skip="*mlp*", min_coverage=0)
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(ModelSource.open(done.checkpoint).read(f"{name}.weight"), model.weight(name))


def imported(model: Foreign, output: Path, method: str = "none", **options: Any) -> compress.result.Result:
    return compress.run(str(model.folder), method, output=output, suite="none", **options)


def test_codes_are_kept(model: Foreign, tmp_path: Path) -> None:
    """What the folder means is what the planes of the result mean, and nothing else is packed."""
    done = imported(model, tmp_path / "out", keep_codes=True)
    checkpoint = open_checkpoint(done.checkpoint)
    entries = done.manifest["tensors"]
    assert len(entries) == 14 and done.manifest["coverage"]["share_of_linears"] == 1
    for name, entry in entries.items():
        assert torch.equal(layouts.unpack(checkpoint.packed(name)), model.weight(name))
        assert entry["method"] == "awq" and entry["relative_error"] is None
        assert entry["size_bytes"] == checkpoint.packed(name).size_bytes
    assert done.manifest["bits_per_weight"] == pytest.approx(4 + (16 + 4) / 32)
    assert done.manifest["history"][0]["imported"].endswith("the codes of 14 matrices kept, all others dequantised")
    with torch.inference_mode():
        tokens = tiny_tokens(1, 9) % 61
        found, expected = (each(tokens).logits for each in (compress.load(done.checkpoint), model.dense))
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_codes_of_awq_come_out_of_every_export(model: Foreign, tmp_path: Path) -> None:
    """AWQ to compressed-tensors and MLX, and back to AWQ with the same bytes."""
    from safetensors.torch import load_file

    done = imported(model, tmp_path / "out", keep_codes=True)
    before = load_file(model.folder / "model.safetensors")
    for to in ("awq", "compressed-tensors", "mlx"):
        folder = export(done.checkpoint, to)
        after = {name: each for path in folder.glob("*.safetensors") for name, each in load_file(path).items()}
        if to == "awq":
            assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        if to == "compressed-tensors":
            again = imported(Foreign(folder, model.dense), tmp_path / "again", keep_codes=True)
            ours, back = (open_checkpoint(each.checkpoint) for each in (done, again))
            for name in done.manifest["tensors"]:
                assert back.packed(name).scheme == ours.packed(name).scheme
                for plane, tensor in ours.packed(name).planes.items():
                    assert torch.equal(back.packed(name).planes[plane], tensor)


def test_without_codes_it_is_a_dense_model(model: Foreign, tmp_path: Path) -> None:
    done = imported(model, tmp_path / "out")
    assert done.manifest["tensors"] == {} and done.manifest["bits_per_weight"] is None
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        tokens = torch.arange(9)[None]
        found = AutoModelForCausalLM.from_pretrained(done.checkpoint, dtype=torch.float32)(tokens).logits
        assert torch.equal(found, model.dense(tokens).logits)


def test_what_has_no_codes_to_keep_is_packed(tmp_path: Path) -> None:
    """Act-order in the MLP only: its linears are decoded and packed anew, the others keep their codes."""
    described = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}

    def encode(module: str, rows: int, columns: int) -> Any:
        return foreign.gptq(4, 32, act_order="mlp" in module)(module, rows, columns)

    made = foreign.write(tmp_path / "gptq", "llama", encode, described)
    tiny_tokenizer().save_pretrained(made.folder)
    done = imported(made, tmp_path / "out", "rtn", keep_codes=True, bits=8, group_size=16)
    for name, entry in done.manifest["tensors"].items():
        if "layers" in name:
            assert (entry["method"], entry["scheme"]["bits"]) == (("rtn", 8) if "mlp" in name else ("gptq", 4))
    dense = imported(made, tmp_path / "dense", keep_codes=True)
    assert {name.split(".")[3] for name in dense.manifest["tensors"]} == {"self_attn"}
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(ModelSource.open(dense.checkpoint).read(f"{name}.weight"), made.weight(name))


def test_experts_keep_their_codes(tmp_path: Path) -> None:
    """Gate and up of each expert, two matrices there, are one here."""
    ours = packed(tmp_path / "a", "mixtral", integers(4, 32, symmetric=False))
    folder = export(ours.folder, "compressed-tensors")
    done = imported(Foreign(folder, ours.dense), tmp_path / "out", keep_codes=True)
    checkpoint = open_checkpoint(done.checkpoint)
    assert done.manifest["tensors"].keys() == ours.linears.keys()
    for name, one in ours.linears.items():
        assert checkpoint.packed(name).scheme == one.scheme
        assert all(torch.equal(checkpoint.packed(name).planes[plane], each) for plane, each in one.planes.items())


def test_decoded_experts_have_the_names_of_the_hub(tmp_path: Path) -> None:
    """Nothing is packed, so any program reads the result, one that knows Mixtral's own names."""
    ours = packed(tmp_path / "a", "mixtral", integers(4, 32))
    folder = export(ours.folder, "compressed-tensors")
    done = imported(Foreign(folder, ours.dense), tmp_path / "out")
    source = ModelSource.open(done.checkpoint)
    name = "model.layers.0.block_sparse_moe.experts.3.w2.weight"
    assert torch.equal(source.read(name), layouts.unpack(ours.linears["model.layers.0.mlp.experts.q_down_proj.3"]))


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("distill", {}, "--keep-codes with the method distill"),
        ("llm_pruner", {}, "--keep-codes with the method llm_pruner"),
        ("gptq", {"tune": "block"}, "--keep-codes with tune"),
        ("rtn", {"target_bits": 4}, "--keep-codes with target_bits"),
        ("rtn", {"workers": 2}, "workers=2 with --keep-codes"),
        ("none", {"embedding_bits": 4}, "embedding_bits with the method none"),
    ],
)
def test_what_cannot_keep_codes(tmp_path: Path, method: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(CompressError) as caught:
        compress.run("atlas", method, keep_codes=True, output=tmp_path / "out", **options)
    assert said in str(caught.value)


def test_a_dense_model_has_no_codes_to_keep(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match="no other program quantised"):
        compress.run("atlas", "rtn", keep_codes=True, output=tmp_path / "out")


def test_kept_codes_that_the_engine_cannot_hold(model: Foreign, tmp_path: Path) -> None:
    """vLLM has no groups of 16; found before any work."""
    described = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}
    small = foreign.write(tmp_path / "small", "llama", foreign.awq(16), described)
    tiny_tokenizer().save_pretrained(small.folder)
    with pytest.raises(CompressError, match="vllm cannot hold it"):
        imported(small, tmp_path / "out", keep_codes=True, engine="vllm")
    assert imported(model, tmp_path / "fits", keep_codes=True, engine="vllm").manifest["tensors"]
