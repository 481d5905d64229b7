"""Loads suites by name. To add a suite, add a file here with a function `suite()`; its file name is the suite's name.

The path of a file with the user's own questions (.jsonl, .json, .csv …) also names a suite (`asking.file_suite`).
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from compress.errors import EvaluationError, unknown
from compress.evaluation.suites.base import Suite
from compress.texts.decode import base_suffix
from compress.texts.rows import ROW_FILES

AUTO = "auto"
"""Chooses the suite by the model (`evaluation.asking.default_suite`)."""


def names() -> list[str]:
    """Returns the names of the bundled suites."""
    modules = (module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    return sorted(name.replace("_", "-") for name in modules)


def check(name: str) -> None:
    """Raises EvaluationError unless `name` is a bundled suite, an existing file of questions, or `auto`."""
    if name == AUTO:
        return
    if _is_file(name):
        if not Path(name).is_file():
            raise EvaluationError(f"there is no file of questions {name}", do="Correct --suite")
    elif name not in names():
        others = ", ".join(ROW_FILES[1:])
        raise EvaluationError(
            unknown("suite", name, (AUTO, *names())),
            allowed=f"{', '.join((AUTO, *names()))}, or a {ROW_FILES[0]} file ({others} too)",
        )


def load(name: str, data_dir: str | Path | None = None) -> Suite:
    """Returns the suite called `name`; its public data is read from `data_dir`, or downloaded from the hub if None.

    Raises EvaluationError for an unknown suite, and for a `data_dir` that the suite does not use.
    """
    check(name)
    module = None if _is_file(name) else importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    if data_dir is not None and not getattr(module, "TAKES_DATA", False):
        raise EvaluationError(
            f"the suite {name} has its own data and does not read --data-dir {data_dir}", allowed="kick"
        )
    if module is None:
        from compress.evaluation.asking import file_suite

        return file_suite.suite(Path(name))
    folder = Path(data_dir) if data_dir is not None else None
    suite: Suite = module.suite(folder) if getattr(module, "TAKES_DATA", False) else module.suite()
    return suite


def _is_file(name: str) -> bool:
    return base_suffix(Path(name)) in ROW_FILES
