"""Names of calibration sources: which are known, what a mixture divides, which column belongs to what."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.calibration.presets import PRESETS
from compress.calibration.sources import Part, parts_of
from compress.errors import CalibrationError
from compress.recipe import CalibrationSpec


def parts(source: str, samples: int = 128, column: str | None = None) -> list[Part]:
    return parts_of(CalibrationSpec(source=source, samples=samples, column=column))


@pytest.mark.parametrize(
    ("source", "samples", "wanted"),
    [
        ("c4:96,ultrachat:32", 128, {"c4": 96, "ultrachat": 32}),
        ("c4:96,ultrachat:32", 64, {"c4": 48, "ultrachat": 16}),
        ("c4:2, ultrachat:1, self:1", 5, {"c4": 3, "ultrachat": 1, "self": 1}),
        ("hub:o/n@cfg:train:text:1,bundled:2", 3, {"hub:o/n@cfg:train:text": 1, "bundled": 2}),
        ("wikitext", 7, {"wikitext": 7}),
    ],
)
def test_shares_are_divided(source: str, samples: int, wanted: dict[str, int]) -> None:
    divided = parts(source, samples)
    assert {part.source: part.samples for part in divided} == wanted
    assert sum(part.samples for part in divided) == samples


def test_a_path_with_a_comma_is_no_mixture(tmp_path: Path) -> None:
    path = tmp_path / "a,b.txt"
    path.write_text("w5")
    assert parts(str(path)) == [Part(str(path), 128)]


@pytest.mark.parametrize(
    ("source", "hub"),
    [
        ("hub:owner/name", ("owner/name", None, "train", None)),
        ("hub:owner/name@cfg:test:body", ("owner/name", "cfg", "test", "body")),
        ("hub:owner/name::body", ("owner/name", None, "train", "body")),
    ],
)
def test_hub_names(source: str, hub: tuple[str, str | None, str, str | None]) -> None:
    (part,) = parts(source)
    assert part.hub is not None and part.path is None
    assert (part.hub.name, part.hub.config, part.hub.split, part.hub.column) == hub
    assert part.hub.revision is None


def test_every_preset_is_pinned_to_a_commit() -> None:
    assert {"wikitext", "c4", "fineweb-edu", "ultrachat", "openplatypus"} <= set(PRESETS)
    for name, preset in PRESETS.items():
        (part,) = parts(name)
        assert part.hub is preset and preset.revision is not None and len(preset.revision) == 40


@pytest.mark.parametrize(
    ("source", "column", "message"),
    [
        ("wikitxt", None, r"'wikitxt'; did you mean 'wikitext'\?.*ultrachat"),
        ("c4:96,ultrachat", None, "a number after each source"),
        ("c4:96,ultrachat:0", None, "a number after each source"),
        ("c4:1000,ultrachat:1", None, "one of its parts would get none.*Raise --samples"),
        ("c4:96,ultrachat:32", "text", "with a mixture of 2 sources.*FILE:COLUMN:SAMPLES"),
        ("wikitext", "text", "no columns to choose from"),
        ("a.jsonl:body", "text", "which names a column"),
        ("hub:o/n:train:body", "text", "which names a column"),
        ("hub:", None, "hub:NAME"),
        ("hub:o/n@", None, "hub:NAME"),
        ("picture.png", None, "a file of rows"),
    ],
)
def test_names_that_are_refused(source: str, column: str | None, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        for part in parts(source, column=column):
            _ = part.hub
