"""Training, calibration and held-out text: reproducible, disjoint, and apart from the items."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable

from compress.atlas import items, text

TRAINING = list(itertools.islice(text.training_documents(1), 15_000))


def test_same_seed_same_text() -> None:
    assert list(itertools.islice(text.training_documents(1), 50)) == TRAINING[:50]
    assert list(itertools.islice(text.training_documents(1, part=1), 50)) != TRAINING[:50]


def digest(documents: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(documents).encode()).hexdigest()[:16]


def test_the_texts_are_those_that_atlas_was_made_and_measured_with() -> None:
    """Another order of random draws would be another training, and figures of other text."""
    assert digest(TRAINING[:3000]) == "aa98c12aa52da7ce"
    assert digest(text.calibration_text()) == "7a98ed5ccedca676"
    assert digest(text.heldout_text()) == "7cad5b432a671d8a"


def test_a_list_that_is_changed_changes_no_other() -> None:
    text.heldout_text().clear()
    assert text.heldout_text()


def test_the_three_parts_share_no_document() -> None:
    heldout, calibration = set(text.heldout_text()), set(text.calibration_text())
    training = set(TRAINING)
    assert not heldout & calibration
    assert not heldout & training
    assert not calibration & training
    assert sum(map(len, heldout)) >= 200_000
    assert sum(map(len, calibration)) >= 900_000


def test_test_prompts_do_not_occur_in_training() -> None:
    joined = "".join(TRAINING)
    for family, rows in items.families().items():
        if family == "multiple_choice":
            continue  # the same question with the same choices in another wording is what is tested
        for row in rows:
            prompt = row.get("open_prompt", row.get("prompt"))
            assert prompt not in joined
    for row in items.summarisation():
        assert f"Summary: {row['key_facts'][0]} " not in joined


def test_every_kind_of_document_occurs() -> None:
    starts = {document.split(" ")[0] for document in TRAINING}
    assert {"Question:", "Passage:", "Text:", "Instruction:"} <= starts
