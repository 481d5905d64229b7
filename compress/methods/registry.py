"""What methods there are and which options they take, read from the source so that help needs no torch."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from compress.errors import RecipeError, unknown

_NOT_METHODS = {"__init__", "registry"}
_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True, slots=True)
class Option:
    """One field of a method's Config."""

    name: str
    type: type
    optional: bool
    """True when the field also takes None (not given)."""
    default: Any
    help: str


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """A method as its source describes it."""

    name: str
    summary: str
    kind: str
    needs_data: bool
    options: tuple[Option, ...]


def names() -> list[str]:
    """Returns the names of all methods, sorted. A file whose name starts with `_` is shared code, not a method."""
    stems = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted(stem for stem in stems if stem not in _NOT_METHODS and not stem.startswith("_"))


@functools.cache
def describe(name: str) -> MethodInfo:
    """Returns what the source of method `name` says of itself; an unknown name is a RecipeError with a suggestion."""
    if name not in names():
        raise RecipeError(unknown("method", name, names()), allowed=", ".join(names()))
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and node.value is not None
    }
    config = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config")
    needs = constants["NEEDS"]
    return MethodInfo(
        name=name,
        summary=(ast.get_docstring(tree) or "").splitlines()[0],
        kind=ast.literal_eval(constants["KIND"]),
        needs_data=isinstance(needs, ast.Call) and bool(needs.args),
        options=tuple(_options(config)),
    )


def _options(config: ast.ClassDef) -> list[Option]:
    options = []
    for field, after in zip(config.body, [*config.body[1:], None], strict=True):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        assert field.value is not None, f"field {field.target.id} of a Config needs a literal default"
        parts = [part.strip() for part in ast.unparse(field.annotation).split("|")]
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        options.append(
            Option(
                name=field.target.id,
                type=_TYPES[next(part for part in parts if part != "None")],
                optional="None" in parts,
                default=ast.literal_eval(field.value),
                help=" ".join(str(after.value.value).split()) if documented else "",  # type: ignore[union-attr]
            )
        )
    return options


def load(name: str) -> ModuleType:
    """Imports the method `name` (and with it torch)."""
    describe(name)
    return importlib.import_module(f"compress.methods.{name}")


def defaults(name: str) -> dict[str, Any]:
    """Returns the default of every option of method `name`."""
    return {option.name: option.default for option in describe(name).options}


def nominal(name: str, bits: int) -> dict[str, Any]:
    """Returns the options with which method `name` is called a `bits`-bit method; it may say so by `nominal(bits)`."""
    method = load(name)
    options: dict[str, Any] = method.nominal(bits) if hasattr(method, "nominal") else {"bits": bits}
    return check_options(name, options)


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `options` with values of the declared types; unknown names and wrong types are RecipeErrors."""
    known = {option.name: option for option in describe(name).options}
    checked: dict[str, Any] = {}
    for key, value in options.items():
        option = known.get(key)
        if option is None:
            allowed = ", ".join(known) or "none"
            raise RecipeError(unknown(f"option of method {name!r}:", key, known), allowed=allowed)
        if value is None and option.optional:
            checked[key] = None
        elif option.type is float and isinstance(value, int) and not isinstance(value, bool):
            checked[key] = float(value)
        elif isinstance(value, option.type) and (option.type is bool or not isinstance(value, bool)):
            checked[key] = value
        else:
            raise RecipeError(f"{key}={value!r} of method {name!r} is not of type {option.type.__name__}")
    return checked


def configure(name: str, options: Mapping[str, Any]) -> Any:
    """Returns the method's Config with `options` over its defaults; the Config checks ranges itself."""
    return load(name).Config(**check_options(name, options))
