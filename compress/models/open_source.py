"""Finds a model, checks its folder and returns the parts of a ModelSource."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import ModelError
from compress.format.dtypes import TORCH_DTYPES
from compress.format.reader import open_checkpoint
from compress.models.folder import model_config, other_kinds
from compress.models.folder.generation import check_generation_config
from compress.models.folder.locate import locate
from compress.models.folder.safetensors_header import TensorEntry
from compress.models.folder.tensor_files import TensorFiles
from compress.models.folder.tensor_list import list_tensors
from compress.models.foreign import formats
from compress.models.foreign.weights import ForeignWeights
from compress.models.packed_source import PackedLinears

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class OpenedFolder:
    """A checked model folder."""

    path: Path
    name: str
    """What the model is called: the folder's own name, or the hub id."""
    config: PreTrainedConfig
    """The model's configuration without `quantization_config`."""
    tensors: Mapping[str, TensorEntry]
    """The model's tensors by name; packed linears appear as the dense weights that they decode to."""
    packed: PackedLinears | None
    """The packed linears of one of our checkpoints; None for any other folder."""
    foreign: ForeignWeights | None
    """The weights that another program quantised; None for any other folder."""
    warnings: tuple[str, ...]
    """What a user must know about the folder, for the manifest of what is made of it."""


def open_folder(model: str | Path, revision: str | None) -> OpenedFolder:
    """Returns the checked folder of `model`: `atlas`, a local folder, or a hub id at `revision`.

    Raises:
        ModelError, FormatError: the folder cannot be used; the cause and the cure are named.
    """
    path = locate(model, revision)
    # what is local goes by its own name: what is written about a model must not depend on where it lies
    given = Path(model).expanduser()
    name = given.resolve().name if given.exists() else str(model)
    other_kinds.refuse_folder(path)
    config, quantisation = model_config.read_config(path)
    of_gguf = quantisation is not None and quantisation.reader == formats.GGUF
    tensors = {} if of_gguf else list_tensors(path)
    check_generation_config(path, error=ModelError)
    packed = foreign = None
    warnings: list[str] = []
    if quantisation is not None:
        files: TensorFiles = TensorFiles(path, name, tensors)
        if of_gguf:
            from compress.models.foreign.gguf.reader import GgufFiles  # with the package gguf

            files = GgufFiles(Path(quantisation.settings["file"]), config)
        foreign = ForeignWeights(quantisation, files)
        tensors = foreign.shown()
        warnings += [f"the model was quantised before ({foreign.label}); here it means the decoded model"]
        warnings += foreign.warnings
    elif getattr(config, "quantization_config", None):
        packed = PackedLinears(open_checkpoint(path))
        tensors = packed.shown(tensors)
    if hasattr(config, "quantization_config"):  # an empty one describes nothing
        del config.quantization_config
    model_config.check_depth(config, len(tensors))
    _refuse_codes(tensors)
    if (note := other_kinds.adapter_note(path)) is not None:
        warnings.append(note)
    return OpenedFolder(path, name, config, tensors, packed, foreign, tuple(warnings))


def _refuse_codes(tensors: Mapping[str, TensorEntry]) -> None:
    """Raises ModelError for weights that are codes of a quantiser, or that lie beside an adapter not merged into them.

    config.json says nothing about either, and transformers would take the codes for weights.
    """
    for name, entry in tensors.items():
        if any(f".{part}" in name for part in _ADAPTER_PARTS):
            raise ModelError(
                f"the checkpoint holds the tensor {name}: a LoRA adapter that is not merged into its weights",
                do="Merge it and save the model again: model.merge_and_unload().save_pretrained(new_folder)",
            )
        if name.endswith((".weight", "_proj")) and is_code(entry.dtype):
            raise ModelError(
                f"its weight is stored as {entry.dtype}: codes of a quantised model, though config.json has no "
                "quantization_config",
                allowed="weights in float32, bfloat16 or float16",
                do="Dequantise the model (multiply by its scales) and save it again, or give the original model",
                layer=name.removesuffix(".weight"),
            )


_ADAPTER_PARTS = ("lora_A.", "lora_B.", "lora_embedding_", "lora_magnitude_vector", "base_layer.", "hada_w1_", "lokr_w",
                  "oft_r", "oft_R.", "ia3_l", "vera_lambda_", "boft_")  # fmt: skip


def is_code(dtype: str) -> bool:
    """Returns whether a weight of this safetensors dtype can only be the code of a quantised one."""
    torch_dtype = TORCH_DTYPES[dtype]
    return not torch_dtype.is_floating_point or torch_dtype.itemsize == 1
