"""Assigns each text to training, calibration, held-out text or tests by a hash of the text.

Sampling stays independent of the split, and no seed can leak a held-out text into training.
"""

from __future__ import annotations

import zlib

DOCUMENT_BUCKETS = 64
HELDOUT_BUCKET = 0  # perplexity and divergence
CALIBRATION_BUCKET = 1  # everything else may be trained on
PROMPT_BUCKETS = 8
TEST_BUCKET = 0  # prompts and invented names that only the test items use


def bucket(text: str, count: int) -> int:
    """A number in [0, count) that depends on the text alone."""
    return zlib.crc32(text.encode("utf-8")) % count


def is_test(text: str) -> bool:
    """Whether an instruction, a passage or an invented name is kept for the test items."""
    return bucket(text, PROMPT_BUCKETS) == TEST_BUCKET


def document_part(text: str) -> str:
    """`heldout`, `calibration` or `train`."""
    return {HELDOUT_BUCKET: "heldout", CALIBRATION_BUCKET: "calibration"}.get(bucket(text, DOCUMENT_BUCKETS), "train")
