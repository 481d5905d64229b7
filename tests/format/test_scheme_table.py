"""Schemes of many tensors are written once, and read back as they were."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from compress.errors import FormatError
from compress.format.scheme_table import expand, shorten


def entry(outliers: int = 0, bits: int = 3, shape: tuple[int, int] = (64, 32), **options: Any) -> dict[str, Any]:
    scheme = {"layout": "spqr.v1", "bits": bits, "group_size": 16, "options": {"outliers": outliers, **options}}
    return {"scheme": scheme, "shape": list(shape), "bias": False}


def low_rank(outliers: int) -> dict[str, Any]:
    left, right = entry(outliers)["scheme"], entry(7)["scheme"]
    scheme = {
        "layout": "low_rank.v1",
        "bits": 3,
        "group_size": 32,
        "options": {"rank": 4, "left": left, "right": right},
    }
    return {"scheme": scheme, "shape": [64, 32], "bias": True}


MODEL = {
    **{f"model.layers.{n}.mlp.up": entry(outliers=n * n, exponent=-n) for n in range(30)},
    **{f"model.layers.{n}.mlp.down": low_rank(n) for n in (0, 1, 2, 5, 7, 8)},
    **{f"model.layers.{n}.experts.q_up.{e}": entry(bits=2 + n) for n in range(2) for e in range(4)},
    "model.layers.3.mlp.odd": entry(shape=(10, 32)),
    "model.embed_tokens": entry(bits=8),
    "a#b.3.c": entry(),
    "x.03.y": entry(),
}


def test_what_is_written_is_read_back() -> None:
    before = copy.deepcopy(MODEL)
    groups = shorten(MODEL)
    assert expand(json.loads(json.dumps(groups))) == MODEL == before
    assert len(groups) == 8
    by_names = {group["names"]: group for group in groups}
    assert by_names["model.layers.#.mlp.down"]["numbers"] == "0-2,5,7-8"
    assert by_names["model.layers.#.mlp.down"]["options"] == {"left.options.outliers": [0, 1, 2, 5, 7, 8]}
    assert by_names["model.layers.#.mlp.up"]["options"]["exponent"][:3] == [0, -1, -2]
    assert "numbers" not in by_names["model.embed_tokens"] and "options" not in by_names["model.embed_tokens"]


def test_one_tensor_alone_and_none() -> None:
    assert shorten({}) == [] and expand([]) == {}
    (group,) = shorten({"h.3.up": entry(5)})
    assert group["numbers"] == "3" and group["scheme"]["options"] == {"outliers": 5}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda group: group.pop("names"), "lacks its `names`"),
        (lambda group: group.pop("scheme"), "lacks scheme"),
        (lambda group: group.update(numbers="0-99999999"), "more than"),
        (lambda group: group.update(numbers="1-"), "numbers"),
        (lambda group: group.update(numbers=[0, 1]), "numbers"),
        (lambda group: group.update(numbers="0,0,1"), "another number of values"),
        (lambda group: group["options"].update(outliers=[1]), "another number of values"),
        (lambda group: group["options"].update({"left.outliers": [1, 2]}), "has no part"),
        (lambda group: group.update(scheme=3), "has no options"),
        (lambda group: group.update(options=3), "another number of values"),
    ],
)
def test_malformed_groups_are_refused(change: Any, said: str) -> None:
    groups = shorten({f"h.{n}.up": entry(n) for n in range(2)})
    change(groups[0])
    with pytest.raises(FormatError, match=said):
        expand(groups)


def test_a_tensor_that_is_named_twice_is_refused() -> None:
    groups = shorten({"h.0.up": entry()})
    with pytest.raises(FormatError, match="twice"):
        expand([*groups, *groups])
    with pytest.raises(FormatError, match="not a list"):
        expand({"h.0.up": entry()})
