"""A packed embedding and a packed head compute what their decoded weights would, tied or not, and are stored once."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.bart.modeling_bart import BartScaledWordEmbedding
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

import compress.hf  # noqa: F401
from compress.errors import FormatError, ModelError
from compress.format import layouts
from compress.kernels import select
from compress.methods import spqr
from compress.runtime import embedding, load
from compress.runtime.embedding import PackedEmbedding, TiedHead
from compress.stages.pack import ends
from tests.support import packed_checkpoints, packed_ends
from tests.support.correlated import statistics
from tests.support.packed_ends import tokens

packed_checkpoints.CONFIGS |= {
    "gemma3": {
        "model_type": "gemma3_text", **packed_checkpoints.COMMON, "head_dim": 8, "query_pre_attn_scalar": 8,
        "sliding_window": 7, "tie_word_embeddings": True, "pad_token_id": 0,
    }
}  # fmt: skip


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "gpt2", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_the_decoded_weights(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    made = packed_ends.build(tmp_path, architecture)
    model = load(made.folder, dtype=dtype)
    assert isinstance(model.get_input_embeddings(), PackedEmbedding)
    tied = made.dense.config.tie_word_embeddings
    assert isinstance(model.get_output_embeddings(), TiedHead) == tied
    with torch.inference_mode():
        rows = model.get_input_embeddings()(tokens())
        assert torch.equal(rows, made.dense.get_input_embeddings().to(dtype)(tokens()))
        found, expected = model(tokens()).logits, made.dense.to(dtype)(tokens()).logits
    assert found.dtype == expected.dtype
    assert relative(found, expected) <= {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("kernel", ["reference", "native"])
def test_every_width_and_kernel(bits: int, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = packed_ends.build(tmp_path, "llama-tied", bits)
    scheme = made.linears["model.embed_tokens"].scheme
    if isinstance(select.ask(kernel, scheme, (61, 32), torch.device("cpu")), select.Rejected):
        pytest.skip(f"no {kernel} kernel")
    monkeypatch.setenv(select.FORCE, kernel)
    model = load(made.folder)
    with torch.inference_mode():
        assert relative(model(tokens()).logits, made.dense(tokens()).logits) <= 1e-5


@pytest.mark.parametrize("bits", range(2, 9))
def test_rows_are_decoded_alone(bits: int) -> None:
    """Zero points run down the rows, in words that several rows share."""
    w_NK = torch.randn(45, 64, generator=torch.Generator().manual_seed(bits)) + 0.3
    packed = ends.rounded(w_NK, bits)
    assert "zero_point" in packed.planes or packed.scheme.options["symmetric"]
    rows_R = torch.tensor([44, 0, 31, 32, 5, 5, 33, 10])
    assert torch.equal(layouts.unpack_rows(packed, rows_R), layouts.unpack(packed)[rows_R])


@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "gpt2"])
def test_saved_again_it_is_the_same_and_the_weight_is_stored_once(architecture: str, tmp_path: Path) -> None:
    made = packed_ends.build(tmp_path, architecture)
    model = AutoModelForCausalLM.from_pretrained(made.folder)
    model.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    with torch.inference_mode():
        assert torch.equal(again(tokens()).logits, model(tokens()).logits)
    with safe_open(tmp_path / "again" / "model.safetensors", framework="pt") as file:
        stored = [name for name in file.keys() if "lm_head" in name]  # noqa: SIM118
    assert bool(stored) != made.dense.config.tie_word_embeddings


def test_it_generates_compiles_and_can_be_copied(tmp_path: Path) -> None:
    made = packed_ends.build(tmp_path, "llama-tied")
    model = AutoModelForCausalLM.from_pretrained(made.folder).eval()
    greedy = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    found = model.generate(tokens(), **greedy)
    assert torch.equal(found, made.dense.generate(tokens(), **greedy))
    twin = copy.deepcopy(model)
    assert twin.get_output_embeddings().embedding is twin.get_input_embeddings()
    lookup = torch.compile(twin.get_input_embeddings(), backend="aot_eager", fullgraph=True)
    head = torch.compile(twin.get_output_embeddings(), backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        rows = lookup(tokens())
        assert torch.equal(rows, model.get_input_embeddings()(tokens()))
        assert torch.allclose(head(rows), model.get_output_embeddings()(rows), atol=1e-5)
    twin.tie_weights()  # transformers ties anew from the configuration
    assert isinstance(twin.get_output_embeddings(), TiedHead)


def test_one_copy_in_memory(tmp_path: Path) -> None:
    model = load(packed_ends.build(tmp_path, "llama-tied").folder)
    planes = {id(plane) for name, plane in model.named_buffers(remove_duplicate=False) if plane.shape[:1] == (61,)}
    assert len(planes) == len([name for name, plane in model.named_buffers() if plane.shape[:1] == (61,)]) == 2
    assert not [name for name, _ in model.named_parameters() if "embed" in name or "head" in name]


@pytest.mark.parametrize("architecture", ["llama", "llama-tied"])
def test_the_vocabulary_cannot_be_resized(architecture: str, tmp_path: Path) -> None:
    model = load(packed_ends.build(tmp_path, architecture).folder)
    with pytest.raises(ModelError, match="embedding-bits none"):
        model.resize_token_embeddings(70)


def test_the_base_model_loads_without_its_head(tmp_path: Path) -> None:
    made = packed_ends.build(tmp_path, "llama-tied")
    base = AutoModel.from_pretrained(made.folder).eval()
    with torch.inference_mode():
        found = base(tokens()).last_hidden_state
        assert relative(found, made.dense.model(tokens()).last_hidden_state) <= 1e-5


def test_gradients_pass_through_a_tied_head(tmp_path: Path) -> None:
    made = packed_ends.build(tmp_path, "llama-tied")
    head, dense = load(made.folder).get_output_embeddings(), made.dense.get_output_embeddings()
    grads = []
    for one in (head, dense):
        x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        one(x).square().sum().backward()
        grads.append(x.grad)
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Gemma3TextScaledWordEmbedding, BartScaledWordEmbedding])
def test_the_number_that_an_embedding_multiplies_with(kind: type[nn.Embedding]) -> None:
    module = kind(10, 8, 0, embed_scale=8**0.5)
    assert embedding.can_pack(module)
    factor = embedding.factor_of(module)
    assert factor is not None and factor.value == 8**0.5
    assert factor.rounded == (kind is Gemma3TextScaledWordEmbedding)


def test_an_embedding_that_does_something_else_is_not_packed() -> None:
    class Shifted(nn.Embedding):
        embed_scale = 2.0

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * self.embed_scale + 1

    assert not embedding.can_pack(Shifted(10, 8))
    assert not embedding.can_pack(nn.Embedding(10, 8, max_norm=1.0))
    assert embedding.can_pack(nn.Embedding(10, 8, padding_idx=3))


def test_a_layout_whose_rows_cannot_be_read_alone_is_refused(tmp_path: Path) -> None:
    model = packed_checkpoints.tiny("llama")
    weight = model.get_input_embeddings().weight.detach()
    packed = spqr.solve(weight, statistics(torch.eye(32)), spqr.Config(group_size=8))
    with pytest.raises(FormatError, match=r"embedding packed as spqr\.v1"):
        packed_checkpoints.write(tmp_path / "out", model, {"model.embed_tokens": packed})
        load(tmp_path / "out")
