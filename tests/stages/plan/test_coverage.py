"""The account: every matrix of a block counts, and whoever left it dense is named."""

import pytest
import torch
from torch import nn

from compress.errors import CoverageError, RecipeError
from compress.models.linears import find_linears
from compress.stages.plan.coverage import account, dense_matrices, select, summary, warning
from tests.support.packed_checkpoints import tiny

LINEARS = {"m.0.q": (4, 4), "m.0.down": (4, 8), "m.1.q": (4, 4), "m.1.down": (4, 8)}
DENSE = {"m.embed_tokens.weight": (10, 4), "m.0.norm.weight": (4,), "m.0.q.bias": (4,), "m.0.mlp.gate.weight": (2, 4)}


class Block(nn.Module):
    """Linears beside everything that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(4, 4)
        self.conv = nn.Conv1d(4, 4, 3, groups=4)
        self.table = nn.Embedding(5, 4)
        self.mixed = nn.Parameter(torch.ones(3, 4))
        self.experts = nn.Parameter(torch.ones(2, 4, 6))
        self.heads = nn.Parameter(torch.ones(2, 2, 3))
        self.scale = nn.Parameter(torch.ones(1, 1, 4))  # a vector
        self.experts_bias = nn.Parameter(torch.ones(2, 4))
        self.my_router = nn.Bilinear(2, 3, 2)


REASONS = {
    "m.0.conv.weight": ("convolution", 12, "Conv1d"),
    "m.0.table.weight": ("embedding table in a block", 20, "Embedding"),
    "m.0.mixed": ("read directly by its module", 12, "Block"),
    "m.0.experts": ("experts in an unknown layout", 48, "Block"),
    "m.0.my_router.weight": ("router", 12, "Bilinear"),
    "m.0.heads": ("read directly by its module", 12, "Block"),
}


def test_every_parameter_is_counted_once() -> None:
    coverage = account(LINEARS, (), DENSE, ("m.1.q",), floor=0.5)
    assert coverage.total == 96 + 40 + 4 + 4 + 8
    assert coverage.compressed == 80 and coverage.share == pytest.approx(80 / 96)
    assert coverage.left == {"embedding": 40, "norm": 4, "bias": 4, "router": 8, "skipped linears": 16}
    assert coverage.compressed + sum(coverage.left.values()) == coverage.total


def test_matrices_that_are_not_recognised_lower_the_share_and_are_named() -> None:
    block = Block()
    refs = find_linears(block, "m.0")
    matrices = list(dense_matrices(block, "m.0", refs))
    assert {one.name: (one.reason, one.size, one.module) for one in matrices} == REASONS
    dense = {f"m.0.{name}": tuple(p.shape) for name, p in block.named_parameters() if name != "q.weight"}
    coverage = account({"m.0.q": (4, 4)}, matrices, dense, (), floor=0.1)
    assert coverage.share == pytest.approx(16 / (16 + 12 + 20 + 12 + 48 + 12 + 12))
    assert (
        coverage.compressed + sum(coverage.left.values())
        == coverage.total
        == sum(p.numel() for p in block.parameters())
    )
    assert coverage.to_dict()["dense_matrices"][0] == {
        "reason": "experts in an unknown layout", "module": "Block", "matrices": 1, "parameters": 48,
        "first": "m.0.experts",
    }  # fmt: skip
    said = warning(coverage.to_dict())
    assert said is not None and said.startswith("87.88%") and "48 in 1 × Block (m.0.experts …)" in said
    with pytest.raises(CoverageError, match=r"only 12\.1% .*unknown layout, 48 in 1 × Block \(m\.0\.experts"):
        account({"m.0.q": (4, 4)}, matrices, dense, (), floor=0.5)


def test_nothing_left_dense_is_no_warning() -> None:
    assert warning(account(LINEARS, (), {}, (), floor=0.9).to_dict()) is None


@pytest.mark.parametrize("kind", ["mixtral", "gpt-oss", "llama4", "jetmoe", "dbrx", "nemotron-h", "granitemoe"])
def test_only_the_routers_of_experts_stay_dense(kind: str) -> None:
    model = tiny(kind)
    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    for block in blocks:
        matrices = list(dense_matrices(block, "m", find_linears(block, "m")))
        assert {entry["reason"] for entry in summary(matrices)} <= {"router"}
        assert all(one.size == 4 * 32 for one in matrices)
    assert matrices  # the last block has experts in all of them


@pytest.mark.parametrize("kind", ["mixtral", "gpt-oss"])
def test_experts_that_changed_their_layout_are_counted(kind: str) -> None:
    model = tiny(kind)
    block = next(m for m in model.modules() if isinstance(m, nn.ModuleList))[0]
    experts = block.get_submodule("mlp.experts")
    experts.is_transposed = not experts.is_transposed  # type: ignore[assignment]
    matrices = list(dense_matrices(block, "m", find_linears(block, "m")))
    unknown = {one.name for one in matrices if one.reason == "experts in an unknown layout"}
    assert unknown == {"m.mlp.experts.gate_up_proj", "m.mlp.experts.down_proj"}


def test_below_the_floor_is_an_error() -> None:
    with pytest.raises(CoverageError, match=r"only 33\.3% .*Allowed: 90% or more"):
        account(LINEARS, (), DENSE, select(LINEARS, ["*.down"]), floor=0.9)


def test_globs() -> None:
    assert select(LINEARS, ["m.1.*"]) == ("m.1.q", "m.1.down")
    with pytest.raises(RecipeError, match=r"'\*\.dwon' matches no linear"):
        select(LINEARS, ["*.dwon"])
