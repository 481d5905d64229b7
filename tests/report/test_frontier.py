"""The table and the picture of a frontier."""

import io
from xml.etree import ElementTree

import pytest
from rich.console import Console

from compress.report import frontier
from tests.support.results import point


@pytest.fixture
def data():
    return {
        "schema_version": 1, "model": "m", "suite": {"name": "s"}, "limit": None,
        "dense": {"perplexity": 2.0, "scores": {"factoid": 0.95}},
        "points": [
            point("rtn", "3 bits", 3.1, 0.05), point("gptq", "3 bits", 3.1, 0.02), point("spqr", "3 bits", 3.3, 0.03),
            point("rtn", "4 bits", 4.1, 0.01), {"label": "gptq", "column": "4 bits", "refused": "group_size=7 | no"},
        ],
    }  # fmt: skip


def test_the_best_are_those_that_nothing_beats(data):
    assert frontier.best(data["points"]) == {1, 3}
    assert frontier.best([]) == set()


def test_rows_stand_by_what_was_asked_and_then_by_divergence(data):
    header, cells = frontier.rows(data)
    assert all(len(row) == len(header) for row in cells)
    assert [row[0] for row in cells] == ["gptq *", "spqr", "rtn", "rtn *", "gptq", "dense"]
    assert cells[4][3] == "refused" and cells[5][6] == "95.0 %"
    assert "90.0 % (−5.0)" in cells[0]


@pytest.mark.parametrize("width", [100, 120])
def test_the_table_is_not_cut(data, width):
    data["points"][0]["column"] = "bits=3 group_size=128 threshold=inf symmetric=false"
    stream = io.StringIO()
    Console(file=stream, width=width).print(frontier.table(data))
    assert "…" not in stream.getvalue() and "0.0450 to 0.0550" in stream.getvalue()


def test_markdown_says_why_a_point_was_refused(data):
    text = frontier.markdown(data)
    assert "frontier.svg" in text and "gptq, 4 bits: refused. group_size=7 | no" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_the_pictures_are_whole_and_the_same_twice(data):
    first, second = frontier.pictures(data), frontier.pictures(data)
    assert first == second
    assert first["png"].startswith(b"\x89PNG") and len(first["png"]) > 10_000
    assert ElementTree.fromstring(first["svg"]).tag.endswith("svg")


def test_one_point_and_perplexities_far_apart(data):
    data["points"] = data["points"][:1]
    assert frontier.figure(data).axes[1].get_yscale() == "linear"
    data["points"] += [point("rtn", "2 bits", 2.1, 300.0)]
    assert frontier.figure(data).axes[1].get_yscale() == "log"
