"""Integer codes with a scale and a zero point for every group of columns: the content of most formats.

Shape letters: N out features, K in features, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from compress.format.layouts import bits as bitstream
from compress.format.layouts import int_group
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme


@dataclass(frozen=True)
class Integers:
    """w[n, k] = (code[n, k] − zero[n, g(k)]) · scale[n, g(k)]."""

    bits: int
    shape: tuple[int, int]
    codes: Callable[[], torch.Tensor]
    """Reads the unsigned codes, integers [N, K]."""
    scale_NG: torch.Tensor  # noqa: N815
    """Scales in their stored dtype."""
    zero_NG: torch.Tensor | None  # noqa: N815
    """Unsigned zero points; None: the middle code everywhere."""
    group_K: torch.Tensor | None = None  # noqa: N815
    """Group of each column; None: groups of equal size, one after the other."""

    @property
    def _middle(self) -> int:
        return 1 << (self.bits - 1)

    @cached_property
    def _symmetric(self) -> bool:
        return self.zero_NG is None or bool((self.zero_NG == self._middle).all())

    def _zeros(self) -> torch.Tensor:
        """The zero points, uint8 [N, G]."""
        if self.zero_NG is None:
            return torch.full(self.scale_NG.shape, self._middle, dtype=torch.uint8)
        return self.zero_NG.to(torch.uint8)

    @cached_property
    def _in_order(self) -> bool:
        """Whether the groups are of equal size and one after the other."""
        columns, groups = self.shape[1], self.scale_NG.shape[1]
        if columns % groups:
            return False
        return self.group_K is None or torch.equal(self.group_K.long(), torch.arange(columns) // (columns // groups))

    def decode(self) -> torch.Tensor:
        """See `Content`."""
        group_K = self.group_K
        if self._in_order:
            group_K = torch.arange(self.shape[1]) // (self.shape[1] // self.scale_NG.shape[1])
        assert group_K is not None, "find refuses groups that do not divide the columns"
        places_K = group_K.long()
        weight_NK = self.codes().float()
        weight_NK -= self._middle if self.zero_NG is None else self.zero_NG.float()[:, places_K]
        return weight_NK.mul_(self.scale_NG.float()[:, places_K])

    def scheme(self) -> Scheme | None:
        """See `Content`."""
        dtype = str(self.scale_NG.dtype).removeprefix("torch.")
        held = 1 <= self.bits <= 8 and dtype in int_group.SCALE_DTYPES and self.shape[1] > 1
        if not (held and self._in_order and bool(self.scale_NG.isfinite().all())):
            return None
        options = {"symmetric": self._symmetric, "scale_dtype": dtype, "outliers": 0}
        group_size = self.shape[1] // self.scale_NG.shape[1]
        return Scheme(layout=int_group.LAYOUT, bits=self.bits, group_size=group_size, options=options)

    def packed(self) -> PackedTensor | None:
        """See `Content`."""
        if self.scheme() is None:
            return None
        zero_NG = None if self._symmetric else self.zero_NG
        return int_group.pack(self.codes(), self.scale_NG, zero_NG, bits=self.bits)


def joined(parts: Sequence[Integers]) -> Integers | None:
    """Returns matrices one above the other as one; None where their bits, groups or the dtypes of scales differ."""
    if len({(part.bits, part.shape[1], part.scale_NG.shape[1], part.scale_NG.dtype) for part in parts}) > 1:
        return None
    if any(part.group_K is not None and not part._in_order for part in parts):
        return None
    zero_NG = None
    if not all(part._symmetric for part in parts):
        zero_NG = torch.cat([part._zeros() for part in parts])
    return Integers(
        bits=parts[0].bits,
        shape=(sum(part.shape[0] for part in parts), parts[0].shape[1]),
        codes=lambda: torch.cat([part.codes() for part in parts]),
        scale_NG=torch.cat([part.scale_NG for part in parts]),
        zero_NG=zero_NG,
    )


def padded_rows(words_RW: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Returns `count` codes of each row, uint8, from words that hold ⌊32 / bits⌋ whole codes each."""
    shifts = torch.arange(32 // bits) * bits
    codes_RWc = (words_RW.long()[..., None] >> shifts) & ((1 << bits) - 1)
    return codes_RWc.flatten(1)[:, :count].to(torch.uint8)


def unpack_rows(words_RW: torch.Tensor, bits: int, count: int) -> torch.Tensor | None:
    """Returns `count` codes of each row, uint8: of a dense stream or of padded words, by the number of words.

    None where the number fits neither. Rows of a few codes may fit both: then they are a dense stream.
    """
    width = words_RW.shape[1]
    if width == bitstream.words_for(count, bits):
        return bitstream.unpack_rows(words_RW.contiguous(), bits, count)
    return padded_rows(words_RW, bits, count) if width == -(-count // (32 // bits)) else None
