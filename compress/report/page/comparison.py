"""Compares several runs, or the points of a frontier: one table row and one point of the chart for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from compress.report import frontier as frontiers
from compress.report.charts.families import verdict
from compress.report.formatting import difference, interval
from compress.report.page.phrases import methods


def key(index: int) -> str:
    """Returns the letter of a run; after Z come AA, AB …"""
    first, last = divmod(index, len(ascii_uppercase))
    return (key(first - 1) if first else "") + ascii_uppercase[last]


def comparison(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns `families`, `rows`, `points`, and `fast`: whether the speed of any run is known. None for fewer than two.

    `about` of a row is the model and the suite, where these differ between runs: then only differences can be compared.
    """
    if len(runs) < 2:
        return None
    names = list(dict.fromkeys(family["name"] for run in runs for family in run["families"] or ()))
    rows = [_row(index, run, names) for index, run in enumerate(runs)]
    if len({row["about"] for row in rows}) == 1:  # the same everywhere, so not worth a line
        rows = [{**row, "about": None} for row in rows]
    points = [point for index, run in enumerate(runs) if (point := _point(index, run))]
    return {"families": names, "rows": rows, "points": points, "fast": any(run["speed"] for run in runs)}


def _row(index: int, run: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    families = {family["name"]: family for family in run["families"] or ()}
    text, speed = run["text"] or {}, run["speed"]
    return {
        "key": key(index),
        "name": run["name"],
        "methods": methods(run),
        "about": f"{run['model']}, {run['asked']['suite']['name']}" if run["asked"] else run["model"],
        "size_bytes": (run["size"] or {}).get("bytes"),
        "bits": (run["size"] or {}).get("bits_per_weight_linears"),
        "kl": text.get("divergence"),
        "perplexity": text.get("perplexity"),
        "decode": speed["compressed"][speed["dtype"]]["decode_tokens_per_s"] if speed else None,
        "times_faster": speed["times_faster"] if speed else None,
        "families": [_family(families.get(name)) for name in names],
    }


def _family(family: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if family is None:
        return None
    if (paired := family["paired"]) is None:
        return {"score": family["score"], "paired": None, "ends": None, "verdict": "open"}
    return {
        "score": family["score"],
        "paired": difference(paired["difference"], paired["low"], paired["high"]),
        "ends": interval(paired["low"], paired["high"]),
        "verdict": verdict(paired),
    }


def _point(index: int, run: Mapping[str, Any]) -> dict[str, Any] | None:
    bits, kl = (run["size"] or {}).get("bits_per_weight_linears"), (run["text"] or {}).get("divergence")
    if bits is None or kl is None:
        return None
    name = f"{key(index)} {methods(run)}"
    return {"label": name, "curve": name, "mark": key(index), "bits": bits, "kl": kl["mean"], "low": kl["low"],
            "high": kl["high"]}  # fmt: skip


def of_frontier(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `title`, `header`, `rows`, `remarks` and `points` of a frontier.json."""
    header, rows = frontiers.rows(data)
    best = frontiers.best(data["points"])
    points = [
        {
            "label": f"{point['label']}, {point['column']}",
            "curve": point["label"],
            "mark": "",
            "best": index in best,
            "bits": point["bits_per_weight"],
            "kl": point["kl"]["mean"],
            "low": point["kl"]["low"],
            "high": point["kl"]["high"],
        }
        for index, point in enumerate(data["points"])
        if "kl" in point
    ]
    limit = "" if data["limit"] is None else f", {data['limit']} items per family"
    return {
        "title": f"{data['model']} on {data['suite']['name']}{limit}",
        "header": header,
        "rows": rows,
        "remarks": frontiers.remarks(data),
        "points": points,
    }
