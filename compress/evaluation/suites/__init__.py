"""Suites by name. A new suite is one file here with a function `suite()`; the file name is the suite's name.

A path that ends in .jsonl is a suite too: questions of one's own (`_file`).
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from compress.errors import EvaluationError, unknown
from compress.evaluation.suites.base import Suite

_FILE = ".jsonl"


def names() -> list[str]:
    """Returns the names of the suites there are."""
    modules = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and not m.name.startswith("_"))
    return sorted(name.replace("_", "-") for name in modules)


def check(name: str) -> None:
    """Raises EvaluationError unless `name` is a suite or a .jsonl file that is there."""
    if name.endswith(_FILE):
        if not Path(name).is_file():
            raise EvaluationError(f"no suite file {name}")
    elif name not in names():
        raise EvaluationError(unknown("suite", name, names()), allowed=f"{', '.join(names())}, or a {_FILE} file")


def load(name: str) -> Suite:
    """Returns the suite called `name`; EvaluationError when there is none."""
    check(name)
    if name.endswith(_FILE):
        from compress.evaluation.suites import _file

        return _file.suite(Path(name))
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    suite: Suite = module.suite()
    return suite
