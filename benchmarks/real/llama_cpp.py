"""Quantises a Llama folder with llama.cpp's own quantiser, and reads the file back as a dense model.

    python llama_cpp.py MODEL TOKENS OUTPUT '{"type": "Q3_K_M", "library": "FOLDER", "gguf": "FILE"}'

`library` is the folder with libllama (the npm package @node-llama-cpp/linux-x64 ships it), `gguf` a file of the same
model from which metadata and tokenizer are taken; all matrices are replaced by those of MODEL, in bfloat16. With
`"imatrix": true` the mean squares of the inputs on TOKENS are given to the quantiser, as llama.cpp's imatrix does.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from gguf.quants import quantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

FILE_TYPES = {
    "Q4_0": 2, "Q8_0": 7, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q4_K_S": 14, "Q4_K_M": 15, "IQ2_XXS": 19,
    "IQ2_XS": 20, "IQ3_XS": 22, "IQ3_XXS": 23, "IQ4_NL": 25, "IQ3_M": 27, "IQ2_M": 29, "IQ4_XS": 30,
}  # fmt: skip
"""Numbers of `enum llama_ftype` in llama.h."""


class Imatrix(ctypes.Structure):
    """`struct llama_model_imatrix_data`."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t))


class Settings(ctypes.Structure):
    """`struct llama_model_quantize_params` of llama.cpp of 2026."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("threads", "file_type", "output_type", "embedding_type")),
        *((name, ctypes.c_bool) for name in ("requantise", "quantise_output", "copy", "pure", "split", "dry_run")),
        ("imatrix", ctypes.POINTER(Imatrix)),
        *((name, ctypes.c_void_p) for name in ("overrides", "types", "prune")),
    )


def main(model: str, tokens: str, output: str, text: str) -> None:
    """Writes `stored/model.gguf` and the dense model `dense` into the output folder."""
    options, target = json.loads(text), Path(output)
    (target / "stored").mkdir(parents=True, exist_ok=True)
    whole, stored = target / "whole.gguf", target / "stored" / "model.gguf"
    names = write_whole(Path(model), Path(options["gguf"]), whole)
    imatrix = mean_squares(model, tokens, names) if options.get("imatrix") else {}
    quantise(Path(options["library"]), whole, stored, FILE_TYPES[options["type"]], imatrix)
    whole.unlink()
    read_back(stored, target / "dense")


def write_whole(model: Path, origin: Path, target: Path) -> dict[str, str]:
    """Writes the model as bfloat16 GGUF with the metadata of `origin`; returns the matrices' HF name by GGUF name."""
    reader = gguf.GGUFReader(origin)
    weights = load_file(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    hf_names = {table.get_name(name, try_suffixes=(".weight",)): name for name in weights}
    writer = gguf.GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        value = weights[hf_names[tensor.name]].float()
        part = hf_names[tensor.name].split(".")[-2]
        if part in heads:  # llama.cpp keeps the two halves of each rotated head interleaved
            value = value.view(heads[part], 2, -1, value.shape[-1]).transpose(1, 2).reshape(value.shape)
        if value.dim() == 1:
            writer.add_tensor(tensor.name, value.numpy())
        else:
            raw = quantize(value.numpy(), gguf.GGMLQuantizationType.BF16)
            writer.add_tensor(tensor.name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return {gguf_name: hf_name for gguf_name, hf_name in hf_names.items() if weights[hf_name].dim() == 2}


@torch.no_grad()
def mean_squares(model: str, tokens: str, names: dict[str, str]) -> dict[str, numpy.ndarray[Any, Any]]:
    """Returns the mean square of every input channel of every linear on the tokens, by GGUF name."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    sums: dict[str, torch.Tensor] = {}
    tokens_ST = load_file(tokens)["tokens"]
    for name, module in loaded.named_modules():
        if isinstance(module, torch.nn.Linear):

            def add(_: Any, args: tuple[torch.Tensor, ...], name: str = f"{name}.weight") -> None:
                sums[name] = sums.get(name, torch.zeros(())) + args[0].float().square().flatten(0, -2).sum(0)

            module.register_forward_pre_hook(add)
    for row_T in tokens_ST:
        loaded.model(input_ids=row_T[None].long())
    return {gguf_name: (sums[name] / tokens_ST.numel()).numpy() for gguf_name, name in names.items() if name in sums}


def quantise(
    folder: Path, source: Path, target: Path, file_type: int, imatrix: dict[str, numpy.ndarray[Any, Any]]
) -> None:
    """Calls `llama_model_quantize` with its default settings for the file type."""
    for name in ("libggml-base", "libggml.", "libllama."):
        library = ctypes.CDLL(str(next(folder.glob(f"{name}*so"))), mode=ctypes.RTLD_GLOBAL)
    library.llama_model_quantize_default_params.restype = Settings
    library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Settings)]
    settings = library.llama_model_quantize_default_params()
    assert settings.quantise_output and not settings.dry_run and not settings.imatrix, "the struct has other fields"
    settings.threads, settings.file_type = len(os.sched_getaffinity(0)), file_type
    kept = [numpy.ascontiguousarray(value, dtype=numpy.float32) for value in imatrix.values()]
    rows = [
        Imatrix(name.encode(), value.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), value.size)
        for name, value in zip(imatrix, kept, strict=True)
    ]
    if rows:
        settings.imatrix = (Imatrix * (len(rows) + 1))(*rows, Imatrix(None, None, 0))
    if library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)):
        raise RuntimeError(f"llama.cpp could not quantise {source}")


def read_back(stored: Path, target: Path) -> None:
    """Writes the quantised file as a dense float32 model folder."""
    where = {"pretrained_model_name_or_path": stored.parent, "gguf_file": stored.name}
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(**where).save_pretrained(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
