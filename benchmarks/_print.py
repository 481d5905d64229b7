"""Prints the results of a benchmark: a table for people, then one line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def show(title: str, rows: Sequence[Mapping[str, Any]], **context: Any) -> None:
    """Prints the rows as a table and then everything as one line of JSON."""
    columns = list(rows[0])
    texts = [columns] + [[_text(row[column]) for column in columns] for row in rows]
    widths = [max(len(text[i]) for text in texts) for i in range(len(columns))]
    print(title)
    for text in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(text, widths, strict=True)).rstrip())
    print(json.dumps({"benchmark": title, **context, "rows": list(rows)}))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
