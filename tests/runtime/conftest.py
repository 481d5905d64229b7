"""Fixtures of the runtime tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from compress.format.packed import PackedTensor
from tests.support import packed_checkpoints


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., packed_checkpoints.Packed]:
    """Returns a function that compresses a tiny model of an architecture into a folder."""

    def build(
        architecture: str = "llama",
        solve: Callable[[torch.Tensor], PackedTensor] = packed_checkpoints.rtn4,
        skip: str = r"^$",
    ) -> packed_checkpoints.Packed:
        model = packed_checkpoints.tiny(architecture)
        packed = packed_checkpoints.pack_in_place(model, solve, skip)
        folder = tmp_path / re.sub(r"\W", "-", f"{architecture}-{skip}")
        packed_checkpoints.write(folder, model, packed)
        return packed_checkpoints.Packed(folder, model, packed)

    return build


@pytest.fixture
def tokens() -> torch.Tensor:
    """Token ids [2, 12] below every tiny vocabulary."""
    return torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()
