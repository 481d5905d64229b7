"""The walk of record: block by block from disk gives what transformers gives with the whole model in memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.errors import CalibrationError, ModelError, RecipeError
from compress.models import linears
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from tests.models.conftest import Case
from tests.support.models import save_tiny, tiny_tokens


def walk(walker: BlockWalker, tokens_ST: torch.Tensor, micro_batch: int) -> list[torch.Tensor]:
    """Inputs of every block, then the output of the last."""
    hidden = [walker.embed(tokens_ST, micro_batch=micro_batch)]
    for index in range(len(walker.block_names)):
        block = walker.load_block(index)
        hidden.append(walker.forward(block, hidden[-1], micro_batch=micro_batch))
        walker.free_block(block)
    return hidden


def allocated(walker: BlockWalker) -> int:
    """Bytes that the skeleton holds: everything that is not on meta."""
    tensors = [*walker.model.parameters(), *walker.model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if not tensor.is_meta)


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_the_walk_equals_the_model(case: Case, micro_batch: int) -> None:
    hidden = walk(case.walker, case.tokens_ST, micro_batch)  # five samples: two do not divide them
    for own, real in zip(hidden[:-1], case.hidden[: len(hidden) - 1], strict=True):
        torch.testing.assert_close(own, real, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(case.walker.logits(hidden[-1]), case.logits, rtol=1e-5, atol=1e-5)


def test_a_loaded_block_holds_the_real_weights(case: Case) -> None:
    for index, name in enumerate(case.walker.block_names):
        block = case.walker.load_block(index)
        real = case.real.get_submodule(name).state_dict()
        own = block.module.state_dict()
        assert own.keys() == real.keys()
        for key in own:
            assert torch.equal(own[key], real[key]), f"{name}.{key}"
        for ref in case.walker.linears(index):
            assert torch.equal(linears.weight(block, ref), linears.weight(case.real, ref)), ref.name
        case.walker.free_block(block)


def test_computed_buffers_equal_the_real_ones(case: Case) -> None:
    real = dict(case.real.named_buffers())
    own = dict(case.walker.model.named_buffers())
    assert own.keys() == real.keys()
    for name, buffer in own.items():
        assert torch.equal(buffer, real[name]), name


def test_dense_tensors_and_linears_are_the_whole_model(case: Case) -> None:
    walker = case.walker
    refs = [ref for index in range(len(walker.block_names)) for ref in walker.linears(index)]
    dense, whole = set(walker.dense_tensors()), case.real.state_dict()
    packed = {ref.parameter for ref in refs}
    assert dense.isdisjoint(packed) and dense.isdisjoint(walker.tied)
    assert dense | packed | set(walker.tied) == set(whole)
    for name in dense:
        assert torch.equal(walker.read_dense(name), whole[name]), name
        assert walker.dense_shape(name) == tuple(whole[name].shape)
    assert allocated(walker) == sum(b.numel() * b.element_size() for b in case.real.buffers())
    assert len({ref.name for ref in refs}) == len(refs)


@pytest.mark.parametrize("case", ["mixtral", "qwen3-moe", "qwen2-moe"], indirect=True)
def test_routers_and_gates_of_experts_stay_dense(case: Case) -> None:
    dense = case.walker.dense_tensors()
    assert any(name.endswith("mlp.gate.weight") for name in dense)
    assert not any("gate_up_proj" in name or "down_proj" in name for name in dense)
    if case.kind == "qwen2-moe":
        assert "model.layers.0.mlp.shared_expert_gate.weight" in dense


def test_memory_of_a_block_is_given_back(tmp_path: Path) -> None:
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path, "mixtral")))
    before = allocated(walker)
    block = walker.load_block(0)
    held = [weakref.ref(parameter) for parameter in block.module.parameters()]
    others = walker.model.get_submodule(walker.block_names[1]).parameters()
    assert held and all(parameter.is_meta for parameter in others)
    walker.free_block(block)
    gc.collect()
    assert not any(reference() is not None for reference in held)
    assert allocated(walker) == before
    walker.embed(tiny_tokens())
    assert allocated(walker) == before


def test_a_set_weight_is_used_by_the_next_forward(case: Case) -> None:
    walker = case.walker
    hidden_STH = case.hidden[0]
    block = walker.load_block(0)
    for ref in walker.linears(0):
        before = walker.forward(block, hidden_STH, micro_batch=5)
        old = linears.weight(block, ref)
        linears.set_weight(block, ref, old * 0.5)
        assert torch.equal(linears.weight(walker.model, ref), old * 0.5)
        if ref.kind != "expert" or ref.name.endswith(".0"):
            assert not torch.equal(walker.forward(block, hidden_STH, micro_batch=5), before), ref.name
        linears.set_weight(walker.model, ref, old)
    walker.free_block(block)
    again = walker.load_block(0)
    torch.testing.assert_close(
        walker.forward(again, hidden_STH, micro_batch=5), walker.forward(again, hidden_STH, micro_batch=2)
    )
    walker.free_block(again)


def test_forward_may_write_over_its_input(tmp_path: Path) -> None:
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path)))
    hidden_STH = walker.embed(tiny_tokens())
    block = walker.load_block(0)
    expected = walker.forward(block, hidden_STH, micro_batch=2)
    assert walker.forward(block, hidden_STH, micro_batch=2, out=hidden_STH) is hidden_STH
    assert torch.equal(hidden_STH, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_checkpoint_is_walked_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path, "mixtral", dtype=dtype)))
    block = walker.load_block(0)
    assert {parameter.dtype for parameter in block.module.parameters()} == {torch.float32}
    assert walker.read_dense("model.embed_tokens.weight").dtype == dtype
    walker.free_block(block)
    assert walker.read_dense(walker.linears(1)[-1].parameter).dtype == dtype  # through the conversion of experts
    assert {p.dtype for p in walker.load_block(1).module.parameters()} == {torch.float32}


def test_a_tied_tensor_stored_under_the_other_name(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama-tied")
    expected = walk(BlockWalker(ModelSource.open(folder)), tiny_tokens(), 2)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight").clone()
    save_file(tensors, file)
    walker = BlockWalker(ModelSource.open(folder))
    assert torch.equal(walk(walker, tiny_tokens(), 2)[-1], expected[-1])
    assert torch.equal(walker.read_dense("model.embed_tokens.weight"), tensors["lm_head.weight"])


def test_tied_by_the_config_but_different_in_the_file(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama-tied")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match="tie_word_embeddings"):
        BlockWalker(ModelSource.open(folder))


def test_tensors_missing_and_left_over(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    taken = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 .*model\.layers\.1\.mlp\.up_proj\.weight"):
        BlockWalker(ModelSource.open(folder))
    save_file(
        {**tensors, "model.layers.1.mlp.up_proj.weight": taken, "mtp.head": taken.clone()}, folder / "model.safetensors"
    )
    assert BlockWalker(ModelSource.open(folder)).unused_tensors == ["mtp.head"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("kind", "name"), [("llama", "model.layers.1.mlp.down_proj.weight"), ("mixtral", "")])
def test_unusable_weights_are_named_by_layer(tmp_path: Path, value: float, kind: str, name: str) -> None:
    folder = save_tiny(tmp_path, kind)
    tensors = load_file(folder / "model.safetensors")
    name = name or next(key for key in tensors if "layers.1" in key and "experts.2.w2" in key)
    tensors[name][0, 3] = value
    save_file(tensors, folder / "model.safetensors")
    walker = BlockWalker(ModelSource.open(folder))
    walker.free_block(walker.load_block(0))
    with pytest.raises(ModelError, match="NaN or infinite") as caught:
        walker.load_block(1)
    assert caught.value.layer == ("model.layers.1.mlp.down_proj" if kind == "llama" else "model.layers.1.mlp.experts")


def test_unusable_embedding_rows_are_found_when_they_are_used(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][50] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    walker = BlockWalker(ModelSource.open(folder))
    with pytest.raises(ModelError, match=r"model\.embed_tokens"):
        walker.embed(torch.tensor([[7, 50]]))
    with pytest.raises(ModelError, match=r"model\.embed_tokens"):
        walker.read_dense("model.embed_tokens.weight")


@pytest.mark.parametrize("token", [-1, 96])
def test_a_token_outside_the_vocabulary(tmp_path: Path, token: int) -> None:
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path)))
    with pytest.raises(CalibrationError, match="0 to 95"):
        walker.embed(torch.tensor([[5, token]]))


def test_a_shape_that_the_config_does_not_imply(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(47, 32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"up_proj.*\[47, 32\].*\[48, 32\]"):
        BlockWalker(ModelSource.open(folder)).load_block(0)


def test_skipped_linears_are_read_as_they_are_stored(tmp_path: Path) -> None:
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path, "mixtral", dtype=torch.bfloat16)))
    refs = walker.linears(0)
    experts = [ref for ref in refs if ref.parameter == "model.layers.0.mlp.experts.down_proj"]
    read = walker.read_skipped([refs[0], *experts])
    assert {name: (tuple(t.shape), t.dtype) for name, t in read.items()} == {
        "model.layers.0.self_attn.q_proj.weight": ((32, 32), torch.bfloat16),
        "model.layers.0.mlp.experts.down_proj": ((4, 32, 48), torch.bfloat16),
    }
    with pytest.raises(RecipeError, match="3 of 4 experts"):
        walker.read_skipped(experts[1:])


def test_sizes_that_planning_asks_for(tmp_path: Path) -> None:
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path, "gpt2")))
    assert (walker.hidden_size, walker.vocab_size, walker.max_seq_len) == (32, 96, 64)
    assert walker.block_names == ["transformer.h.0", "transformer.h.1", "transformer.h.2"]
    assert {ref.kind for ref in walker.linears(0)} == {"conv1d"}
    assert {ref.name.split(".", 3)[3]: ref.shape for ref in walker.linears(0)}["mlp.c_fc"] == (128, 32)
