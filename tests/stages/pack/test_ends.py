"""Embedding and head in a run: one packed matrix where tied, bits of their own where not, in use from the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import compress
from compress.errors import RecipeError
from compress.format import layouts
from compress.format.reader import open_checkpoint
from compress.models.blocks import BlockWalker
from compress.models.rows import PackedRows
from compress.models.source import ModelSource
from compress.recipe import StageSpec
from compress.stages.pack import ends
from compress.stages.plan import ends as planned
from tests.support.entries import linears, put_decoded
from tests.support.models import save_tiny, tiny_model, tiny_tokens

pytestmark = pytest.mark.usefixtures("proof_in_this_process")
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"


def run(source: Path, output: Path, method: str = "rtn", **options: Any) -> Any:
    settings = {"samples": 4, "seq_len": 12, "suite": "none"} | options
    return compress.run(str(source), method, output=output, **settings)


def test_each_end_has_its_bits(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model")
    result = run(source, tmp_path / "out", embedding_bits=5, head_bits="none")
    manifest, checkpoint = result.manifest, open_checkpoint(result.checkpoint)
    assert manifest["tensors"][EMBEDDING]["scheme"]["bits"] == 5
    assert manifest["tensors"][EMBEDDING]["role"] == "embedding"
    assert HEAD not in manifest["tensors"] and torch.equal(
        checkpoint.dense("lm_head.weight"), tiny_model().lm_head.weight
    )
    coverage = manifest["coverage"]
    assert coverage["packed_outside_blocks"] == {"embedding": 96 * 32} and coverage["left_dense"]["head"] == 96 * 32
    stage = manifest["recipe"]["stages"][0]
    assert (stage["embedding_bits"], stage["head_bits"]) == (5, "none")
    assert len(linears(manifest)) == len(manifest["tensors"]) - 1


def test_linears_do_not_change_with_the_bits_of_the_ends(tmp_path: Path) -> None:
    """Without data, planes of linears and all else are those of a run that leaves both ends dense."""
    source = save_tiny(tmp_path / "model", "llama-tied")
    packed, dense = (
        run(source, tmp_path / bits, embedding_bits=int(bits) if bits != "none" else None) for bits in ("8", "none")
    )
    one, other = open_checkpoint(packed.checkpoint), open_checkpoint(dense.checkpoint)
    assert one.manifest["tensors"].keys() - other.manifest["tensors"].keys() == {EMBEDDING}
    assert one.manifest["tensors"][EMBEDDING]["role"] == "embedding and head"
    assert torch.equal(other.dense(f"{EMBEDDING}.weight"), tiny_model("llama-tied").model.embed_tokens.weight)
    assert one.manifest["bits_per_weight"] == other.manifest["bits_per_weight"]
    for name in other.files:
        if not name.startswith(EMBEDDING):
            assert torch.equal(one._read(name), other._read(name))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"embedding_bits": None, "head_bits": 8}, "embedding_bits=none and head_bits=8 for a model whose head shares"),
        ({"embedding_bits": 4, "head_bits": 6}, "embedding_bits=4 and head_bits=6"),
        ({"embedding_bits": 9}, "embedding_bits=9"),
        ({"head_bits": "dense"}, "head_bits='dense'"),
    ],
)
def test_contradictions_are_refused_before_the_work(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model", "llama-tied")
    with pytest.raises(RecipeError, match=said):
        run(source, tmp_path / "out", **options)
    assert not list((tmp_path / "out").glob("model-*")) if (tmp_path / "out").exists() else True


def test_bits_for_a_stage_that_packs_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="embedding_bits with the method llm_pruner"):
        run(save_tiny(tmp_path / "model"), tmp_path / "out", "llm_pruner", embedding_bits=8)


def test_one_option_is_enough_where_both_are_one_matrix(tmp_path: Path) -> None:
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path / "model", "llama-tied")))
    for given in ({"embedding_bits": 4}, {"head_bits": 4}, {"embedding_bits": 4, "head_bits": 4}):
        (end,) = planned.choose(StageSpec(method="rtn", **given), walker)
        assert (end.role, end.name, end.bits) == (planned.BOTH, EMBEDDING, 4)
    (end,) = planned.choose(StageSpec(method="rtn"), walker)
    assert end.bits == 8


@pytest.mark.parametrize("kind", ["llama", "llama-tied"])
def test_a_second_stage_keeps_what_the_first_packed(kind: str, tmp_path: Path, token_file: str) -> None:
    source, text = save_tiny(tmp_path / "model", kind), {"calibration": token_file}
    first = run(
        source, tmp_path / "first", "svd_llm", **text, ratio=0.3, multiple=4, embedding_bits=6, head_bits=6
    ).checkpoint
    second = run(first, tmp_path / "second", "gptq", **text, group_size=4).checkpoint
    one, other = open_checkpoint(first), open_checkpoint(second)
    names = [name for name, entry in one.manifest["tensors"].items() if "role" in entry]
    assert len(names) == (1 if kind == "llama-tied" else 2)
    for name in names:
        assert one.manifest["tensors"][name] == other.manifest["tensors"][name]
        for plane, tensor in one.packed(name).planes.items():
            assert torch.equal(tensor, other.packed(name).planes[plane])
    with pytest.raises(RecipeError, match="is packed already, and 4 is asked"):
        run(first, tmp_path / "third", "gptq", **text, group_size=4, embedding_bits=4)


def test_calibration_and_reference_are_those_of_the_shipped_model(tmp_path: Path, token_file: str) -> None:
    source = save_tiny(tmp_path / "model", "llama-tied")
    folder = run(source, tmp_path / "out", "gptq", calibration=token_file, group_size=8, embedding_bits=2).checkpoint
    model, tokens = put_decoded(tiny_model("llama-tied"), folder), tiny_tokens(1, 10)
    walker = BlockWalker(ModelSource.open(source))
    (end,) = planned.choose(StageSpec(method="rtn", embedding_bits=2), walker)
    rows = walker.rows(end.parameter)
    assert rows is not None
    packed, error = ends.pack(rows, end.shape, 2, end.name)
    walker.use_packed({end.parameter: packed})
    with torch.inference_mode():
        assert torch.equal(walker.embed(tokens), model.model.embed_tokens(tokens))
        hidden = torch.randn(1, 10, 32, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(walker.logits(hidden), model.lm_head(model.model.norm(hidden)), atol=1e-5)
        assert torch.allclose(compress.load(folder)(tokens).logits, model(tokens).logits, atol=1e-4)
    assert 0.01 < error < 0.5


def test_stretches_join_to_what_all_rows_give(monkeypatch: pytest.MonkeyPatch) -> None:
    w_VH = torch.randn(83, 24, generator=torch.Generator().manual_seed(0)) * 0.1
    w_VH[40:50] *= 1e-6  # scales that float16 does not hold, in some stretches only
    w_VH[7] = 0  # the row of padding

    class Whole:
        def rows(self, rows_R: torch.Tensor) -> torch.Tensor:
            return w_VH[rows_R]

        def stretch(self, start: int, stop: int) -> torch.Tensor:
            return w_VH[start:stop]

    for bits in (3, 8):
        whole, error = ends.pack(Whole(), (83, 24), bits, "embed")
        monkeypatch.setattr(ends, "_STRETCH", 1)  # 32 rows, the least
        parts, same = ends.pack(Whole(), (83, 24), bits, "embed")
        monkeypatch.undo()
        layouts.check(parts)
        assert parts.scheme == whole.scheme and error == pytest.approx(same, rel=1e-3)
        step_V1 = parts.planes["scale"].amax(1, keepdim=True)  # a scale that is rounded otherwise may turn a code
        assert bool(((layouts.unpack(parts) - layouts.unpack(whole)).abs() <= 1.01 * step_V1).all())
        assert not layouts.unpack(parts)[7].any()
        assert torch.equal(PackedRows(parts).stretch(30, 83), layouts.unpack(parts)[30:])


def test_what_cannot_be_packed_stays_dense_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_tiny(tmp_path / "model", "llama-tied")
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def reads_the_dtype(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert self.lm_head.weight.dtype.is_floating_point
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", reads_the_dtype)
    result = run(source, tmp_path / "out")
    assert "the embedding and head stays dense: read directly by the model" in result.manifest["warnings"]
    assert result.manifest["coverage"]["left_dense"]["embedding and head, read directly by the model"] == 96 * 32
    assert isinstance(compress.load(result.checkpoint).get_input_embeddings(), nn.Embedding)


@pytest.mark.parametrize(
    ("body", "packed"),
    [("return torch.nn.functional.linear(x, self.weight, self.bias)", True), ("return x @ x.mT", False)],
)
def test_a_head_with_another_class_is_judged_by_what_it_computes(body: str, packed: bool, tmp_path: Path) -> None:
    walker = BlockWalker(ModelSource.open(str(save_tiny(tmp_path / "model"))))
    scope: dict[str, Any] = {"torch": torch}
    exec(f"def forward(self, x):\n    {body}", scope)
    walker.model.lm_head.__class__ = type("Head", (nn.Linear,), {"forward": scope["forward"]})
    head = planned.choose(StageSpec(method="rtn"), walker)[1]
    assert head.packed is packed
    assert head.reason == (None if packed else "a head with a forward of its own")
