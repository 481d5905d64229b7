"""Lists the methods with their options, read from the source files so that help needs no torch, and loads them.

Methods are the files of this package, and those in the folders that COMPRESS_METHODS names (several as in PATH).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import os
import sys
from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import RecipeError, unknown
from compress.methods.loading import from_module
from compress.methods.protocol import Method, PackMethod, RewriteMethod, TrainMethod

OWN = "COMPRESS_METHODS"
"""Environment variable that names folders of methods outside of the package."""
_PACKAGE = "compress.methods"
_NOT_METHODS = {"__init__", "protocol", "registry"}
_loaded: dict[str, str] = {}
"""Imported methods from outside of the package, with the sha256 of their source."""
_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}
TYPE_NAMES: Mapping[type, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
"""Types of options in the words of an error."""


@dataclass(frozen=True, slots=True)
class Option:
    """One field of a method's Config."""

    name: str
    type: type
    optional: bool
    """True when the field also takes None."""
    default: Any
    help: str


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """Name, kind and options of a method, read from its source."""

    name: str
    summary: str
    kind: str
    needs_data: bool
    options: tuple[Option, ...]
    packs: bool = True
    """PACKS of a method of kind `pack`."""


def names() -> list[str]:
    """Returns the names of all methods, sorted. Files whose names start with `_` are helpers, not methods."""
    return sorted(_files())


def describe(name: str) -> MethodInfo:
    """Returns kind and options of the method `name`; an unknown name is a RecipeError with a suggestion."""
    return _described(name, _source(name))


def own_source(name: str) -> str | None:
    """Returns the sha256 of a method's source file, or None for a method of the package.

    It is part of a run's identity: the version of the package identifies the package's methods, but not others.
    """
    if _files().get(name, Path(__file__)).parent == Path(__file__).parent:
        return None
    return hashlib.sha256(_source(name).encode()).hexdigest()


def extend(path: MutableSequence[str]) -> None:
    """Adds the folders of COMPRESS_METHODS to `path`, the places where Python finds modules of this package."""
    path.extend(str(folder) for folder in _own_folders() if str(folder) not in path)


def _own_folders() -> list[Path]:
    folders = [Path(folder).absolute() for folder in os.environ.get(OWN, "").split(os.pathsep) if folder]
    for folder in folders:
        if not folder.is_dir():
            raise RecipeError(f"{OWN} names {folder}, which is no folder", do="Create it, or correct the variable")
    return folders


def _files() -> dict[str, Path]:
    """Returns the file of every method; two files of one name are a RecipeError."""
    files: dict[str, Path] = {}
    for folder in (Path(__file__).parent, *_own_folders()):
        for path in sorted(folder.glob("*.py")):
            if path.stem in _NOT_METHODS or path.stem.startswith("_"):
                continue
            if path.stem in files:
                raise RecipeError(f"two methods {path.stem}: {files[path.stem]} and {path}", do=f"Rename {path}")
            files[path.stem] = path
    return files


def _source(name: str) -> str:
    files = _files()
    if name not in files:
        raise RecipeError(unknown("method", name, files), allowed=", ".join(sorted(files)))
    return files[name].read_text(encoding="utf-8")


@functools.cache
def _described(name: str, source: str) -> MethodInfo:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise RecipeError(f"{name}.py is not Python: {error}") from error
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and node.value is not None
    }
    config = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config"), None)
    if config is None or not {"KIND", "NEEDS"} <= constants.keys():
        raise RecipeError(
            f"{name}.py is no method: it lacks KIND, NEEDS or a class Config",
            do=f"Add them, or rename a helper to _{name}.py",
        )
    needs, kind = constants["NEEDS"], _literal(name, "KIND", constants["KIND"])
    from_module.check_kind(name, kind)
    return MethodInfo(
        name=name,
        summary=(ast.get_docstring(tree) or f"{name} (no docstring).").splitlines()[0],
        kind=kind,
        needs_data=bool(needs.args if isinstance(needs, ast.Call) else _literal(name, "NEEDS", needs)),
        options=tuple(_options(name, config, tree).values()),
        packs=bool(_literal(name, "PACKS", constants["PACKS"])) if "PACKS" in constants else True,
    )


def _literal(name: str, what: str, value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise RecipeError(f"{name}.py: {what} = {ast.unparse(value)}", allowed="a literal value") from None


def _options(name: str, config: ast.ClassDef, tree: ast.Module) -> dict[str, Option]:
    """Returns the options that a class of `tree`, the file of method `name`, declares and inherits, in their order.

    A class's own fields stand as they are written; an inherited field that is declared again takes with it, before it,
    the inherited ones that come before it in its own class. All other inherited ones come last.
    """
    inherited: dict[str, Option] = {}
    for base in config.bases:
        inherited |= _options(name, *_class_of(name, base, tree))
    options: dict[str, Option] = {}
    for field, after in zip(config.body, [*config.body[1:], None], strict=True):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if field.target.id in inherited:
            before = list(inherited)[: list(inherited).index(field.target.id)]
            options |= {earlier: inherited.pop(earlier) for earlier in before}
            del inherited[field.target.id]
        options[field.target.id] = _option(name, field, after)
    return options | inherited


def _option(name: str, field: ast.AnnAssign, after: ast.stmt | None) -> Option:
    """Returns the option that a field declares; `after` is the statement below it, its documentation."""
    assert isinstance(field.target, ast.Name)
    if field.value is None:
        raise RecipeError(f"{name}.py: the field {field.target.id} of Config has no default", do="Give it a literal")
    parts = [part.strip() for part in ast.unparse(field.annotation).split("|")]
    types = [part for part in parts if part != "None"]
    if len(types) != 1 or types[0] not in _TYPES:
        raise RecipeError(
            f"{name}.py: the field {field.target.id} of Config is of type {ast.unparse(field.annotation)}",
            allowed=f"{', '.join(_TYPES)}, each also with | None",
        )
    documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return Option(
        name=field.target.id,
        type=_TYPES[types[0]],
        optional="None" in parts,
        default=_literal(name, f"{field.target.id} of Config", field.value),
        help=" ".join(str(after.value.value).split()) if documented else "",  # type: ignore[union-attr]
    )


def _class_of(name: str, base: ast.expr, tree: ast.Module) -> tuple[ast.ClassDef, ast.Module]:
    """Returns the class that `base` names and the file it stands in: this one, or one that this one imports."""
    module, _, wanted = ast.unparse(base).rpartition(".")
    if module:  # `rtn.Config` after `from compress.methods import rtn`
        tree = _imported(tree, module, alone=True) or ast.Module([], [])
    elif not any(isinstance(node, ast.ClassDef) and node.name == wanted for node in tree.body):
        tree = _imported(tree, wanted, alone=False) or ast.Module([], [])
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == wanted:
            return node, tree
    raise RecipeError(
        f"{name}.py: Config extends {ast.unparse(base)}, whose options cannot be read",
        allowed="TrainingOptions of compress.methods.protocol, or the Config of another method",
    )


def _imported(tree: ast.Module, name: str, *, alone: bool) -> ast.Module | None:
    """Returns the file behind `from … import name`: the module `name` (`alone`), or the one that defines it."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            package, _, file = (f"{node.module}.{name}" if alone else node.module or "").rpartition(".")
            path = Path(__file__).with_name(f"{file}.py") if file == "protocol" else _files().get(file)
            if package == _PACKAGE and path is not None:
                return ast.parse(path.read_text(encoding="utf-8"))
    return None


def load(name: str) -> Method:
    """Returns the method `name`; its file is imported, and with it torch."""
    describe(name)
    module = f"{_PACKAGE}.{name}"
    if (source := own_source(name)) is not None:
        extend(sys.modules[_PACKAGE].__path__)
        importlib.invalidate_caches()
        if _loaded.get(name, source) != source:  # the file has changed, for instance in a notebook
            sys.modules.pop(module, None)
        _loaded[name] = source
    return from_module.method_of(importlib.import_module(module))


def load_pack(name: str) -> PackMethod:
    """Returns the method `name`, which must be of kind `pack`; another kind is a RecipeError."""
    return from_module.of_kind_pack(load(name))


def load_rewrite(name: str) -> RewriteMethod:
    """Returns the method of a stage that is known to be of kind `rewrite`."""
    method = load(name)
    assert method.KIND == "rewrite", method.KIND
    return method


def load_train(name: str) -> TrainMethod:
    """Returns the method of a stage that is known to be of kind `train`."""
    method = load(name)
    assert method.KIND == "train", method.KIND
    return method


def defaults(name: str) -> dict[str, Any]:
    """Returns the default of every option of method `name`."""
    return {option.name: option.default for option in describe(name).options}


def nominal(name: str, bits: int) -> dict[str, Any]:
    """Returns the options that make `name` a `bits`-bit method: what its `nominal` says."""
    return check_options(name, load_pack(name).nominal(bits))


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
            none = ", or none" if option.optional else ""
            raise RecipeError(f"{key}={value!r} of method {name!r}", allowed=f"{TYPE_NAMES[option.type]}{none}")
    return checked


def configure(name: str, options: Mapping[str, Any]) -> Any:
    """Returns the method's Config with `options`; a value out of range is a MethodError."""
    return load(name).Config(**check_options(name, options))
