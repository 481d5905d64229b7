"""Defines the suite heldout: perplexity and divergence on bundled text, and no question. Needs no network.

The text is the section Background of 75 countries in the CIA World Factbook (public domain, as of May 2026, drawn at
random): plain English prose about history. It is no secret, so a model may have been trained on parts of it, and its
perplexity is not that of unseen text; the divergence of two models at the same positions does not depend on that.
"""

from __future__ import annotations

from pathlib import Path

from compress.evaluation.suites.base import Suite

VERSION = 1
TEXT = Path(__file__).parents[1] / "data" / "factbook.txt"


def suite() -> Suite:
    """Returns the suite without families."""
    return Suite("heldout", VERSION, (), _documents)


def _documents() -> list[str]:
    return TEXT.read_text(encoding="utf-8").strip().split("\n\n")
