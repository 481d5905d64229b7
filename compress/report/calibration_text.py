"""Describes the calibration text of a run in one line: source, amount, and why it was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def described(record: Mapping[str, Any]) -> str:
    """Returns the record of a plan or a manifest as text: `self, 128 × 256 tokens (64 of them chats): no text …`."""
    text = f"{record['source']}, {record['samples']} × {record['seq_len']} tokens"
    written = [part for part in record.get("parts", ()) if part.get("source") == "self"]
    if written:
        chats = sum(part.get("chat_samples", 0) for part in written)
        shares = f", {chats} of them chats" if chats else ""
        text += f", written by the whole model in memory{shares}"
    notes = [note for note in (record.get("reason"), *(part.get("note") for part in written)) if note]
    return f"{text} ({'; '.join(notes)})" if notes else text
