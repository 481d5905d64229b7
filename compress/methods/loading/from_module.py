"""Turns an imported method file into an object of its Protocol, and refuses a file that does not fit it.

The object has the members that the file defines, and the defaults of the Protocol (`protocol`) for all others.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import fields
from types import ModuleType
from typing import Any

from compress.errors import RecipeError
from compress.methods.protocol import Method, PackMethod, RewriteMethod, TrainingOptions, TrainMethod

_KINDS: dict[str, type] = {"pack": PackMethod, "rewrite": RewriteMethod, "train": TrainMethod}
KINDS = tuple(_KINDS)
_FORMERLY = {"linear": "pack", "layer": "pack", "prune": "rewrite", "model": "train"}
"""Words of earlier versions, by the word that took their place."""
_GIVEN = frozenset({"name", "module", "provided"})
"""Members that the file does not define."""
_TOGETHER = frozenset({"measure", "allot"})
"""Hooks of which a file has both or none."""
_WORK = {"rewrite": ("rewrite", "REWRITER"), "train": ("train", "TRAINER")}
"""The function that does the work, and the constant that may name its module instead."""
_ALIKE = 0.75
"""Similarity (difflib) from which a name that no hook has is taken for a misspelt hook."""


def method_of(module: ModuleType) -> Method:
    """Returns the method that `module` defines, with the defaults of its Protocol for what it leaves out.

    Raises:
        RecipeError: KIND is none of KINDS, a required member is missing, a hook takes other parameters, or a name looks
            like a misspelt hook.
    """
    name = module.__name__.rpartition(".")[2]
    check_kind(name, module.KIND)
    protocol = _KINDS[module.KIND]
    hooks = frozenset(_members(protocol)) - _GIVEN
    own = {hook: vars(module)[hook] for hook in hooks if hook in vars(module)}
    _refuse_misspelt(module, name, hooks)
    _refuse_incomplete(module, name, protocol, frozenset(own))
    for hook, value in own.items():
        if callable(value) and not isinstance(value, type):
            _refuse_other_parameters(name, hook, value, _members(protocol)[hook])
            own[hook] = staticmethod(value)
    members = own | {"name": name, "module": module.__name__, "provided": frozenset(own), "__doc__": module.__doc__}
    method: Method = type(protocol)(name, (protocol,), members)()
    return method


def check_kind(name: str, kind: object) -> None:
    """Raises RecipeError unless `kind`, the KIND of the file of method `name`, is one of KINDS."""
    if kind not in _KINDS:
        now = _FORMERLY.get(str(kind))
        raise RecipeError(
            f"{name}.py: KIND = {kind!r}", allowed=", ".join(KINDS), do=f'Write KIND = "{now}"' if now else None
        )


def of_kind_pack(method: Method) -> PackMethod:
    """Returns `method`, which must be of kind `pack`; another kind is a RecipeError."""
    if method.KIND != "pack":
        raise RecipeError(
            f"the method {method.name} packs no weights (it is of kind {method.KIND})", allowed="a method of kind pack"
        )
    return method


def _members(protocol: type) -> dict[str, Any]:
    """Returns the public members of a Protocol and of its parents; constants without a value are None."""
    members: dict[str, Any] = {}
    for parent in reversed(protocol.__mro__):
        names = {**dict.fromkeys(inspect.get_annotations(parent)), **vars(parent)}
        members |= {name: value for name, value in names.items() if not name.startswith("_")}
    return members


def _refuse_incomplete(module: ModuleType, name: str, protocol: Any, own: frozenset[str]) -> None:
    from compress.calibration.stats import LayerStats  # loads torch, as the method's own file has by now

    kind = module.KIND
    missing = sorted(protocol.__abstractmethods__ - own)
    if kind in _WORK and not own & set(_WORK[kind]):
        function, constant = _WORK[kind]
        raise RecipeError(
            f"{name}.py is of kind {kind} and has no function {function!r}",
            do=f"Define it, or name the module that does in {constant}; docs/ADDING_A_METHOD.md shows one",
        )
    missing += sorted(_TOGETHER - own) if own & _TOGETHER else []
    if kind == "train" and not issubclass(module.Config, TrainingOptions):
        raise RecipeError(
            f"{name}.py is of kind train and its Config does not extend TrainingOptions",
            do="Write: from compress.methods.protocol import TrainingOptions, and class Config(TrainingOptions)",
        )
    readable = tuple(option.name for option in fields(LayerStats)) if kind == "pack" else ("tokens",)
    if unreadable := sorted(set(module.NEEDS) - set(readable)):
        raise RecipeError(f"{name}.py: NEEDS names {', '.join(unreadable)}", allowed=", ".join(readable))
    if missing:
        raise RecipeError(
            f"{name}.py is of kind {kind} and has no {', '.join(missing)}",
            do="Define what is missing; docs/ADDING_A_METHOD.md shows a whole file",
        )


def _refuse_misspelt(module: ModuleType, name: str, hooks: frozenset[str]) -> None:
    """Raises RecipeError for a public function or constant that nearly has the name of a hook that is not there."""
    absent = sorted(hooks - vars(module).keys())
    for written, value in vars(module).items():
        function = inspect.isfunction(value) and value.__module__ == module.__name__
        if written.startswith("_") or written in hooks or not (function or written.isupper()):
            continue
        if alike := difflib.get_close_matches(written, absent, n=1, cutoff=_ALIKE):
            raise RecipeError(
                f"{name}.py defines {written!r}, which is no hook of kind {module.KIND}; did you mean {alike[0]!r}?",
                do=f"Rename it, or call it _{written} if it is a helper",
            )


def _refuse_other_parameters(name: str, hook: str, function: Callable[..., Any], declared: Callable[..., Any]) -> None:
    wanted = list(inspect.signature(declared).parameters)[1:]  # without self
    signature = inspect.signature(function)
    try:
        signature.bind(*wanted)
    except TypeError:
        raise RecipeError(
            f"{name}.py: {hook}({', '.join(signature.parameters)})", allowed=f"{hook}({', '.join(wanted)})"
        ) from None
