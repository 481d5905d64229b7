"""The block types of GGUF that hold integer codes exactly, and the choice of one for a packed linear."""

from __future__ import annotations

from dataclasses import dataclass

from compress.exports.linear import Linear, not_plain_integers
from compress.format.layouts import super_block


@dataclass(frozen=True, slots=True)
class BlockType:
    """A way to store a stretch of a row."""

    name: str
    """Its name in `enum ggml_type`, without the prefix."""
    weights: int
    """Weights of one block."""
    size_bytes: int
    """Bytes of one block."""
    file_type: int
    """Number in `enum llama_ftype` of a file whose matrices have this type mostly."""

    def row_bytes(self, columns: int) -> int:
        """Returns the bytes of a row."""
        return columns // self.weights * self.size_bytes


Q4_0 = BlockType("Q4_0", 32, 18, 2)
Q5_0 = BlockType("Q5_0", 32, 22, 8)
Q8_0 = BlockType("Q8_0", 32, 34, 7)
Q2_K = BlockType("Q2_K", 256, 84, 10)
Q3_K = BlockType("Q3_K", 256, 110, 12)
Q4_K = BlockType("Q4_K", 256, 144, 15)
Q5_K = BlockType("Q5_K", 256, 176, 17)
Q6_K = BlockType("Q6_K", 256, 210, 18)
TQ2_0 = BlockType("TQ2_0", 256, 66, 37)
TYPES = {one.name: one for one in (Q4_0, Q5_0, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, TQ2_0)}

_LONG = {(2, True): TQ2_0, (2, False): Q2_K, (3, True): Q3_K, (4, False): Q4_K, (5, False): Q5_K, (6, True): Q6_K}
"""Bits and symmetry -> the type for groups that 256 divides. Its own two levels of scales are not needed: 1 · scale."""
_OF_BITS = {2: Q2_K, 3: Q3_K, 4: Q4_K, 5: Q5_K, 6: Q6_K}
"""Bits of a code -> the type of `super_block.v1`."""


def choose(linear: Linear) -> BlockType:
    """Returns the smallest type that holds the linear exactly; `reason` has said that there is one."""
    bits, symmetric = linear.scheme.bits, linear.symmetric
    if linear.scheme.layout == super_block.LAYOUT:
        return _OF_BITS[bits]
    if linear.group_size % 256 == 0 and (bits, symmetric) in _LONG:
        return _LONG[bits, symmetric]
    reach = bits if symmetric else bits + 1  # code − zero point lies between −(2^b − 1) and 2^b − 1
    return Q4_0 if reach <= 4 else Q5_0 if reach == 5 else Q8_0


def reason(linear: Linear) -> str | None:
    """Returns why no type holds the linear exactly, or None if one does."""
    if linear.scheme.layout == super_block.LAYOUT:
        return None
    if (why := not_plain_integers(linear)) is not None:
        return why
    if linear.scheme.options["scale_dtype"] != "float16":
        return "scales are float16 there"
    if linear.scheme.bits == 8 and not linear.symmetric:
        return "no type there has 8 bits and zero points"
    return None if linear.group_size % 32 == 0 else "groups are multiples of 32 there"
