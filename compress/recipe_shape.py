"""Refuses recipe files of a wrong shape, and shows the right one. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from compress.errors import RecipeError, nearest, unknown


def check(data: Any, known: Collection[str], calibration_keys: Collection[str]) -> None:
    """Checks that settings stand where they belong, and that their names are known.

    Args:
        data: content of a recipe file.
        known: keys that may stand at the top.
        calibration_keys: keys of the table `calibration`.

    Raises:
        RecipeError: a method, one of its options or a setting of the calibration stands at the top; or a key is
            unknown.
    """
    if isinstance(data, Mapping):
        _refuse_flat(data, known, calibration_keys)
        for key in data:
            if key in calibration_keys and key not in known:
                raise RecipeError(f"{key} stands at the top of the recipe", do="Write it below a line [calibration]")
        if isinstance(data.get("calibration"), str):
            text = data["calibration"]
            raise RecipeError(f"calibration = {text!r}", do=f"Write {_line('source', text)} below a line [calibration]")
    refuse_unknown("recipe key", data, known, do="Options of a method belong below [[stage]]")
    refuse_unknown("calibration key", data.get("calibration", {}), calibration_keys)


def refuse_unknown(kind: str, data: Any, known: Collection[str], do: str | None = None) -> None:
    """Raises RecipeError for a value that is no table, or a key that is not known, with a suggestion or the cure."""
    if not isinstance(data, Mapping):
        raise RecipeError(f"{kind}s must be a table, not {data!r}")
    for key in data:
        if key not in known:
            near = nearest(key, known)
            raise RecipeError(
                unknown(kind, key, known), allowed=", ".join(sorted(known)), do=do if near is None else None
            )


def _refuse_flat(data: Mapping[str, Any], known: Collection[str], calibration_keys: Collection[str]) -> None:
    """Raises RecipeError, with the whole file as it should be, where the method stands at the top."""
    method = data.get("method", data["stage"] if isinstance(data.get("stage"), str) else None)
    if method is None or isinstance(data.get("stage"), list | Mapping):
        return
    source, table = data.get("calibration"), []
    calibration = {"source": source} if isinstance(source, str) else dict(source) if isinstance(source, Mapping) else {}
    calibration |= {key: value for key, value in data.items() if key in calibration_keys}
    if calibration:
        table = ["", "[calibration]", *_lines(calibration)]
    top = {key: value for key, value in data.items() if key in known and key not in ("stage", "calibration")}
    elsewhere = {*known, *calibration_keys, "method"}
    stage = {"method": method} | {key: value for key, value in data.items() if key not in elsewhere}
    shape = "\n".join([*_lines(top), *table, "", "[[stage]]", *_lines(stage)])
    raise RecipeError("method stands at the top of the recipe", do=f"Write:\n\n{shape.strip()}\n")


def _lines(values: Mapping[str, Any]) -> list[str]:
    return [_line(key, value) for key, value in values.items()]


def _line(key: str, value: Any) -> str:
    """Returns a line of TOML; texts, numbers and lists of them are written as in JSON."""
    return f"{key} = {json.dumps(value, ensure_ascii=False, default=str)}"
