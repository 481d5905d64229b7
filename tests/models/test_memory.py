"""The limit on resident memory: one check, with the words of whoever asks."""

from __future__ import annotations

import os

import pytest

from compress.errors import MemoryLimitError
from compress.models import memory


def test_a_limit_that_is_passed_is_an_error_with_the_part_and_the_layer() -> None:
    memory.enforce(None, do="x")
    memory.enforce(10**15, do="x")
    with pytest.raises(MemoryLimitError) as plain:
        memory.enforce(10**6, do="Raise it", layer="model.layers.0.q")
    assert str(plain.value).startswith("model.layers.0.q: resident memory reached ")
    assert ", above the limit of 1 MB" in str(plain.value) and "Raise it" in str(plain.value)
    with pytest.raises(MemoryLimitError, match=r"reached [\d.]+ [MG]B in the evaluation, above the limit of 1 MB"):
        memory.enforce(10**6, do="x", during="evaluation")


def test_other_processes_count() -> None:
    own = memory.resident_bytes()
    with pytest.raises(MemoryLimitError):
        memory.enforce(own * 3 // 2, do="x", others=[os.getpid()])


def test_what_needs_more_block_by_block_is_refused() -> None:
    memory.check_by_block("evaluation", 10**9, None, do="x")
    memory.check_by_block("evaluation", 10**9, 10**9, do="x")
    with pytest.raises(MemoryLimitError) as refused:
        memory.check_by_block("proof of load", 2 * 10**9, 10**9, do="Raise it")
    assert refused.value.given == (
        "the proof of load needs about 2 GB even when the models are read block by block, more than the limit of 1 GB"
    )
