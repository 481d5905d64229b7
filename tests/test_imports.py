"""What may be imported when: help and look-ups must not pay for torch. Checked by module names in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compress.cli import COMMANDS
from compress.methods import registry
from tests.support.imported import HEAVY, PROBE, loaded_by, modules_after
from tests.support.models import save_tiny

HELP_LINES = [
    ["--help"],
    ["--version"],
    ["methods"],
    *([name, "--help"] for name in COMMANDS),
    *(["run", "--method", name, "--help"] for name in registry.names()),
    *(["methods", name] for name in registry.names()),
]


def test_help_imports_click_and_the_standard_library() -> None:
    """All lines in one process: what one of them imports stays."""
    for line, modules in zip(HELP_LINES, modules_after(HELP_LINES), strict=True):
        heavy = {name.split(".")[0] for name in modules} & (HEAVY | {"rich"})
        assert not heavy, f"compress {' '.join(line)} imports {heavy}"


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["table", "json"])
def test_inspect_needs_no_torch(flags: list[str], tmp_path: Path, manifest: dict[str, object]) -> None:
    (tmp_path / "compress.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert not loaded_by("inspect", str(tmp_path), *flags) & HEAVY


@pytest.mark.parametrize(
    "args",
    [
        ["--model", "./no/such/folder"],
        ["--suite", "no-such-suite"],
        ["--method", "no-such-method"],
        ["--method", "gptq", "--workers", "2"],
        ["--method", "llm_pruner", "--target-bits", "3"],
        ["--method", "rtn", "--damp", "1"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_refused_before_torch_is_imported(args: list[str]) -> None:
    assert not loaded_by("run", *args, code=2) & HEAVY


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "no_such_thing"},
        {"model_type": "llama", "quantization_config": {"quant_method": "hqq"}},
        {"model_type": "llama", "hidden_size": 0},
        {},
    ],
    ids=["unknown", "quantised", "no width", "no type"],
)
@pytest.mark.parametrize("flags", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_wrong_model_is_refused_before_torch_is_imported(
    config: dict[str, object], flags: list[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    assert "torch" not in loaded_by("run", "--model", str(tmp_path), *flags, code=2)


def test_a_plan_imports_no_package_that_it_does_not_use(tmp_path: Path) -> None:
    """torch, and transformers' class of the model, which tells the linears, are all that takes seconds."""
    folder = save_tiny(tmp_path / "model")
    found = loaded_by("run", "--model", str(folder), "--method", "rtn", "--no-eval", "--dry-run")
    assert "torch" in found
    others = {"datasets", "gguf", "lm_eval", "matplotlib", "pandas", "peft", "pyarrow", "sklearn", "torchvision"}
    assert not found & others


def test_the_probe_sees_heavy_modules() -> None:
    """Guards the tests above: a probe that sees nothing would always pass."""
    done = subprocess.run(
        [sys.executable, "-c", "import safetensors\n" + PROBE, json.dumps([["--version"]])],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "safetensors" in json.loads(done.stderr.splitlines()[-1].removeprefix("PROBE"))[1]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, compress; print(sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not HEAVY & set(eval(done.stdout))
