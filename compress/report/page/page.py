"""Writes the report as one self-contained HTML page, with its styles, script and charts inside.

The same content gives the same bytes. The templates escape all text from models and files; the page's own policy
(Content-Security-Policy) forbids it to load anything and to run any script but its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.report import coverage, formatting
from compress.report.charts import families, heat, palette, positions, scatter
from compress.report.page import comparison, downloads, items, notes, phrases, speed

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def render(content: Mapping[str, Any]) -> str:
    """Returns the page of a content (`content.build`)."""
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _environment().get_template("page.html.j2").render(
        content=content,
        title=phrases.title(content),
        comparison=comparison.comparison(content["runs"]),
        frontiers=[comparison.of_frontier(frontier) for frontier in content["frontiers"]],
        style=f"{palette.css()}\n{(_TEMPLATES / 'page.css').read_text(encoding='utf-8')}",
        files=downloads.downloads(content),
        script=script,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'",
    )  # fmt: skip


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {
        "phrases": phrases,
        "coverage": coverage,
        "families": families,
        "heats": heat.heats,
        "columns": positions.columns,
        "scatter": scatter.scatter,
        "curves": scatter.curves,
        "speeds": speed,
        "notes": notes.render,
        "marked": items.marked,
        "parts_of": phrases.parts,
        "heat_steps": palette.HEAT_STEPS,
        "run_colours": palette.RUNS,
    }
    environment.filters |= {
        "size": formatting.size,
        "percent": formatting.percent,
        "signed": formatting.signed,
        "perplexity": formatting.perplexity,
        "svg": Markup,  # charts escape their texts themselves
        "words": lambda name: formatting.label(str(name)),
    }
    return environment
