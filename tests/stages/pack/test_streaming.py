"""Streaming: the same bytes as the block loop, for any number of processes, and nothing left behind when it ends."""

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

import compress
from compress.errors import CompressError, MemoryLimitError, ModelError, RecipeError
from compress.methods import registry
from compress.methods.loading import from_module
from compress.models import linears
from compress.models.blocks import BlockWalker
from compress.models.folder.tensor_files import TensorFiles
from compress.models.memory import resident_bytes
from compress.models.source import ModelSource
from compress.models.stored import WeightReader
from compress.stages import memory
from compress.stages.pack import block_loop, jobs, streaming, workers
from compress.stages.plan import phases
from compress.stages.workspace import Workspace
from tests.support import fake_method
from tests.support.digests import digests
from tests.support.killing import killed_before_record
from tests.support.models import TINY, save_tiny, save_tokens, tiny_tokens

pytestmark = pytest.mark.usefixtures("proof_in_this_process")
ROOT = Path(__file__).parents[3]
BLOCKS, LINEARS = 3, 7


@pytest.fixture
def fake(monkeypatch):
    """Has the method `rtn` stand for the fake one."""
    monkeypatch.setattr(registry, "load", lambda name: from_module.method_of(fake_method))
    monkeypatch.setenv(fake_method.PARENT, str(os.getpid()))


@pytest.fixture
def others_only(monkeypatch):
    """This process takes no jobs itself."""
    take = workers._take
    main = threading.main_thread()
    monkeypatch.setattr(workers, "_take", lambda jobs: None if threading.current_thread() is main else take(jobs))


def run(source: Path, output: Path, method: str = "rtn", **options):
    tokens = save_tokens(source.parent, tiny_tokens(1, 64)[0])
    return compress.run(source, method, output=output, suite="none", calibration=str(tokens), **options)


CASES = {
    "llama": ("easyquant", {"dtype": torch.bfloat16, "shards": 2}, {}),
    "llama-tied": ("finequant", {}, {"smallest_group": 8}),
    "gpt2": ("rtn", {}, {"group_size": 8}),
    "mixtral": ("rtn", {"dtype": torch.bfloat16}, {"skip": ("*.o_proj", "*.0.mlp.*"), "min_coverage": 0.1}),
    "qwen3-moe": ("finequant", {}, {"smallest_group": 8}),
    "falcon-40b": ("rtn", {}, {"symmetric": False}),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_bytes_are_those_of_the_block_loop_for_any_number_of_workers(kind, tmp_path, monkeypatch):
    method, saved, options = CASES[kind]
    source = save_tiny(tmp_path / "model", kind, **saved)
    made = {workers: digests(run(source, tmp_path / str(workers), method, workers=workers, **options).checkpoint)
            for workers in (1, 2)}  # fmt: skip
    monkeypatch.setattr(streaming, "run", block_loop.run)
    assert made[1] == made[2] == digests(run(source, tmp_path / "loop", method, **options).checkpoint)


@pytest.mark.parametrize("kind", sorted(TINY))
def test_a_weight_read_alone_is_the_one_of_the_loaded_block(kind, tmp_path):
    source = ModelSource.open(save_tiny(tmp_path / "model", kind, dtype=torch.float16))
    walker = BlockWalker(source)

    def never(name):
        raise AssertionError("the loader is not needed for any of these")

    reader = WeightReader(TensorFiles(source.path, source.name, source.tensors), never)
    for index in range(len(walker.block_names)):
        block = walker.load_block(index)
        for ref in walker.linears(index):
            found = reader.read(walker.stored(ref))
            assert found.is_contiguous() and torch.equal(found, linears.weight(block, ref)), ref.name
        walker.free_block(block)


def test_what_only_the_loader_can_make_is_read_through_it(tmp_path, monkeypatch, request):
    """As if no conversion were known: experts go through transformers, in the other process too."""
    source = save_tiny(tmp_path / "model", "mixtral")
    plain = digests(run(source, tmp_path / "plain").checkpoint)
    request.getfixturevalue("others_only")
    stored = BlockWalker.stored
    unknown = lambda self, ref: type(found := stored(self, ref))(ref, () if ref.kind == "expert" else found.origins)  # noqa: E731
    monkeypatch.setattr(BlockWalker, "stored", unknown)
    assert digests(run(source, tmp_path / "out", workers=2).checkpoint) == plain


@pytest.mark.parametrize("step", [0, 2, BLOCKS])
def test_goes_on_where_it_stopped(step, tmp_path, monkeypatch):
    source = save_tiny(tmp_path / "model")
    whole = digests(run(source, tmp_path / "whole").checkpoint)
    with killed_before_record(step):
        run(source, tmp_path / "out", workers=2)
    solved, solve = [], workers.jobs.solve
    monkeypatch.setattr(workers.jobs, "solve", lambda job, *given: solved.extend(job.linears) or solve(job, *given))
    assert digests(run(source, tmp_path / "out").checkpoint) == whole
    assert len(solved) == LINEARS * (BLOCKS - max(step - 1, 0)), "the unfinished blocks alone"


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell has put into the background
import compress
from compress.methods import registry
from compress.methods.loading import from_module
from tests.support import fake_method
registry.load = lambda name: from_module.method_of(fake_method)
compress.run(sys.argv[1], "rtn", output=sys.argv[2], suite="none", calibration=sys.argv[3], workers=2)
"""


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT], ids=lambda one: one.name)
def test_no_process_outlives_a_run_that_is_ended_and_the_next_goes_on(signal_, tmp_path, fake, monkeypatch):
    source, tokens = save_tiny(tmp_path / "model"), tmp_path / "tokens.safetensors"
    whole = run(source, tmp_path / "whole").checkpoint
    command = [sys.executable, "-c", SCRIPT, str(source), str(tmp_path / "out"), str(tokens)]
    slow = os.environ | {fake_method.WHAT: "slow"}
    process = subprocess.Popen(command, cwd=ROOT, env=slow, stderr=subprocess.PIPE, text=True)
    first = tmp_path / "out" / ".work" / "block-001.json"
    _wait(first.exists, 40)
    others = psutil.Process(process.pid).children(recursive=True)
    assert len(others) == 1
    process.send_signal(signal_)
    _, stderr = process.communicate(timeout=20)
    _wait(lambda: not any(other.is_running() and other.status() != psutil.STATUS_ZOMBIE for other in others), 5)
    assert process.returncode != 0
    assert stderr.count("Traceback") == (signal_ == signal.SIGINT), "the other process says nothing of its own"
    written = first.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "close", lambda self: None)
        resumed = run(source, tmp_path / "out").checkpoint
    assert first.stat().st_mtime_ns == written
    assert not list(first.parent.glob("planes-*"))
    assert {name: value for name, value in digests(resumed).items() if ".work" not in name} == digests(whole)


def _wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def _children():
    return [child for child in psutil.Process().children() if "compress.stages.pack.workers" in child.cmdline()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_weight_is_named_wherever_it_is_read(workers, tmp_path, request):
    if workers > 1:
        request.getfixturevalue("others_only")
    source = save_tiny(tmp_path / "model")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"^model\.layers\.1\.mlp\.up_proj: its weight holds NaN.*Download") as error:
        run(source, tmp_path / "out", workers=workers)
    assert error.value.layer == "model.layers.1.mlp.up_proj" and not _children()
    assert (tmp_path / "out" / ".work" / "block-001.json").exists() or workers > 1


def test_a_process_that_dies_is_named_with_its_layer(tmp_path, fake, monkeypatch, others_only):
    monkeypatch.setenv(fake_method.WHAT, "dies")
    with pytest.raises(MemoryLimitError, match=r"layers\.0\.self_attn\.q_proj: .*was killed.*Lower --workers"):
        run(save_tiny(tmp_path / "model"), tmp_path / "out", workers=2)
    assert not _children()


def test_a_job_is_the_same_after_its_way_through_json(tmp_path):
    source = ModelSource.open(save_tiny(tmp_path / "model", "mixtral"))
    walker, config = BlockWalker(source), registry.configure("spqr", {"threshold": float("inf")})
    linears_ = tuple(walker.stored(ref) for ref in walker.linears(0))
    job = jobs.Job(linears_, "compress.methods.spqr", (config,) * len(linears_), tmp_path / "planes.safetensors")
    line = job.to_json()
    assert "\n" not in line and jobs.Job.from_json(line) == job


def test_the_package_uses_no_pickle():
    for path in (ROOT / "compress").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "multiprocessing"} & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                assert node.attr not in ("load", "save"), path


class OwnError(ModelError):
    """An error of a method that is not part of this package."""


@pytest.mark.parametrize("kind", [MemoryLimitError, OwnError])
def test_an_error_of_a_worker_is_the_same_error_here(kind):
    answer = {"error": workers._error(kind("given", allowed="allowed", do="Do", layer="layer"))}
    with pytest.raises(MemoryLimitError if kind is MemoryLimitError else ModelError) as error:
        workers._entries(json.loads(json.dumps(answer)))
    assert str(error.value) == str(kind("given", allowed="allowed", do="Do", layer="layer"))


def test_a_mistake_in_a_method_keeps_its_place(tmp_path, fake, monkeypatch, others_only):
    monkeypatch.setenv(fake_method.WHAT, "fails")
    with pytest.raises(RuntimeError, match=r"(?s)fake_method.py.*ZeroDivisionError: a mistake in the method"):
        run(save_tiny(tmp_path / "model"), tmp_path / "out", workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_linears_that_share_an_input_are_decided_together(workers, tmp_path, fake):
    result = run(save_tiny(tmp_path / "model", "mixtral"), tmp_path / "out", workers=workers)
    bits = {name: entry["scheme"]["bits"] for name, entry in result.manifest["tensors"].items() if ".layers.1." in name}
    sizes = {"q_proj": 3, "k_proj": 3, "v_proj": 3, "o_proj": 1, "q_gate_up_proj": 4, "q_down_proj": 4}
    assert len(bits) == 4 + 8
    for name, found in bits.items():
        assert found == 2 + next(size for part, size in sizes.items() if f".{part}" in name), name


@pytest.mark.parametrize(("method", "options"), [("spqr", {}), ("rtn", {"tune": "block"})])
def test_workers_are_refused_where_blocks_depend_on_each_other(method, options, tmp_path):
    with pytest.raises(RecipeError, match=r"workers=4 with .*Allowed: workers=1, or .*easyquant.*Leave --workers out"):
        run(save_tiny(tmp_path / "model"), tmp_path / "out", method, workers=4, **options)
    assert not (tmp_path / "out").exists()


def test_a_ceiling_counts_all_processes(tmp_path):
    given = {"base_bytes": 400 << 20, "largest": 1 << 24, "converted_bytes": 0, "block_bytes": 240 << 20,
             "tensor_bytes": 500 << 20}  # fmt: skip
    one, four = (memory.plan_streaming(limit=None, workers=workers, **given).peak_bytes for workers in (1, 4))
    assert four > one + 3 * (200 << 20)
    assert memory.plan_streaming(limit=one, workers=1, **given).peak_bytes == one
    with pytest.raises(MemoryLimitError, match=r"with 4 processes.*--workers 2"):
        memory.plan_streaming(limit=1500 * 10**6, workers=4, **given)
    with pytest.raises(MemoryLimitError, match=r"1 process, .*Raise --max-memory"):
        memory.plan_streaming(limit=300 << 20, workers=1, **given)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert resident_bytes([sleeper.pid]) > resident_bytes()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert resident_bytes([sleeper.pid]) > 0, "one that has ended counts nothing"


def test_the_ceiling_is_enforced_while_it_streams(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "plan_streaming", lambda **_: memory.MemoryPlan(1, 1, 1))
    monkeypatch.setattr(phases, "check_ahead", lambda *_: None)
    with pytest.raises(CompressError, match=r"embed_tokens.*resident memory reached"):
        run(save_tiny(tmp_path / "model"), tmp_path / "out", max_memory="10MB")
