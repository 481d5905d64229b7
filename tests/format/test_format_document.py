"""docs/FORMAT.md suffices to write a reader: the one in it decodes what the package writes; its tables are whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.format import layouts, manifest, naming
from compress.format.dtypes import STORED_NAMES
from compress.format.layouts import additive, dense, float_group, int_group, low_rank, sparse_nm, spqr, super_block
from compress.format.packed import PackedTensor
from compress.format.writer import CheckpointWriter
from compress.numerics import nm
from tests.format.test_composite import golden_low_rank, golden_sparse
from tests.format.test_layouts import (
    golden_additive,
    golden_float_group,
    golden_int_group,
    golden_spqr,
    golden_super_block,
)
from tests.support import format_folders

TEXT = (Path(__file__).parents[2] / "docs/FORMAT.md").read_text(encoding="utf-8")
GOLDEN = {
    "int_group.v1": golden_int_group,
    "spqr.v1": golden_spqr,
    "additive.v1": golden_additive,
    "low_rank.v1": golden_low_rank,
    "sparse_nm.v1": golden_sparse,
    "float_group.v1": golden_float_group,
    "super_block.v1": golden_super_block,
}


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    """The names that the document's reader defines."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/FORMAT.md", "exec"), names)
    return names


def random_tensors() -> dict[str, PackedTensor]:
    """Returns one tensor of each layout with widths that do not fill words, and with every optional plane."""
    generator = torch.Generator().manual_seed(0)

    def integers(top: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, top, shape, generator=generator)

    def reals(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.rand(7, 30, generator=generator) < 0.1
    value = reals(7, 30).half().float()
    with_delta = int_group.pack(
        integers(32, 7, 30), reals(7, 3), integers(32, 7, 3), bits=5, outlier_NK=mask, delta_NK=value
    )
    mask_3of5 = nm.mask_nm(reals(7, 50), 3, 5)
    return {
        "a.int": with_delta,
        "a.symmetric": int_group.pack(integers(4, 3, 8), reals(3, 2).half(), None, bits=2),
        "a.spqr": spqr.pack(
            integers(8, 7, 30), integers(16, 7, 6), integers(16, 7, 6),
            {name: reals(3, 6).half() for name in spqr.SECOND_LEVEL},
            bits=3, stats_bits=4, stats_group=3, exponent=-5,
            perm_K=torch.randperm(30, generator=generator), outlier_NK=mask, delta_NK=value,
        ),
        "a.additive": additive.pack(integers(1024, 7, 10, 3), reals(3, 1024, 3), reals(7)),
        "a.factors": low_rank.pack(
            additive.pack(integers(16, 40, 3, 2), reals(2, 16, 3), reals(40)), dense.pack(reals(9, 30))
        ),
        "a.factored": low_rank.pack(
            dense.pack(reals(40, 7).bfloat16()), with_delta
        ),
        "a.sparse": sparse_nm.pack(with_delta, mask_3of5, n=3, m=5, slorb=(reals(7, 2), reals(2, 50))),
        "a.fp8": float_group.pack(integers(127, 7, 30), reals(7, 3).abs(), "e4m3"),
        "a.one": float_group.pack(128 + integers(127, 7, 30), reals(1, 1).bfloat16(), "e4m3"),
        "a.mxfp4": float_group.pack(integers(16, 7, 64), (60 + integers(90, 7, 2)).byte(), "e2m1", scale_dtype="e8m0"),
        "a.nvfp4": float_group.pack(
            integers(16, 7, 32), integers(127, 7, 2).byte(), "e2m1", scale_dtype="e4m3", global_scale=reals(1).abs()
        ),
        "a.q3_k": super_block.pack(
            integers(8, 2, 512), integers(64, 2, 32) - 32, None, reals(2, 2), None, bits=3
        ),
        "a.q5_k": super_block.pack(
            integers(32, 2, 256), integers(64, 2, 8), integers(64, 2, 8), reals(2, 1), reals(2, 1), bits=5
        ),
        "a.halved": nm.pack(reals(5, 12), nm.mask_nm(reals(5, 12), 2, 4), 2, 4),
    }  # fmt: skip


def test_its_reader_reads_a_folder(reader: dict[str, Any], tmp_path: Path) -> None:
    packed = random_tensors()
    writer = CheckpointWriter(tmp_path, shard_count=2)
    records = [writer.write_shard(0, format_folders.dense()), writer.write_shard(1, naming.plane_tensors(packed))]
    tensors = {
        name: {"scheme": one.scheme.to_dict(), "shape": list(one.shape), "bias": False} for name, one in packed.items()
    }
    writer.finish(records=records, config={}, manifest={"tensors": tensors})
    found = dict(reader["read"](tmp_path))
    assert found.keys() == packed.keys()
    for name, weight in found.items():
        assert torch.equal(torch.tensor(weight), layouts.unpack(packed[name]))


@pytest.mark.parametrize("layout", manifest.known_layouts())
def test_its_golden_bytes_are_those_of_the_layout_and_decode(reader: dict[str, Any], layout: str) -> None:
    (block,) = re.findall(rf"^```golden {re.escape(layout)}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    stated = {plane: bytes.fromhex(digits) for plane, digits in (line.split() for line in block.splitlines())}
    packed = GOLDEN[layout]()
    raw = {
        name: bytes(plane.contiguous().view(torch.uint8).flatten().tolist()) for name, plane in packed.planes.items()
    }
    assert stated == raw
    planes = {name: reader["numbers"](STORED_NAMES[plane.dtype], raw[name]) for name, plane in packed.planes.items()}
    weight = reader["unpack"](planes, packed.scheme.to_dict(), packed.shape)
    assert torch.equal(torch.tensor(weight), layouts.unpack(packed))


def test_it_marks_exactly_the_fields_that_readers_require() -> None:
    required = {*manifest.REQUIRED, *manifest.TENSOR_REQUIRED, *manifest.SHARD_REQUIRED}
    required |= {"structure", "kv_cache"}  # where there is one; a manifest without it is whole
    assert set(re.findall(r"`(\w+)` ●", TEXT)) == required


def test_it_names_every_field_of_a_manifest(manifest: dict[str, Any]) -> None:
    (entry, *_) = manifest["tensors"].values()
    for field in [*manifest, *entry, *entry["scheme"], *manifest["shards"][0], *manifest["source"]]:
        assert f"`{field}`" in TEXT, field
