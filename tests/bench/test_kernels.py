"""`compress bench` without a folder: random planes are valid, turns are fair, figures are what was timed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compress import devices
from compress.bench import contenders, kernels, machine, peers, planes
from compress.bench.timing import Contender, interleave
from compress.cli import invoke
from compress.errors import CompressError
from compress.format import layouts
from compress.kernels.native import loader
from tests.support.fake_device import DEVICE, fake_device


@pytest.mark.parametrize("name", planes.LAYOUTS)
def test_random_planes_are_what_a_loader_takes(name: str) -> None:
    shape = (35, 256)
    packed = planes.random_weight(name, shape)
    layouts.check(packed)
    specs = layouts.plane_specs(packed.scheme, shape)
    assert {plane: (tensor.dtype, tuple(tensor.shape)) for plane, tensor in packed.planes.items()} == specs
    weight = layouts.unpack(packed)
    assert 0.2 < weight.std() / planes.SIZE < 5
    again, other = planes.random_weight(name, shape), planes.random_weight(name, shape, seed=1)
    assert torch.equal(layouts.unpack(again), weight) and not torch.equal(layouts.unpack(other), weight)


def test_random_outliers_are_a_percent_and_no_column_twice() -> None:
    packed = planes.random_weight("spqr-3bit", (16, 1600))
    columns = packed.planes["delta_col"].long().view(16, -1)
    assert columns.shape[1] == 16 and (columns.diff() > 0).all() and columns.max() < 1600


def test_every_contender_has_a_turn_in_each_round_and_its_copies_too() -> None:
    called: list[str] = []
    slow = Contender("slow", [lambda: time.sleep(0.01)], 1)
    fast = Contender("fast", [lambda: called.append("a"), lambda: called.append("b")], 1)
    assert interleave([slow, fast], seconds=0, rounds=4) == 4
    assert len(slow.seconds) == 4 and slow.median >= 0.01 > fast.median
    assert len(fast.seconds) == 4 * 16, "many short calls are timed in one turn"
    assert called[:4] == ["a", "b", "a", "b"]


def test_copies_together_are_larger_than_the_cache() -> None:
    case = contenders.Case((64, 64), 1, torch.float32, cache_bytes=1000)
    assert [case.copies(size) * size > 4000 for size in (1, 300, 4000, 10**9)] == [True] * 4
    assert case.copies(10**9) == 1


def test_a_contender_computes_the_product() -> None:
    case = contenders.Case((32, 256), 3, torch.float32, cache_bytes=1)
    weight = planes.random_weight("int4-g128", case.shape)
    found = contenders.ours(case, "int4-g128", weight, "reference").calls[0]()
    assert isinstance(found, torch.Tensor)
    assert torch.allclose(found, case.inputs() @ layouts.unpack(weight).T, atol=1e-5)


def test_torchs_int4_product_takes_part() -> None:
    case = contenders.Case((32, 256), 2, torch.float32, cache_bytes=1)
    peer = peers.torch_int4(case)
    assert isinstance(peer, Contender)
    found = peer.calls[0]()
    assert isinstance(found, torch.Tensor) and found.shape == (2, 32)
    assert "multiples" in str(peers.torch_int4(contenders.Case((33, 256), 1, torch.float32, cache_bytes=1)))


def test_the_command_writes_table_json_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["bench", "--shape", "33x256", "--tokens", "1", "--layout", "int4-g128,int2-g64", "--rounds", "1"]
    args += ["--kernel", "reference", "--no-peers"]
    args += ["--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]
    assert invoke(args) == 0
    shown = capsys.readouterr().out
    assert "33×256, 1 token, float32; memory is read at" in shown and "int2-g64" in shown
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "b.json").read_text())
    assert result["format"] == 1 and result["machine"]["processor"] and result["settings"]["dtype"] == "float32"
    (case,) = result["cases"]
    assert {row["name"] for row in case["rows"]} == {"torch-float32", "torch-bfloat16", "int4-g128", "int2-g64"}
    for row in case["rows"]:
        assert row["low"] <= row["seconds"] <= row["high"] and row["calls"] >= 1
        share = row["packed_bytes"] / row["seconds"] / 1e9 / case["read_gigabytes_per_s"]
        assert row["bandwidth_share"] == pytest.approx(share)
    fp32 = next(row for row in case["rows"] if row["name"] == "torch-float32")
    assert fp32["times_faster"]["float32"] == 1 and fp32["packed_bytes"] == 33 * 256 * 4


def test_a_layout_that_a_shape_does_not_fit_is_left_out_with_the_reason() -> None:
    settings = kernels.Settings(layouts=("int4-g128", "int2-g64"), kernel="reference", peers=False, rounds=1)
    measured = kernels.measure(settings, (16, 192), 1)
    assert [row.name for row in measured.rows] == ["torch-float32", "torch-bfloat16", "int2-g64"]
    assert "group_size=128" in measured.left_out["int4-g128"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--layout", "int4-g129"], "did you mean 'int4-g128'?"),
        (["--device", "gpu"], "auto, cpu, cuda, cuda:N, xpu or mps"),
        (["--kernel", "natve"], "did you mean 'native'?"),
        (["--dtype", "bf16"], "float32, bfloat16, float16"),
        (["--shape", "4096"], "4096x14336"),
        (["--tokens", "1,none"], "'none'"),
    ],
)
def test_a_typo_is_answered_with_what_is_allowed(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["bench", *args]) == 2
    assert words in capsys.readouterr().err


def test_a_kernel_that_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "unavailable", lambda: "they were not built")
    with pytest.raises(CompressError, match="int4-g128 cannot run: they were not built"):
        kernels.measure(kernels.Settings(layouts=("int4-g128",), kernel="native", peers=False), (16, 128), 1)


def test_kernels_are_timed_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(devices, "_count", lambda kind: int(kind == "cuda"))
    monkeypatch.setattr(devices, "synchronise", waited.append)
    monkeypatch.setattr(machine, "_properties", lambda device: SimpleNamespace(name="a card", L2_cache_size=1 << 10))
    monkeypatch.setattr(kernels, "_READ_BYTES", 1 << 12)
    settings = kernels.Settings(layouts=("int4-g128",), kernel="reference", shapes=((32, 256),), tokens=(2,), rounds=1,
                                device="cuda")  # fmt: skip
    with fake_device():
        result = kernels.run(settings)
        case = contenders.Case((32, 256), 2, torch.float32, cache_bytes=1, device=DEVICE)
        product = contenders.ours(case, "int4-g128", planes.random_weight("int4-g128", (32, 256)), None).calls[0]()
    assert isinstance(product, torch.Tensor) and product.device == DEVICE
    assert (result["machine"]["device"], result["machine"]["device_name"]) == ("cuda", "a card")
    assert result["machine"]["last_level_cache_bytes"] == 1 << 10
    (measured,) = result["cases"]
    assert [row["name"] for row in measured["rows"]] == ["torch-float32", "torch-bfloat16", "int4-g128"]
    assert len(measured["left_out"]) == len(peers.PEERS) and "not on cuda" in measured["left_out"]["peer-aqlm"]
    contenders_timed = 3 + 2  # and the two readers of memory
    assert len(waited) == 2 * 2 * contenders_timed, "before and after each turn, and the turn that compiles"


def test_the_machine_is_named() -> None:
    assert machine.processor() and machine.last_level_cache() > 1 << 15
    assert machine.versions("no-such-thing").keys() == {"python", "compress-llm", "torch"}
    assert all(isinstance(call(), torch.Tensor) for call in machine.readers(1 << 15))
