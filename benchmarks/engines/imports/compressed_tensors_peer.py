"""compressed-tensors: rounds the linears of a model with its own compressors, and decodes with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from decoded import main, tensors_of
from safetensors.torch import save_file

KINDS: dict[str, dict[str, Any]] = {
    "pack-quantized": {"num_bits": 3, "type": "int", "strategy": "group", "group_size": 64, "symmetric": False},
    "int-quantized": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
    "float-quantized": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True},
    "mxfp4-pack-quantized": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
    "nvfp4-pack-quantized": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
}


def tools(kind: str) -> tuple[Any, QuantizationScheme]:
    """Returns the compressor of a format, and the scheme."""
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**KINDS[kind]))
    return BaseCompressor.get_value_from_registry(kind), scheme


def state_of(kind: str, weight_NK: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns a weight with the scales, and where the kind has any the zero points, that it is rounded with."""
    options = KINDS[kind]
    groups_NGg = weight_NK.view(len(weight_NK), -1, options.get("group_size") or weight_NK.shape[1])
    low, high, largest = groups_NGg.amin(-1), groups_NGg.amax(-1), groups_NGg.abs().amax(-1)
    if kind == "pack-quantized":
        scale = (high - low).clamp(min=1e-6) / 7
        zero = (-4 - low / scale).round().clamp(-4, 3).to(torch.int8)
        return {"weight": weight_NK, "weight_scale": scale, "weight_zero_point": zero}
    top = {"int-quantized": 127, "float-quantized": 448}.get(kind, 6)
    state = {"weight": weight_NK, "weight_scale": largest / top}
    if kind == "mxfp4-pack-quantized":
        state["weight_scale"] = 2.0 ** torch.floor(torch.log2(state["weight_scale"]))
    if kind == "nvfp4-pack-quantized":
        state["weight_global_scale"] = (448 * 6 / weight_NK.abs().max()).view(1)
        state["weight_scale"] = (state["weight_scale"] * state["weight_global_scale"]).to(torch.float8_e4m3fn).float()
    return state


def make(kind: str, source: str, folder: Path) -> None:
    """Writes the model with the linears of its blocks rounded."""
    compressor, scheme = tools(kind)
    tensors = tensors_of(Path(source))
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        stored = compressor.compress(state_of(kind, tensors.pop(name).float()), scheme)
        tensors |= {f"{name.removesuffix('.weight')}.{part}": one for part, one in stored.items() if one is not None}
    folder.mkdir()
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    for path in Path(source).glob("*.json"):
        shutil.copy(path, folder)
    groups = {"group_0": {"targets": ["Linear"], "weights": KINDS[kind], "format": kind}}
    described = {"quant_method": "compressed-tensors", "format": kind, "config_groups": groups, "ignore": ["lm_head"]}
    config = json.loads((Path(source) / "config.json").read_text()) | {"quantization_config": described}
    (folder / "config.json").write_text(json.dumps(config))


def decode(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights, in the dtype that the library decodes to."""
    compressor, scheme = tools(kind)
    tensors, found = tensors_of(folder), {}
    for name in [name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")]:
        state = {full.removeprefix(f"{name}."): one for full, one in tensors.items() if full.startswith(f"{name}.")}
        found[name] = compressor.decompress(state, scheme)["weight"]
    return found


if __name__ == "__main__":
    main(make, decode)
