"""Writes the section `Imports` of docs/ENGINES.md: other programs' checkpoints, decoded by their libraries and by us.

    pip install "compress-llm[gguf]"
    python benchmarks/write_imports.py [--only mlx] [--output runs/imports]

Each library gets an environment of its own under OUTPUT. Checkpoints are made by the library itself, or they are
exports of this package where it has no way to make one here. What is done is kept, also in
benchmarks/engines/imports/measured.json, so that the section can be written without measuring again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _imports
import torch
from _environments import python_of
from _names import slug
from safetensors.torch import load_file
from write_engines import DOCUMENT

import compress
from compress.models.folder import smollm2
from compress.models.source import ModelSource

HERE = Path(__file__).parent / "engines" / "imports"
BLOCKS = 3
_TORCH = ("torch==2.13.0", "transformers==5.23.0", "accelerate")
ENVIRONMENTS = {
    "gptqmodel": ("torch>=2.14.1,<2.15", "numpy", "setuptools>=77", "wheel", "optimum", "gptqmodel==7.7.0"),
    "bitsandbytes": (*_TORCH, "bitsandbytes==0.50.2"),
    "mlx": ("mlx==0.32.4", "mlx-cpu==0.32.4"),
    "aqlm": ("torch==2.13.0", "transformers==5.23.0", "accelerate", "numba", "scipy", "setuptools", "aqlm==1.1.7"),
    "compressed-tensors": (*_TORCH, "compressed-tensors==0.20.1"),
    "gguf": (*_TORCH, "gguf==0.19.0"),
}
TITLES = {
    "gptqmodel": "GPTQModel 7.7.0", "bitsandbytes": "bitsandbytes 0.50.2", "mlx": "mlx 0.32.4", "aqlm": "aqlm 1.1.7",
    "compressed-tensors": "compressed-tensors 0.20.1", "gguf": "transformers 5.23.0",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A checkpoint, and the library that decodes it."""

    name: str
    library: str
    kind: str
    """What the library's script is asked for."""
    export: tuple[str, dict[str, Any]] | None = None
    """Target and options of `compress.run` for a checkpoint that is an export; None: the library makes it."""

    @property
    def maker(self) -> str:
        """Who made the checkpoint."""
        if self.kind == "q4_1":
            return "llama.cpp"
        return "export" if self.export else TITLES[self.library]


_ENDS: dict[str, Any] = {"embedding_bits": None, "head_bits": None}
CASES = (
    Case("GPTQ, 4 bits", "gptqmodel", "gptq", ("gptq", {"method": "rtn", "bits": 4, "group_size": 64, **_ENDS})),
    Case("AWQ, 4 bits, zero points", "gptqmodel", "awq",
         ("awq", {"method": "rtn", "bits": 4, "group_size": 64, "symmetric": False, **_ENDS})),
    *(Case(f"compressed-tensors, {kind}", "compressed-tensors", kind) for kind in (
        "pack-quantized", "int-quantized", "float-quantized", "mxfp4-pack-quantized", "nvfp4-pack-quantized")),
    Case("bitsandbytes, LLM.int8", "bitsandbytes", "int8"),
    Case("bitsandbytes, NF4", "bitsandbytes", "nf4"),
    Case("bitsandbytes, NF4, nested", "bitsandbytes", "nf4-nested"),
    Case("bitsandbytes, FP4", "bitsandbytes", "fp4"),
    Case("MLX, affine, 4 bits", "mlx", "affine"),
    Case("MLX, affine, 4 bits, zero points", "mlx", "export",
         ("mlx", {"method": "rtn", "bits": 4, "group_size": 64, "symmetric": False, **_ENDS})),
    Case("AQLM, 2×8", "aqlm", "aqlm", ("aqlm", {
        "method": "aqlm", "codebooks": 2, "code_bits": 8, "samples": 4, "seq_len": 64, "rounds": 1,
        "calibration": "bundled", **_ENDS})),
    Case("GGUF, Q4_1 and Q8_0", "gguf", "q4_1"),
)  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--only", default="", help="part of the name of the cases to run")
    parser.add_argument("--output", type=Path, default=Path("runs/imports"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    known = json.loads(_imports.KEPT.read_text()) if _imports.KEPT.exists() else {}
    for case in CASES:
        if options.only in slug(case.name) and case.name not in known:
            known[case.name] = measured(case, options.model, options.output)
            print(f"{case.name}: {known[case.name]}", flush=True)
            ordered = {each.name: known[each.name] for each in CASES if each.name in known}
            _imports.KEPT.write_text(json.dumps(ordered, indent=1) + "\n")
    DOCUMENT.write_text(_imports.into(DOCUMENT.read_text()))
    print(f"written: {DOCUMENT}")


def measured(case: Case, model: str, output: Path) -> dict[str, Any]:
    """Returns the figures of a case."""
    source, folder = cut(model, output / "source"), checkpoint(case, model, output)
    weights = output / f"{slug(case.name)}.safetensors"
    python = python_of(output / "environments", case.library, ENVIRONMENTS[case.library])
    script = HERE / f"{case.library.replace('-', '_')}_peer.py"
    subprocess.run([str(python), str(script), case.kind, *map(str, (source, folder, weights))], check=True)
    opened, count, differ, worst = ModelSource.open(folder), 0, 0, 0.0
    for name, theirs in load_file(weights).items():
        ours = opened.read(f"{name}.weight").to(theirs.dtype).float()
        count, differ = count + ours.numel(), differ + int((ours != theirs.float()).sum())
        worst = max(worst, float((ours - theirs.float()).abs().max() / theirs.float().abs().max()))
        dtype = str(theirs.dtype).removeprefix("torch.")
    weights.unlink()
    return {
        "maker": case.maker, "library": TITLES[case.library], "dtype": dtype, "weights": count, "differ": differ,
        "worst": worst,
    }  # fmt: skip


def checkpoint(case: Case, model: str, output: Path) -> Path:
    """Returns the case's checkpoint; where its library makes it, a folder that does not exist at first."""
    folder = output / slug(case.name)
    if case.kind == "q4_1":
        folder.mkdir(exist_ok=True)
        return smollm2.weights(folder)
    if case.export is not None and not folder.exists():
        target, options = case.export
        ours = output / f"{slug(case.name)}-ours"
        compress.run(str(cut(model, output / "source")), suite="none", output=ours, **options)
        compress.export(ours, target, folder)
    return folder


def cut(model: str, folder: Path) -> Path:
    """Returns the model with its first blocks alone, which is made the first time."""
    from transformers import AutoModelForCausalLM

    if not folder.exists():
        opened = ModelSource.open(model)
        whole = AutoModelForCausalLM.from_pretrained(opened.path, dtype=torch.bfloat16)
        whole.model.layers = whole.model.layers[:BLOCKS]
        whole.config.num_hidden_layers = BLOCKS
        opened.tokenizer().save_pretrained(folder)
        whole.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
