"""Scores against their definition written out in loops, and selection against trying everything."""

from __future__ import annotations

import itertools

import pytest
import torch

from compress.errors import MethodError
from compress.methods.llm_pruner import Config
from compress.numerics import importance
from compress.stages.rewrite import selection
from compress.stages.rewrite.selection import Candidates


@pytest.fixture
def loss_of_two_samples() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A weight and the gradients of two samples' losses."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator), [torch.randn(6, 5, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("kind", ["taylor1", "taylor2", "taylor_mix", "l1", "l2"])
@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_worth_of_a_position_by_definition(
    loss_of_two_samples: tuple[torch.Tensor, list[torch.Tensor]], kind: str, vectorize: bool, dim: int
) -> None:
    w, grads = loss_of_two_samples
    mean, fisher = sum(grads) / 2, sum(g.square() for g in grads) / 2
    expected = []
    for place in range(w.shape[dim]):
        terms = []
        for other in range(w.shape[1 - dim]):
            row, column = (place, other) if dim == 0 else (other, place)
            value = float(w[row, column])
            first = value * float(grads[0][row, column] + grads[1][row, column]) / 2
            second = value**2 * float(grads[0][row, column] ** 2 + grads[1][row, column] ** 2) / 2
            terms.append(
                {"taylor1": first, "taylor2": second, "taylor_mix": first - second / 2, "l1": abs(value),
                 "l2": value**2}[kind]
            )  # fmt: skip
        expected.append(abs(sum(terms)) if vectorize else sum(map(abs, terms)))
    found = importance.positions(importance.saliency(kind, w, mean, fisher), dim, vectorize=vectorize)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", importance.REDUCTIONS)
def test_query_heads_count_for_the_key_head_they_share(reduction: str) -> None:
    """Four query heads of two channels on two key heads: heads 0 and 1 belong to key head 0."""
    key, query = torch.rand(4), torch.rand(8)
    query_UCF = torch.tensor([[[0, 2], [1, 3]], [[4, 6], [5, 7]]])
    found = importance.units([(key, torch.arange(4).view(2, 2, 1)), (query, query_UCF)], reduction)
    folded = [[float(query[4 * g + c] + query[4 * g + 2 + c]) for c in range(2)] for g in range(2)]
    combine = {"sum": lambda a, b: a + b, "mean": lambda a, b: (a + b) / 2, "max": max, "prod": lambda a, b: a * b,
               "first": lambda a, b: a}[reduction]  # fmt: skip
    expected = [sum(combine(float(key[2 * g + c]), folded[g][c]) for c in range(2)) for g in range(2)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-7)


def candidates(*scores: list[float], parameters: int = 10, step: int = 1, name: str = "x") -> Candidates:
    return Candidates(name, tuple(torch.tensor(one) for one in scores), parameters, step)


def test_units_leave_in_the_order_of_their_scores() -> None:
    group = candidates([3.0, 1.0, 2.0, 1.0], [0.0, 5.0, 4.0, 6.0])
    assert [one.tolist() for one in group.least(2)] == [[1, 3], [0, 2]]
    assert group.losses() == [0.0, 1.0, 6.0, 13.0, 22.0]


def test_by_score_the_least_important_parameters_leave() -> None:
    generator = torch.Generator().manual_seed(1)
    groups = [
        Candidates("heads", (torch.rand(3, generator=generator) * 40,), 40),
        Candidates("channels", (torch.rand(6, generator=generator) * 10,), 10),
    ]
    counts = selection.choose(groups, 60, by_score=True)
    taken = sum(count * group.parameters for count, group in zip(counts, groups, strict=True))
    lost = sum(group.losses()[count] for count, group in zip(counts, groups, strict=True))
    assert 60 <= taken < 60 + 40
    for others in itertools.product(range(3), range(6)):
        if sum(c * g.parameters for c, g in zip(others, groups, strict=True)) == taken:
            assert lost <= sum(g.losses()[c] for c, g in zip(others, groups, strict=True)) + 1e-12


@pytest.mark.parametrize("by_score", [False, True])
@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.5, 0.8])
def test_the_budget_is_met_by_hardly_more(by_score: bool, ratio: float) -> None:
    generator = torch.Generator().manual_seed(2)
    groups = [Candidates(f"h{i}", (torch.rand(8, generator=generator),), 512) for i in range(3)]
    groups += [Candidates(f"c{i}", (torch.rand(96, generator=generator),), 48, 8) for i in range(3)]
    total = sum(group.units * group.parameters for group in groups)
    counts = selection.choose(groups, int(ratio * total), by_score=by_score)
    taken = sum(count * group.parameters for count, group in zip(counts, groups, strict=True))
    assert ratio * total - 1 <= taken < ratio * total + 512 + 1
    assert all(count <= group.most and count % group.step == 0 for count, group in zip(counts, groups, strict=True))


def test_evenly_means_the_same_share_of_every_layer() -> None:
    groups = [candidates(list(range(10)), parameters=8) for _ in range(3)]
    assert selection.choose(groups, 3 * 8 * 3, by_score=False) == [3, 3, 3]


@pytest.mark.parametrize("by_score", [False, True])
def test_no_layer_is_emptied(by_score: bool) -> None:
    groups = [candidates([1.0, 2.0]), candidates([1.0] * 4)]
    assert selection.choose(groups, 40, by_score=by_score) == [1, 3]
    with pytest.raises(MethodError, match=r"would empty a layer.*up to 40"):
        selection.choose(groups, 41, by_score=by_score)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "above 0 and below 1"),
        ({"ratio": 1.0}, "above 0 and below 1"),
        ({"importance": "taylor"}, "taylor1, taylor2"),
        ({"scope": "each"}, "uniform, local, global"),
        ({"multiple": 0}, "1 or more"),
        ({"attention": "none", "mlp": False}, "nothing is left"),
        ({"protect_first": 1}, "scope=local or scope=global"),
        ({"hidden": True, "scope": "global"}, "scope=uniform"),
        ({"hidden": True, "steps": 2}, "steps=1"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, object], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        Config(**options)  # type: ignore[arg-type]
