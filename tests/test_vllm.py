"""The plugin for vLLM, with modules of the same names in its place; `make slow` runs it in vLLM itself."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from compress import vllm
from compress.errors import FormatError
from tests.support.exports import books, integers, packed

ROOT = Path(__file__).parents[1]


class LinearBase(torch.nn.Module):
    """Stands for the class of vLLM."""


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the plugin registers, by the kind; `format` is the load format that vLLM was started with."""
    found: dict[str, Any] = {"format": "compress"}

    def keep(kind: str) -> Callable[[str], Callable[[Any], Any]]:
        return lambda name: lambda value: found.setdefault(f"{kind} {name}", value)

    def current() -> Any:
        return SimpleNamespace(load_config=SimpleNamespace(load_format=found["format"]))

    layers = "vllm.model_executor.layers"
    modules: dict[str, dict[str, Any]] = {
        "vllm.config": {"get_current_vllm_config": current},
        f"{layers}.linear": {"LinearBase": LinearBase, "UnquantizedLinearMethod": type("Dense", (), {})},
        f"{layers}.quantization": {"register_quantization_config": keep("config")},
        f"{layers}.quantization.base_config": {"QuantizationConfig": type("Base", (), {})},
        "vllm.model_executor.model_loader": {"register_model_loader": keep("loader")},
        "vllm.model_executor.model_loader.default_loader": {"DefaultModelLoader": type("Base", (), {})},
    }
    for name, content in modules.items():
        for parent in [name.rsplit(".", depth)[0] for depth in range(name.count(".") + 1)]:
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        for key, value in content.items():
            monkeypatch.setattr(sys.modules[name], key, value, raising=False)
    vllm.register()
    return found


def test_layers_are_dense_and_other_load_formats_are_refused(registered: dict[str, Any]) -> None:
    config = registered["config compress"].from_config({"quant_method": "compress"})
    assert config.get_name() == "compress" and torch.bfloat16 in config.get_supported_act_dtypes()
    assert type(config.get_quant_method(LinearBase(), "q_proj")).__name__ == "Dense"
    assert config.get_quant_method(torch.nn.Embedding(2, 2), "embed_tokens") is None
    registered["format"] = "auto"
    with pytest.raises(ValueError, match="give --load-format compress, or serve an export"):
        config.get_quant_method(LinearBase(), "q_proj")


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_the_loader_gives_decoded_weights_by_the_names_of_the_hub(
    tmp_path: Path, registered: dict[str, Any], kind: str
) -> None:
    ours = packed(tmp_path / "a", kind, integers(3, 32, symmetric=False))
    given = dict(
        registered["loader compress"]().get_all_weights(SimpleNamespace(model=str(ours.folder), revision=None), None)
    )
    ours.dense.save_pretrained(tmp_path / "b")
    from safetensors.torch import load_file

    expected = load_file(tmp_path / "b" / "model.safetensors")
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)


def test_a_damaged_folder_gives_no_weights(tmp_path: Path) -> None:
    ours = packed(tmp_path / "a", "llama", books(1, 4))
    shard = next(ours.folder.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(FormatError, match="is damaged"):
        next(vllm.decoded_weights(ours.folder))


def test_the_entry_point_leads_to_the_plugin() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vllm.general_plugins"]
    assert [EntryPoint(name, value, "vllm.general_plugins").load() for name, value in points.items()] == [vllm.register]


def test_one_file_imports_vllm_and_only_when_it_is_called() -> None:
    importing = []
    for path in (ROOT / "compress").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        if any(name.split(".")[0] == "vllm" for name in named):
            importing.append(path.name)
            top = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
            assert not [node for node in top if (node.module or "").startswith("vllm")]
    assert importing == ["vllm.py"]
