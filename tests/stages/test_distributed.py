"""Two processes on the CPU train a stage together and give what one process gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compress.errors import RecipeError
from compress.stages import distributed
from tests.support.models import save_tiny, save_tokens

RECIPE = """
suite = "none"
[calibration]
source = "{folder}/tokens.safetensors"
samples = 12
seq_len = 16
[[stage]]
method = "llm_pruner"
ratio = 0.05
multiple = 1
[[stage]]
method = "distill"
steps = 4
batch = 4
"""


def run(folder: Path, output: str, *launcher: str) -> Path:
    (folder / f"{output}-ranks").mkdir()
    command = [sys.executable, *launcher, "-m", "tests.support.launched", str(folder / f"{output}-ranks"), "run"]
    command += ["--recipe", str(folder / "recipe.toml"), "--model", str(folder / "model"), "--device", "cpu"]
    command += ["--output", str(folder / output), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    start = done.stdout.index("{")
    assert json.JSONDecoder().raw_decode(done.stdout[start:])[0]["checkpoint"] == str(folder / output)
    assert done.stdout.count('"checkpoint"') == 1, "one process says it all"
    return folder / output


@pytest.mark.timeout(600)
def test_two_processes_make_the_checkpoint_of_one(tmp_path):
    save_tokens(tmp_path)
    save_tiny(tmp_path / "model", "llama")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(folder=tmp_path))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    one, two = run(tmp_path, "one"), run(tmp_path, "two", *launcher)
    ranks = {path.name: path.read_text() for path in (tmp_path / "two-ranks").iterdir()}
    assert ranks == {"rank0.txt": "2 cpu", "rank1.txt": "2 cpu"}, "they trained together"
    for path in sorted(one.glob("*.safetensors")):
        expected, found = load_file(path), load_file(two / path.name)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_one_numbered_device_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"device='cuda:1' with 2 processes.*Allowed: cuda, cpu"):
        distributed.start(torch.device("cuda:1"))
