"""Opens models for evaluation: atlas, a folder (dense or packed), a hub id, or a loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from compress.errors import EvaluationError
from compress.evaluation.fitting import room_of
from compress.format.manifest import MANIFEST, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compress.models.source import ModelSource

    Model: TypeAlias = str | Path | ModelSource | PreTrainedModel
    """`atlas`, a folder, a hub id, an opened source, or a loaded model."""


@dataclass(frozen=True)
class Subject:
    """A loaded model with its tokenizer and its name in eval.json."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    kind: str
    """`dense` or `compressed`."""
    fingerprint: str | None
    """None for a model in memory, and for a folder that `save_pretrained` wrote from a packed model."""

    @property
    def room(self) -> int:
        """The longest input in tokens."""
        return room_of(self.model)

    def description(self) -> dict[str, Any]:
        """Returns the entry `model` of eval.json."""
        return {
            "name": self.name,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }


def open_subject(model: Model, tokenizer: PreTrainedTokenizerBase | None = None) -> Subject:
    """Returns the model with its tokenizer, in fp32; a model that is already loaded keeps its dtype."""
    from compress.models.source import ModelSource
    from compress.runtime.loading import saved_by_transformers

    if isinstance(model, ModelSource):
        stock = not model.unpacked and model.structure is None
        return _dense(model, tokenizer) if stock else _compressed(model.path, tokenizer)
    if isinstance(model, str | Path):
        folder = Path(model)
        is_ours = (folder / MANIFEST).is_file() or saved_by_transformers(folder)
        return _compressed(folder, tokenizer) if is_ours else _dense(ModelSource.open(model), tokenizer)
    if tokenizer is None:
        raise EvaluationError("a loaded model without its tokenizer", do="Pass tokenizer= as well")
    name = str(getattr(model, "name_or_path", "")) or type(model).__name__
    return Subject(model.eval(), tokenizer, Path(name).name, _kind(model), None)


def _compressed(folder: Path, tokenizer: PreTrainedTokenizerBase | None) -> Subject:
    import torch

    from compress.models.folder.tokenizer import load_tokenizer
    from compress.runtime import load

    name = folder.resolve().name
    model = load(folder, dtype=torch.float32)
    digest = fingerprint(folder) if (folder / MANIFEST).is_file() else None
    return Subject(model, tokenizer or load_tokenizer(folder, name), name, "compressed", digest)


def _dense(source: ModelSource, tokenizer: PreTrainedTokenizerBase | None) -> Subject:
    import torch

    from compress.models.load_dense import load_dense

    model = load_dense(source.path, torch.float32)
    name = Path(source.name).resolve().name if Path(source.name).is_dir() else source.name
    return Subject(model, tokenizer or source.tokenizer(), name, "dense", source.fingerprint)


def _kind(model: PreTrainedModel) -> str:
    return "compressed" if getattr(model.config, "quantization_config", None) else "dense"
