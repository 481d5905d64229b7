"""The memory plan and its ceiling."""

import pytest

from compress.errors import MemoryLimitError
from compress.stages import memory

SHAPES = [(2048, 2048)] * 4 + [(8192, 2048)] * 2 + [(2048, 8192)]


def _plan(limit, **changes):
    options = {
        "limit": limit, "base_bytes": 500 * 10**6, "linears": SHAPES, "block_bytes": 240 * 10**6,
        "embedding_bytes": 10**9, "hidden": (8, 128, 2048), "shared_inputs": True,
    }  # fmt: skip
    return memory.plan(**(options | changes))


def test_a_tighter_ceiling_means_smaller_micro_batches():
    narrow = {"linears": [(256, 256)] * 7, "base_bytes": 0, "block_bytes": 2 * 10**6, "embedding_bytes": 0}
    loose, tight = (_plan(limit, hidden=(64, 128, 256), **narrow) for limit in (None, 5 * 10**7))
    assert loose.micro_batch == 16 > tight.micro_batch and tight.peak_bytes <= 5 * 10**7
    assert [_plan(None, hidden=(64, tokens, 2048)).micro_batch for tokens in (100, 512, 2048, 4096)] == [16, 4, 1, 1]


def test_few_samples_need_no_large_micro_batch():
    assert _plan(None).micro_batch == 8


def test_experts_are_taken_in_smaller_portions():
    tight = _plan(4 * 10**9, shared_inputs=False)
    assert tight.experts_at_once < _plan(None, shared_inputs=False).experts_at_once


def test_what_cannot_fit_is_refused_before_the_start():
    with pytest.raises(MemoryLimitError, match=r"more than the limit of 1 GB.*--max-memory"):
        _plan(10**9)


def test_the_ceiling_is_enforced():
    memory.enforce(None, "x")
    memory.enforce(10**15, "x")
    with pytest.raises(MemoryLimitError, match=r"model\.layers\.0\.q: resident memory reached"):
        memory.enforce(10**6, "model.layers.0.q")


def test_fitting_counts():
    plain = _plan(None, block_bytes=2 * 10**9).peak_bytes
    assert _plan(None, block_bytes=2 * 10**9, tuned=True).peak_bytes > plain + 4 * 10**9
    whole = {"base_bytes": 10**8, "parameters": 10**8, "logits": (256, 32000)}
    assert memory.plan_whole(limit=None, **whole).peak_bytes > 2 * 4 * 10**8
    with pytest.raises(MemoryLimitError, match="--tune block"):
        memory.plan_whole(limit=10**8, **whole)


def test_what_a_process_holds_already_is_known_and_gets_no_margin():
    low, high = (_plan(None, base_bytes=base).peak_bytes for base in (10**8, 10**9))
    assert high - low == 9 * 10**8


def test_packing_the_embedding_and_the_head_counts():
    """The packed ones are kept, and the parts of the last are joined; a block later has some rows of them mapped."""
    small = {"block_bytes": 10**6, "linears": [(256, 256)], "embedding_bytes": 0, "hidden": (8, 128, 256)}
    packed = [300 * 10**6, 200 * 10**6]
    assert _plan(None, **small, ends=packed).peak_bytes > 1.1 * (500 + 500 + 300) * 10**6
    assert _plan(None, **small).peak_bytes < 700 * 10**6
    assert 0 < _plan(None, ends=packed).peak_bytes - _plan(None).peak_bytes < 20 * 10**6  # of 1024 tokens, a few pages
    with pytest.raises(MemoryLimitError):
        _plan(12 * 10**8, **small, ends=packed)
    streamed = {"limit": None, "base_bytes": 10**8, "workers": 1, "largest": 10**6, "converted_bytes": 0,
                "block_bytes": 10**6, "tensor_bytes": 10**6}  # fmt: skip
    more = memory.plan_streaming(**streamed, ends=packed).peak_bytes - memory.plan_streaming(**streamed).peak_bytes
    assert more > 700 * 10**6
    assert _plan(25 * 10**8, hidden=(8, 128, 2048), ends=[270 * 10**6]).peak_bytes <= 25 * 10**8, "a 1B shape in 2.5 GB"


def test_forwards_wait_where_memory_is_left():
    plenty = {"hidden": (64, 512, 2048), "calibrated": True, "available": 10**12}
    alone = _plan(None, **plenty | {"calibrated": False})
    all_kept = _plan(None, **plenty)
    assert (alone.kept_forwards, all_kept.kept_forwards) == (0, 16)
    assert all_kept.peak_bytes > alone.peak_bytes + 64 * 512 * 8192 * 4  # the inputs of down_proj wait, at least
    limit = (alone.peak_bytes + all_kept.peak_bytes) // 2
    some = _plan(limit, **plenty)
    assert 0 < some.kept_forwards < 16 and some.peak_bytes <= limit
    assert _plan(alone.peak_bytes, **plenty) == alone
    assert _plan(None, **plenty | {"available": 5 * 10**8}).kept_forwards == 0
    assert _plan(None, **plenty | {"hidden": (4096, 16, 64)}).kept_forwards == 128
