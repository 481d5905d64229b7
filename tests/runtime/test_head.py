"""TiledHead: the product of few tokens through the native kernels, everything else as nn.Linear has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import compress
from compress.kernels import native
from compress.kernels.native import loader
from compress.runtime import head
from compress.runtime.head import TiledHead
from tests.support.packed_checkpoints import Packed

pytestmark = pytest.mark.skipif(loader.unavailable() is not None, reason=str(loader.unavailable()))
Make = Callable[..., Packed]


def linear(dtype: torch.dtype = torch.float32, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 131, bias=bias).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [1, native.FEW_TOKENS])
def test_few_tokens_are_multiplied_in_float32_and_rounded_once(dtype: torch.dtype, tokens: int) -> None:
    plain = linear(dtype, bias=True)
    x = torch.randn(1, tokens, 96).to(dtype)
    exact = x.double() @ plain.weight.double().T + plain.bias.double()
    reach = x.double().abs() @ plain.weight.double().abs().T + plain.bias.double().abs()
    error = (TiledHead(plain)(x).double() - exact).abs()
    assert (error <= reach * 1e-5 + exact.abs() * torch.finfo(dtype).eps).all()


def test_many_tokens_and_gradients_are_those_of_torch() -> None:
    plain = linear()
    tiled, x = TiledHead(plain), torch.randn(native.FEW_TOKENS + 1, 96)
    assert torch.equal(tiled(x), plain(x)) and not tiled._tiles
    few = torch.randn(2, 96, requires_grad=True)
    tiled(few).sum().backward()
    assert few.grad is not None and torch.allclose(few.grad, plain.weight.sum(0).expand(2, -1), atol=1e-4)
    assert tiled(torch.empty(0, 96)).shape == (0, 131)


def test_one_and_many_threads_give_the_same_bits() -> None:
    tiled, x, before = TiledHead(linear()), torch.randn(1, 96), torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(tiled(x))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_changed_weight_is_seen() -> None:
    plain = linear()
    tiled, x = TiledHead(plain), torch.randn(1, 96)
    first = tiled(x)
    plain.weight.mul_(2)
    assert torch.equal(tiled(x), 2 * first)
    tiled.to(torch.bfloat16)
    assert tiled(x.bfloat16()).dtype == torch.bfloat16
    tiled.weight = nn.Parameter(torch.zeros(131, 96), requires_grad=False)
    assert not tiled(x).any()


@torch.no_grad()
def test_a_compiled_graph_takes_the_tiles_that_there_are() -> None:
    tiled, x = TiledHead(linear()), torch.randn(1, 96)
    expected = tiled(x)
    found = torch.compile(tiled, backend="aot_eager", fullgraph=True)(x)
    assert torch.equal(found, expected)
    fresh = TiledHead(linear())
    plain = torch.compile(fresh, backend="aot_eager", fullgraph=True)(x)
    assert not fresh._tiles and torch.allclose(plain, expected, atol=1e-5)


@torch.no_grad()
def test_a_loaded_model_has_it_where_it_pays(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, tokens = make("llama-tied"), torch.arange(12).view(1, 12)
    small = compress.load(packed.folder)
    assert type(small.lm_head) is nn.Linear
    expected = small(tokens).logits
    monkeypatch.setattr(head, "LEAST_BYTES", 0)
    model = compress.load(packed.folder)
    assert isinstance(model.lm_head, TiledHead)
    assert model.lm_head.weight is model.get_input_embeddings().weight, "still tied"
    assert model.state_dict().keys() == small.state_dict().keys()
    assert torch.allclose(model(tokens).logits, expected, atol=1e-5) and model.lm_head._tiles
    model.save_pretrained(tmp_path)
    assert torch.allclose(compress.load(packed.folder, keep_prepared=False)(tokens).logits, expected, atol=1e-5)
    frugal = compress.load(packed.folder, keep_prepared=False)
    assert torch.equal(frugal(tokens).logits, expected) and not frugal.lm_head._tiles
