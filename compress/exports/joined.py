"""Linears that vLLM and SGLang join into one (q, k, v; gate, up; experts), with the options of the first for all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from compress.errors import OutputError
from compress.exports.linear import EXPERT, Linear

JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Name of a joined linear -> names of its parts."""


def arrange(linears: Mapping[str, Linear]) -> dict[str, Linear]:
    """Returns the linears with one group size for those that are joined: the largest that divides those of all.

    Raises:
        OutputError: joined linears have different formats, bits or symmetry, or some of them are not packed.
    """
    arranged = dict(linears)
    for parent, paths in _sets(linears):
        present = [linears[path] for path in paths if path in linears]
        if len({_options(one) for one in present}) > 1 or len(present) != len(paths):
            first = {_options(linears.get(path)): path for path in reversed(paths)}
            shown = paths if len(paths) <= 3 else sorted(first.values(), key=paths.index)
            options = "; ".join(f"{_own(path, parent)} {_options(linears.get(path))}" for path in shown)
            raise OutputError(
                f"engines join {', '.join(_own(path, parent) for path in shown)}, and they differ: {options}",
                allowed="the same format, bits, symmetry and activations for all of them",
                do="Compress with equal options for them",
                layer=parent,
            )
        group = math.gcd(*(one.group_size for one in present))
        arranged |= {one.name: replace(one, group_size=group) for one in present}
    return arranged


def _sets(linears: Mapping[str, Linear]) -> Iterator[tuple[str, list[str]]]:
    """Yields the linears that are joined, as (path that all lie below, their names); an absent one is dense."""
    experts: dict[str, list[str]] = {}
    for name, linear in linears.items():
        parent, _, own = name.rpartition(".")
        if linear.kind == EXPERT:  # one kernel multiplies with all experts
            experts.setdefault(parent.rpartition(".")[0], []).append(name)
        else:
            yield from (
                (parent, [f"{parent}.{other}" for other in parts]) for parts in JOINED.values() if own == parts[0]
            )
    yield from experts.items()


def _own(path: str, parent: str) -> str:
    return path.removeprefix(f"{parent}.")


def _options(linear: Linear | None) -> str:
    if linear is None:
        return "dense"
    options = linear.scheme.options
    kind = f" {options['element']}, scales {options['scale_dtype']}" if "element" in options else ""
    parts = [f"{linear.scheme.bits} bits{kind}", *(() if linear.symmetric else ("zero points",))]
    return ", ".join(parts + ([f"inputs {options['activations']}"] if "activations" in options else []))


def patterns(names: Sequence[str], everywhere: Iterable[str]) -> list[str]:
    """Returns regular expressions for the names: one for all blocks where it matches no other name of `everywhere`."""
    others, chosen = set(everywhere) - set(names), dict[str, None]()
    for name in names:
        general = re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name))
        chosen[re.escape(name) if any(re.fullmatch(general, other) for other in others) else general] = None
    return list(chosen)


def with_joined(pattern: str) -> str:
    """Returns a pattern that matches the joined linear too, by whose name vLLM looks for its options."""
    for name, parts in JOINED.items():
        for part in parts:
            if pattern.endswith(part):
                return f"{pattern.removesuffix(part)}(?:{part}|{name})"
    return pattern
