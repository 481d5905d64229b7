"""Shows a frontier as a table and a figure: true bits per weight against divergence, perplexity and facts.

Everything is computed from the content of frontier.json.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import need_package
from compress.report import formatting
from compress.report.formatting import NOTHING, percent, points, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can distinguish."""
_MARKERS = "osD^vPX*"
_LINES = {"": "solid", "block": "dashed", "full": "dotted"}
"""Line style by the kind of tuning."""
_HEADER = ("method", "asked", "bits/weight", "KL to dense", "95 %", "perplexity", "", "size")
_NO_QUESTIONS = "questions"
"""Heading of the column of scores where no question was asked."""


def best(measurements: Sequence[Mapping[str, Any]]) -> set[int]:
    """Returns the indices of the points that no other beats with as few bits or fewer and less divergence."""
    measured = [(index, point) for index, point in enumerate(measurements) if "kl" in point]
    return {
        index
        for index, point in measured
        if not any(
            other is not point
            and other["bits_per_weight"] <= point["bits_per_weight"]
            and other["kl"]["mean"] < point["kl"]["mean"]
            for _, other in measured
        )
    }


def rows(data: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns the header and the rows of the table, sorted by the size that was asked for, then by divergence."""
    family = _family(data)
    header = tuple(name or formatting.label(family or _NO_QUESTIONS) for name in _HEADER)
    measurements, unbeaten = data["points"], best(data["points"])
    columns = list(dict.fromkeys(point["column"] for point in measurements))

    def order(index: int) -> tuple[int, float]:
        point = measurements[index]
        return columns.index(point["column"]), point["kl"]["mean"] if "kl" in point else float("inf")

    cells: list[tuple[str, ...]] = []
    for index in sorted(range(len(measurements)), key=order):
        point = measurements[index]
        if "refused" in point:
            cells.append((point["label"], point["column"], NOTHING, "refused", "", "", "", ""))
            continue
        kl = point["kl"]
        cells.append(
            (
                f"{point['label']} *" if index in unbeaten else point["label"],
                point["column"],
                f"{point['bits_per_weight']:.2f}",
                f"{kl['mean']:.4f}",
                f"{kl['low']:.4f} to {kl['high']:.4f}",
                f"{point['perplexity']:.3f}",
                _score(point, family),
                size(point["size_bytes"]),
            )
        )
    dense = data["dense"]
    known = NOTHING if family is None else percent(dense["scores"][family])
    cells.append(("dense", "", "", "", "", f"{dense['perplexity']:.3f}", known, ""))
    return header, cells


def _score(point: Mapping[str, Any], family: str | None) -> str:
    """Returns the score of a point with its difference from the dense model."""
    if family is None:
        return NOTHING
    return f"{percent(point['scores'][family])} ({points(point['differences'][family]['difference'])})"


def remarks(data: Mapping[str, Any]) -> list[str]:
    """Returns the lines below the table: what * means, and why points were refused."""
    lines = ["* no other point has less divergence with as few bits; bits are counted from everything stored"]
    lines += [f"{p['label']}, {p['column']}: refused. {p['refused']}" for p in data["points"] if "refused" in p]
    return lines


def table(data: Mapping[str, Any]) -> Table:
    """Returns the table for rich to print."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    header, cells = rows(data)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=_title(data), title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < 2 else "right", no_wrap=index != 1, overflow="fold")
    for row, after in zip(cells, [*cells[1:], None], strict=True):
        table.add_row(*(Text(cell) for cell in row), end_section=after is not None and after[1] != row[1])
    return table


def markdown(data: Mapping[str, Any]) -> str:
    """Returns the table as a markdown document, which shows the figure `frontier.svg` beside it."""
    header, cells = rows(data)
    lines = [f"# {_title(data)}", "", "![true bits per weight against divergence](frontier.svg)", ""]
    lines += ["| " + " | ".join(header) + " |", "|" + " :-- |" * 2 + " --: |" * (len(header) - 2)]
    lines += ["| " + " | ".join(cell.replace("*", "\\*") for cell in row) + " |" for row in cells]
    return "\n".join([*lines, "", *(f"{line.replace('*', chr(92) + '*')}  " for line in remarks(data)), ""])


def pictures(data: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the figure as PNG and SVG, by ending; the same data give the same bytes."""
    import matplotlib

    files = {}
    with matplotlib.rc_context({"svg.hashsalt": "compress"}):
        picture = figure(data)
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            stream = io.BytesIO()
            picture.savefig(stream, format=ending, dpi=160, metadata=metadata)
            files[ending] = stream.getvalue()
    return files


def figure(data: Mapping[str, Any]) -> Figure:
    """Returns the figure: divergence, perplexity, and the score of a family if questions were asked.

    The global state of matplotlib is not changed.
    """
    need_package("matplotlib", "the picture of a frontier")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    family = _family(data)
    dense = data["dense"]
    measured = [point for point in data["points"] if "kl" in point]
    quantities: list[tuple[str, Callable[[Any], float], float | None]] = [
        ("KL to the dense model, nats per token", lambda p: p["kl"]["mean"], None),
        ("perplexity", lambda p: p["perplexity"], dense["perplexity"]),
    ]
    if family is not None:
        facts = f"{formatting.label(family)} accuracy, %"
        quantities.append((facts, lambda p: 100 * p["scores"][family], 100 * dense["scores"][family]))
    picture = Figure(figsize=(4 * len(quantities), 4.2), layout="constrained")
    FigureCanvasAgg(picture)
    panels: Sequence[Axes] = picture.subplots(1, len(quantities))
    panels[0].set_yscale("log")
    for axes, (title, value, reference) in zip(panels, quantities, strict=True):
        labels = list(dict.fromkeys(point["label"] for point in measured))
        methods = list(dict.fromkeys(label.partition("+")[0] for label in labels))
        for label in labels:
            # a tuned method keeps colour and marker of its method, the marker hollow
            method, _, tuning = label.partition("+")
            index = methods.index(method)
            color = _COLORS[index % len(_COLORS)]
            curve = sorted((p["bits_per_weight"], value(p)) for p in measured if p["label"] == label)
            axes.plot(
                [bits for bits, _ in curve],
                [height for _, height in curve],
                label=label,
                color=color,
                marker=_MARKERS[index % len(_MARKERS)],
                markerfacecolor="white" if tuning else color,
                linestyle=_LINES.get(tuning, "dashdot"),
                linewidth=1.6,
                markersize=5.5 if tuning != "full" else 8,
            )
        if reference is not None:
            axes.axhline(reference, color="#555555", linewidth=1, linestyle="dashed")
            axes.text(1, reference, "dense ", transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=8)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("true bits per weight")
        axes.grid(True, which="major", color="#DDDDDD", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    _scale_perplexity(panels[1], [p["perplexity"] for p in measured], dense["perplexity"])
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), frameon=False, fontsize=9)
    picture.suptitle(_title(data), fontsize=11, x=0.01, ha="left")
    return picture


def _scale_perplexity(axes: Axes, values: Sequence[float], dense: float) -> None:
    """Makes the axis logarithmic where values are far apart, so that a broken model does not flatten all others."""
    if max(values, default=dense) > 4 * dense:
        axes.set_yscale("log")


def _title(data: Mapping[str, Any]) -> str:
    subset = "" if data["limit"] is None else f", {data['limit']} items per family"
    return f"{data['model']}: what each bit buys ({data['suite']['name']}{subset})"


def _family(data: Mapping[str, Any]) -> str | None:
    """Returns the family to show: `factoid` if the suite has it, else the first; None if no question was asked."""
    names = list(data["dense"]["scores"])
    return "factoid" if "factoid" in names else next(iter(names), None)
