"""Puts the measured speed of a checkpoint into words, rows and bars, for the page and the markdown form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.report.charts import svg
from compress.report.charts.svg import element, percent
from compress.report.formatting import size

Content = Mapping[str, Any]
HEAD = ("model", "arithmetic", "decode, tokens/s", "prompt, tokens/s", "load, s", "memory")
NOT_MEASURED = "Speed was not measured: `compress bench FOLDER` does that, and the next report shows it."
_ROW, _BAR = 40, 13


def cards(speed: Content) -> list[tuple[str, str, str]]:
    """Returns headline figures as (name, figure, what to compare it with); each model in its fastest arithmetic."""
    ours, dense = speed["compressed"][speed["dtype"]], speed["dense"].get(speed["dense_dtype"])
    per_s = rate(ours["decode_tokens_per_s"])
    if dense is None:
        decoded, loaded, held = f"in {speed['dtype']}", "", ""
    else:
        before = rate(dense["decode_tokens_per_s"])
        decoded = f"{speed['times_faster']:.2g}× dense ({before} in {speed['dense_dtype']})"
        loaded, held = f"dense {seconds(dense['load_seconds'])}", f"dense {_memory(dense)}"
    return [
        ("Tokens per second", per_s, decoded),
        ("Time to load", seconds(ours["load_seconds"]), loaded),
        ("Memory in use", _memory(ours), held),
    ]


def where(speed: Content) -> str:
    """Returns the machine and the settings of the measurement."""
    threads = f"{speed['threads']} {'thread' if speed['threads'] == 1 else 'threads'}"
    return (
        f"{speed['machine']}, {threads}; batch 1, {speed['new_tokens']} tokens after a prompt of "
        f"{speed['prompt_tokens']}, medians of {speed['rounds']} rounds"
    )


def rows(speed: Content) -> list[tuple[str, ...]]:
    """Returns the cells of a table with the columns `HEAD`, a row for each model and arithmetic."""
    return [
        (
            kind,
            dtype,
            rate(figures["decode_tokens_per_s"]),
            rate(figures["prefill_tokens_per_s"]),
            f"{figures['load_seconds']:.2f}",
            _memory(figures),
        )
        for kind, dtype, figures in _each(speed)
    ]


def bars(speed: Content) -> str:
    """Returns the chart of decoded tokens per second; labels are above the bars, so that it fits any width."""
    rates = [(kind, dtype, figures["decode_tokens_per_s"]) for kind, dtype, figures in _each(speed)]
    largest = max(value for _, _, value in rates)
    parts = []
    for row, (kind, dtype, value) in enumerate(rates):
        y = row * _ROW
        parts += [
            svg.text(f"{kind}, {dtype}", 0, y + 11),
            svg.text(f"{rate(value)} tokens/s", 100, y + 11, anchor="end"),
            element("rect", x=0, y=y + 16, width="100%", height=_BAR, rx=2, class_="empty"),
            element("rect", x=0, y=y + 16, width=percent(100 * value / largest), height=_BAR, rx=2,
                    class_="dense" if kind == "dense" else "packed"),
        ]  # fmt: skip
    summary = "; ".join(f"{kind} in {dtype} {rate(value)}" for kind, dtype, value in rates)
    return svg.svg("".join(parts), _ROW * len(rates) - 8, f"Decoded tokens per second: {summary}")


def rate(tokens_per_s: float) -> str:
    """Returns tokens per second with three digits, or all before the point."""
    return f"{tokens_per_s:,.0f}" if tokens_per_s >= 100 else f"{tokens_per_s:.3g}"


def seconds(value: float) -> str:
    """Returns a load time: `0.25 s`."""
    return f"{value:.2f} s" if value < 10 else f"{value:,.0f} s"


def _memory(figures: Mapping[str, Any]) -> str:
    """Returns the memory that the model takes: of the accelerator where it ran on one, else of the process."""
    return size(figures["device_bytes"] or figures["resident_bytes"])


def _each(speed: Content) -> list[tuple[str, str, Mapping[str, Any]]]:
    kinds = ("dense", "compressed")
    return [(kind, dtype, figures) for kind in kinds for dtype, figures in sorted(speed[kind].items())]
