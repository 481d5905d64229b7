"""Shows the results of `compress bench`: tables of kernels and of models, and a figure of the kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from compress.bench.speed import Speed
from compress.report.formatting import duration, percent, size


def table(case: Mapping[str, Any]) -> Table:
    """Returns the table of one case with all contenders, the fastest first."""
    title = f"{_name(case)}; memory is read at {case['read_gigabytes_per_s']:.1f} GB/s"
    figures = ("time", "10 % to 90 %", "bytes", "GB/s", "of bandwidth", "× fp32", "× bf16")
    table = _empty_table(title, "kernel", figures)
    for row in sorted(case["rows"], key=lambda row: row["seconds"]):
        table.add_row(
            row["name"],
            row["kernel"],
            duration(row["seconds"]),
            f"{duration(row['low'])} to {duration(row['high'])}",
            size(row["packed_bytes"]),
            f"{row['gigabytes_per_s']:.1f}",
            percent(row["bandwidth_share"]),
            *(f"{row['times_faster'][name]:.2f}" for name in ("float32", "bfloat16")),
        )
    return table


def speed_table(speed: Speed) -> Table:
    """Returns the table of the speed of a checkpoint and its dense model."""
    title = (
        f"{speed.machine}, {speed.threads} threads, batch 1, prompt of {speed.prompt_tokens} tokens, "
        f"{speed.new_tokens} new; medians of {speed.rounds} rounds"
    )
    names = ("prefill tokens/s", "decode tokens/s", "load s", "resident", "peak")
    remote = speed.device != "cpu"
    table = _empty_table(title, "dtype", (*names, f"peak on {speed.device}") if remote else names)
    for kind, entries in (("compressed", speed.compressed), ("dense", speed.dense)):
        for dtype, figures in entries.items():
            rates = f"{figures.prefill_tokens_per_s:.4g}", f"{figures.decode_tokens_per_s:.3g}"
            peak = "" if figures.peak_bytes is None else size(figures.peak_bytes)
            load = f"{figures.load_seconds:.2f}"
            there = "" if figures.device_bytes is None else size(figures.device_bytes)
            table.add_row(kind, dtype, *rates, load, size(figures.resident_bytes), peak, *([there] if remote else []))
    best = speed.fastest()[0]
    ratios = [f"{speed.times_faster(dtype, best):.2f}× dense {dtype}" for dtype in speed.dense]
    if ratios:
        table.caption, table.caption_justify = f"decoding, compressed in {best}: {', '.join(ratios)}", "left"
    return table


def _empty_table(title: str, kind: str, figures: Sequence[str]) -> Table:
    """Returns a table without rows: a name, its kind, and columns of figures."""
    table = Table("", kind, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False,
                  padding=(0, 2, 0, 0))  # fmt: skip
    for name in figures:
        table.add_column(name, justify="right")
    return table


_COLOURS = {"ours": "#0f766e", "torch": "#94a3b8", "peer": "#c2703d"}
_BOUND_BY_MEMORY = 4
"""Largest number of tokens at which memory bandwidth bounds a product, so that the share of it is shown."""


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draws the speed of all contenders relative to torch's dense float32 product, one panel per case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    cases = result["cases"]
    columns = min(2, len(cases))
    lines = -(-len(cases) // columns)
    most_rows = max(len(case["rows"]) for case in cases)
    figure, panels = pyplot.subplots(
        lines, columns, figsize=(6.2 * columns, (0.24 * most_rows + 0.8) * lines), squeeze=False, layout="constrained"
    )
    for panel, case in zip(panels.flat, cases, strict=False):
        _panel(panel, case)
    for panel in list(panels.flat)[len(cases) :]:
        panel.axis("off")
    machine = result["machine"]
    figure.suptitle(
        f"Times faster than torch's dense float32 product · {machine['device_name']}, {machine['threads']} threads",
        fontsize=10,
    )
    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in _COLOURS.items()],
        loc="outside lower center", ncols=3, fontsize=8, frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(panel: Any, case: Mapping[str, Any]) -> None:
    rows = sorted(case["rows"], key=lambda row: -row["seconds"])
    values = [row["times_faster"]["float32"] for row in rows]
    kinds = [row["name"].partition("-")[0] for row in rows]
    colours = [_COLOURS.get(kind, _COLOURS["ours"]) for kind in kinds]
    bars = panel.barh([row["name"] for row in rows], values, color=colours, height=0.72)
    labels = [f"{value:.2g}×" for value in values]
    title = _name(case)
    if case["tokens"] <= _BOUND_BY_MEMORY:
        labels = [f"{text}  {percent(row['bandwidth_share'])}" for text, row in zip(labels, rows, strict=True)]
        title += f" (share of {case['read_gigabytes_per_s']:.0f} GB/s read)"
    panel.bar_label(bars, labels, padding=3, fontsize=7)
    panel.margins(x=0.22)
    panel.axvline(1, color="#64748b", linewidth=0.8, linestyle=":")
    panel.tick_params(labelsize=7.5)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title(title, fontsize=8.5, loc="left")


def _name(case: Mapping[str, Any]) -> str:
    rows, columns = case["shape"]
    return f"{rows}×{columns}, {case['tokens']} token{'s' if case['tokens'] > 1 else ''}, {case['dtype']}"
