"""Writes the schemes of all packed tensors so that what many have in common stands once. Standard library only.

`{"model.layers.0.up": {"scheme", "shape", "bias"}, "model.layers.1.up": …}` becomes a list of groups:

    {"names": "model.layers.#.up", "numbers": "0-29", "shape": [N, K], "bias": false, "scheme": {…},
     "options": {"outliers": [12, 34, …]}}

`#` stands for the last number of a name. `options` holds the options in which the tensors of a group differ, one value
for each; a dotted path leads into the scheme of a part.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compress.errors import FormatError

_PLACE = "#"
_NUMBER = re.compile(r"(?:0|[1-9]\d{0,8})")
_RUNS = re.compile(rf"{_NUMBER.pattern}(?:-{_NUMBER.pattern})?(?:,{_NUMBER.pattern}(?:-{_NUMBER.pattern})?)*")
_MOST = 1 << 22
"""Tensors of one group: a file must not make a reader fill the memory."""


def shorten(tensors: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the groups of entries `scheme`, `shape` and `bias` by name."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name, entry in tensors.items():
        pattern, number = _split(name)
        options = dict(_leaves(entry["scheme"]["options"]))
        plain = {key: value for key, value in entry["scheme"].items() if key != "options"}
        alike = [pattern, number is None, plain, sorted(options), list(entry["shape"]), entry["bias"]]
        groups.setdefault(json.dumps(alike, sort_keys=True), []).append((number or 0, name))
    return [_group([tensors[name] for _, name in sorted(group)], sorted(group)) for group in groups.values()]


def expand(groups: object) -> dict[str, dict[str, Any]]:
    """Returns the entries by name; FormatError for groups that are malformed or name a tensor twice."""
    if not isinstance(groups, Sequence) or isinstance(groups, str):
        raise FormatError("`tensors` in quantization_config is not a list of groups")
    entries: dict[str, dict[str, Any]] = {}
    for group in groups:
        for name, entry in _members(group):
            if name in entries:
                raise FormatError("quantization_config describes it twice", layer=name)
            entries[name] = entry
    return entries


def _split(name: str) -> tuple[str, int | None]:
    """Returns the name with `#` in place of its last number, and the number; None where it has none."""
    parts = name.split(".")
    places = [place for place, part in enumerate(parts) if _NUMBER.fullmatch(part)]
    if not places or _PLACE in name:
        return name, None
    number = int(parts[places[-1]])
    parts[places[-1]] = _PLACE
    return ".".join(parts), number


def _group(entries: Sequence[Mapping[str, Any]], members: Sequence[tuple[int, str]]) -> dict[str, Any]:
    first, name = entries[0], members[0][1]
    pattern, number = _split(name)
    leaves = [dict(_leaves(entry["scheme"]["options"])) for entry in entries]
    varying = [path for path in leaves[0] if any(other[path] != leaves[0][path] for other in leaves)]
    options = copy.deepcopy(dict(first["scheme"]["options"]))
    for path in varying:
        *parents, key = path.split(".")
        _at(options, parents).pop(key)
    group = {
        "names": pattern,
        **({} if number is None else {"numbers": _runs([number for number, _ in members])}),
        "shape": list(first["shape"]),
        "bias": first["bias"],
        "scheme": {**first["scheme"], "options": options},
    }
    return group | ({"options": {path: [other[path] for other in leaves] for path in varying}} if varying else {})


def _members(group: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields name and entry of every tensor of a group."""
    if not isinstance(group, Mapping) or not isinstance(pattern := group.get("names"), str):
        raise FormatError("a group of `tensors` in quantization_config lacks its `names`")
    names = [pattern]
    if (numbers := group.get("numbers")) is not None:
        names = [pattern.replace(_PLACE, str(number)) for number in _numbers(numbers, pattern)]
    if missing := {"shape", "bias", "scheme"} - group.keys():
        raise FormatError(f"its group in quantization_config lacks {', '.join(sorted(missing))}", layer=pattern)
    scheme, varying = group["scheme"], group.get("options", {})
    lists = isinstance(varying, Mapping) and all(isinstance(values, list) for values in varying.values())
    if not lists or any(len(values) != len(names) for values in varying.values()):
        raise FormatError("its `options` in quantization_config have another number of values", layer=pattern)
    if varying and not (isinstance(scheme, Mapping) and isinstance(scheme.get("options"), Mapping)):
        raise FormatError("its scheme in quantization_config has no options", layer=pattern)
    for place, name in enumerate(names):
        own = copy.deepcopy(scheme)
        for path, values in varying.items():
            *parents, key = path.split(".")
            try:
                _at(own["options"], parents)[key] = values[place]
            except (KeyError, TypeError) as error:
                raise FormatError(f"its scheme has no part for the option {path!r}", layer=pattern) from error
        yield name, {"scheme": own, "shape": group["shape"], "bias": group["bias"]}


def _leaves(options: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted path and value of every option, those of the schemes of parts too."""
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _at(options: dict[str, Any], parents: Sequence[str]) -> dict[str, Any]:
    for parent in parents:
        options = options[parent]
    return options


def _runs(numbers: Sequence[int]) -> str:
    """Returns rising numbers as text: `0-3,5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _numbers(text: object, pattern: str) -> list[int]:
    if not isinstance(text, str) or not _RUNS.fullmatch(text):
        raise FormatError(f"its numbers in quantization_config are {text!r}", allowed="such as 0-29,31", layer=pattern)
    runs = [[int(end) for end in run.split("-")] for run in text.split(",")]
    if sum(run[-1] - run[0] + 1 for run in runs) > _MOST:
        raise FormatError(f"its group in quantization_config has more than {_MOST} tensors", layer=pattern)
    return [number for run in runs for number in range(run[0], run[-1] + 1)]
