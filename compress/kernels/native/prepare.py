"""Converts planes in storage order to blocks in the order in which the native kernels read them.

Words of bit streams are laid out with 16 rows side by side, and codes whose width is no power of two are cut into
fields. A block takes the bytes of the planes, plus padding to 16 rows and 32 columns, a byte for each zero point, and
of SpQR's statistics a byte for each pair of codes and 4 bytes for each number of the second level.

Shape letters: N out features, K in features, G groups, R runs of rows.
"""

from __future__ import annotations

import torch

from compress.format import layouts
from compress.format.layouts import additive, composing, delta, dense, int_group, low_rank, sparse_nm, spqr
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels.native import loader
from compress.kernels.native.block import LANES, PERIOD, TYPES, Kind, Stats, lanes, make, raw

Fields = dict[str, int]
Sections = dict[str, torch.Tensor]


def block(packed: PackedTensor) -> torch.Tensor:
    """Returns the block of a plain tensor or part whose planes have been checked."""
    fields, sections = _MAKERS[packed.scheme.layout](packed)
    fields = {"width": packed.shape[1], **fields}
    fields |= {"rows": packed.shape[0], "cols": packed.shape[1], "col_bytes": 2 if packed.shape[1] <= 1 << 16 else 4}
    return make(fields, sections | _sparse_part(packed, fields))


def _words(packed: PackedTensor) -> torch.Tensor:
    bits, (rows, width) = packed.scheme.bits, packed.shape
    words, periods = packed.planes["weight"].contiguous(), -(-width // PERIOD)
    if bits.bit_count() == 1:  # the stored bit stream is what the kernels read
        return lanes(words, periods * bits)
    fields = torch.empty(rows, periods * bits, dtype=torch.int32)
    loader.library().cn_fields(
        words.data_ptr(), rows, words.shape[1], width, bits, fields.data_ptr(), torch.get_num_threads()
    )
    return lanes(fields)


def _int_group(packed: PackedTensor) -> tuple[Fields, Sections]:
    scheme, planes = packed.scheme, packed.planes
    scale = planes["scale"]
    fields: Fields = {
        "kind": Kind.ROUNDED if "activations" in scheme.options else Kind.CODES,
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
        sections["steps"] = torch.stack([planes[name] for name in spqr.SECOND_LEVEL], dim=-1).float()
    else:  # runs that cut through tiles, or wide codes: the statistics as numbers, 64 bits for each group
        fields["stats"] = Stats.REAL
        runs = torch.arange(out_features) // run
        for name, unit in (("scale", 2.0**exponent), ("zero", 1.0)):
            least, step = (planes[f"{name}_{part}"].float()[runs] for part in ("min", "step"))
            sections[name] = lanes((least + step * codes[name].float()) * unit)
    if "perm" in planes:
        sections["perm"] = raw(planes["perm"])
    return fields, sections


def _additive(packed: PackedTensor) -> tuple[Fields, Sections]:
    scheme, planes, (rows, _) = packed.scheme, packed.planes, packed.shape
    vectors_MVg = planes["codebooks"]
    tables = packed.shape[1] // scheme.group_size * vectors_MVg.shape[0]
    codes_NT = bitstream.unpack_rows(planes["weight"], scheme.bits, tables)
    # vectors are read eight numbers at a time
    sections = {"vectors": torch.nn.functional.pad(vectors_MVg.flatten(), (0, 8))}
    if scheme.bits > 8:
        codes_NT = codes_NT.to(torch.int16)
    else:  # products of vectors are looked up: vectors innermost, padded to the lanes
        padding = max(0, LANES - vectors_MVg.shape[1])
        sections["books"] = torch.nn.functional.pad(vectors_MVg.float().transpose(1, 2), (0, padding))
        sections["reach"] = vectors_MVg.float().abs().amax(1)
    fields: Fields = {
        "kind": Kind.ADDITIVE, "bits": scheme.bits, "group": scheme.group_size, "books": vectors_MVg.shape[0],
    }  # fmt: skip
    scale_N = torch.nn.functional.pad(planes["scale"].float(), (0, -rows % LANES))
    codes_NT = torch.nn.functional.pad(codes_NT, (0, -tables % _LOOKUPS, 0, -rows % _UNIT_ROWS))
    codes_URSL = codes_NT.view(-1, _UNIT_ROWS, codes_NT.shape[1] // _LOOKUPS, _LOOKUPS)
    sections |= {"words": codes_URSL.permute(2, 0, 3, 1), "scale": scale_N}
    return fields, sections


def _dense(packed: PackedTensor) -> tuple[Fields, Sections]:
    weight = packed.planes["weight"]
    return {"kind": Kind.DENSE, "value_type": TYPES[weight.dtype]}, {"words": lanes(weight)}


def _sparse_nm(packed: PackedTensor) -> tuple[Fields, Sections]:
    values = layouts.parts(packed)["values"]
    width = values.shape[1]
    fields, sections = _MAKERS[values.scheme.layout](values)
    fields |= {"kind": Kind.SPARSE, "width": width, "keep": packed.scheme.options["n"]}
    if values.scheme.layout == dense.PART_LAYOUT:
        fields["bits"] = 16  # more than any code has
    words = -(-width // PERIOD) * PERIOD * sparse_nm.index_bits(_OF) // 32
    sections["index"] = lanes(packed.planes["sparse_index"], words)
    return fields, sections


def _sparse_part(packed: PackedTensor, fields: Fields) -> Sections:
    """Returns the sections of a delta part."""
    planes, (out_features, in_features) = packed.planes, packed.shape
    if "delta_rowptr" not in planes:
        return {}
    width = fields["width"]
    fields["entries"] = planes["delta_val"].numel()
    places = delta.expand(planes)
    assert places is not None
    columns = places.columns
    if width != in_features:  # columns count kept values here; map them to input features
        kept_NJ = sparse_nm.mask(packed).nonzero()[:, 1].view(out_features, width)
        columns = kept_NJ[places.rows, columns]
    first_N = planes["delta_rowptr"].to(torch.int64)
    counts = torch.nn.functional.pad(first_N.diff(), (0, -out_features % LANES))
    steps = torch.nn.functional.pad(counts.view(-1, LANES).amax(1).cumsum(0), (1, 0))
    rank = torch.arange(columns.numel()) - first_N[places.rows]
    at = (steps[places.rows // LANES] + rank) * LANES + places.rows % LANES
    size = int(steps[-1]) * LANES
    narrow = torch.int16 if delta.column_dtype(in_features) == torch.uint16 else torch.int32
    return {
        "rowptr": steps.to(torch.int32),
        "col": torch.zeros(size, dtype=narrow).index_put_((at,), columns.to(narrow)),
        "val": torch.zeros(size, dtype=torch.float16).index_put_((at,), planes["delta_val"]),
    }


_WIDEST_ROUNDED = 1 << 16
"""Columns of a weight whose inputs are rounded: sums of products with codes must fit into 32 bits."""
_OF = 4
"""m of n:m that the kernels know."""
_UNIT_ROWS, _LOOKUPS = 64, 32
"""Rows and tables whose codes of additive codebooks stand together."""
_MAKERS = {
    int_group.LAYOUT: _int_group,
    spqr.LAYOUT: _spqr,
    additive.LAYOUT: _additive,
    dense.PART_LAYOUT: _dense,
    sparse_nm.LAYOUT: _sparse_nm,
}


def reject(scheme: Scheme) -> str | None:
    """Returns why there is no block for a tensor of this scheme, or None."""
    if scheme.layout == low_rank.LAYOUT:
        reasons = (reject(composing.part_scheme(scheme, part)) for part in low_rank.PARTS)
        return next(filter(None, reasons), None)
    if scheme.layout not in _MAKERS:
        return f"no native kernel for {scheme.layout}"
    if (kind := scheme.options.get("activations")) is not None:
        if kind != "int8":
            return f"no native kernel rounds its inputs to {kind}"
        if scheme.group_size > _WIDEST_ROUNDED:
            return f"native kernels round {_WIDEST_ROUNDED} inputs at most, not {scheme.group_size}"
    if scheme.options.get("delta_dtype", "float16") != "float16":
        return "native kernels read deltas in float16, not in float32"
    if scheme.layout == sparse_nm.LAYOUT:
        values = composing.part_scheme(scheme, "values").layout
        if values not in (dense.PART_LAYOUT, int_group.LAYOUT):
            return f"no native kernel for sparse_nm.v1 with values of {values}"
        if scheme.options["m"] != _OF:
            return f"native kernels know n:{_OF}, not {scheme.options['n']}:{scheme.options['m']}"
        return reject(composing.part_scheme(scheme, "values"))
    return None


def steps(packed: PackedTensor) -> list[torch.Tensor]:
    """Returns the blocks of a weight: one; two factors, the right one first; or one and two factors to be added.

    FormatError for planes of another size, or with indices that lead out of them: the kernels trust what they read.
    """
    layouts.check(packed)
    if packed.scheme.layout == low_rank.LAYOUT:
        parts = layouts.parts(packed)
        return [block(parts["right"]), block(parts["left"])]
    added = sparse_nm.slorb(packed) if packed.scheme.layout == sparse_nm.LAYOUT else None
    return [block(packed), *(block(dense.pack(factor)) for factor in reversed(added or ()))]
