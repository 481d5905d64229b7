"""Inputs and weights are rounded bit for bit as compressed-tensors rounds them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams, compute_dynamic_scales_and_zp, generate_gparam
from torch import nn

from compress.errors import FormatError
from compress.format import activations, layouts, minifloats, rounded_product
from compress.format.packed import PackedTensor
from compress.methods import rtn

PRESETS = {"int8": "INT8", "fp8": "FP8_DYNAMIC", "fp8_static": "FP8", "nvfp4": "NVFP4", "mxfp4": "MXFP4"}


def awkward(*shape: int) -> torch.Tensor:
    """Returns numbers over many magnitudes, with ties, zeros and a token of zeros."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator) * torch.exp(2 * torch.randn(*shape[:-1], 1, generator=generator))
    x[..., :16] = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0] * 2) * 2.0**-3
    x[..., 20:23] = 0.0
    x[0, 0] = 0.0
    x[..., 40] *= 300
    return x


def packed(kind: str, peak: float = 3.0, **options: Any) -> PackedTensor:
    grid = {"int8": "int", "fp8_static": "fp8"}.get(kind, kind)
    bits = {"bits": 8} if kind == "int8" else {}
    made = rtn.solve(awkward(12, 3, 64).flatten(0, 1), None, rtn.Config(grid=grid, **bits, **options))
    scheme = made.scheme
    scheme.options["activations"] = kind  # type: ignore[index]
    return PackedTensor(made.shape, scheme, made.planes | activations.static_plane(kind, torch.tensor(peak)))


@pytest.mark.parametrize("kind", activations.KINDS)
def test_inputs_are_rounded_as_compressed_tensors_rounds_them(kind: str) -> None:
    x, arguments = awkward(5, 7, 64), preset_name_to_scheme(PRESETS[kind], ["Linear"]).input_activations
    planes = activations.static_plane(kind, x.abs().amax() / 2)
    given = planes.get("input_global_scale")
    if kind == "nvfp4":
        assert torch.equal(given, generate_gparam(-x.abs().amax() / 2, x.abs().amax() / 2))
    if kind == "fp8_static":
        scale, zero = planes["input_scale"], None
        assert torch.equal(scale, calculate_qparams(x.amin() / 2, x.abs().amax() / 2, arguments)[0])
    else:
        scale, zero = compute_dynamic_scales_and_zp(x, arguments, nn.Module(), global_scale=given)
    expected = fake_quantize(x, scale, zero, arguments, global_scale=given)
    found = activations.rounded(x, kind, planes)
    assert torch.equal(found, expected) and not torch.equal(found, x)


@pytest.mark.parametrize("preset", ["FP8_DYNAMIC", "FP8", "NVFP4A16", "MXFP4A16"])
def test_weights_are_rounded_as_compressed_tensors_rounds_them(preset: str) -> None:
    w_NK, arguments = awkward(12, 2, 64).flatten(0, 1), preset_name_to_scheme(preset, ["Linear"]).weights
    grid = {"FP8_DYNAMIC": "fp8", "FP8": "fp8_tensor", "NVFP4A16": "nvfp4", "MXFP4A16": "mxfp4"}[preset]
    group = arguments.group_size or 64
    w_NGg = w_NK.view(len(w_NK), -1, group)
    global_scale = generate_gparam(w_NK.amin(), w_NK.amax()) if grid == "nvfp4" else None
    low, high = (w_NK.amin()[None], w_NK.amax()[None]) if grid == "fp8_tensor" else (w_NGg.amin(-1), w_NGg.amax(-1))
    scale, zero = calculate_qparams(low, high, arguments, global_scale=global_scale)
    expected = fake_quantize(w_NK, scale, zero, arguments, global_scale=global_scale)
    found = rtn.solve(w_NK, None, rtn.Config(grid=grid, scale_dtype="float32" if "fp8" in grid else "auto"))
    layouts.check(found)
    assert torch.equal(layouts.unpack(found), expected)


def test_every_e2m1_and_e4m3_code_comes_back() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    numbers = minifloats.e4m3_values(codes)
    whole = numbers.isfinite()
    assert whole.sum() == 254 and torch.equal(minifloats.e4m3_codes(numbers[whole]), codes[whole])
    four = codes[:16]
    again = minifloats.e2m1_codes(minifloats.e2m1_values(four))
    assert torch.equal(again[four != 8], four[four != 8])  # the code of −0 comes back as that of 0
    powers = minifloats.e8m0_values(codes[:255])
    assert powers[127] == 1 and torch.equal(minifloats.e8m0_codes(powers), codes[:255])


def test_the_product_of_int8_is_exact() -> None:
    """The sum of 2000 products of codes passes 2^24, from where float32 skips numbers."""
    generator = torch.Generator().manual_seed(0)
    x, codes_NK = torch.rand(3, 2000, generator=generator), torch.full((2, 2000), 127.0)
    codes, _ = activations.int8_codes(x + 1)
    found = rounded_product.exact_product(codes, codes_NK)
    assert float(found.max()) > 2**24
    assert torch.equal(found.double(), (codes.double() @ codes_NK.double().T).float().double())


@pytest.mark.parametrize("kind", activations.KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_computes_with_rounded_inputs(kind: str, dtype: torch.dtype) -> None:
    one = packed(kind)
    layouts.check(one)
    x, bias = awkward(2, 3, 64).to(dtype).requires_grad_(), torch.linspace(0, 1, 36, dtype=dtype)
    product = rounded_product.prepare(one, dtype)
    with torch.no_grad():
        found = product(x, bias)
        rounded = activations.rounded(x.float(), kind, one.planes)
    expected = rounded @ layouts.unpack(one).T + bias.float()
    assert found.dtype == dtype
    assert (found.float() - expected).norm() / expected.norm() < (1e-6 if dtype == torch.float32 else 1e-2)
    (grad,) = torch.autograd.grad(product(x, bias).sum(), x)
    assert torch.allclose(grad, layouts.unpack(one).sum(0).to(dtype).expand_as(grad), rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("int8", {"symmetric": False}, "symmetric, one scale a row"),
        ("fp8", {"activations": "fp9"}, "activations 'fp9'.*int8, fp8"),
        ("nvfp4", {"activations": "fp8_static"}, "planes missing: input_scale"),
    ],
)
def test_schemes_that_cannot_be_are_refused(kind: str, change: dict[str, Any], message: str) -> None:
    one = packed(kind)
    one.scheme.options.update(change)  # type: ignore[attr-defined]
    with pytest.raises(FormatError, match=message):
        layouts.check(one)


def test_a_scale_of_inputs_that_is_no_number_is_refused() -> None:
    one = packed("nvfp4")
    one.planes["input_global_scale"][0] = float("nan")
    with pytest.raises(FormatError, match="input_global_scale is nan"):
        layouts.check(one)
