"""Suites by name. A new suite is one file here with a function `suite()`; the file name is the suite's name."""

from __future__ import annotations

import importlib
import pkgutil

from compress.errors import EvaluationError, unknown
from compress.evaluation.suites.base import Suite


def names() -> list[str]:
    """Returns the names of the suites there are."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if m.name != "base")


def load(name: str) -> Suite:
    """Returns the suite called `name`; EvaluationError when there is none."""
    if name not in names():
        raise EvaluationError(unknown("suite", name, names()), allowed=", ".join(names()))
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    suite: Suite = module.suite()
    return suite
