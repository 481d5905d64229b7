"""Holds one compressed weight as plain data: PackedTensor. `layouts.unpack` decodes it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from compress.format.scheme import Scheme


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A weight of `shape` (N out features, K in features) stored as named planes under a scheme."""

    shape: tuple[int, int]
    scheme: Scheme
    planes: dict[str, torch.Tensor] = field(repr=False)

    def to(self, device: torch.device | str) -> PackedTensor:
        """Returns the tensor with its planes on `device`."""
        return PackedTensor(self.shape, self.scheme, {name: plane.to(device) for name, plane in self.planes.items()})

    @property
    def size_bytes(self) -> int:
        """Bytes of all planes together, exactly as they are written."""
        return sum(plane.numel() * plane.element_size() for plane in self.planes.values())

    @property
    def bits_per_weight(self) -> float:
        """True stored bits per weight: codes, statistics, outliers, index and padding."""
        return 8 * self.size_bytes / (self.shape[0] * self.shape[1])
