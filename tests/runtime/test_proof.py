"""Proof of load: a fresh process agrees with reference logits, or says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compress.errors import FormatError
from compress.runtime import proof
from tests.support.packed_checkpoints import Packed


@pytest.fixture
def reference(make: Callable[..., Packed], tokens: torch.Tensor, tmp_path: Path) -> tuple[Packed, Path]:
    packed = make("qwen2")
    path = tmp_path / "reference.safetensors"
    with torch.no_grad():
        proof.write_reference(path, tokens, packed.dense(tokens).logits)
    return packed, path


def test_a_fresh_process_reproduces_the_logits(reference: tuple[Packed, Path]) -> None:
    packed, path = reference
    assert proof.prove_in_fresh_process(packed.folder, path).relative_error <= 1e-5


def test_other_logits_do_not_hold(reference: tuple[Packed, Path], tokens: torch.Tensor) -> None:
    packed, path = reference
    with torch.no_grad():
        logits = packed.dense(tokens).logits
    for wrong in (logits + logits.abs().max() * 1e-4, logits * torch.nan):
        proof.write_reference(path, tokens, wrong)
        assert not proof.prove(packed.folder, path).holds


def test_a_nan_in_one_sequence_is_not_outvoted(reference: tuple[Packed, Path], tokens: torch.Tensor) -> None:
    packed, path = reference
    with torch.no_grad():
        logits = packed.dense(tokens).logits
    for sequence in (0, 1):
        wrong = logits.clone()
        wrong[sequence, 3, 5] = torch.nan
        proof.write_reference(path, tokens, wrong)
        assert not proof.prove(packed.folder, path).holds


def test_a_folder_that_does_not_load_is_an_error_with_its_reason(reference: tuple[Packed, Path]) -> None:
    packed, path = reference
    (packed.folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FormatError, match=r"a fresh process cannot load.*model-00002-of-00003.safetensors is missing"):
        proof.prove_in_fresh_process(packed.folder, path)
