"""MLX: quantises with scales and biases of its own, and decodes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import mlx.core as mx

BITS, GROUP = 4, 64


def make(source: Path, folder: Path) -> None:
    """Writes the model with every matrix quantised, the embedding too."""
    tensors, stored = mx.load(str(source / "model.safetensors")), {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            parts = mx.quantize(tensor.astype(mx.float32), GROUP, BITS)
            module = name.removesuffix(".weight")
            stored |= {f"{module}.{part}": one for part, one in zip(("weight", "scales", "biases"), parts, strict=True)}
        else:
            stored[name] = tensor
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), stored, {"format": "mlx"})
    for path in source.glob("*.json"):
        shutil.copy(path, folder)
    config = json.loads((source / "config.json").read_text())
    described = {"group_size": GROUP, "bits": BITS, "mode": "affine"}
    (folder / "config.json").write_text(json.dumps(config | {"quantization": described}))


def main() -> None:
    """The command line: `KIND SOURCE FOLDER WEIGHTS`, as of `decoded.main`."""
    source, folder, weights = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    if not folder.exists():
        make(source, folder)
    tensors: dict[str, mx.array] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= mx.load(str(path))
    options = json.loads((folder / "config.json").read_text())["quantization"]
    found = {}
    for name in [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]:
        own = options.get(name) or options
        parts = (tensors[f"{name}.{part}"] for part in ("weight", "scales", "biases"))
        found[name] = mx.dequantize(*parts, own["group_size"], own["bits"]).astype(mx.float32)
    mx.save_safetensors(weights, found)


if __name__ == "__main__":
    main()
