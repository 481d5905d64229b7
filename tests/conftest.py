"""Rules for every test: no network, and nothing that depends on what ran before."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compress import kept_files

# Before any test module imports a library that reads them.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it
if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, processes are the threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for _name in ("COMPRESS_DEBUG", "COMPRESS_KERNEL"):
    os.environ.pop(_name, None)

# engines are installed once, not once per run of the tests
os.environ.setdefault("COMPRESS_TEST_ENGINES", str(kept_files.folder("engines")))
os.environ["COMPRESS_CACHE"] = tempfile.mkdtemp(prefix="compress-cache-")
atexit.register(shutil.rmtree, os.environ["COMPRESS_CACHE"], ignore_errors=True)
# Side by side, the files that take longest come first: a process that met one at the end would work alone.
_TESTS = Path(__file__).parent
_LONGEST = [
    _TESTS / name
    for name in (
        "kernels/test_triton.py", "test_pipeline.py", "test_notebooks.py", "stages/test_distributed.py", "test_docs.py",
        "training/test_trainer.py", "stages/pack/test_streaming.py", "atlas/test_compressed.py", "bench/test_models.py",
        "methods/test_own_methods.py", "test_site.py", "test_example_recipes.py", "kernels/test_native.py",
        "cli/test_signals.py", "training/test_train_stage.py", "runtime/test_training.py",
    )
]  # fmt: skip
assert all(path.is_file() for path in _LONGEST)
_LOCAL = {"127.0.0.1", "::1", "localhost"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts files that take long to the front."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        rank = {path: place for place, path in enumerate(_LONGEST)}
        items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """A test that reaches for the network fails at once, with the address it wanted."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in _LOCAL:
            raise AssertionError(f"a test wanted the network: {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture
def proof_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the test prove their folder in its own process."""
    from tests.support import proofs

    proofs.in_this_process(monkeypatch)


@pytest.fixture(scope="session")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a file of 3000 token ids that tiny models know, for calibration."""
    from tests.support.models import save_tokens

    return str(save_tokens(tmp_path_factory.mktemp("text")))


@pytest.fixture
def manifest() -> dict[str, Any]:
    """A well-formed compress.json of two linears in one block."""
    scheme = {"layout": "spqr.v1", "bits": 3, "group_size": 16, "options": {"stats_bits": 3, "stats_group": 16}}
    entry = {
        "scheme": scheme, "shape": [64, 32], "bias": False, "method": "spqr", "bits_per_weight": 4.125,
        "size_bytes": 1056, "relative_error": 0.0042, "outliers": 17, "tokens": 4096,
    }  # fmt: skip
    return {
        "format_version": 1,
        "compress_version": "0.1.0",
        "source": {"model": "atlas", "fingerprint": "0" * 64, "revision": None},
        "recipe": {"stages": [{"method": "spqr", "options": {}}]},
        "tensors": {"model.layers.0.self_attn.q_proj": entry, "model.layers.0.mlp.down_proj": {**entry, "outliers": 3}},
        "bits_per_weight": 4.125,
        "coverage": {
            "total_parameters": 8192,
            "linear_parameters": 4096,
            "compressed_parameters": 4096,
            "share_of_linears": 1.0,
            "share_of_model": 0.5,
            "left_dense": {"embedding": 4096},
            "skipped": [],
        },
        "shards": [{"file": "model-00001-of-00001.safetensors", "size_bytes": 2112, "sha256": "0" * 64}],
        "warnings": [],
    }
