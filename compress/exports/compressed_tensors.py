"""compressed-tensors, format `pack-quantized`: the planes of `int_group.v1` under other names.

    X.weight_packed      int32 [N, ceil(K·b/32)]   our `weight`
    X.weight_scale       [N, G]                    our `scale`
    X.weight_zero_point  int32 [ceil(N·b/32), G]   our `zero_point`; only if not symmetric
    X.weight_shape       int64 [2]                 N, K

Streams are dense, as compressed-tensors ≥ 0.18 and vLLM read them; 0.17 pads widths that do not divide 32.
Where a zero point is stored, transformers decodes the weights while it loads them (`dequantize`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from compress.errors import OutputError
from compress.exports.integers import put_together
from compress.exports.linear import EXPERT, Linear, not_inside_a_block, not_plain_integers
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor

_JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Linears that vLLM and SGLang join into one; they take the options of the first for all."""


def reason(linear: Linear) -> str | None:
    """See `Target.reason`."""
    if linear.scheme.bits < 2:
        return "codes have 2 to 8 bits there"
    return not_inside_a_block(linear) or not_plain_integers(linear)


def arrange(linears: Mapping[str, Linear]) -> dict[str, Linear]:
    """See `Target.arrange`: joined linears get the largest group that divides those of all."""
    arranged = dict(linears)
    for parent, paths in _joined(linears):
        joined = [linears[path] for path in paths if path in linears]
        if len({(one.scheme.bits, one.symmetric) for one in joined}) > 1 or len(joined) != len(paths):
            first = {_options(linears.get(path)): path for path in reversed(paths)}
            shown = paths if len(paths) <= 3 else sorted(first.values(), key=paths.index)
            options = "; ".join(f"{_own(path, parent)} {_options(linears.get(path))}" for path in shown)
            raise OutputError(
                f"engines join {', '.join(_own(path, parent) for path in shown)}, and they differ: {options}",
                allowed="the same bits and the same symmetry for all of them",
                do="Compress with equal options for them",
                layer=parent,
            )
        group = math.gcd(*(one.group_size for one in joined))
        arranged |= {one.name: replace(one, group_size=group) for one in joined}
    return arranged


def _joined(linears: Mapping[str, Linear]) -> Iterator[tuple[str, list[str]]]:
    """Yields the linears that engines join, as (path that all lie below, their names); an absent one is dense."""
    experts: dict[str, list[str]] = {}
    for name, linear in linears.items():
        parent, _, own = name.rpartition(".")
        if linear.kind == EXPERT:  # one kernel multiplies with all experts, and takes the options of the first
            experts.setdefault(parent.rpartition(".")[0], []).append(name)
        else:
            yield from ((parent, [f"{parent}.{other}" for other in names]) for names in _JOINED if own == names[0])
    yield from experts.items()


def _own(path: str, parent: str) -> str:
    return path.removeprefix(f"{parent}.")


def _options(linear: Linear | None) -> str:
    return "dense" if linear is None else f"{linear.scheme.bits} bits{'' if linear.symmetric else ', zero points'}"


def tensors(linear: Linear, packed: PackedTensor) -> dict[str, torch.Tensor]:
    """See `Target.tensors`."""
    times = packed.scheme.group_size // linear.group_size
    by_group = {f"weight_{name}": packed.planes[name] for name in ("scale", "zero_point") if name in packed.planes}
    return {
        "weight_packed": packed.planes["weight"],
        **{name: plane.repeat_interleave(times, 1) for name, plane in by_group.items()},
        "weight_shape": torch.tensor(packed.shape),
    }


def decode(linear: Linear, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """See `Target.decode`."""
    (rows, columns), bits = stored["weight_shape"].tolist(), linear.scheme.bits
    codes_NK = bitstream.unpack_rows(stored["weight_packed"], bits, columns)
    scale_NG = stored["weight_scale"]
    if "weight_zero_point" in stored:
        zero_NG = bitstream.unpack_rows(stored["weight_zero_point"].T, bits, rows).T
    else:
        zero_NG = torch.full(scale_NG.shape, 1 << (bits - 1))
    return put_together(codes_NK, scale_NG, zero_NG)


def describe(linears: Mapping[str, Linear], dense: list[str]) -> dict[str, Any]:
    """See `Target.describe`: one group of linears for each choice of bits, group size and symmetry."""
    kinds: dict[tuple[int, bool, int | None], list[str]] = {}
    for name, one in linears.items():
        kinds.setdefault((one.scheme.bits, one.symmetric, None if one.by_row else one.group_size), []).append(name)
    groups = {}
    for number, ((bits, symmetric, group), names) in enumerate(kinds.items()):
        weights = {
            "num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group" if group else "channel",
            "group_size": group, "dynamic": False,
        }  # fmt: skip
        targets = ["Linear"] if len(kinds) == 1 else _patterns(names, [*linears, *dense])
        groups[f"group_{number}"] = {
            "targets": targets, "weights": weights, "input_activations": None, "output_activations": None,
            "format": "pack-quantized",
        }  # fmt: skip
    quantization: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": "pack-quantized",
        "config_groups": groups,
        "ignore": dense,
        "kv_cache_scheme": None,
    }
    if not all(one.symmetric for one in linears.values()):
        quantization["dequantize"] = True  # transformers cannot keep zero points packed while it loads
    return {"quantization_config": quantization}


def _patterns(names: list[str], everywhere: list[str]) -> list[str]:
    """Returns regular expressions for the names: one for all blocks where a linear has these options in every block."""
    patterns: dict[str, None] = {}
    for name in names:
        general = re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name))
        same = [other for other in everywhere if re.fullmatch(general, other)]
        patterns[f"re:^{general if set(same) <= set(names) else re.escape(name)}$"] = None
    return list(patterns)
