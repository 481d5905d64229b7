"""Makes peft refuse adapters that read the dense weight of a packed linear, and merging, with the reason.

peft accepts an AdaptableLinear because it derives from nn.Linear, and puts LoRA and IA3 beside it. DoRA, PiSSA or LoHa
would compute with planes of packed codes, and merging would add a float matrix to them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from compress.errors import ModelError
from compress.runtime.linear import PackedLinear

_MODULE = "peft.tuners.tuners_utils"
"""Where peft defines the base class of all kinds of adapters."""


def guard_peft() -> None:
    """Makes peft raise ModelError if an adapter would read, or be merged into, a packed linear. Idempotent.

    Importing peft takes a second, so the guard is set only when other code imports it.
    """
    if module := sys.modules.get(_MODULE):
        _guard(module)
    elif not any(isinstance(finder, _OnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OnImport())


class _OnImport(MetaPathFinder):
    """Sets the guard when peft's module is imported, and removes itself from `sys.meta_path`."""

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
    tuner = module.BaseTuner
    if not getattr(tuner, "_knows_packed_linears", False):
        tuner._check_merge_allowed = _without_merging(module, tuner._check_merge_allowed)
        tuner.inject_adapter = _without_dense_reads(module, tuner.inject_adapter)
        tuner._knows_packed_linears = True


def _without_merging(module: ModuleType, check: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(check)
    def check_merge_allowed(self: Any) -> None:
        for name, layer in self.model.named_modules():
            if isinstance(layer, module.BaseTunerLayer) and isinstance(layer.get_base_layer(), PackedLinear):
                raise ModelError(
                    "an adapter cannot be merged into a packed linear",
                    do="Keep the adapter separate, or merge it into the dense model and compress that again",
                    layer=name,
                )
        check(self)

    return check_merge_allowed


def _without_dense_reads(module: ModuleType, inject: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(inject)
    def inject_adapter(self: Any, *arguments: Any, **options: Any) -> None:
        create = self._create_and_replace

        def create_and_replace(config: Any, adapter_name: str, target: Any, *others: Any, **keys: Any) -> None:
            base = target.get_base_layer() if isinstance(target, module.BaseTunerLayer) else target
            if isinstance(base, PackedLinear) and (kind := _reads_dense_weight(config)) is not None:
                raise ModelError(
                    f"{kind} computes with the dense weight, which a packed linear does not have",
                    allowed="LoRA with random or zero initial values, or IA3",
                    do="Use plain LoRA, or leave packed linears out of target_modules",
                    layer=keys.get("current_key"),
                )
            create(config, adapter_name, target, *others, **keys)

        self._create_and_replace = create_and_replace
        try:
            inject(self, *arguments, **options)
        finally:
            del self._create_and_replace

    return inject_adapter


def _reads_dense_weight(config: Any) -> str | None:
    """Returns the name of an adapter that needs the base layer's weight; None for one that needs only its outputs."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind == "LORA":
        start = getattr(config, "init_lora_weights", True)
        plain = isinstance(start, bool) or start in ("gaussian", "orthogonal")
        return "DoRA" if getattr(config, "use_dora", False) else None if plain else f"LoRA started by {start}"
    return None if kind == "IA3" else kind
