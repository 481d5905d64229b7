"""Measures greedy generation on a random Llama of one billion parameters: dense, and packed in every layout.

    python benchmarks/bench_generate.py [--layout int4-g128,spqr-3bit] [--dtype bfloat16] [--folder DIR]

The model is that of `bench_memory_1b.py`; all linears of its blocks are packed with random planes, the embedding, which
is the head too, stays dense. Each model runs in a process of its own; a layout takes turns with the dense model in
bfloat16 (and, with --float32, in float32). Load seconds count up to the end of a first forward pass.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from _print import show
from bench_memory_1b import make_model
from safetensors import safe_open

from compress.bench import machine, planes
from compress.bench.models import DTYPES, Entrant, Settings, measure
from compress.format import naming
from compress.format.writer import CheckpointWriter

_LAYOUTS = ("int4-g128", "int3-g64", "int2-g64", "int4-g128-delta", "spqr-3bit", "aqlm-2x8", "sparse-2:4-int4")


def write_packed(dense: Path, folder: Path, layout: str) -> None:
    """Writes a checkpoint of the dense model with random planes of `layout` in place of every linear of its blocks."""
    files = sorted(dense.glob("*.safetensors"))
    writer = CheckpointWriter(folder, shard_count=len(files))
    tensors: dict[str, Any] = {}
    records = []
    for index, file in enumerate(files):
        kept: dict[str, torch.Tensor] = {}
        packed = {}
        with safe_open(file, "pt") as stored:
            for name in sorted(stored.keys()):
                if not name.endswith("_proj.weight"):
                    kept[name] = stored.get_tensor(name)
                    continue
                linear = name.removesuffix(".weight")
                shape = tuple(stored.get_slice(name).get_shape())
                packed[linear] = planes.random_weight(layout, (shape[0], shape[1]), seed=len(tensors))
                scheme = packed[linear].scheme.to_dict()
                tensors[linear] = {"scheme": scheme, "shape": list(shape), "bias": False}
        records.append(writer.write_shard(index, kept | naming.plane_tensors(packed)))
    config = json.loads((dense / "config.json").read_text(encoding="utf-8"))
    writer.finish(records=records, config=config, manifest={"tensors": tensors})


def dense_model(home: Path, blocks: int) -> Path:
    """Returns the folder of the dense model in `home`, where it is made if it is not there."""
    folder = home / f"dense-{blocks}"
    if not (folder / "model.safetensors.index.json").is_file():
        folder.mkdir()
        make_model(folder, blocks)
        (folder / "calibration.safetensors").unlink()
    return folder


def packed_model(home: Path, blocks: int, layout: str) -> Path:
    """Returns the folder of the same model packed in `layout`."""
    folder = home / f"{layout.replace(':', '-')}-{blocks}"
    if not (folder / "compress.json").is_file():
        write_packed(dense_model(home, blocks), folder, layout)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layout", default=",".join(_LAYOUTS))
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES, help="of the arithmetic of the packed models")
    parser.add_argument("--float32", action="store_true", help="the dense model in float32 too")
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=17)
    parser.add_argument("--folder", help="keep the models here, and take those that are here already")
    options = parser.parse_args()
    settings = Settings(
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        rounds=options.rounds,
        threads=options.threads,
    )
    layouts = [planes.layout(name).name for name in options.layout.split(",")]
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        home = Path(options.folder or temporary)
        dense = dense_model(home, options.blocks)
        rows = []
        for layout in layouts:
            folder = packed_model(home, options.blocks, layout)
            entrants = [Entrant("dense", dense, name) for name in DTYPES[: 1 + options.float32]]
            entrants.append(Entrant(layout, folder, options.dtype))
            measure(entrants, settings, progress=lambda text: None)
            figures = [entrant.figures(settings) for entrant in entrants]
            for entrant, found in zip(entrants, figures, strict=True):
                rows.append({
                    "model": entrant.name, "dtype": entrant.dtype,
                    "prefill tokens/s": found.prefill_tokens_per_s, "decode tokens/s": found.decode_tokens_per_s,
                    "x dense bf16": found.decode_tokens_per_s / figures[0].decode_tokens_per_s,
                    "load s": found.load_seconds, "resident GB": found.resident_bytes / 1e9,
                    "peak GB": (found.peak_bytes or 0) / 1e9,
                })  # fmt: skip
                print(rows[-1], flush=True)
        show(
            f"greedy generation, 1B-shaped Llama, {options.threads} threads", rows, **machine.description(),
            prompt_tokens=options.prompt_tokens, new_tokens=options.new_tokens, rounds=options.rounds,
        )  # fmt: skip


if __name__ == "__main__":
    main()
