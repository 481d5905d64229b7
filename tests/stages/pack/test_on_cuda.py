"""A pack stage on a CUDA device: the same bytes from run to run, and about those of the CPU. Skipped without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import compress
from tests.support.digests import digests
from tests.support.models import save_tiny, save_tokens, tiny_tokens

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("proof_in_this_process"),
]


def packed(tmp_path: Path, kind: str, method: str, device: str, name: str, **options: object) -> Path:
    result = compress.run(
        save_tiny(tmp_path / "model", kind),
        method,
        output=tmp_path / name,
        calibration=str(save_tokens(tmp_path, tiny_tokens(8, 32))),
        samples=8,
        seq_len=32,
        suite="none",
        device=device,
        **options,
    )
    return Path(result.checkpoint)


@pytest.mark.parametrize(
    ("kind", "method", "options"),
    [
        ("llama", "spqr", {}),
        ("llama", "gptq", {"group_size": 16, "tune": "block"}),
        ("mixtral", "gptq", {"group_size": 16}),
        ("llama", "aqlm", {"codebooks": 1, "code_bits": 4, "group_size": 4}),
        ("llama", "svd_llm", {}),
        ("llama", "sparsegpt", {}),
    ],
)
def test_a_second_run_gives_the_same_bytes(tmp_path: Path, kind: str, method: str, options: dict[str, object]) -> None:
    first, second = (packed(tmp_path, kind, method, "cuda", name, **options) for name in ("first", "second"))
    assert digests(first, "*.safetensors") == digests(second, "*.safetensors")
    on_cpu = packed(tmp_path, kind, method, "cpu", "cpu", **options)
    errors = [
        [entry["relative_error"] for entry in json.loads((folder / "compress.json").read_text())["tensors"].values()]
        for folder in (first, on_cpu)
    ]
    assert sum(errors[0]) == pytest.approx(sum(errors[1]), rel=0.05)
