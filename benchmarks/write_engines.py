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
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _environments import python_of
from _names import slug

import compress
from compress.errors import CompressError
from compress.exports import plan
from compress.exports.target import TARGETS

HERE = Path(__file__).parent / "engines"
DOCUMENT = Path(__file__).parents[1] / "docs" / "ENGINES.md"
ENVIRONMENTS: dict[str, list[str]] = {
    "transformers": ["torch==2.13.0", "transformers==5.23.0", "accelerate", "compressed-tensors==0.20.1"],
    "mlx-lm": ["mlx==0.32.4", "mlx-cpu==0.32.4", "mlx-lm==0.32.2"],
    "onnxruntime-genai": ["torch==2.13.0", "transformers>=5.17,<5.24", "onnx", "onnx-ir", "onnxruntime==1.32.0",
                          "onnxruntime-genai==0.18.0"],
    "aqlm": ["torch==2.13.0", "transformers==5.23.0", "accelerate", "numba", "scipy", "setuptools", "aqlm==1.1.7"],
}  # fmt: skip
SCRIPTS = {
    "transformers": "transformers_reader.py", "mlx-lm": "mlx_reader.py", "onnxruntime-genai": "onnx_reader.py",
    "aqlm": "transformers_reader.py",
}  # fmt: skip
PROMPTS = (
    "The capital of France is", "Water boils at a temperature of", "In 1969, the first human", "def fibonacci(n):",
    "Dear Sir or Madam,", "The three primary colours are", "To make bread you need flour,", "Once upon a time, there",
    "The speed of light is about", "My favourite book is",
)  # fmt: skip
TOKENS = 16
ONE_THREAD = {"NUMBA_NUM_THREADS": "1"}
"""aqlm 1.1.7 adds to one vector from all of numba's threads at once: with two of them its logits are wrong."""

Options = dict[str, Any]
ENDS: Options = {"embedding_bits": None, "head_bits": None}
CHECKPOINTS: dict[str, Options] = {
    "rtn, 4 bits, groups of 64": {"method": "rtn", "bits": 4, "group_size": 64, **ENDS},
    "rtn, 4 bits, zero points": {"method": "rtn", "bits": 4, "group_size": 64, "symmetric": False, **ENDS},
    "rtn, 3 bits, groups of 32": {"method": "rtn", "bits": 3, "group_size": 32, **ENDS},
    "rtn, 8 bits, whole rows": {"method": "rtn", "bits": 8, "group_size": -1, **ENDS},
    "rtn, 4 bits, embedding 8 bits": {"method": "rtn", "bits": 4, "group_size": 64},
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

    @property
    def slug(self) -> str:
        """Name of the case's files."""
        return slug(f"{self.checkpoint} {self.target} {self.engine}")


_INTEGERS = list(CHECKPOINTS)[:4]
CASES = (
    *(Case(name, "compressed-tensors", "transformers") for name in _INTEGERS),
    *(Case(name, "mlx", "mlx-lm") for name in list(CHECKPOINTS)[:5]),
    Case(_INTEGERS[0], "gptq", "onnxruntime-genai"),
    *(Case(name, "awq", "onnxruntime-genai") for name in _INTEGERS[:2]),
    Case("aqlm 2×8, two blocks", "aqlm", "aqlm"),
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
    DOCUMENT.write_text(document(work))
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

    def export(self, name: str, target: str) -> Path:
        """Returns the export of a checkpoint, which is made the first time."""
        folder = self.output / slug(f"{name} {target}")
        return folder if folder.exists() else compress.export(self.checkpoint(name), target, folder)

    def measured(self, case: Case) -> dict[str, Any]:
        """Returns the case's figures: those kept, or measured now."""
        if (figures := self.known(case)) is None:
            ours = self._read(case.checkpoint, "dense", "transformers")
            found = self._read(case.checkpoint, case.target, case.engine)
            figures = {
                "relative": float(np.linalg.norm(found["logits"] - ours["logits"]) / np.linalg.norm(ours["logits"])),
                "same_answers": int((found["answers"] == ours["answers"]).all(1).sum()),
            }
            self._kept(case).write_text(json.dumps(figures))
        return figures

    def known(self, case: Case) -> dict[str, Any] | None:
        """Returns the figures that are kept, if there are any."""
        kept = self._kept(case)
        return json.loads(kept.read_text()) if kept.exists() else None

    def _kept(self, case: Case) -> Path:
        return self.output / f"{case.slug}.json"

    def _read(self, name: str, target: str, engine: str) -> dict[str, np.ndarray]:
        """Returns logits and answers of an export in an engine."""
        result = self.output / f"{slug(f'{name} {target} {engine}')}.npz"
        if not result.exists():
            folder = self.export(name, target)
            asked = self.output / "prompts.json"
            asked.write_text(json.dumps({"prompts": self._prompts(folder), "tokens": TOKENS}))
            python = python_of(self.output / "environments", engine, ENVIRONMENTS[engine])
            subprocess.run(
                [str(python), str(HERE / SCRIPTS[engine]), str(folder), str(asked), str(result)],
                check=True,
                env={**os.environ, **ONE_THREAD},
            )
        with np.load(result) as stored:
            return {key: stored[key] for key in ("logits", "answers")}

    def _prompts(self, folder: Path) -> list[list[int]]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


HEAD = """# Engines

Exports of SmolLM2-135M-Instruct, loaded by the engines themselves on a CPU. Written by
`python benchmarks/write_engines.py`.

**Difference** is ‖a − b‖ / ‖b‖ over all logits of a prompt: a from the engine, b from transformers in float32 on the
decoded weights of our checkpoint (`--to dense`). **Same answers**: of ten prompts, continued greedily by {tokens}
tokens. All engines compute in float32 here.

| checkpoint | `--to` | engine | difference | same answers |
| :-- | :-- | :-- | --: | --: |
"""
MATRIX = """
With zero points transformers decodes compressed-tensors while it loads, into the dtype of the scales, float16;
`--scale-dtype float32` gives the very weights there. The kernel of aqlm 1.1.7 for CPUs adds up in several threads
without a lock: its products are right with `NUMBA_NUM_THREADS=1`, as here, and wrong by 12 to 17 % with two threads.

## What goes where

`lossless`: codes, scales and codebooks are copied. Otherwise what the target cannot hold; `--allow-dense` stores that
decoded.

"""
MISSING = """
## Not run

- **vLLM, SGLang**: their formats are written (compressed-tensors, GPTQ, AWQ), and tests decode the bytes, but the
  engines were not run.
- **llama.cpp**: GGUF is not written.
- **GPUs**: none of the engines ran on one. Kernels for GPUs compute in float16 or bfloat16, and differ by that.
"""


def document(work: Work) -> str:
    """Returns docs/ENGINES.md."""
    text = HEAD.format(tokens=TOKENS)
    for case in CASES:
        figures = work.known(case)
        measured = "not run | –" if figures is None else f"{figures['relative']:.1e} | {figures['same_answers']} of 10"
        text += f"| {case.checkpoint} | {case.target} | {_version(case.engine)} | {measured} |\n"
    text += MATRIX + "| checkpoint | " + " | ".join(TARGETS) + " |\n| :-- |" + " :-- |" * len(TARGETS) + "\n"
    for name in CHECKPOINTS:
        folder = work.output / slug(name)
        if (folder / "compress.json").exists():
            text += f"| {name} | " + " | ".join(_verdict(folder, target) for target in TARGETS) + " |\n"
    return text + MISSING


def _verdict(folder: Path, target: str) -> str:
    try:
        plan.make(folder, target, allow_dense=False, dense_dtype="float32")
    except CompressError as error:
        return error.given
    return "decoded, float32" if target == "dense" else "lossless"


def _version(engine: str) -> str:
    packages = ENVIRONMENTS[engine]
    shown = [one for one in packages if one.startswith(("transformers==", "compressed", "mlx", "onnxruntime", "aqlm"))]
    return ", ".join(one.replace("==", " ") for one in shown)


if __name__ == "__main__":
    main()
