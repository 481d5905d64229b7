"""A frontier as a table and as a picture: true bits per weight against divergence, perplexity and facts.

All of it is made from the content of frontier.json alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.report.formatting import percent, signed, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F", "#000000")
"""Okabe and Ito's palette: told apart by eyes that do not see all colours."""
_MARKERS = "osD^vPX*"
_LINES = {"": "solid", "block": "dashed", "full": "dotted"}
"""By how the points were tuned."""
_HEADER = ("method", "asked", "bits/weight", "KL to dense", "95 %", "perplexity", "", "size")


def best(points: Sequence[Mapping[str, Any]]) -> set[int]:
    """Returns the places of the points that no other point beats: with as few bits or fewer, and less divergence."""
    measured = [(place, point) for place, point in enumerate(points) if "kl" in point]
    return {
        place
        for place, point in measured
        if not any(
            other is not point
            and other["bits_per_weight"] <= point["bits_per_weight"]
            and other["kl"]["mean"] < point["kl"]["mean"]
            for _, other in measured
        )
    }


def rows(data: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns the header and the cells of the table, by what was asked for and then by divergence."""
    family = _family(data)
    header = tuple(name or family.replace("_", " ") for name in _HEADER)
    points, unbeaten = data["points"], best(data["points"])
    columns = list(dict.fromkeys(point["column"] for point in points))

    def order(place: int) -> tuple[int, float]:
        point = points[place]
        return columns.index(point["column"]), point["kl"]["mean"] if "kl" in point else float("inf")

    cells: list[tuple[str, ...]] = []
    for place in sorted(range(len(points)), key=order):
        point = points[place]
        if "refused" in point:
            cells.append((point["label"], point["column"], "–", "refused", "", "", "", ""))
            continue
        kl, lost = point["kl"], point["differences"][family]
        cells.append(
            (
                f"{point['label']} *" if place in unbeaten else point["label"],
                point["column"],
                f"{point['bits_per_weight']:.2f}",
                f"{kl['mean']:.4f}",
                f"{kl['low']:.4f} to {kl['high']:.4f}",
                f"{point['perplexity']:.3f}",
                f"{percent(point['scores'][family])} ({signed(100 * lost['difference'])})",
                size(point["size_bytes"]),
            )
        )
    dense = data["dense"]
    cells.append(("dense", "", "", "", "", f"{dense['perplexity']:.3f}", percent(dense["scores"][family]), ""))
    return header, cells


def remarks(data: Mapping[str, Any]) -> list[str]:
    """Returns what must be known beside the table."""
    lines = ["* no other point has less divergence with as few bits; bits are those stored, everything counted"]
    lines += [f"{p['label']}, {p['column']}: refused. {p['refused']}" for p in data["points"] if "refused" in p]
    return lines


def table(data: Mapping[str, Any]) -> Table:
    """Returns the table that rich prints."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    header, cells = rows(data)
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=_title(data), title_justify="left")
    for index, name in enumerate(header):
        made.add_column(name, justify="left" if index < 2 else "right", no_wrap=index != 1, overflow="fold")
    for row, after in zip(cells, [*cells[1:], None], strict=True):
        made.add_row(*(Text(cell) for cell in row), end_section=after is not None and after[1] != row[1])
    return made


def markdown(data: Mapping[str, Any]) -> str:
    """Returns the table as a markdown document beside the picture."""
    header, cells = rows(data)
    lines = [f"# {_title(data)}", "", "![true bits per weight against divergence](frontier.svg)", ""]
    lines += ["| " + " | ".join(header) + " |", "|" + " :-- |" * 2 + " --: |" * (len(header) - 2)]
    lines += ["| " + " | ".join(cell.replace("*", "\\*") for cell in row) + " |" for row in cells]
    return "\n".join([*lines, "", *(f"{line.replace('*', chr(92) + '*')}  " for line in remarks(data)), ""])


def pictures(data: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the picture as PNG and SVG, the same bytes for the same data."""
    import matplotlib

    made = {}
    with matplotlib.rc_context({"svg.hashsalt": "compress"}):
        drawn = figure(data)
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            stream = io.BytesIO()
            drawn.savefig(stream, format=ending, dpi=160, metadata=metadata)
            made[ending] = stream.getvalue()
    return made


def figure(data: Mapping[str, Any]) -> Figure:
    """Returns the figure of three panels, drawn without touching the caller's matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    family = _family(data)
    drawn = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(drawn)
    panels: Sequence[Axes] = drawn.subplots(1, 3)
    dense = data["dense"]
    measured = [point for point in data["points"] if "kl" in point]
    panels[0].set_yscale("log")
    facts = f"{family.replace('_', ' ')} accuracy, %"
    quantities: tuple[tuple[str, Callable[[Any], float], float | None], ...] = (
        ("KL to the dense model, nats per token", lambda p: p["kl"]["mean"], None),
        ("perplexity", lambda p: p["perplexity"], dense["perplexity"]),
        (facts, lambda p: 100 * p["scores"][family], 100 * dense["scores"][family]),
    )
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
    _calm(panels[1], [p["perplexity"] for p in measured], dense["perplexity"])
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), frameon=False, fontsize=9)
    drawn.suptitle(_title(data), fontsize=11, x=0.01, ha="left")
    return drawn


def _calm(axes: Axes, values: Sequence[float], dense: float) -> None:
    """A broken model's perplexity must not flatten all others: the axis is logarithmic when values lie far apart."""
    if max(values, default=dense) > 4 * dense:
        axes.set_yscale("log")


def _title(data: Mapping[str, Any]) -> str:
    subset = "" if data["limit"] is None else f", {data['limit']} items per family"
    return f"{data['model']}: what each bit buys ({data['suite']['name']}{subset})"


def _family(data: Mapping[str, Any]) -> str:
    """The family that is drawn: facts where they were asked for, else the first."""
    names = list(data["dense"]["scores"])
    return "factoid" if "factoid" in names else names[0]
