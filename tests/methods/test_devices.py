"""Every method's solver computes on the device of its tensors: tensors of another device stop it."""

from __future__ import annotations

import pytest
import torch

from compress.calibration.stats import LayerStats
from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.methods import registry
from tests.support.fake_device import DEVICE, FakeTensor, fake_device, here, there

OPTIONS = {"aqlm": {"codebooks": 2, "code_bits": 4, "rounds": 2}, "svd_llm": {"ratio": 0.3}}
PACK = [name for name in registry.names() if registry.describe(name).kind == "pack" and registry.describe(name).packs]


def layer() -> tuple[torch.Tensor, LayerStats]:
    generator = torch.Generator().manual_seed(0)
    w_NK, x_TK = (torch.randn(rows, 64, generator=generator) for rows in (48, 256))
    stats = LayerStats.empty(64)
    stats.update(x_TK @ torch.randn(64, 64, generator=generator))
    return w_NK, stats


@pytest.mark.parametrize("name", PACK)
def test_a_solver_stays_on_the_device_of_its_tensors_and_gives_the_same_planes(name: str) -> None:
    method, config = registry.load_pack(name), registry.configure(name, OPTIONS.get(name, {}))
    w_NK, stats = layer()
    expected = method.solve(w_NK, stats, config)
    with fake_device():
        remote = LayerStats(stats.num_tokens, there(stats.gram_KK))
        packed = method.solve(there(w_NK), remote, config)
        assert all(plane.device == DEVICE for plane in packed.planes.values())
        restored = layouts.unpack(packed)
        assert isinstance(restored, FakeTensor)
    planes = {name: here(plane) for name, plane in packed.planes.items()}
    assert packed.scheme == expected.scheme
    assert all(torch.equal(planes[name], plane) for name, plane in expected.planes.items())
    assert torch.equal(here(restored), layouts.unpack(PackedTensor(packed.shape, packed.scheme, planes)))
