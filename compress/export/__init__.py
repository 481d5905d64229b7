"""Writes a checkpoint of this package in the format of an engine: one file per target. Codes are copied, not rounded.

from compress import export
export("runs/mine", to="compressed-tensors", output="runs/mine-ct")
"""

from compress.export.run import export as export

__all__ = ["export"]
