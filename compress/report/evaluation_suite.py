"""Describes what a run will evaluate on in one line: suite, items, and why it was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.report.formatting import label


def described(record: Mapping[str, Any]) -> str:
    """Returns the record of a plan as text: `kick, tier pr: 400 factoid, … (the data of --data-dir)`."""
    tier = f", tier {record['tier']}" if record["tier"] else ""
    families = [f"{count:,} {label(name)}" for name, count in record["families"].items()]
    windows = "held-out text" if record["windows"] is None else f"up to {record['windows']} windows of held-out text"
    asked = ", ".join([*(families or ["no questions"]), windows])
    return f"{record['suite']}{tier}: {asked} ({record['reason']})"
