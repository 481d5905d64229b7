"""Loads a compressed folder and checks it (`load`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compress import devices
from compress.errors import FormatError, translated
from compress.format.manifest import CONFIG, MANIFEST, QUANT_METHOD
from compress.format.reader import open_checkpoint
from compress.json_files import read_object
from compress.models.folder.generation import check_generation_config
from compress.models.load_dense import NO_ADAPTER
from compress.progress import without_library_bars
from compress.runtime import dense_tensors, head, skeleton

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    verify: bool = True,
    keep_prepared: bool | None = None,
) -> PreTrainedModel:
    """Returns the model in `folder`, in evaluation mode, its linears packed.

    Its attention stays the one that transformers chose. With `sdpa`, single tokens with grouped queries are computed
    faster on the CPU, by a function that `compress.runtime.attention` describes.

    Args:
        folder: output folder of `compress run`, or of `save_pretrained` of a loaded model.
        dtype: dtype of the dense tensors and the arithmetic; None takes the config's. The planes keep their dtypes.
        device: device of the model, also as a text: `auto`, `cpu`, `cuda[:N]`, `xpu` or `mps`.
        verify: read every shard once and compare its sha256 with the manifest; `save_pretrained` writes no manifest.
        keep_prepared: True keeps each weight in the kernel's form after its first use (with the reference kernel: the
            memory of the dense model beside the packed one); False makes it at every call; None keeps what is about
            as small as the planes, a dense head of 64 MiB or more, and up to 1 GiB of decoded weights.

    Raises:
        FormatError: the folder is damaged, incomplete, newer than this package or not one of ours.
        RecipeError: torch cannot use the device that the text names.
    """
    target = devices.resolve(device) if isinstance(device, str) else device
    folder = Path(folder)
    if (folder / MANIFEST).is_file() or not saved_by_transformers(folder):
        checkpoint = open_checkpoint(folder)
        if verify:
            checkpoint.verify()
        stored = checkpoint.dtypes
        model, report = _from_pretrained(folder, dtype)
    else:
        model, report = _from_pretrained(folder, dtype)
        stored = dense_tensors.stored_dtypes(folder)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, report.get(kind, ()))):
            shown = ", ".join(keys[:3]) + (" …" if len(keys) > 3 else "")
            raise FormatError(
                f"{folder}: {kind.replace('_', ' ')}: {shown}", do="Copy the folder again, or compress again"
            )
    dense_tensors.check_dense(model, stored)
    model = model.to(target).eval()
    skeleton.keep_prepared(model, keep_prepared)
    head.keep_tiles(model, keep_prepared is not False)
    return model


def _from_pretrained(folder: Path, dtype: torch.dtype | None) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoConfig

    from compress.models.auto_class import auto_class
    from compress.runtime import hf

    hf.register()
    check_generation_config(folder, error=FormatError)
    with (
        without_library_bars(),
        translated(
            f"transformers cannot load {folder}", kind=FormatError, do="Copy the folder again, or compress again"
        ),
    ):
        model, report = auto_class(AutoConfig.from_pretrained(folder, trust_remote_code=False)).from_pretrained(
            folder,
            dtype="auto" if dtype is None else dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            adapter_kwargs=dict(NO_ADAPTER),
        )
    return model, report


def saved_by_transformers(folder: Path) -> bool:
    """Returns whether `save_pretrained` of one of our models wrote the folder: it states the schemes in config.json."""
    if not (folder / CONFIG).is_file():
        return False
    quantization = read_object(folder / CONFIG).get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD
