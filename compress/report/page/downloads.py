"""Makes the files that a page offers for download, from its content: the JSON of the report, and tables as CSV.

They are links with the data inside, so that a page that is sent around has them too.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.report.page import phrases

Content = Mapping[str, Any]
_LAYER = ("name", "layout", "count", "bits", "error", "error_of", "outliers", "size_bytes")


@dataclass(frozen=True, slots=True)
class Download:
    """One file."""

    name: str
    says: str
    """What it holds, for the link."""
    href: str
    """A `data:` address with the content."""
    size_bytes: int


def downloads(content: Content) -> list[Download]:
    """Returns the files for the content of a report; tables that have no rows are left out."""
    runs = content["runs"]
    tables = (
        ("figures.csv", "size, perplexity and divergence of each run", _figures(runs)),
        ("families.csv", "scores by family, with paired differences", _families(runs)),
        ("layers.csv", "bits and error of every layer", _layers(runs)),
        ("frontier.csv", "the points of the frontier", _frontier(content["frontiers"])),
    )
    files = [_file(name, says, "text/csv", _csv(rows)) for name, says, rows in tables if len(rows) > 1]
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return [*files, _file("report.json", "everything on this page, not rounded", "application/json", text)]


def _file(name: str, says: str, kind: str, text: str) -> Download:
    raw = text.encode()
    return Download(name, says, f"data:{kind};charset=utf-8;base64,{base64.b64encode(raw).decode()}", len(raw))


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _figures(runs: Sequence[Content]) -> list[Sequence[Any]]:
    sizes = ("bytes", "dense_bytes", "bits_per_weight_linears", "bits_per_weight_model", "parameters")
    kl = ("mean", "low", "high", "p99", "same_top1")
    head = ["run", "model", "methods", *sizes, "perplexity", "dense_perplexity", "tokens", *(f"kl_{key}" for key in kl)]
    head[-1] = "same_top1"
    rows: list[Sequence[Any]] = [[*head, "tokens_per_s", "gate"]]
    read = ("perplexity", "dense_perplexity", "tokens")
    for run in runs:
        size, text, speed = run["size"] or {}, run["text"] or {}, run["speed"]
        divergence = text.get("divergence") or {}
        rows.append([
            run["name"], run["model"], phrases.methods(run), *(size.get(key) for key in sizes),
            *(text.get(key) for key in read), *(divergence.get(key) for key in kl),
            speed["compressed"][speed["dtype"]]["decode_tokens_per_s"] if speed else None,
            run["gate"]["verdict"] if run["gate"] else None,
        ])  # fmt: skip
    return rows


def _families(runs: Sequence[Content]) -> list[Sequence[Any]]:
    paired = ("difference", "low", "high", "lost", "gained", "answers_changed")
    rows: list[Sequence[Any]] = [["run", "family", "items", "metric", "chance", "dense", "compressed", *paired]]
    for run in runs:
        for family in run["families"] or ():
            given = family["paired"] or {}
            own = [family[key] for key in ("name", "items", "primary", "chance", "dense", "score")]
            rows.append([run["name"], *own, *(given.get(key) for key in paired)])
    return rows


def _layers(runs: Sequence[Content]) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = [["run", *_LAYER]]
    for run in runs:
        cells = [cell for row in (run["layers"] or {"cells": ()})["cells"] for cell in row if cell]
        rows += [[run["name"], *(cell[key] for key in _LAYER)] for cell in cells]
    return rows


def _frontier(frontiers: Sequence[Content]) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = [
        [
            "model",
            "method",
            "asked",
            "bits_per_weight",
            "bytes",
            "kl_mean",
            "kl_low",
            "kl_high",
            "perplexity",
            "refused",
        ]
    ]
    for frontier in frontiers:
        for point in frontier["points"]:
            kl = point.get("kl") or {}
            keys = ("label", "column", "bits_per_weight", "size_bytes")
            own = [point.get(key) for key in keys] + [kl.get(key) for key in ("mean", "low", "high")]
            rows.append([frontier["model"], *own, point.get("perplexity"), point.get("refused")])
    return rows
