"""Adapters of peft on packed models: refuses to merge them into packed weights, with the reason.

peft accepts an AdaptableLinear because it derives from nn.Linear, and puts LoRA and other adapters beside it. Merging
would add a float matrix to planes of packed codes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from compress.errors import ModelError
from compress.runtime.linear import PackedLinear

_MODULE = "peft.tuners.tuners_utils"
"""Where peft defines the base class of all kinds of adapters."""


def refuse_merges() -> None:
    """Makes peft raise ModelError where an adapter would be merged into a packed linear; a second call changes nothing.

    Importing peft takes a second, so that this waits until somebody else imports it.
    """
    if module := sys.modules.get(_MODULE):
        _guard(module)
    elif not any(isinstance(finder, _OnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OnImport())


class _OnImport(MetaPathFinder):
    """Guards the module of peft when it is imported, and takes itself out of `sys.meta_path`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_guard(module: ModuleType) -> None:
            execute(module)
            _guard(module)

        spec.loader.exec_module = execute_and_guard  # type: ignore[method-assign]
        return spec


def _guard(module: ModuleType) -> None:
    check = module.BaseTuner._check_merge_allowed
    if getattr(check, "_knows_packed_linears", False):
        return

    @functools.wraps(check)
    def check_merge_allowed(self: Any) -> None:
        for name, layer in self.model.named_modules():
            if isinstance(layer, module.BaseTunerLayer) and isinstance(layer.get_base_layer(), PackedLinear):
                raise ModelError(
                    "an adapter cannot be merged into a packed linear",
                    do="Keep the adapter beside the model, or merge it into the dense model and compress that again",
                    layer=name,
                )
        check(self)

    check_merge_allowed._knows_packed_linears = True  # type: ignore[attr-defined]
    module.BaseTuner._check_merge_allowed = check_merge_allowed
