"""Keeps the proof of load in the process of the test, which spares the start of an interpreter for every run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.runtime import proof


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has runs prove their folder here; `finish.prove` checks the result as it does that of a fresh process."""

    def prove(folder: str | Path, reference: str | Path, *, by_block: bool, watch: object) -> proof.Proof:
        return (proof.prove_by_block if by_block else proof.prove)(folder, reference)

    monkeypatch.setattr(proof, "prove_in_fresh_process", prove)


def texts(tokens_ST: torch.Tensor, logits_STV: torch.Tensor) -> list[proof.Text]:
    """Returns the texts of a reference with logits at every position."""
    positions_T = torch.arange(tokens_ST.shape[1])
    return [
        proof.Text(tokens_T, positions_T, logits_TV) for tokens_T, logits_TV in zip(tokens_ST, logits_STV, strict=True)
    ]
