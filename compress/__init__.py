"""compress: compress large language models, ship packed checkpoints, and prove what it cost.

Importing this package imports nothing heavy; `run`, `load`, `evaluate`, `gate`, `export`, `push` and `Recipe`
are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from compress.evaluation import evaluate as evaluate
    from compress.evaluation.gate.decide import gate as gate
    from compress.exports import export as export
    from compress.hub.upload import push as push
    from compress.pipeline import run as run
    from compress.recipe import Recipe as Recipe
    from compress.runtime import load as load

_LAZY = {
    "run": "compress.pipeline",
    "load": "compress.runtime",
    "evaluate": "compress.evaluation",
    "gate": "compress.evaluation.gate.decide",
    "export": "compress.exports",
    "push": "compress.hub.upload",
    "Recipe": "compress.recipe",
}
__all__ = ["Recipe", "__version__", "evaluate", "export", "gate", "load", "push", "run"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
