"""From planes in storage order to blocks in the order in which the kernels read them.

Bit streams are kept as they are: their words are laid out with 16 rows side by side. A block takes the bytes of the
planes, plus padding to 16 rows and 32 columns and, where zero points are integers, one byte for each of them.

Shape letters: N out features, K in features, G groups, R runs of rows.
"""

from __future__ import annotations

import torch

from compress.errors import FormatError
from compress.format.layouts import bits as bitstream
from compress.format.layouts import delta, int_group, spqr
from compress.format.packed import PackedTensor
from compress.kernels.native.block import LANES, PERIOD, TYPES, Kind, Stats, lanes, make, raw

Fields = dict[str, int]
Sections = dict[str, torch.Tensor]


def block(packed: PackedTensor) -> torch.Tensor:
    """Returns the block of a plain tensor; FormatError for indices that would lead out of it."""
    fields, sections = _MAKERS[packed.scheme.layout](packed)
    fields |= {"rows": packed.shape[0], "cols": packed.shape[1], "col_bytes": 2 if packed.shape[1] <= 1 << 16 else 4}
    fields.setdefault("width", packed.shape[1])
    return make(fields, sections | _sparse_part(packed, fields))


def _words(packed: PackedTensor) -> torch.Tensor:
    periods = -(-packed.shape[1] // PERIOD)
    return lanes(packed.planes["weight"], periods * packed.scheme.bits)


def _int_group(packed: PackedTensor) -> tuple[Fields, Sections]:
    scheme, planes = packed.scheme, packed.planes
    scale = planes["scale"]
    fields: Fields = {
        "kind": Kind.CODES,
        "bits": scheme.bits,
        "group": scheme.group_size,
        "stats": Stats.SCALE_ZERO if "zero_point" in planes else Stats.SCALE_ONLY,
        "scale_type": TYPES[scale.dtype],
    }
    sections = {"words": _words(packed), "scale": lanes(scale)}
    if "zero_point" in planes:
        sections["zero"] = lanes(bitstream.unpack_rows(planes["zero_point"].T, scheme.bits, packed.shape[0]).T)
    return fields, sections


def _spqr(packed: PackedTensor) -> tuple[Fields, Sections]:
    scheme, planes, (out_features, in_features) = packed.scheme, packed.planes, packed.shape
    stats_bits, run = scheme.options["stats_bits"], scheme.options["stats_group"]
    exponent = int(scheme.options["exponent"])
    shape = (out_features, in_features // scheme.group_size)
    codes = {name: bitstream.unpack_flat(planes[f"{name}_code"], stats_bits, shape) for name in ("scale", "zero")}
    fields: Fields = {"kind": Kind.CODES, "bits": scheme.bits, "group": scheme.group_size, "exponent": exponent}
    sections = {"words": _words(packed)}
    if stats_bits <= 4 and run % LANES == 0:
        fields |= {"stats": Stats.BILEVEL, "run_tiles": run // LANES}
        sections["zero"] = lanes(codes["scale"] | codes["zero"] << 4)
        sections["steps"] = torch.stack([planes[name] for name in spqr.SECOND_LEVEL], dim=-1)
    else:  # runs that cut through tiles, or wide codes: the statistics as numbers, 64 bits for each group
        fields["stats"] = Stats.REAL
        runs = torch.arange(out_features) // run
        for name, unit in (("scale", 2.0**exponent), ("zero", 1.0)):
            least, step = (planes[f"{name}_{part}"].float()[runs] for part in ("min", "step"))
            sections[name] = lanes((least + step * codes[name].float()) * unit)
    if "perm" in planes:
        order = planes["perm"].to(torch.int64)
        if (order < 0).any() or (order >= in_features).any():
            raise FormatError(f"perm has a column outside 0..{in_features - 1}")
        sections["perm"] = raw(planes["perm"])
    return fields, sections


def _sparse_part(packed: PackedTensor, fields: Fields) -> Sections:
    """Returns the sections of a delta part, checked: a column is an index into the inputs."""
    planes, (out_features, in_features) = packed.planes, packed.shape
    if "delta_rowptr" not in planes:
        return {}
    delta.validate(planes, (out_features, in_features), None)
    fields["entries"] = planes["delta_val"].numel()
    return {"rowptr": planes["delta_rowptr"], "col": raw(planes["delta_col"]), "val": planes["delta_val"]}


_MAKERS = {int_group.LAYOUT: _int_group, spqr.LAYOUT: _spqr}
LAYOUTS = tuple(_MAKERS)
"""Layouts that a block can hold."""
