"""transformers without this package must not load a packed folder as a model with random weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

from tests.support.packed_checkpoints import Packed

STOCK = """
import json, sys
from transformers import AutoModelForCausalLM
outcome = {}
for folder in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(folder)
        outcome[folder] = "loaded"
    except Exception as error:
        outcome[folder] = type(error).__name__
assert not any(name.split(".")[0] == "compress" for name in sys.modules)
print(json.dumps(outcome))
"""


def test_stock_transformers_stops_on_the_shapes(make: Callable[..., Packed]) -> None:
    built = [make("llama"), make("llama-tied"), make("qwen2"), make("gpt2"), make("mixtral"), make("qwen3-moe")]
    # only experts packed: their planes have names that no dense model knows, so the guards must do it
    built += [
        make("mixtral", skip="self_attn"),
        make("mixtral", skip="self_attn|gate_up"),
        make("llama", skip="[qk]_proj"),
    ]
    built += [make(kind, skip="self_attn|attention|q_proj|shared") for kind in ("gpt-oss", "jetmoe", "dbrx")]
    folders = [str(packed.folder) for packed in built]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, *folders],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == dict.fromkeys(folders, "RuntimeError")
