"""Recognises the quantisation that a folder describes, by config.json alone: the reader of its format, or a refusal.

Nothing here needs torch: a folder that cannot be read is refused before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import ModelError
from compress.format.manifest import CONFIG, QUANT_METHOD
from compress.json_files import read_object
from compress.models.foreign.gguf import opening as gguf_file

_READERS = {
    "gptq": "gptq",
    "auto-round": "gptq",
    "awq": "awq",
    "compressed-tensors": "compressed_tensors",
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "mxfp4": "mxfp4",
    "bitsandbytes": "bitsandbytes",
    "aqlm": "aqlm",
    "mlx": "mlx",
}
"""Name in a configuration -> file of this package."""
GGUF = "gguf.reader"
"""File of this package that reads GGUF; `settings` hold the path as `file`."""
_ELSEWHERE = "Decode it with the program that made it and save the result in bfloat16, or give the original model"
_NOT_READ = {
    "hqq": "its zero points are fractions of a code",
    "quanto": "its weights are saved as objects of the library quanto",
    "torchao": "its weights are saved as objects of the library torchao",
    "exl2": "its codes lie in the order of one kernel of ExLlamaV2",
    "exl3": "its weights are trellis codes of ExLlamaV3",
    "spqr": "its codes lie in tiles of one CUDA kernel",
    "vptq": "its codes are those of vectors in a layout of its own",
    "higgs": "its codes are those of rotated vectors",
    "bitnet": "its weights have three values in a layout of its own",
    "eetq": "its codes lie in the order of one CUDA kernel",
    "quark": "its layouts differ from version to version",
}
"""Formats that are known and not read, and why."""
_BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
"""Files in which older programs wrote what config.json says today -> their format."""
_KEYS = ("quantization_config", "compression_config", "quantization")


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What a folder says of its quantisation."""

    reader: str
    """File of this package."""
    settings: Mapping[str, Any]
    """The description in the configuration."""
    label: str
    """What to call it: `gptq, 4 bits, groups of 128`."""
    where: str
    """Where the description stands: `quantization_config in config.json`."""


def of_folder(folder: Path, raw: Mapping[str, Any]) -> Quantisation | None:
    """Returns the quantisation of a folder whose config.json holds `raw`; None for a dense model or one of ours.

    Raises:
        ModelError: it is none that can be read.
    """
    if (file := gguf_file.named_in(folder, raw)) is not None:
        return Quantisation(GGUF, {"file": str(file)}, "gguf", file.name)
    described = list(_described(raw))
    for name, value in described:
        if isinstance(value, Mapping) and value.get("quant_method") == QUANT_METHOD:
            if name != "quantization_config":
                raise _refused(folder, f"{QUANT_METHOD}, in {name} of {CONFIG}", "it stands in another place there")
            return None
    for name, value in described:
        if isinstance(value, Mapping):
            return _read_by(folder, _method(name, value), value, f"{name} in {CONFIG}")
        raise _refused(folder, "unknown", f"{name} in {CONFIG} is no table")
    if (file := gguf_file.file_of(folder)) is not None:
        return Quantisation(GGUF, {"file": str(file)}, "gguf", file.name)
    for name, method in _BESIDE.items():
        if (folder / name).is_file():
            settings = read_object(folder / name, error=ModelError, do="Download it again")
            return _read_by(folder, method, settings, name)
    return None


def clear(config: Any) -> None:
    """Removes what describes a quantisation from a configuration of transformers and from those of its parts."""
    for part in (config, *(value for name, value in vars(config).items() if name.endswith("_config"))):
        for name in _KEYS:
            if not isinstance(part, Mapping) and hasattr(part, name):
                delattr(part, name)


def without_description(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of config.json without what describes a quantisation, also in the configurations of parts."""
    kept = {name: value for name, value in raw.items() if name not in _KEYS}
    return {
        name: {key: each for key, each in value.items() if key not in _KEYS[:2]}
        if name.endswith("_config") and isinstance(value, dict)
        else value
        for name, value in kept.items()
    }


def _described(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every non-empty description of a quantisation, at the top and in the configurations of parts."""
    for name in _KEYS if not prefix else _KEYS[:2]:
        if raw.get(name):
            yield prefix + name, raw[name]
    for name, value in raw.items():
        if name.endswith("_config") and name not in _KEYS and isinstance(value, dict) and not prefix:
            yield from _described(value, f"{name}.")


def _method(name: str, settings: Mapping[str, Any]) -> str:
    """Returns the format's name; older folders leave it out where the key says enough."""
    if "quant_method" in settings:
        return str(settings["quant_method"])
    if name.endswith("compression_config") or "config_groups" in settings:
        return "compressed-tensors"
    return "mlx" if "group_size" in settings and "bits" in settings else "unknown"


def _read_by(folder: Path, method: str, settings: Mapping[str, Any], where: str) -> Quantisation:
    if method not in _READERS:
        raise _refused(folder, method, _NOT_READ.get(method), where)
    reader = _READERS[method]
    if method == "auto-round" and "awq" in str(settings.get("packing_format")):
        reader = "awq"
    return Quantisation(reader, settings, _label(method, settings), where)


def _label(method: str, settings: Mapping[str, Any]) -> str:
    bits, group = settings.get("bits", settings.get("w_bit")), settings.get("group_size", settings.get("q_group_size"))
    parts = [method]
    parts += [f"{bits} bits"] if isinstance(bits, int) else []
    parts += [f"groups of {group}"] if isinstance(group, int) and group > 0 else []
    return ", ".join(parts)


def _refused(folder: Path, method: str, reason: str | None, where: str | None = None) -> ModelError:
    why = f": {reason}" if reason else ""
    says = f", says {where}" if where else ""
    return ModelError(
        f"{folder} is already quantised ({method}){says}, and this format is not read{why}",
        allowed=f"float32, bfloat16, float16, or {', '.join(sorted(_READERS))}",
        do=_ELSEWHERE,
    )
