"""Compares several runs, or the points of a frontier: one table row and one point of the chart for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from string import ascii_uppercase
from typing import Any

from compress.report import frontier as frontiers
from compress.report.charts.families import verdict
from compress.report.charts.scatter import SIZE_AGAINST_KL, Axes
from compress.report.formatting import difference, interval, label
from compress.report.page.phrases import gate, methods


def key(index: int) -> str:
    """Returns the letter of a run; after Z come AA, AB …"""
    first, last = divmod(index, len(ascii_uppercase))
    return (key(first - 1) if first else "") + ascii_uppercase[last]


def comparison(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns `families`, `rows`, `pictures` (pairs of `Axes` and points), and `fast`: whether any speed is known.

    None for fewer than two runs. The pictures are size against KL, and against right answers where all runs were asked
    the same; one with fewer than two points is left out.

    `about` of a row is the model and the suite, where these differ between runs: then only differences can be compared.
    """
    if len(runs) < 2:
        return None
    names = list(dict.fromkeys(family["name"] for run in runs for family in run["families"] or ()))
    rows = [_row(index, run, names) for index, run in enumerate(runs)]
    if len({row["about"] for row in rows}) == 1:  # the same everywhere, so not worth a line
        rows = [{**row, "about": None} for row in rows]
    drawn = [_against_kl(runs), *([_against_answers(runs)] if _same_questions(runs) else [])]
    pictures = [picture for picture in drawn if len(picture[1]) > 1]
    return {"families": names, "rows": rows, "pictures": pictures, "fast": any(run["speed"] for run in runs)}


def _row(index: int, run: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    families = {family["name"]: family for family in run["families"] or ()}
    text, speed = run["text"] or {}, run["speed"]
    return {
        "key": key(index),
        "name": run["name"],
        "methods": methods(run),
        "gate": gate(run),
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


def _same_questions(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether all runs were asked the same items of the same families, at least one."""
    asked = [[(family["name"], family["items"]) for family in run["families"] or ()] for run in runs]
    suites = [run["asked"]["suite"].get("items_sha256") for run in runs if run["asked"]]
    return bool(asked[0]) and all(each == asked[0] for each in asked) and len(set(suites)) == 1


def _against_kl(runs: Sequence[Mapping[str, Any]]) -> tuple[Axes, list[dict[str, Any]]]:
    """Returns the picture of size against the divergence from the dense model."""
    points = []
    for index, run in enumerate(runs):
        kl = (run["text"] or {}).get("divergence")
        if run["size"] is not None and kl is not None:
            points.append(_point(index, run, kl["mean"], kl["low"], kl["high"]))
    return SIZE_AGAINST_KL, points


def _against_answers(runs: Sequence[Mapping[str, Any]]) -> tuple[Axes, list[dict[str, Any]]]:
    """Returns the picture of size against the mean score of the families, in per cent."""
    names = [family["name"] for family in runs[0]["families"]]
    points = []
    for index, run in enumerate(runs):
        if run["size"] is not None:
            score = 100 * fmean(family["score"] for family in run["families"])
            points.append(_point(index, run, score, score, score))
    dense = [family["dense"] for run in runs for family in run["families"]]
    reference = None if None in dense else 100 * fmean(dense)
    mean = f"mean score of {len(names)} families, %" if len(names) > 1 else f"{label(names[0])}, %"
    return Axes("size on disk, MB", mean, ("{:.1f} MB", "{:.1f} %"), log=False, reference=reference), points


def _point(index: int, run: Mapping[str, Any], y: float, low: float, high: float) -> dict[str, Any]:
    name = f"{key(index)} {methods(run) or run['name']}"
    megabytes = run["size"]["bytes"] / 1e6
    return {"label": name, "curve": name, "mark": key(index), "x": megabytes, "y": y, "low": low, "high": high}


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
            "x": point["bits_per_weight"],
            "y": point["kl"]["mean"],
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
