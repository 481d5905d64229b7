"""Reads chat.json: the conversations with a checkpoint that `/save` of `compress chat` kept. No torch.

    {"schema_version": 1, "chats": [
      {"model": "atlas-rtn", "against": "atlas", "fingerprint": "<of the checkpoint>", "system": "…",
       "settings": {"template": true, "temperature": 0.0, "max_new_tokens": 256, "seed": 0},
       "turns": [{"prompt": "…", "answer": {"text": "…", "tokens": 12, "stopped": "end"}, "against": {the same}}]}]}

`against`, `system` and the `against` of a turn are missing where there was none. `stopped` is `end`, `length` (of
`max_new_tokens`), `context` (of the model) or `interrupted`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.errors import FormatError
from compress.report import shapes
from compress.report.shapes import COUNT, OBJECT, TEXT, Fields

FILE = "chat.json"
SCHEMA_VERSION = 1
_ANSWER = Fields({"text": TEXT, "tokens": COUNT, "stopped": TEXT}, needed=("text", "stopped"))
_TURN = Fields({"prompt": TEXT, "answer": _ANSWER, "against": _ANSWER}, needed=("prompt", "answer"))
_CHAT = Fields(
    {"model": TEXT, "against": TEXT, "fingerprint": TEXT, "system": TEXT, "settings": OBJECT, "turns": [_TURN]},
    needed=("model", "turns"),
)


def read(folder: Path) -> list[dict[str, Any]]:
    """Returns the conversations of a folder, in the order in which they were saved; none if it has no chat.json.

    Raises:
        FormatError: the file is damaged, or of another version.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    usable, problems = shapes.checked(shapes.versioned(path, SCHEMA_VERSION), {"chats": [_CHAT]})
    if problems or "chats" not in usable:
        raise FormatError(
            f"{path} is damaged: {problems[0] if problems else 'it has no list `chats`'}", do="Mend it or delete it"
        )
    chats: list[dict[str, Any]] = usable["chats"]
    return chats
