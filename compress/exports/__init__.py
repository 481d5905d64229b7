"""Writes checkpoints of this package in the formats of engines: one file per target. Codes are copied, not rounded.

The function is `compress.export`; the package has another name, since a package takes the place of a function.
"""

from compress.exports.run import export as export

__all__ = ["export"]
