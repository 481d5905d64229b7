"""Loads tensors of a checkpoint into a model on meta, with the renaming and conversion rules of transformers' loader.

What a checkpoint calls `block_sparse_moe.experts.3.w1.weight` is, in the model, a slice of `mlp.experts.gate_up_proj`.
The loader is handed only the tensors that are wanted now, as objects that read themselves when it asks for them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import EllipsisType
from typing import TYPE_CHECKING

import torch

from compress.errors import ModelError
from compress.format import layouts
from compress.format.dtypes import TORCH_DTYPES
from compress.models import linears
from compress.models.linears import LinearRef
from compress.models.rows import PackedRows, Rows, StoredRows
from compress.models.source import ModelSource
from compress.models.unread_tensors import recognise
from compress.progress import without_library_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter

    from compress.format.packed import PackedTensor

_SYNCHRONOUS = "HF_DEACTIVATE_ASYNC_LOAD"
"""Environment variable by which transformers loads tensors in the calling thread."""


class _LazyTensor:
    """Stands in for a slice of a safetensors file in transformers' loader."""

    def __init__(self, source: ModelSource, name: str, holder: LinearRef | None = None):
        """`holder`: a linear of the parameter, where the source gives weights as [N, K] or [E, N, K]."""
        self._source, self._name, self._holder = source, name, holder

    def __getitem__(self, everything: EllipsisType) -> torch.Tensor:
        tensor = self._source.read(self._name)
        return tensor if self._holder is None else linears.to_parameter(self._holder, tensor).contiguous()


class Weights:
    """Loads chosen tensors of a checkpoint into a model on meta."""

    def __init__(self, source: ModelSource, model: PreTrainedModel):
        """Plans which checkpoint tensors make which model tensors.

        Raises:
            ModelError: a tensor of the model is not in the checkpoint, or two that the configuration ties differ.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping

        self._source, self._model = source, model
        self._transforms = get_model_conversion_mapping(model)
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.origins: dict[str, list[str]] = defaultdict(list)
        """Model tensor -> the checkpoint tensors that it is made of."""
        self.unused: list[str] = []
        """Checkpoint tensors that the model has no place for."""
        self.rules: dict[str, WeightConverter] = {}
        """Model tensor -> the conversion that makes it, where one does."""
        self.patterns: dict[str, str] = {}
        """Checkpoint tensor -> which source pattern of its conversion it is."""
        self.packed: dict[str, PackedTensor] = {}
        """Model tensor -> the packed matrix whose rows are read instead of the checkpoint's."""
        self._swapped: set[str] = set()
        self._plan()
        self.tied = self._settle_ties()
        missing = [name for name in self._shapes if name not in self.origins and name not in self.tied]
        if missing:
            raise self._lacking(missing)

    def _lacking(self, missing: list[str]) -> ModelError:
        given = f"{self._source.name} lacks {len(missing)} of the tensors that its config.json implies"
        given = f"{given}, such as {missing[0]}"
        cure = "Check that config.json belongs to these weights, and that all shards are there"
        if recognised := recognise(self.unused):
            instead, meaning, cure = recognised
            given += f"; it holds {instead}, which looks like {meaning}"
        return ModelError(given, do=cure)

    def plain(self, name: str) -> str | None:
        """Returns the checkpoint tensor that the source reads as the model tensor `name`, or None when it is made."""
        origin = self.single_origin(name)
        if (
            origin is None
            or origin in self._source.unpacked
            or self._source.tensors[origin].shape != self._shapes[name]
        ):
            return None
        return origin

    def single_origin(self, name: str) -> str | None:
        """Returns the only checkpoint tensor that the model tensor `name` is made of, or None where it is converted."""
        origins = self.origins[name]
        return None if name in self.rules or len(origins) != 1 else origins[0]

    def rows(self, name: str) -> Rows | None:
        """Returns the reader of the rows of the matrix `name`; None when the loader has to make it."""
        if (packed := self.packed.get(name)) is not None:
            return PackedRows(packed)
        if (origin := self.plain(name)) is not None:
            return StoredRows(self._source, origin)
        part = self._source.part(name.removesuffix(".weight"))
        # a checkpoint of this package stores every tensor under its name in the model
        if part is not None and part.scheme.layout in layouts.ROWS and not part.scheme.outliers:
            return PackedRows(part)
        return None

    def stored_dtype(self, name: str) -> torch.dtype:
        """Returns the dtype that the model tensor `name` has in the checkpoint."""
        return TORCH_DTYPES[self._source.tensors[self.origins[name][0]].dtype]

    @torch.no_grad()
    def load(self, names: Iterable[str], device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Fills the named model tensors on `device`, in the model's dtype or in `dtype`; checks that all are finite.

        Raises:
            ModelError: a shape does not fit, a conversion failed, a weight is NaN or infinite (its layer is named).
        """
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        names = set(names)
        state = {
            name if name in self._swapped else origin: _LazyTensor(
                self._source, origin, self._holder(name, origin) if origin in self._source.decoded else None
            )
            for name in names
            for origin in self.origins[name]
        }
        config = LoadStateDictConfig(
            device_map={"": device},
            dtype=torch.float32,
            dtype_plan={} if dtype is None else {"*": dtype},
            weight_mapping=self._transforms,
        )
        with without_library_bars(), _no_threads():
            info, _ = convert_and_load_state_dict_in_model(self._model, state, config, None)
        if self._source.unpacked:  # our names are the model's: that no rule was used says nothing about the hub's names
            self._model._weight_conversions = None
        for name, found, expected in info.mismatched_keys:
            raise ModelError(
                f"the checkpoint's shape is {list(found)}, the configuration's is {list(expected)}",
                do="Check that config.json belongs to these weights",
                layer=name,
            )
        for name, text in info.conversion_errors.items():
            raise ModelError(f"cannot be converted: {text.strip().splitlines()[-1]}", layer=name)
        for name in names:
            # a buffer may hold infinite bounds (Gemma 4's clipped linears)
            if isinstance(tensor := self._model.get_parameter_or_buffer(name), torch.nn.Parameter):
                check_finite(tensor, name)

    def _holder(self, name: str, origin: str) -> LinearRef | None:
        """A linear whose weight the parameter holds, which knows which way round the model holds it, or None.

        Experts that another program quantised have the shapes that its checkpoint would have with dense ones.
        """
        path = name.rpartition(".")[0]
        refs = linears.find_linears(self._model.get_submodule(path), path)
        ours = origin in self._source.unpacked
        return next((ref for ref in refs if ref.parameter == name and (ours or ref.kind != "expert")), None)

    def _plan(self) -> None:
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        renamings = [rule for rule in self._transforms if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in self._transforms if isinstance(rule, WeightConverter)]
        by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        prefix, wanted = self._model.base_model_prefix, self._model.state_dict()
        for origin in self._source.tensors:
            target, pattern = rename_source_key(origin, renamings, converters, prefix, wanted)
            if target not in wanted and origin in wanted:
                target, pattern = rename_source_key(origin, [], [], prefix, wanted)
            if target not in wanted:
                self.unused.append(origin)
            elif pattern is None:
                self.origins[target].append(origin)
            else:
                patterns = by_pattern[pattern].target_patterns
                self.patterns[origin] = pattern
                for name in (target.replace(patterns[0], other) for other in patterns):
                    self.origins[name].append(origin)
                    self.rules[name] = by_pattern[pattern]

    def _settle_ties(self) -> dict[str, str]:
        """Tied name -> master, as the configuration has it; the copy in the checkpoint may stand under either name."""
        tied = dict(self._model.all_tied_weights_keys)
        for name, master in tied.items():
            if name in self.origins and master in self.origins:
                own, masters = (self._source.read(self.origins[key][0]) for key in (name, master))
                if not torch.equal(own, masters):
                    raise ModelError(
                        f"config.json ties {name} to {master}, but the checkpoint holds two different tensors",
                        do="Set tie_word_embeddings to false in config.json if both are meant",
                    )
            elif name in self.origins:
                self.origins[master] = self.origins[name]
                self._swapped.add(master)  # the loader would put it under the other name
        return tied


def check_finite(tensor: torch.Tensor, name: str) -> None:
    """Raises ModelError with the layer of the tensor `name` when it holds NaN or infinity."""
    if not tensor.is_floating_point() or not tensor.numel():
        return
    wide = tensor if tensor.element_size() > 1 else tensor.float()
    # NaN passes through minimum and maximum: one pass, and no mask as large as the tensor
    if not all(bool(bound.isfinite()) for bound in torch.aminmax(wide)):
        layer, _, kind = name.rpartition(".")
        raise ModelError(
            f"its {kind} holds NaN or infinite values", do="Download or train the model again", layer=layer or name
        )


@contextmanager
def _no_threads() -> Iterator[None]:
    """Has transformers load in this thread: Ctrl-C while it starts a thread leaves one that the process waits for."""
    before = os.environ.get(_SYNCHRONOUS)
    os.environ[_SYNCHRONOUS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SYNCHRONOUS]
        else:
            os.environ[_SYNCHRONOUS] = before
