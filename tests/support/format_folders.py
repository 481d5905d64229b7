"""A small checkpoint of two shards without a model: what the tests of writer and reader write and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compress.format import naming
from compress.format.packed import PackedTensor
from compress.format.writer import CheckpointWriter, ShardRecord
from compress.methods import rtn

CONFIG = {"model_type": "llama", "hidden_size": 32}


def packed() -> dict[str, PackedTensor]:
    """Returns two packed linears, one of 3 bits and one symmetric of 4."""
    generator = torch.Generator().manual_seed(0)
    return {
        "model.layers.0.up": rtn.solve(
            torch.randn(5, 32, generator=generator), None, rtn.Config(bits=3, group_size=8, symmetric=False)
        ),
        "model.layers.0.down": rtn.solve(torch.randn(32, 24, generator=generator), None, rtn.Config(symmetric=True)),
    }


def dense() -> dict[str, torch.Tensor]:
    """Returns tensors of several dtypes and shapes, one of them empty and one without dimensions."""
    generator = torch.Generator().manual_seed(1)
    return {
        "model.embed.weight": torch.randn(7, 32, generator=generator).bfloat16(),
        "model.norm.weight": torch.ones(32),
        "model.layers.0.up.bias": torch.randn(5, generator=generator).half(),
        "model.scalar": torch.tensor(3.0, dtype=torch.float64),
        "model.empty": torch.zeros(0, 4),
        "model.mask": torch.tensor([True, False]),
    }


def manifest() -> dict[str, Any]:
    """Returns what a run gives to `finish`."""
    return {
        "tensors": {
            name: {"scheme": one.scheme.to_dict(), "shape": list(one.shape), "bias": name.endswith("up")}
            for name, one in packed().items()
        },
        "warnings": [],
    }


def shards(writer: CheckpointWriter) -> list[ShardRecord]:
    """Writes both shards."""
    return [writer.write_shard(0, dense()), writer.write_shard(1, naming.plane_tensors(packed()))]


def write(folder: Path) -> list[ShardRecord]:
    """Writes the whole checkpoint."""
    writer = CheckpointWriter(folder, shard_count=2)
    records = shards(writer)
    writer.finish(records=records, config=CONFIG, manifest=manifest())
    return records
