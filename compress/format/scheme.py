"""Describes how one tensor is stored: the Scheme. Standard library only, so that `compress inspect` needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compress.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Layout, bits, group size and options: with the planes, all that a reader or a kernel needs."""

    layout: str
    """Layout id with its version, e.g. ``int_group.v1``; the bytes of an id never change their meaning."""
    bits: int
    """Bits of one integer code, 2 to 8 (1 to 8 for layouts that allow it)."""
    group_size: int
    """Input features that share one scale; the whole row is written as its width."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options specific to this layout, JSON values; `outliers` is the length of the sparse delta part everywhere."""

    @property
    def outliers(self) -> int:
        """Stored entries of the sparse delta part."""
        return int(self.options.get("outliers", 0))

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form, as stored in `compress.json`."""
        return {"layout": self.layout, "bits": self.bits, "group_size": self.group_size, "options": dict(self.options)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scheme:
        """Reads the JSON form; a missing or ill-typed field is a FormatError."""
        try:
            layout, bits, group, options = data["layout"], data["bits"], data["group_size"], data.get("options", {})
        except (KeyError, TypeError) as error:
            raise FormatError(
                f"a scheme lacks the field {error}", allowed="layout, bits, group_size, options"
            ) from error
        counts = (bits, group, options.get("outliers", 0) if isinstance(options, Mapping) else None)
        ints = all(isinstance(value, int) and not isinstance(value, bool) for value in counts)
        if not (isinstance(layout, str) and ints):
            raise FormatError(f"a scheme has fields of the wrong type: {dict(data)!r}")
        if any(isinstance(value, float) and not math.isfinite(value) for value in options.values()):
            raise FormatError(f"a scheme contains NaN or infinity: {dict(data)!r}")
        return cls(layout=layout, bits=bits, group_size=group, options=dict(options))
