"""Proof of load: a fresh process agrees with reference logits, or says why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compress.errors import FormatError
from compress.runtime import proof
from compress.runtime.linear import PackedLinear
from tests.support import packed_checkpoints
from tests.support.packed_checkpoints import Packed
from tests.support.proofs import texts


@pytest.fixture
def reference(make: Callable[..., Packed], tokens: torch.Tensor, tmp_path: Path) -> tuple[Packed, Path]:
    packed = make("qwen2")
    path = tmp_path / "reference.safetensors"
    with torch.no_grad():
        proof.write_reference(path, texts(tokens, packed.dense(tokens).logits))
    return packed, path


def test_a_fresh_process_reproduces_the_logits(reference: tuple[Packed, Path]) -> None:
    packed, path = reference
    assert proof.prove_in_fresh_process(packed.folder, path).relative_error <= 1e-5


def test_other_logits_do_not_hold(reference: tuple[Packed, Path], tokens: torch.Tensor) -> None:
    packed, path = reference
    with torch.no_grad():
        logits = packed.dense(tokens).logits
    for wrong in (logits + logits.abs().max() * 1e-4, logits * torch.nan):
        proof.write_reference(path, texts(tokens, wrong))
        assert not proof.prove(packed.folder, path).holds


def test_a_nan_in_one_sequence_is_not_outvoted(reference: tuple[Packed, Path], tokens: torch.Tensor) -> None:
    packed, path = reference
    with torch.no_grad():
        logits = packed.dense(tokens).logits
    for sequence in (0, 1):
        wrong = logits.clone()
        wrong[sequence, 3, 5] = torch.nan
        proof.write_reference(path, texts(tokens, wrong))
        assert not proof.prove(packed.folder, path).holds


def test_a_folder_that_does_not_load_is_an_error_with_its_reason(reference: tuple[Packed, Path]) -> None:
    packed, path = reference
    (packed.folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FormatError, match=r"a fresh process cannot load.*model-00002-of-00003.safetensors is missing"):
        proof.prove_in_fresh_process(packed.folder, path)


def test_every_text_counts(reference: tuple[Packed, Path], tokens: torch.Tensor) -> None:
    """Also one between the first and the last, and the tokens that are read one by one."""
    packed, path = reference
    three = torch.cat([tokens, tokens[:1]])
    with torch.no_grad():
        logits = packed.dense(three).logits
    proof.write_reference(path, texts(three, logits))
    held = proof.prove(packed.folder, path)
    assert held.holds and held.tokens == 12 and held.cached_error is not None and held.cached_error <= 1e-5
    for text, position in ((0, 3), (1, 11), (2, 2), (2, 11)):
        wrong = logits.clone()
        wrong[text, position, 5] += logits.abs().max() * 1e-3
        proof.write_reference(path, texts(three, wrong))
        assert not proof.prove(packed.folder, path).holds, (text, position)


def test_a_wrong_attention_of_one_token_fails(reference: tuple[Packed, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows with a cache only, and not without our attention."""
    packed, path = reference
    attended = torch.nn.functional.scaled_dot_product_attention

    def wrong(query: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        factor = 1.001 if query.shape[2] == 2 and not options.get("enable_gqa") else 1.0
        return attended(query, *arguments, **options) * factor

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", wrong)
    found = proof.prove(packed.folder, path)
    assert not found.holds and found.relative_error <= 1e-5 and found.cached_error > 1e-5
    with pytest.raises(FormatError, match="does not reproduce its reference logits"):
        found.require(packed.folder)


def test_a_model_that_multiplies_rounding_errors_may_differ_by_as_much_as_its_own_code_does() -> None:
    """As SmolLM2 at 3 bits without data did; what exceeds rounding still has to agree to the tolerance."""
    logits_PV = torch.linspace(-1, 1, 12).view(2, 6)
    text = proof.Text(torch.arange(4), torch.tensor([2, 3]), logits_PV)

    def agree(ours: float, own: float) -> bool:
        return proof._agree(text, logits_PV + ours, logits_PV + own, 1e-5)

    assert agree(2e-5, -3e-5) and agree(5e-6, 0.0)
    assert not agree(2e-4, -3e-5) and not agree(3e-5, 0.0) and not agree(2e-5, 0.0)
    assert agree(0.1, 0.1) and not agree(0.1, 0.10005)


def test_logits_may_differ_by_what_another_kernel_makes_of_the_same_weights(
    reference: tuple[Packed, Path], tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiny models with `svd_llm` multiply rounding to 3e-5; where kernels agree, nothing more than 1e-5 is allowed."""
    packed, path = reference
    with torch.no_grad():
        logits = packed.dense(tokens).logits
    read = proof._logits

    def held(away: float, between_kernels: float) -> bool:
        def shifted(model: object, text: proof.Text) -> torch.Tensor:
            moved = between_kernels if os.environ.get("COMPRESS_KERNEL") == "reference" else 0.0
            return read(model, text) + moved * logits.abs().max()

        monkeypatch.setattr(proof, "_logits", shifted)
        proof.write_reference(path, texts(tokens, logits + away * logits.abs().max()))
        return proof.prove(packed.folder, path).holds

    assert held(3e-5, 1e-5) and held(1e-6, 0.0)
    assert not held(3e-5, 0.0) and not held(3e-4, 1e-5) and not held(1e-2, 5e-3)


def test_a_model_without_a_cache_is_proven_in_full(
    make: Callable[..., Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mamba = {"model_type": "mamba", "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    monkeypatch.setitem(packed_checkpoints.CONFIGS, "mamba", mamba)
    packed, path = make("mamba", skip=r"dt_proj"), tmp_path / "reference.safetensors"
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        proof.write_reference(path, texts(tokens, packed.dense(tokens).logits))
    found = proof.prove(packed.folder, path)
    assert found.holds and found.cached_error is None


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2", "mixtral", "qwen3-moe"])
def test_a_folder_can_be_proven_block_by_block(
    architecture: str, make: Callable[..., Packed], tokens: torch.Tensor, tmp_path: Path
) -> None:
    """Every packed linear computes with its kernel; a wrong logit, plane or byte is seen."""
    packed, path = make(architecture), tmp_path / "reference.safetensors"
    with torch.no_grad():
        logits = packed.dense(tokens).logits
    proof.write_reference(path, texts(tokens, logits))
    held = proof.prove_by_block(packed.folder, path)
    assert held.holds and held.by_block and held.cached_error is None
    assert held.relative_error <= 1e-5
    proof.write_reference(path, texts(tokens, logits + logits.abs().max() * 1e-4))
    assert not proof.prove_by_block(packed.folder, path).holds


def test_a_block_proof_calls_the_packed_layers_and_verifies_the_shards(
    reference: tuple[Packed, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, path = reference
    called: list[tuple[int, int]] = []
    original = PackedLinear.forward

    def forward(self: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        called.append((self.out_features, self.in_features))
        return original(self, x)

    monkeypatch.setattr(PackedLinear, "forward", forward)
    proof.prove_by_block(packed.folder, path)
    assert len(called) == len(packed.linears) * len(proof.read_reference(path))
    shard = packed.folder / "model-00002-of-00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(FormatError, match="damaged"):
        proof.prove_by_block(packed.folder, path)
