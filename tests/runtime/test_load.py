"""A packed folder loads as the dense model with unpacked weights would, through both doors, or not at all."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

import compress
import compress.hf
from compress import devices
from compress.errors import FormatError, RecipeError
from compress.format import layouts, manifest, naming
from compress.format.layouts import spqr
from compress.format.packed import PackedTensor
from compress.kernels import select
from compress.runtime import skeleton
from compress.runtime.skeleton import packed_layers
from tests.support import packed_checkpoints
from tests.support.fake_device import DEVICE, fake_device, here
from tests.support.packed_checkpoints import Packed

Make = Callable[..., Packed]


def logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits.float()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Casts the parameters alone: `.to` would also cast the rotary frequencies, which a loader keeps in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def spqr_random(weight_NK: torch.Tensor) -> PackedTensor:
    """Returns a spqr.v1 tensor with every plane there is; only its meaning matters here, not its error."""
    (n, k), g, run = weight_NK.shape, 8, 5
    groups, runs = k // g, -(-n // run)
    generator = torch.Generator().manual_seed(n * k)
    outlier_NK = torch.rand(n, k, generator=generator) < 0.02
    return spqr.pack(
        torch.randint(0, 8, (n, k), generator=generator),
        torch.randint(0, 8, (n, groups), generator=generator),
        torch.randint(0, 8, (n, groups), generator=generator),
        {name: torch.rand(runs, groups, generator=generator).half() for name in spqr.SECOND_LEVEL},
        bits=3,
        stats_bits=3,
        stats_group=run,
        exponent=-4,
        perm_K=torch.randperm(k, generator=generator),
        outlier_NK=outlier_NK,
        delta_NK=torch.randn(n, k, generator=generator).half().float(),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", packed_checkpoints.CONFIGS)
def test_logits_are_those_of_the_unpacked_weights(
    make: Make, tokens: torch.Tensor, architecture: str, dtype: torch.dtype
) -> None:
    packed = make(architecture)
    expected = logits(cast(packed.dense, dtype), tokens)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for model in (
        compress.load(packed.folder, dtype=dtype),
        AutoModelForCausalLM.from_pretrained(packed.folder, dtype=dtype),
    ):
        assert sorted(packed_layers(model)) == sorted(packed.linears)
        assert relative(logits(model, tokens), expected) <= tolerance


@pytest.mark.parametrize("keep_prepared", [True, False])
def test_spqr_planes_survive_casts_and_decode_alike(make: Make, tokens: torch.Tensor, keep_prepared: bool) -> None:
    packed = make("llama", spqr_random)
    model = compress.load(packed.folder, keep_prepared=keep_prepared)
    assert relative(logits(model, tokens), logits(packed.dense, tokens)) <= 1e-5
    model.to(torch.bfloat16).to(torch.float32)
    for name, layer in packed_layers(model).items():
        assert layer.keep_prepared is keep_prepared
        for plane, stored in packed.linears[name].planes.items():
            assert layer.packed.planes[plane].dtype == stored.dtype
            assert torch.equal(layer.packed.planes[plane], stored)


def test_what_stays_packed_is_kept_whatever_the_size(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("llama").folder
    monkeypatch.setenv("COMPRESS_KERNEL", "reference")
    for limit, compact, kept in ((1 << 30, set(), True), (0, set(), False), (0, {"reference"}, True)):
        monkeypatch.setattr(skeleton, "KEEP_PREPARED_BYTES", limit)
        monkeypatch.setattr(select, "COMPACT", compact)
        assert {layer.keep_prepared for layer in packed_layers(compress.load(folder)).values()} == {kept}


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2", "mixtral"])
def test_generate_with_a_cache_gives_what_it_gives_without(make: Make, tokens: torch.Tensor, architecture: str) -> None:
    model = compress.load(make(architecture).folder)
    arguments = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with_cache = model.generate(tokens, use_cache=True, **arguments)
    assert with_cache.shape == (2, 20)
    assert torch.equal(with_cache, model.generate(tokens, use_cache=False, **arguments))


@pytest.mark.parametrize("architecture", packed_checkpoints.CONFIGS)
def test_save_pretrained_round_trip_is_exact(make: Make, tokens: torch.Tensor, architecture: str) -> None:
    packed = make(architecture)
    model = compress.load(packed.folder)
    expected = logits(model, tokens)
    for step in range(2):
        folder = packed.folder.with_name(f"again-{step}")
        model.save_pretrained(folder, max_shard_size="20KB" if step else "1GB")
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert torch.equal(logits(model, tokens), expected)
        for name, layer in packed_layers(model).items():
            assert all(torch.equal(layer.packed.planes[p], t) for p, t in packed.linears[name].planes.items())
    assert len(list(folder.glob("*.safetensors"))) > 1


def test_a_tied_head_stays_tied_and_is_stored_once(make: Make) -> None:
    packed = make("llama-tied")
    assert not any("lm_head" in name for path in packed.folder.glob("*.safetensors") for name in load_file(path))
    model = compress.load(packed.folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("skip", ["q_down_proj", "q_gate_up_proj", "self_attn", r"layers\.0"])
def test_experts_may_be_packed_in_part(make: Make, tokens: torch.Tensor, skip: str) -> None:
    packed = make("mixtral", skip=skip)
    model = compress.load(packed.folder)
    assert relative(logits(model, tokens), logits(packed.dense, tokens)) <= 1e-5
    model.save_pretrained(packed.folder.with_name("again"))
    again = AutoModelForCausalLM.from_pretrained(packed.folder.with_name("again"))
    assert torch.equal(logits(again, tokens), logits(model, tokens))


@pytest.mark.parametrize("kind", ["gpt-oss", "llama4", "jetmoe", "dbrx"])
def test_packed_experts_can_be_copied_and_cast(make: Make, tokens: torch.Tensor, kind: str) -> None:
    packed = make(kind)
    model = compress.load(packed.folder)
    experts = {naming.guard(*parsed[:2]) for name in packed.linears if (parsed := naming.parse_expert(name))}
    assert experts and not experts & dict(model.named_parameters()).keys()
    expected = logits(model, tokens)
    other = copy.deepcopy(model)
    assert torch.equal(logits(other, tokens), expected)
    assert relative(logits(other.to(torch.bfloat16), tokens), expected) <= 0.1
    assert torch.equal(logits(model, tokens), expected)


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("gpt-oss", "model.layers.0.mlp.experts.gate_up_proj_bias"),
        ("gpt-oss", "model.layers.1.mlp.experts.down_proj"),
        ("jetmoe", "model.layers.1.mlp.input_linear.weight"),
    ],
)
def test_a_lost_bias_or_guard_of_experts_is_an_error_through_transformers(make: Make, kind: str, lost: str) -> None:
    packed = make(kind)
    folder = packed.folder.with_name("again")
    compress.load(packed.folder).save_pretrained(folder)
    rewrite(folder, lambda tensors: tensors.pop(lost))  # type: ignore[arg-type, return-value]
    path, _, name = lost.rpartition(".")
    with pytest.raises(FormatError, match=f"{path}: '{name}' is missing"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_the_base_model_loads_without_its_head(make: Make, tokens: torch.Tensor) -> None:
    packed = make("llama")
    with torch.no_grad():
        found = AutoModel.from_pretrained(packed.folder)(tokens).last_hidden_state
        assert relative(found, packed.dense.model(tokens).last_hidden_state) <= 1e-5


def test_a_device_map_loads_alike(make: Make, tokens: torch.Tensor) -> None:
    packed = make("llama")
    model = AutoModelForCausalLM.from_pretrained(packed.folder, device_map="cpu")
    assert relative(logits(model, tokens), logits(packed.dense, tokens)) <= 1e-5


def test_the_device_may_be_a_name(make: Make, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = make("llama")
    monkeypatch.setattr(devices, "_count", lambda kind: 0)
    assert compress.load(packed.folder, device="auto").device.type == "cpu"
    with pytest.raises(RecipeError, match="use --device cpu"):
        compress.load("no/such/folder", device="cuda:1")  # refused before anything is read
    monkeypatch.setattr(devices, "_count", lambda kind: int(kind == "cuda"))
    with fake_device():
        model = compress.load(packed.folder, device="auto", keep_prepared=False)
        assert {tensor.device for tensor in model.state_dict().values()} == {DEVICE}
        found = here(logits(model, tokens.to(DEVICE)))
    assert relative(found, logits(packed.dense, tokens)) <= 1e-5


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Changes the tensors of a re-saved folder; it has no manifest, so transformers is all that could notice."""
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("lost", ["weight", "scale", "zero_point", "bias"])
def test_a_lost_plane_is_an_error_through_transformers(make: Make, lost: str) -> None:
    packed = make("qwen2")
    folder = packed.folder.with_name("again")
    compress.load(packed.folder).save_pretrained(folder)
    name = "model.layers.1.self_attn.k_proj"
    rewrite(folder, lambda tensors: tensors.pop(f"{name}.{lost}"))  # type: ignore[arg-type, return-value]
    with pytest.raises(FormatError, match=f"{name}: '{lost}' is missing"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_lost_plane_of_an_expert_is_an_error_through_transformers(make: Make) -> None:
    packed = make("mixtral")
    folder = packed.folder.with_name("again")
    compress.load(packed.folder).save_pretrained(folder)
    name = "model.layers.1.mlp.experts.q_down_proj.3"
    rewrite(folder, lambda tensors: tensors.pop(f"{name}.scale"))  # type: ignore[arg-type, return-value]
    with pytest.raises(FormatError, match=f"{name}: 'scale' is missing"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_bad_values_are_an_error_through_transformers(make: Make) -> None:
    packed = make("llama")
    folder = packed.folder.with_name("again")
    compress.load(packed.folder).save_pretrained(folder)
    rewrite(folder, lambda tensors: tensors["model.layers.0.mlp.up_proj.scale"].fill_(torch.nan))  # type: ignore[arg-type, return-value]
    with pytest.raises(FormatError, match="up_proj: scale has a value that is not finite"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_dense_tensor_that_is_missing_is_an_error_of_load(make: Make) -> None:
    packed = make("llama")
    model, linears = packed.dense, packed.linears
    del model.model.norm.weight
    folder = packed.folder.with_name("without-norm")
    packed_checkpoints.write(folder, model, linears)
    with pytest.raises(FormatError, match=r"missing keys: model\.norm\.weight"):
        compress.load(folder)


def edit_config(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Changes the quantization_config of a folder."""
    path = folder / manifest.CONFIG
    config = json.loads(path.read_text())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))


def test_newer_formats_and_unknown_layouts_are_refused_through_transformers(make: Make) -> None:
    packed = make("llama")
    newer, unknown = packed.folder.with_name("newer"), packed.folder.with_name("unknown")
    for folder in (newer, unknown):
        shutil.copytree(packed.folder, folder)
    edit_config(newer, lambda config: config.update(format_version=4))
    with pytest.raises(FormatError, match=r"format version 4.*Update it"):
        AutoModelForCausalLM.from_pretrained(newer)
    edit_config(unknown, lambda config: config["tensors"][0]["scheme"].update(layout="int_group.v2"))  # type: ignore[index]
    with pytest.raises(FormatError, match=r"unknown layout 'int_group.v2'"):
        AutoModelForCausalLM.from_pretrained(unknown)


def test_a_config_with_more_fields_still_loads(make: Make, tokens: torch.Tensor) -> None:
    packed = make("llama")
    edit_config(packed.folder, lambda config: config.update(note="of a later minor version"))
    model = AutoModelForCausalLM.from_pretrained(packed.folder)
    assert relative(logits(model, tokens), logits(packed.dense, tokens)) <= 1e-5
    model.save_pretrained(packed.folder.with_name("again"))
    saved = json.loads((packed.folder.with_name("again") / manifest.CONFIG).read_text())
    assert saved["quantization_config"]["note"] == "of a later minor version"


def test_a_linear_of_another_shape_or_name_is_refused(make: Make) -> None:
    packed = make("llama")
    wrong = dict(packed.linears)
    wrong["model.layers.0.self_attn.q_proj"] = packed_checkpoints.rtn4(torch.randn(40, 32))
    folder = packed.folder.with_name("shape")
    packed_checkpoints.write(folder, packed.dense, wrong)
    with pytest.raises(FormatError, match=r"q_proj: the model has a linear of shape \(32, 32\)"):
        compress.load(folder)
    wrong = dict(packed.linears)
    wrong["model.layers.0.self_attn.x_proj"] = wrong.pop("model.layers.0.self_attn.q_proj")
    folder = packed.folder.with_name("name")
    packed_checkpoints.write(folder, packed.dense, wrong)
    with pytest.raises(FormatError, match="x_proj: LlamaForCausalLM has no such module"):
        compress.load(folder)


def test_a_packed_head_of_a_tied_model_is_refused(make: Make) -> None:
    packed = make("llama-tied")
    head = packed_checkpoints.rtn4(packed.dense.lm_head.weight.detach())
    folder = packed.folder.with_name("head")
    packed_checkpoints.write(folder, packed.dense, packed.linears | {"lm_head": head})
    with pytest.raises(FormatError, match=r"lm_head: packed, though config.json ties"):
        compress.load(folder)


def test_every_plane_means_what_unpack_says(make: Make) -> None:
    packed = make("llama", spqr_random)
    for layer in packed_layers(compress.load(packed.folder)).values():
        weight_NK = layer(torch.eye(layer.in_features)).T
        torch.testing.assert_close(weight_NK, layouts.unpack(layer.packed), rtol=0, atol=0)


@pytest.mark.parametrize("architecture", packed_checkpoints.CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_load_opens_what_save_pretrained_wrote(
    make: Make, tokens: torch.Tensor, architecture: str, dtype: torch.dtype
) -> None:
    packed = make(architecture)
    model = compress.load(packed.folder, dtype=dtype)
    for shard_size in ("1GB", "20KB"):
        folder = packed.folder.with_name(f"again-{shard_size}")
        model.save_pretrained(folder, max_shard_size=shard_size)
        again = compress.load(folder)
        assert next(again.parameters()).dtype == dtype
        assert torch.equal(logits(again, tokens), logits(model, tokens))
        assert packed_layers(again).keys() == packed_layers(model).keys()


@pytest.mark.parametrize("saved", [False, True], ids=["of a run", "of save_pretrained"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.to(torch.int8), "stored as I8.*F64, F32, F16, BF16"),
        (lambda tensor: tensor.index_fill(0, torch.tensor(2), torch.nan), "NaN or infinite values"),
    ],
    ids=["integers", "NaN"],
)
def test_dense_tensors_are_checked(
    make: Make, saved: bool, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    folder = make("llama").folder
    if saved:
        model, folder = compress.load(folder), folder.with_name("again")
        model.save_pretrained(folder)
    name = "model.norm.weight"
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            tensors[name] = change(tensors[name])
            save_file(tensors, path, metadata={"format": "pt"})
            if not saved:
                state_sizes_again(folder, path)
    with pytest.raises(FormatError, match=f"{name}.*{message}"):
        compress.load(folder, verify=False)


def state_sizes_again(folder: Path, shard: Path) -> None:
    """Has the manifest state the size that a shard has now."""
    manifest = json.loads((folder / "compress.json").read_text())
    for entry in manifest["shards"]:
        if entry["file"] == shard.name:
            entry["size_bytes"] = shard.stat().st_size
    (folder / "compress.json").write_text(json.dumps(manifest))


def test_a_saved_folder_that_transformers_cannot_load_is_named(make: Make) -> None:
    packed = make("llama")
    folder = packed.folder.with_name("again")
    compress.load(packed.folder).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(FormatError, match=r"transformers cannot load .*again: .*Copy the folder again"):
        compress.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"transformers cannot load .*again"):
        compress.load(folder)
