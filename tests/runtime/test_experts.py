"""Packed experts compute what the dense module does with the decoded weights; unknown layouts are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.errors import FormatError
from compress.runtime.experts import PackedExperts, pack_experts
from compress.runtime.linear import PackedLinear
from tests.support.packed_checkpoints import pack_in_place, rtn4, tiny

PROJECTIONS = ("gate_up_proj", "down_proj")


def packed_experts(dense: nn.Module, packed: dict[str, list[PackedLinear]]) -> nn.Module:
    pack_experts(dense, packed, "experts")
    assert isinstance(dense, PackedExperts)
    return dense


def dense_and_packed() -> tuple[nn.Module, dict[str, list[PackedLinear]]]:
    """Returns the experts of a tiny Mixtral, their weights already the unpacked ones, and their packed layers."""
    experts = tiny("mixtral").model.layers[0].mlp.experts
    packed = pack_in_place(nn.ModuleDict({"experts": experts}), rtn4, r"^$")
    return experts, {p: [PackedLinear.from_packed(packed[f"experts.q_{p}.{e}"]) for e in range(4)] for p in PROJECTIONS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_routing_gives_the_same_output(dtype: torch.dtype) -> None:
    dense, packed = dense_and_packed()
    dense = dense.to(dtype)
    hidden_TH, index_TC = torch.randn(9, 32).to(dtype), torch.randint(0, 3, (9, 2))  # expert 3 gets no token
    weights_TC = torch.rand(9, 2)
    with torch.no_grad():
        expected_TH = dense(hidden_TH, index_TC, weights_TC)
        found_TH = packed_experts(dense, packed)(hidden_TH, index_TC, weights_TC)
    assert found_TH.dtype == dtype
    # a kernel sums in float32 where the dense layer rounds on the way
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (2e-2, 1e-2)
    torch.testing.assert_close(found_TH, expected_TH, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("has_bias", True), ("is_transposed", True), ("is_concatenated", False), ("has_gate", False)],
)
def test_experts_of_another_make_are_refused(attribute: str, value: bool) -> None:
    dense, packed = dense_and_packed()
    setattr(dense, attribute, value)
    with pytest.raises(FormatError, match=f"{attribute}: {value}"):
        packed_experts(dense, packed)


def test_experts_that_do_not_describe_themselves_are_refused() -> None:
    dense, packed = dense_and_packed()
    del dense.has_gate
    with pytest.raises(FormatError, match="has_gate: not described"):
        packed_experts(dense, packed)


def test_too_few_experts_are_refused() -> None:
    dense, packed = dense_and_packed()
    packed["down_proj"].pop()
    with pytest.raises(FormatError, match=r"one of 3.*Allowed: 4×32×48"):
        packed_experts(dense, packed)


def test_a_custom_gate_is_used() -> None:
    dense, packed = dense_and_packed()

    class Experts(type(dense)):  # type: ignore[misc]
        def _apply_gate(self, x: torch.Tensor) -> torch.Tensor:
            return x.chunk(2, -1)[1] * self.limit

    dense.__class__, dense.limit = Experts, 3.0
    arguments = torch.randn(5, 32), torch.randint(0, 4, (5, 2)), torch.rand(5, 2)
    with torch.no_grad():
        dense.config._experts_implementation = "grouped_mm"
        expected = dense(*arguments)
        torch.testing.assert_close(packed_experts(dense, packed)(*arguments), expected)
