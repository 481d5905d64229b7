"""Describes the coverage of a manifest or a plan in words: the compressed share and the linears left dense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.report.formatting import percent


def compressed(coverage: Mapping[str, Any], *, total: bool = True) -> str | None:
    """Returns `97.4 % of the decoder's linear parameters, 81.0 % of all 3,280,000`, as far as it is recorded.

    None where neither share is. The number of parameters is left out unless `total`.
    """
    parts = []
    if "share_of_linears" in coverage:
        parts.append(f"{percent(coverage['share_of_linears'])} of the decoder's linear parameters")
    if "share_of_model" in coverage:
        known = total and "total_parameters" in coverage
        parts.append(
            f"{percent(coverage['share_of_model'])} of all" + (f" {coverage['total_parameters']:,}" if known else "")
        )
    return ", ".join(parts) or None


def outside(coverage: Mapping[str, Any]) -> str | None:
    """Returns `embedding 4,096, head 4,096`: parameters packed outside the decoder blocks. None for none."""
    packed = coverage.get("packed_outside_blocks") or {}
    return ", ".join(f"{role} {count:,}" for role, count in packed.items()) or None


def left_dense(coverage: Mapping[str, Any]) -> str | None:
    """Returns `embedding 4,096, router 128`, or `nothing`: parameters left dense by reason. None if not recorded."""
    if "left_dense" not in coverage:
        return None
    return ", ".join(f"{reason} {count:,}" for reason, count in coverage["left_dense"].items()) or "nothing"


def removed(coverage: Mapping[str, Any]) -> str | None:
    """Returns `655,360 parameters, 20.0 % of all`; None where nothing was removed or recorded."""
    if not coverage.get("removed_parameters"):
        return None
    share = f", {percent(coverage['share_removed'])} of all" if "share_removed" in coverage else ""
    return f"{coverage['removed_parameters']:,} parameters{share}"
