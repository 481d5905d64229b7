"""Opens models for evaluation: atlas, a folder (dense or packed), a hub id, or a loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from compress.errors import EvaluationError, ModelError
from compress.evaluation.asking.fitting import room_of
from compress.format.manifest import MANIFEST, fingerprint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compress.models.blocks import BlockWalker
    from compress.models.source import ModelSource

    Model: TypeAlias = str | Path | ModelSource | PreTrainedModel
    """`atlas`, a folder, a hub id, an opened source, or a loaded model."""


@dataclass(frozen=True)
class Subject:
    """A model with its tokenizer and its name in eval.json."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    kind: str
    """`dense` or `compressed`."""
    fingerprint: str | None
    """None for a model in memory, and for a folder that `save_pretrained` wrote from a packed model."""
    walker: BlockWalker | None = None
    """Reads the model from disk; `model` then has no weights. None for a loaded model."""

    @property
    def device(self) -> torch.device:
        """Where the model is computed."""
        return self.model.device if self.walker is None else self.walker.device

    @property
    def room(self) -> int:
        """The longest input in tokens."""
        return room_of(self.model)

    @property
    def ends(self) -> frozenset[int]:
        """Ids of the tokens at which the model's answers end, by its generation settings and its tokenizer."""
        settings = getattr(self.model, "generation_config", None)
        named = getattr(settings, "eos_token_id", None)
        ids = named if isinstance(named, list | tuple) else [named]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    @property
    def pad(self) -> int:
        """Id of the token that fills up what a model writes; a single text has none, but `generate` wants to know."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else min(self.ends, default=0)

    def description(self) -> dict[str, Any]:
        """Returns the entry `model` of eval.json."""
        return {
            "name": self.name,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }


def open_subject(
    model: Model,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Subject:
    """Returns the model with its tokenizer, in `dtype` (fp32 for None) on `device`; a loaded model stays as it is."""
    import torch

    from compress.models.source import ModelSource
    from compress.runtime.loading import saved_by_transformers

    dtype = dtype or torch.float32
    if isinstance(model, ModelSource):
        stock = not model.unpacked and model.structure is None
        return _dense(model, tokenizer, device, dtype) if stock else _compressed(model.path, tokenizer, device, dtype)
    if isinstance(model, str | Path):
        folder = Path(model)
        is_ours = (folder / MANIFEST).is_file() or saved_by_transformers(folder)
        if is_ours:
            return _compressed(folder, tokenizer, device, dtype)
        return _dense(ModelSource.open(model), tokenizer, device, dtype)
    if tokenizer is None:
        raise _no_tokenizer()
    name = str(getattr(model, "name_or_path", "")) or type(model).__name__
    return Subject(model.eval(), tokenizer, Path(name).name, _kind(model), None)


def source_of(model: Model) -> ModelSource | None:
    """Returns the model on disk, opened; None for a loaded model and for what `save_pretrained` wrote from one."""
    from compress.models.source import ModelSource
    from compress.runtime.loading import saved_by_transformers

    if isinstance(model, ModelSource):
        return model
    if not isinstance(model, str | Path):
        return None
    ours = (Path(model) / MANIFEST).is_file()
    return None if saved_by_transformers(Path(model)) and not ours else ModelSource.open(model)


def open_on_disk(
    source: ModelSource, tokenizer: PreTrainedTokenizerBase | None = None, device: torch.device | None = None
) -> Subject:
    """Returns the model without its weights, which are read block by block, in fp32 on `device`."""
    from transformers import GenerationConfig

    from compress.models.blocks import BlockWalker
    from compress.models.folder import generation

    walker = BlockWalker(source, device=device or "cpu")
    generation.check_generation_config(source.path, error=ModelError)
    if (source.path / generation.FILE).is_file():
        walker.model.generation_config = GenerationConfig.from_pretrained(source.path)
    stock = not source.unpacked and source.structure is None
    kind, name = ("dense", _name(source)) if stock else ("compressed", source.path.resolve().name)
    return Subject(walker.model, tokenizer or source.tokenizer(), name, kind, source.fingerprint, walker)


def tokenizer_of(model: Model, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a model without loading its weights; `tokenizer` itself if it is given."""
    from compress.models.folder.tokenizer import load_tokenizer
    from compress.models.source import ModelSource
    from compress.runtime.loading import saved_by_transformers

    if tokenizer is not None:
        return tokenizer
    if isinstance(model, ModelSource):
        return model.tokenizer()
    if not isinstance(model, str | Path):
        raise _no_tokenizer()
    folder = Path(model)
    if (folder / MANIFEST).is_file() or saved_by_transformers(folder):
        return load_tokenizer(folder, folder.resolve().name)
    return ModelSource.open(model).tokenizer()


def _no_tokenizer() -> EvaluationError:
    return EvaluationError("a loaded model without its tokenizer", do="Pass tokenizer= as well")


def _compressed(
    folder: Path, tokenizer: PreTrainedTokenizerBase | None, device: torch.device | None, dtype: torch.dtype
) -> Subject:
    from compress.models.folder.tokenizer import load_tokenizer
    from compress.runtime import load

    name = folder.resolve().name
    model = load(folder, dtype=dtype, device=device or "cpu")
    digest = fingerprint(folder) if (folder / MANIFEST).is_file() else None
    return Subject(model, tokenizer or load_tokenizer(folder, name), name, "compressed", digest)


def _dense(
    source: ModelSource, tokenizer: PreTrainedTokenizerBase | None, device: torch.device | None, dtype: torch.dtype
) -> Subject:
    from compress.models.load_dense import load_source

    model = load_source(source, dtype).to(device or "cpu")
    return Subject(model, tokenizer or source.tokenizer(), _name(source), "dense", source.fingerprint)


def _name(source: ModelSource) -> str:
    return Path(source.name).resolve().name if Path(source.name).is_dir() else source.name


def _kind(model: PreTrainedModel) -> str:
    return "compressed" if getattr(model.config, "quantization_config", None) else "dense"
