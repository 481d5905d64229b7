"""Turns notes in markdown into HTML. HTML in them is shown as text, and pictures are left out: a page loads nothing."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

FILE = "notes.md"
_DEEPER = 2
"""Levels by which headings of notes go below those of the page."""


def render(text: str) -> str:
    """Returns the HTML of notes, with headings from `h3` on; addresses of scripts are no links."""
    parser = _parser()
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + _DEEPER, 6)}"
    return str(parser.renderer.render(tokens, parser.options, {}))


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
