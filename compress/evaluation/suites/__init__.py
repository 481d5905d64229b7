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


def load(name: str, data_dir: str | Path | None = None) -> Suite:
    """Returns the suite called `name`, its public data from `data_dir` or, where it is None, from the hub.

    Raises EvaluationError when there is no such suite, and for a folder of data that the suite has no use for.
    """
    check(name)
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}") if not name.endswith(_FILE) else None
    if data_dir is not None and not getattr(module, "TAKES_DATA", False):
        raise EvaluationError(f"the suite {name} has its own data: --data-dir {data_dir} is of no use", allowed="kick")
    if module is None:
        from compress.evaluation.suites import _file

        return _file.suite(Path(name))
    folder = Path(data_dir) if data_dir is not None else None
    suite: Suite = module.suite(folder) if getattr(module, "TAKES_DATA", False) else module.suite()
    return suite
