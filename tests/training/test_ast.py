"""Sparse training: masks keep their pattern whenever they are saved, a killed run ends the same, the loss falls."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compress.errors import MethodError
from compress.format import layouts
from compress.format.layouts import sparse_nm
from compress.methods.ast import Config
from compress.methods.protocol import Trained
from compress.models import linears
from compress.progress import Silent
from compress.training import ast, initial_masks
from compress.training.sparse import SparseModel
from compress.training.trainable import block_linears
from compress.tuning.sequences import split_held_out
from tests.support.killing import KilledError, KillsAfter
from tests.support.models import tiny_model, tiny_tokens
from tests.support.packed_model import packed_model

TOKENS_ST = tiny_tokens(24, 16)
QUICK = Config(
    steps=12, batch=4, micro_batch=2, rate=3e-3, decay=1e-3, refresh_every=3, checkpoint_every=5, evaluate_every=6,
    held_out=0.125,
)  # fmt: skip


def sparsify(model: nn.Module, folder: Path, config: Config = QUICK) -> Trained:
    return ast.train(deepcopy(model), model, TOKENS_ST, config, folder, Silent())


def rebuilt(model: nn.Module, made: Trained) -> nn.Module:
    """Returns the dense model that computes what was stored."""
    changed = deepcopy(model)
    for name, value in made.dense.items():
        changed.get_parameter(name).data.copy_(value)
    for ref in block_linears(changed):
        linears.set_weight(changed, ref, layouts.unpack(made.packed[ref.name]))
    return changed


def follows(mask_NK: torch.Tensor, n: int, m: int) -> bool:
    return bool((mask_NK.view(mask_NK.shape[0], -1, m).sum(-1) == n).all())


@pytest.mark.parametrize("slorb", [0, 16])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "opt", "llama-tied"])
def test_the_loss_falls_and_is_that_of_what_is_stored(tmp_path, kind, slorb):
    model = tiny_model(kind)
    config = replace(QUICK, slorb=slorb, kl_weight=1.0, temperature=1.0)
    made = sparsify(model, tmp_path, config)
    assert made.report["after"] < 0.96 * made.report["before"]
    assert made.packed.keys() == {ref.name for ref in block_linears(model)}
    assert not made.dense.keys() & {ref.parameter for ref in block_linears(model)}
    for name, one in made.packed.items():
        layouts.check(one, name)
        assert follows(sparse_nm.mask(one), 2, 4)
    held_S = split_held_out(24, QUICK.held_out, QUICK.training_seed)[1]
    with torch.no_grad():
        wanted, found = (m(input_ids=TOKENS_ST[held_S]).logits.log_softmax(-1) for m in (model, rebuilt(model, made)))
    assert float((wanted.exp() * (wanted - found)).sum(-1).mean()) == pytest.approx(made.report["after"], rel=1e-3)


def test_masks_move_and_stay_n_of_m_at_every_save(tmp_path):
    model = tiny_model()
    made = sparsify(model, tmp_path, replace(QUICK, rate=1e-2))
    assert 0 < made.report["moved"] < 1 and len(made.report["flips"]) == 4 and any(made.report["flips"])
    saved = load_file(tmp_path / "training.safetensors")
    masks = {name: tensor for name, tensor in saved.items() if tensor.dtype == torch.bool}
    assert len(masks) == 21 and all(follows(mask_NK, 2, 4) for mask_NK in masks.values())
    for name, one in made.packed.items():
        assert torch.equal(sparse_nm.mask(one), masks[f"task:{name}"])
    fixed = sparsify(model, _new(tmp_path), replace(QUICK, refresh_every=0))
    assert fixed.report["moved"] == 0 and not fixed.report["flips"]


def _new(folder: Path) -> Path:
    (folder / "new").mkdir()
    return folder / "new"


@pytest.mark.parametrize("n,m", [(1, 4), (4, 8), (2, 16)])
def test_other_patterns(tmp_path, n, m):
    made = sparsify(tiny_model(), tmp_path, replace(QUICK, n=n, m=m, steps=4))
    assert all(follows(sparse_nm.mask(one), n, m) for one in made.packed.values())


@pytest.mark.parametrize("steps", [2, 5, 8, 11])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, steps):
    model, config = tiny_model(), replace(QUICK, slorb=8)
    whole = sparsify(model, _new(tmp_path), config)
    with pytest.raises(KilledError):
        ast.train(deepcopy(model), model, TOKENS_ST, config, tmp_path, KillsAfter(steps))
    resumed = sparsify(model, tmp_path, config)
    pairs = [(whole.dense, resumed.dense), *((one.planes, resumed.packed[n].planes) for n, one in whole.packed.items())]
    for a, b in pairs:
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert whole.report == resumed.report


def test_the_decay_pulls_what_is_pruned_to_zero():
    """Through the whole loop: with masks that stay, pruned weights end smaller than without the decay."""
    sizes = []
    for decay in (0.0, 0.1):
        import tempfile

        model = tiny_model()
        with tempfile.TemporaryDirectory() as folder:
            sparse = _trained(model, Path(folder), replace(QUICK, decay=decay, refresh_every=0, ramp=0.0))
        sizes.append(sum(float(layer.weight[~layer.mask].detach().square().sum()) for layer in sparse.layers.values()))
    assert sizes[1] < 0.5 * sizes[0]


def _trained(model: nn.Module, folder: Path, config: Config) -> SparseModel:
    """Returns the sparse model with the masters that a run ended with."""
    sparsify(model, folder, config)
    sparse = SparseModel(deepcopy(model), initial_masks.one_shot(model, block_linears(model), TOKENS_ST, config), 0)
    saved = load_file(folder / "training.safetensors")
    with torch.no_grad():
        for name, master in sparse.masters().items():
            master.copy_(saved[f"weight:{name}"])
    return sparse


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
@pytest.mark.parametrize("start", ["wanda", "sparsegpt"])
def test_starts_see_the_inputs(tmp_path, kind, start):
    model = tiny_model(kind)
    refs, train_S = block_linears(model), split_held_out(24, QUICK.held_out, QUICK.training_seed)[0]
    plain, seen = (
        {
            ref.name: (w_NK, mask_NK)
            for ref, w_NK, mask_NK in initial_masks.one_shot(model, refs, TOKENS_ST[train_S], config)
        }
        for config in (QUICK, replace(QUICK, start=start))
    )
    assert list(plain) == list(seen) == [ref.name for ref in refs]
    assert all(follows(mask_NK, 2, 4) for _, mask_NK in seen.values())
    assert any(not torch.equal(plain[name][1], seen[name][1]) for name in plain)
    for name, (w_NK, mask_NK) in seen.items():
        same = plain[name][0] == w_NK
        assert bool(same[~mask_NK].all()) and bool(same.all()) == (start == "wanda")
    # without a step, what is stored is the one-shot method's choice
    made = sparsify(model, tmp_path, replace(QUICK, start=start, steps=0))
    assert all(torch.equal(sparse_nm.mask(one), seen[name][1]) for name, one in made.packed.items())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_learned_masks_move_and_leave_the_weights(tmp_path, kind):
    model = tiny_model(kind)
    config = replace(QUICK, learned=True, kl_weight=1.0, temperature=1.0, rate=3e-3, steps=24, weight_decay=0.1)
    made = sparsify(model, tmp_path, config)
    assert made.report["after"] < 0.98 * made.report["before"] and made.report["moved"] > 0 and not made.dense
    for ref in block_linears(model):
        one = made.packed[ref.name]
        mask_NK = sparse_nm.mask(one)
        assert follows(mask_NK, 2, 4)
        assert torch.equal(layouts.unpack(one), linears.weight(model, ref).bfloat16().float() * mask_NK)


def test_learned_masks_resume_with_the_same_bytes(tmp_path):
    model, config = tiny_model(), replace(QUICK, learned=True)
    whole = sparsify(model, _new(tmp_path), config)
    with pytest.raises(KilledError):
        ast.train(deepcopy(model), model, TOKENS_ST, config, tmp_path, KillsAfter(7))
    resumed = sparsify(model, tmp_path, config)
    assert whole.report["losses"] == resumed.report["losses"]
    for name, one in whole.packed.items():
        assert all(torch.equal(plane, resumed.packed[name].planes[key]) for key, plane in one.planes.items())


def test_what_cannot_be_is_refused(tmp_path):
    model = tiny_model()
    with pytest.raises(MethodError, match=r"layers.0.self_attn.q_proj: m=5 does not divide in_features=32"):
        sparsify(model, tmp_path, replace(QUICK, m=5))
    with pytest.raises(MethodError, match=r"layers.0.mlp.down_proj: slorb=32 for in_features=48"):
        sparsify(model, tmp_path, replace(QUICK, slorb=32))
    with pytest.raises(MethodError, match=r"layers.0.self_attn.q_proj: .* with 21 packed linears"):
        ast.train(packed_model(model), model, TOKENS_ST, QUICK, tmp_path, Silent())
    with pytest.raises(MethodError, match="vocabulary of 104"):
        ast.train(model, tiny_model(vocab_size=104), TOKENS_ST, QUICK, tmp_path, Silent())


@pytest.mark.parametrize(
    "wrong", [{"n": 4}, {"start": "best"}, {"refresh_every": -1}, {"decay": -1.0}, {"ramp": 2.0}, {"kl_weight": 2.0},
              {"slorb": -1}, {"slorb": 8, "learned": True}, {"keep_large": -1.0}, {"temperature": 0.0}]
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(MethodError, match=next(iter(wrong))):
        Config(**wrong)
