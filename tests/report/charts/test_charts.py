"""The charts: places, ticks and steps."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from compress.report.charts import families, heat, positions, scatter, svg
from compress.report.charts.palette import HEAT_STEPS
from compress.report.page import layers
from tests.support import runs


def family(dense: float | None, score: float, low: float, high: float, chance: float = 0.0) -> dict[str, Any]:
    difference = score - (dense or 0)
    paired = {"low": low, "high": high, "difference": difference} if dense is not None else None
    return {"name": "multiple_choice", "dense": dense, "score": score, "chance": chance, "paired": paired}


def shapes(drawn: str, name: str) -> list[dict[str, str]]:
    return [dict(one.attrib) for one in ElementTree.fromstring(drawn).iter(name)]


def test_a_scale_maps_ends_to_ends_and_powers_evenly() -> None:
    line = svg.Scale(2, 4, 10, 90)
    assert [line(2), line(3), line(4)] == [10, 50, 90]
    powers = svg.Scale(0.01, 1, 200, 0, log=True)
    assert [powers(v) for v in (0.01, 0.1, 1)] == pytest.approx([200, 100, 0])
    with pytest.raises(ValueError, match="logarithmic"):
        svg.Scale(0, 1, 0, 1, log=True)


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (-42, 8, False, [-40, -30, -20, -10, 0]),
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (2.05, 5.9, False, [3, 4, 5]),
        (0.003, 4.0, True, [0.01, 0.1, 1]),
        (0.8, 30, True, [1, 2, 5, 10, 20]),
        (0.021, 0.045, True, [0.021, 0.045]),
        (5, 5, False, [5]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, log: bool, ticks: list[float]) -> None:
    found = svg.Scale(low, high, 0, 1, log=log).ticks()
    assert len(found) <= 6
    assert found == pytest.approx(ticks)


def test_a_range_around_equal_values_has_a_width() -> None:
    for log in (False, True):
        low, high = svg.around([3.0, 3.0], log=log)
        assert low < 3 < high


def test_bars_are_as_long_as_the_scores() -> None:
    drawn = families.bars(family(0.9, 0.255, -0.7, -0.6, chance=0.25))
    widths = [one["width"] for one in shapes(drawn, "rect") if one["class"] != "empty"]
    assert widths == ["90.00%", "25.50%"]
    assert [one["x1"] for one in shapes(drawn, "line")] == ["25.00%"], "what guessing scores"
    assert "dense 90.0 %, compressed 25.5 %" in drawn
    assert len(shapes(families.bars(family(None, 0.5, 0, 0)), "rect")) == 2


def test_the_strip_shows_the_interval_on_the_scale_of_all_families() -> None:
    rows = [family(0.9, 0.65, -0.40, -0.10), family(0.9, 0.9, -0.05, 0.05), family(0.5, 0.6, 0.02, 0.18)]
    scale = families.reach(rows)
    assert scale is not None and scale.low < -40 and scale.high > 18
    assert [families.verdict(one["paired"]) for one in rows] == ["loss", "open", "gain"]
    drawn = families.strip(rows[0], scale)
    dot = shapes(drawn, "circle")[0]
    assert dot["class"] == "loss" and dot["cx"] == f"{scale(-25):.2f}%"
    spans = [one for one in shapes(drawn, "line") if one["class"] == "span loss"]
    assert (spans[0]["x1"], spans[0]["x2"]) == (f"{scale(-40):.2f}%", f"{scale(-10):.2f}%")
    assert families.reach([family(None, 0.5, 0, 0)]) is None


def test_a_scatter_takes_points_without_any_divergence() -> None:
    points = [
        {"label": f"p{n}", "curve": "c", "mark": "A", "x": 2.0 + n, "y": kl, "low": 0.0, "high": 2 * kl}
        for n, kl in enumerate([0.5, 0.01, 0.0])
    ]
    drawn = scatter.scatter(points)
    heights = [float(one["cy"]) for one in shapes(drawn, "circle")]
    assert heights == sorted(heights), "more bits, less divergence, further down"
    assert scatter.scatter(points[2:]), "one point, nothing but zeros"


def test_a_tuned_method_has_the_colour_of_the_method_and_hollow_points() -> None:
    names = ["rtn", "gptq", "gptq+block", "aqlm+full"]
    assert scatter.curves([{"curve": name} for name in names]) == [
        ("rtn", 0, False), ("gptq", 1, False), ("gptq+block", 1, True), ("aqlm+full", 2, True),
    ]  # fmt: skip


def test_heat_steps_follow_the_figures(manifest: dict[str, Any]) -> None:
    grid = layers.grid(runs.of_layers(manifest, blocks=5))
    assert grid is not None
    maps = {shown.key: shown for shown in heat.heats(grid)}
    assert list(maps) == ["bits", "error", "outliers"]
    for key, shown in maps.items():
        cells = [cell for _, row in shown.rows for cell in row]
        values = [cell[key] for row in grid["cells"] for cell in row]
        steps = [step for _, step in sorted(zip(values, (cell.step for cell in cells), strict=True))]
        assert steps == sorted(steps)
        assert all(step is not None and 0 <= step < HEAT_STEPS for step in steps)
    assert maps["error"].rows[1][1][4].shown == "1.0" and maps["error"].rows[1][1][4].step == HEAT_STEPS - 1
    assert "model.layers.4.mlp.down_proj: relative error 1.00e-02" in maps["error"].rows[1][1][4].description


def test_nearly_equal_figures_look_nearly_equal(manifest: dict[str, Any]) -> None:
    made = runs.of_layers(manifest, blocks=2)
    for place, entry in enumerate(made["tensors"].values()):
        entry |= {"size_bytes": 1056 + place, "relative_error": 0.01 + place / 1e5, "outliers": 0}
    grid = layers.grid(made)
    assert grid is not None
    maps = heat.heats(grid)
    assert [heat.key for heat in maps] == ["bits", "error"], "no map of outliers that are not there"
    steps = [{cell.step for _, row in heat.rows for cell in row} for heat in maps]
    assert steps == [{0}, {HEAT_STEPS // 2}], "errors that are alike are in the middle of the scale"


def test_linears_of_one_name_are_told_apart(manifest: dict[str, Any]) -> None:
    entry = next(iter(manifest["tensors"].values()))
    for second, wanted in (("mlp.c_proj", ["attn.c_proj", "mlp.c_proj"]), ("mlp.c_fc", ["c_proj", "c_fc"])):
        names = [f"transformer.h.0.{name}" for name in ("attn.c_proj", second)]
        grid = layers.grid({**manifest, "tensors": dict.fromkeys(names, entry)})
        assert grid is not None and [label for label, _ in heat.heats(grid)[0].rows] == wanted


def test_many_blocks_have_no_figures_in_the_cells(manifest: dict[str, Any]) -> None:
    grids = [layers.grid(runs.of_layers(manifest, blocks)) for blocks in (12, 13)]
    assert [heat.heats(grid)[0].figures for grid in grids if grid] == [True, False]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.104, "10.4"), (0.0873, "8.7"), (0.0041, "0.41"), (0.00041, "0.041"), (4e-7, "4e-5"), (0, "0")],
)
def test_errors_are_short(value: float, shown: str) -> None:
    assert heat.figure("error", value) == shown


def test_columns_are_as_high_as_the_divergence_there() -> None:
    spans = [{"start": 16 * n, "end": 16 * n + 16, "mean": mean, "tokens": 9} for n, mean in enumerate([0.4, 0.2, 0.1])]
    drawn = positions.columns(spans, 0.2)
    heights = [float(one["height"]) for one in shapes(drawn, "rect")]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.02) and heights[1] == pytest.approx(
        2 * heights[2], rel=0.02
    )
    assert re.search("0.4000 at the first positions, 0.1000 at the last, 0.2000 on average", drawn)
    assert positions.columns([{**spans[0], "mean": 0.0}], 0.0), "the model itself"
