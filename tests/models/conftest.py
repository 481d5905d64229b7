"""One saved folder, opened model and reference run per architecture, shared by all tests of the models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from tests.support.models import TINY, save_tiny, tiny_tokens


@dataclass(frozen=True)
class Case:
    """A tiny model as transformers itself loads and runs it, beside the walker over the same folder."""

    kind: str
    folder: Path
    walker: BlockWalker
    real: Any
    tokens_ST: torch.Tensor  # noqa: N815
    hidden: list[torch.Tensor]
    """Inputs of every block, and the output after the final norm."""
    logits: torch.Tensor


def make_case(kind: str, folder: Path) -> Case:
    from transformers import AutoModelForCausalLM

    save_tiny(folder, kind)
    real = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens_ST = tiny_tokens(5, 12)
    with torch.no_grad():
        out = real(input_ids=tokens_ST, use_cache=False, output_hidden_states=True)
    return Case(
        kind, folder, BlockWalker(ModelSource.open(folder)), real, tokens_ST, list(out.hidden_states), out.logits
    )


@pytest.fixture(scope="session", params=sorted(TINY))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(request.param, tmp_path_factory.mktemp(request.param))
