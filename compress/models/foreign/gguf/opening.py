"""Opens GGUF files: which folder or file is one, its tensors, its configuration and tokenizer as files of a folder.

The package `gguf` reads the header, transformers makes configuration and tokenizer of it. Both are kept in the cache,
in a folder that names the file; the weights stay where they are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import kept_files
from compress.errors import ModelError, translated
from compress.format.manifest import CONFIG
from compress.models.foreign.gguf.header import MAGIC, Header

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_KIND = "gguf"
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_LLAMA3 = (8.0, 32.0)
"""Factors with which Llama 3.1 and 3.2 stretch their rotary embedding."""


def file_of(path: Path) -> Path | None:
    """Returns the GGUF file that `path` is, or the only one in a folder without other weights; None for no GGUF.

    Raises:
        ModelError: it is one part of several, or the folder holds several files.
    """
    if path.is_file():
        if path.suffix.lower() != ".gguf" and not _has_magic(path):
            return None
        return _checked(path)
    if any(path.glob("*.safetensors")):
        return None
    files = sorted(file for file in path.glob("*.gguf") if not file.name.startswith("mmproj"))
    if len(files) > 1 and not _PART.search(files[0].name):
        names = ", ".join(file.name for file in files)
        raise ModelError(f"{path} holds several GGUF files: {names}", do="Give one of them: the path of the file")
    return _checked(files[0]) if files else None


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def _checked(path: Path) -> Path:
    if (part := _PART.search(path.name)) and int(part[1]) > 1:
        raise ModelError(
            f"{path} is one of {part[1].lstrip('0')} parts of a model",
            do="Join them with `llama-gguf-split --merge FIRST_PART ONE_FILE.gguf`, and give the one file",
        )
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"the package gguf, which reads {path.name}, is not installed",
            do='Install it with `pip install "compress-llm[gguf]"`',
        )
    return path


def prepared(file: Path) -> Path:
    """Returns a folder with the configuration and the tokenizer of a GGUF file; made once, and kept in the cache.

    Raises:
        ModelError: the file is damaged, or transformers does not know its architecture.
    """
    file = file.resolve()
    state = file.stat()
    key = hashlib.sha256(json.dumps([str(file), state.st_size, state.st_mtime_ns]).encode()).hexdigest()[:32]
    place = kept_files.folder(_KIND) / key
    if not (place / CONFIG).is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(suffix=".partial", dir=place.parent) as work:
            made = Path(work) / "folder"
            made.mkdir()
            _write(file, made)
            try:
                made.rename(place)
            except OSError:  # another process was faster
                if not (place / CONFIG).is_file():
                    raise
    return place


def named_in(folder: Path, raw: Mapping[str, Any]) -> Path | None:
    """Returns the GGUF file of a folder that `prepared` made, whose config.json holds `raw`; None for any other.

    Raises:
        ModelError: the file is not there any more.
    """
    if folder.parent != kept_files.folder(_KIND):
        return None
    file = Path(str(dict(raw.get("quantization_config") or {}).get("file")))
    if not file.is_file():
        raise ModelError(f"the GGUF file {file} is not there any more", do="Give the path of the file")
    return file


def _write(file: Path, folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    from compress.models.foreign.gguf.reader import GgufFiles
    from compress.progress import without_library_bars

    header = Header(file)
    GgufFiles(file, None)  # a file that ends early is refused before transformers reads it
    with (
        without_library_bars(),
        translated(
            f"transformers cannot read the configuration of {file.name} (architecture {header.architecture})",
            do="Give a folder that holds the GGUF file beside config.json and the tokenizer of the original model",
        ),
    ):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        tokenizer = None
        if "tokenizer.ggml.model" in header.values:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    width = header.values.get(f"{header.architecture}.attention.key_length")
    if width is not None and getattr(config, "head_dim", width) != width:
        config.head_dim = width  # transformers leaves it out
    settle_rotation(config, header, file)
    config.architectures = None
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    raw["quantization_config"] = {"quant_method": "gguf", "file": str(file)}
    (folder / CONFIG).write_text(json.dumps(raw, indent=2), encoding="utf-8")


def settle_rotation(config: PreTrainedConfig, header: Header, file: Path) -> None:
    """Puts the stretching of the rotary embedding into the configuration, which transformers leaves out.

    Raises:
        ModelError: it is none that can be told from the file.
    """
    cure = "Give a folder that holds the GGUF file beside config.json and the tokenizer of the original model"
    kind = header.values.get(f"{header.architecture}.rope.scaling.type")
    if kind not in (None, "none"):
        raise ModelError(f"{file.name} stretches its rotary embedding ({kind}), which is not read", do=cure)
    if "rope_freqs.weight" not in header.tensors:
        return
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    wanted = torch.frombuffer(bytearray(header.read("rope_freqs.weight")), dtype=torch.float32)
    base = dict(getattr(config, "rope_parameters", None) or {})
    plain = ROPE_INIT_FUNCTIONS["llama3"]
    for factor in _LLAMA3:
        stretched = base | {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }  # fmt: skip
        config.rope_parameters = stretched
        frequencies = plain(config, torch.device("cpu"))[0]
        theta = float(stretched["rope_theta"])
        unscaled = 1.0 / theta ** (torch.arange(0, 2 * len(frequencies), 2).float() / (2 * len(frequencies)))
        if len(wanted) == len(frequencies) and torch.allclose(unscaled / frequencies, wanted, rtol=1e-4):
            return
    raise ModelError(f"{file.name} stretches its rotary embedding in a way that is not known here", do=cure)
