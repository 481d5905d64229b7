"""Lists the files that belong beside the weights: tokenizer, processors, templates, generation settings, licence.

Names of tokenizer files cannot be listed in full (`qwen.tiktoken`, `source.spm`, `bpe.codes`, …). So every file is
taken except those known to be something else: weights in any format, states of a training run, results of this package.
"""

from __future__ import annotations

from pathlib import Path

from compress.format.manifest import CONFIG, MANIFEST
from compress.models.folder.remote_code import list_remote_code

CHAT_TEMPLATES = "additional_chat_templates"
"""Folder of further chat templates; the one subfolder that transformers reads beside remote code."""

WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".npz", ".npy", ".onnx",
    ".onnx_data", ".gguf", ".ggml", ".tflite", ".mlmodel", ".nemo", ".pb", ".ot", ".engine", ".llamafile",
    ".index.json",
)  # fmt: skip
_OTHER_SUFFIXES = (".py", ".partial", ".lock", ".parquet", ".arrow", ".zip", ".tar", ".gz", ".log", ".html")
_OTHER_PREFIXES = (
    ".",
    "adapter_",
    "optimizer",
    "scheduler",
    "rng_state",
    "random_states",
    "training_args",
    "events.out",
)
_NATIVE = "params.json"  # of weights in the form of Mistral's own code, which are left out
_OURS = (MANIFEST, f"{MANIFEST}.unproven", "README.md", "run.json", "eval.json", "speed.json", "gate.json",
         "frontier.json", "report.md", "report.json", "notes.md", "chat.json")  # fmt: skip
_QUANTISERS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", "quantization_config.json",
               "quant_log.csv")  # fmt: skip
_TRAINING = ("trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "latest")


def list_extra_files(folder: Path) -> dict[str, Path]:
    """Returns name (relative to `folder`, with forward slashes) -> file, in the order of the names.

    Links are followed: the hub's cache is made of them. Remote code is listed where a configuration points to it, with
    the modules that it imports relatively; none of it is run.
    """
    files = {path.name: path for path in folder.iterdir() if path.is_file() and _belongs(path.name)}
    for path in (folder / CHAT_TEMPLATES).glob("*.jinja"):
        files[f"{CHAT_TEMPLATES}/{path.name}"] = path
    files |= {name: folder / name for name in list_remote_code(folder)}
    return dict(sorted(files.items()))


def _belongs(name: str) -> bool:
    return not (
        name == CONFIG
        or name in (*_OURS, *_QUANTISERS, *_TRAINING, _NATIVE)
        or name.startswith(_OTHER_PREFIXES)
        or name.lower().endswith((*WEIGHT_SUFFIXES, *_OTHER_SUFFIXES))
    )
