"""Dense against compressed as rows of text: made once here, drawn by the terminal, markdown and notebook forms."""

from __future__ import annotations

from dataclasses import dataclass, field

HEADER = ("", "dense", "compressed", "difference", "lost/gained")
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    label: str
    dense: str = NOTHING
    compressed: str = NOTHING
    difference: str = ""
    churn: str = ""
    """Items of a family that only the dense, and only the compressed model answers."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The five cells in the order of HEADER."""
        return (self.label, self.dense, self.compressed, self.difference, self.churn)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one table shows."""

    title: str
    sections: tuple[tuple[Row, ...], ...]
    remarks: tuple[str, ...] = field(default=())
    """Lines below the table: what the columns mean, coverage, warnings, where the result is."""
