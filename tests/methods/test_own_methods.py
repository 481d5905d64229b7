"""Methods of the caller's own, in folders that COMPRESS_METHODS names."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import compress
from compress.cli import invoke
from compress.errors import OutputError, RecipeError
from compress.methods import registry
from tests.support.models import save_tiny, save_tokens, tiny_tokens

SOURCE = '''"""Round to nearest under another name."""

from compress.methods import rtn
from compress.numerics import grid
from dataclasses import dataclass

KIND = "pack"
NEEDS = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options."""

    bits: int = 4
    """Bits of one code, 2 to 8."""
    group_size: int | None = None
    """Input features that share one scale."""


def check(shape, config):
    grid.group_width(shape[1], config.group_size)


def solve(w_NK, stats, config):
    return rtn.solve(w_NK, None, rtn.Config(bits=config.bits, group_size=config.group_size))
'''
SMALL = {"suite": "none", "samples": 2, "seq_len": 16}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "rounding.py").write_text(SOURCE, encoding="utf-8")
    (folder / "_shared.py").write_text("", encoding="utf-8")
    monkeypatch.setenv(registry.OWN, str(folder))
    monkeypatch.setattr("compress.methods.__path__", list(compress.methods.__path__))
    return folder


def test_it_is_there_like_all_others(mine, capsys):
    assert {"rounding", "rtn"} <= set(registry.names()) and "_shared" not in registry.names()
    assert registry.configure("rounding", {"bits": 3}).bits == 3
    assert invoke(["methods"]) == 0 and "Round to nearest under another name" in capsys.readouterr().out
    assert invoke(["run", "--method", "rounding", "--help"]) == 0 and "group-size" in capsys.readouterr().out


def test_it_makes_a_checkpoint_that_needs_it_no_more(mine, tmp_path, monkeypatch):
    result = compress.run("atlas", "rounding", bits=4, workers=2, output=tmp_path / "out", **SMALL)
    recipe = result.manifest["recipe"]
    assert recipe["own_methods"] == {"rounding": registry.own_source("rounding")}
    assert result.manifest["tensors"]["model.layers.0.mlp.down_proj"]["scheme"]["bits"] == 4
    monkeypatch.delenv(registry.OWN)
    compress.load(result.checkpoint)
    assert "rounding" in result.summary()
    assert "own_methods" not in compress.run("atlas", "rtn", output=tmp_path / "rtn", **SMALL).manifest["recipe"]


def test_a_method_that_was_changed_is_another_one(mine, tmp_path, proof_in_this_process):
    compress.run("atlas", "rounding", output=tmp_path / "out", **SMALL)
    (mine / "rounding.py").write_text(SOURCE.replace("bits=config.bits", "bits=config.bits - 1"), encoding="utf-8")
    with pytest.raises(OutputError, match="another recipe"):
        compress.run("atlas", "rounding", output=tmp_path / "out", **SMALL)
    changed = compress.run("atlas", "rounding", output=tmp_path / "out", fresh=True, **SMALL)
    assert changed.manifest["tensors"]["model.layers.0.mlp.down_proj"]["scheme"]["bits"] == 3


@pytest.mark.parametrize(
    "name,source,message",
    [
        ("rtn", SOURCE, "two methods rtn"),
        ("notes", "x = 1\n", "notes.py is no method"),
        ("broken", "def\n", "is not Python"),
        ("old", SOURCE.replace('"pack"', '"linear"'), 'KIND = .linear.*Write KIND = "pack"'),
        ("typed", SOURCE.replace("bits: int", "bits: list[int]"), r"bits of Config is of type list\[int\].*int, float"),
        ("bare", SOURCE.replace("bits: int = 4", "bits: int"), "field bits of Config has no default"),
    ],
)
def test_what_is_no_method_is_refused(mine, name, source, message):
    (mine / f"{name}.py").write_text(source, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        registry.describe(name)


def test_a_folder_that_is_not_there(mine, monkeypatch):
    monkeypatch.setenv(registry.OWN, str(mine / "nothing"))
    with pytest.raises(RecipeError, match=r"nothing, which is no folder"):
        registry.names()


DOCUMENT = Path(__file__).parents[2] / "docs" / "ADDING_A_METHOD.md"


@pytest.fixture
def documented(tmp_path, monkeypatch):
    """The methods of other kinds that the document shows, in a folder of the caller's own."""
    folder = tmp_path / "my_methods"
    folder.mkdir()
    blocks = re.findall(r'^```python title="my_methods/(\w+\.py)"\n(.*?)^```$', DOCUMENT.read_text(), re.M | re.S)
    for name, source in blocks:
        (folder / name).write_text(source, encoding="utf-8")
    monkeypatch.setenv(registry.OWN, str(folder))
    monkeypatch.setattr("compress.methods.__path__", list(compress.methods.__path__))
    return {name.removesuffix(".py") for name, _ in blocks}


def test_the_documents_methods_of_other_kinds_work(documented, tmp_path, proof_in_this_process):
    assert documented == {"zeros", "norms"}
    tokens = save_tokens(tmp_path, tiny_tokens(1, 400)[0])
    data = {"calibration": str(tokens), "samples": 8, "seq_len": 16, "suite": "none"}
    dense = save_tiny(tmp_path / "model")
    thin = compress.run(dense, "zeros", share=0.25, output=tmp_path / "thin", **data)
    before, after = weights(dense), weights(thin.checkpoint)
    assert thin.manifest["zeros"] == {"share": 0.25} and after.keys() == before.keys()
    for name, weight in after.items():
        assert (weight == 0).float().mean() == pytest.approx(0.25 if "layers" in name and weight.dim() == 2 else 0)
        assert torch.equal(weight[weight != 0], before[name][weight != 0])
    trained = compress.run(
        thin.checkpoint, "norms", teacher=str(dense), steps=6, batch=4, rate=0.02, held_out=0.25,
        output=tmp_path / "trained", **data,
    )  # fmt: skip
    assert trained.manifest["training"]["after"] < trained.manifest["training"]["before"]
    changed = {name for name, weight in weights(trained.checkpoint).items() if not torch.equal(weight, after[name])}
    assert changed and all("norm" in name for name in changed)


def weights(folder):
    return {name: value for path in Path(folder).glob("*.safetensors") for name, value in load_file(path).items()}
