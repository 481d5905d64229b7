"""Checks values that were read from JSON against the shape that a report needs, and leaves out those that differ.

A shape is one of TEXT, COUNT, NUMBER and OBJECT, a dict of the shapes of fields, `Fields`, `Each`, or a list with the
shape of every element. Fields that a dict does not name are kept as they are, if their numbers are finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import FormatError
from compress.json_files import read_object

Shape = Any
TEXT, COUNT, NUMBER, OBJECT = "a text", "a whole number", "a number", "an object"
_LONGEST_VALUE = 40


@dataclass(frozen=True, slots=True)
class Each:
    """An object with free keys, all of whose values have one shape."""

    shape: Shape


@dataclass(frozen=True, slots=True)
class Fields:
    """An object that is of no use without some of its fields."""

    shapes: Mapping[str, Shape]
    needed: tuple[str, ...]


def versioned(path: Path, version: int) -> dict[str, Any]:
    """Returns the object in a JSON file; FormatError where it cannot be read, or has another schema version."""
    data = read_object(path)
    if (found := data.get("schema_version")) != version:
        raise FormatError(f"{path} has schema version {found!r}", allowed=str(version))
    return data


def checked(value: Mapping[str, Any], shape: Shape) -> tuple[dict[str, Any], list[str]]:
    """Returns the object without values of the wrong shape, and a message for each value left out.

    A field that is null counts as missing.
    """
    problems: list[str] = []
    result: dict[str, Any] | None = _checked(value, shape, "", problems)
    return result or {}, problems


def _checked(value: Any, shape: Shape, path: str, problems: list[str]) -> Any:
    """Returns the value without its unusable parts; None, with a problem, if it is unusable itself."""
    if isinstance(shape, str):
        return value if _is(value, shape) else _unusable(value, shape, path, problems)
    if isinstance(shape, list):
        if not isinstance(value, list | tuple):
            return _unusable(value, "a list", path, problems)
        items = [_checked(item, shape[0], f"{path}[{index}]", problems) for index, item in enumerate(value)]
        return [item for item in items if item is not None]
    if not isinstance(value, Mapping):
        return _unusable(value, OBJECT, path, problems)
    if isinstance(shape, Each):
        return _object(value, dict.fromkeys(value, shape.shape), path, problems)
    if not isinstance(shape, Fields):
        return _object(value, shape, path, problems)
    result = _object(value, shape.shapes, path, problems)
    if missing := [name for name in shape.needed if name not in result]:
        problems.append(f"{path} (it has no {' and no '.join(missing)})")
        return None
    return result


def _object(value: Mapping[str, Any], shapes: Mapping[str, Shape], path: str, problems: list[str]) -> dict[str, Any]:
    result = {}
    for key, item in value.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in shapes:
            if _is_finite(item):
                result[key] = item
            else:
                problems.append(f"{where} (it holds a number that is not finite)")
        elif item is not None and (usable := _checked(item, shapes[key], where, problems)) is not None:
            result[key] = usable
    return result


def _is(value: Any, shape: str) -> bool:
    if shape == TEXT:
        return isinstance(value, str)
    if shape == OBJECT:
        return isinstance(value, Mapping) and _is_finite(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if shape == NUMBER else isinstance(value, int) and value >= 0


def _is_finite(value: Any) -> bool:
    """Returns whether no number inside is NaN or infinite: JSON has no such numbers, but Python reads them."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _unusable(value: Any, wanted: str, path: str, problems: list[str]) -> None:
    shown = repr(value)
    short = shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + "…"
    problems.append(f"{path} ({short} is not {wanted})")
