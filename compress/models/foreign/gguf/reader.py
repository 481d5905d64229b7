"""GGUF, the format of llama.cpp: blocks of a row, in many types; decoded with the package `gguf`.

Names and orders of rows are those of llama.cpp; transformers has the way back (its TENSOR_PROCESSORS). Codes of the
K-quants can be kept (`super_blocks`), those of three types with groups of 32 and the middle code as zero point, and
those of two where every minimum is that of a zero point:

    Q4_0   18 bytes: scale float16; 16 bytes with two codes each, the first half of the group in the lower bits
    Q5_0   22 bytes: scale float16; 4 bytes with the fifth bits; 16 bytes as above
    Q8_0   34 bytes: scale float16; 32 signed codes
    Q4_1   20 bytes: scale, minimum float16; 16 bytes as above
    Q5_1   24 bytes: scale, minimum float16; 4 bytes with the fifth bits; 16 bytes as above

Shape letters: N out features, K in features, E experts, Y bytes of a row, G groups.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compress.errors import ModelError, translated
from compress.format.layouts import super_block
from compress.format.scheme import Scheme
from compress.models import skeleton
from compress.models.folder.safetensors_header import TensorEntry
from compress.models.folder.tensor_files import TensorFiles
from compress.models.foreign.affine import Affine
from compress.models.foreign.gguf import super_blocks
from compress.models.foreign.gguf.header import Header
from compress.models.foreign.integers import Integers
from compress.models.foreign.weight import Content, Decoded, ForeignWeight, Found, Stored, unusable

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from compress.format.packed import PackedTensor

_GROUP = 32
_EXPERTS = re.compile(r"blk\.(?P<block>\d+)\.ffn_(?P<which>gate|up|down)_exps\.weight")
_MOE = ("mixtral", "qwen2_moe", "qwen3_moe")
"""Model types whose experts are gate above up, as [out, in]."""
_LEFT_OUT = ("rope_freqs.weight",)  # in the configuration


class GgufFiles(TensorFiles):
    """The tensors of a GGUF file as bytes, by the names of llama.cpp."""

    def __init__(self, file: Path, config: PreTrainedConfig | None) -> None:
        """Reads the header; `config` is that of the model, which `find` needs.

        Raises:
            ModelError: the file is damaged, or holds a type that the package gguf does not know.
        """
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        header, known = Header(file), {int(kind): kind for kind in GGMLQuantizationType}
        self.config, self.architecture = config, header.architecture
        self.types: dict[str, Any] = {}
        """Type of each tensor, a `gguf.GGMLQuantizationType`."""
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Shape of each tensor, decoded."""
        entries = {}
        for name, tensor in header.tensors.items():
            if tensor.kind not in known:
                raise ModelError(
                    f"{file.name}: tensor {name} is of type {tensor.kind}, which the package gguf does not know",
                    do="Update it: pip install --upgrade gguf",
                )
            self.types[name], self.shapes[name] = known[tensor.kind], tensor.shape
            weights, size = GGML_QUANT_SIZES[known[tensor.kind]]
            shape = (*tensor.shape[:-1], tensor.shape[-1] // weights * size)
            end = tensor.start + math.prod(shape)
            if tensor.shape[-1] % weights or end > header.size:
                raise ModelError(f"{file.name} is damaged: tensor {name} does not end in it", do="Download it again")
            entries[name] = TensorEntry("U8", shape, file.name, tensor.start, end)
        super().__init__(file.parent, file.name, entries)


def find(settings: Mapping[str, Any], files: TensorFiles) -> Found:
    """See `Format`."""
    assert isinstance(files, GgufFiles) and files.config is not None
    model = skeleton.build(files.config)
    processor, mapping = _names(files, model)
    origins: dict[str, list[str]] = {}
    strange = []
    for name in files.tensors:
        target = _expert_target(name, model) or mapping.get(name)
        if target is not None:
            origins.setdefault(target, []).append(name)
        elif name not in _LEFT_OUT:
            strange.append(name)
    if strange:
        raise ModelError(
            f"the GGUF file holds the tensor {strange[0]}, and {model.config.model_type} of transformers has none such",
            do="Give the original model, or a GGUF file of another architecture",
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = [_weight(target, names, wanted[target], files, processor) for target, names in origins.items()]
    types = Counter(files.types[name].name for name in files.tensors if len(files.shapes[name]) > 1)
    return Found(weights, unread=list(_LEFT_OUT), label=f"gguf, {' and '.join(dict(types.most_common(2)))}")


def _names(files: GgufFiles, model: PreTrainedModel) -> tuple[Any, dict[str, str]]:
    """Returns transformers' processor of the architecture, and the name in the model of every tensor that it knows."""
    from transformers import modeling_gguf_pytorch_utils as reading

    kind = reading.TENSOR_PROCESSORS.get(files.architecture, reading.TensorProcessor)
    processor = kind(config=model.config.to_dict())
    names, prefix = list(model.state_dict()), f"{model.base_model_prefix}."
    # some models were converted without their head, under the names of the model inside
    inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    mapping: dict[str, str] = {}
    with translated(f"the architecture {files.architecture} is not known", do="Update it: pip install --upgrade gguf"):
        for qualified, known in ((prefix, inner), ("", names)):
            mapping |= reading.get_gguf_hf_weights_map(
                _Names(model.config, known), processor, files.architecture, qual_name=qualified
            )
    return processor, mapping


class _Names:
    """A model as transformers' map of names needs it; given one, it would make the map anew for every module inside."""

    def __init__(self, config: PreTrainedConfig, names: list[str]) -> None:
        self.config, self._names = config, names

    def state_dict(self) -> list[str]:
        return self._names

    def named_children(self) -> None:
        return None


def _expert_target(name: str, model: PreTrainedModel) -> str | None:
    """Returns the parameter of the model that a stack of experts belongs to."""
    if (match := _EXPERTS.fullmatch(name)) is None:
        return None
    if model.config.model_type not in _MOE:
        raise ModelError(
            f"the GGUF file holds the experts {name} of {model.config.model_type}",
            allowed=f"experts of {', '.join(_MOE)}",
            do="Give a folder that holds the GGUF file beside config.json of the original model, or that model",
        )
    projection = "down_proj" if match["which"] == "down" else "gate_up_proj"
    return f"model.layers.{match['block']}.mlp.experts.{projection}"


def _weight(target: str, names: list[str], shape: tuple[int, ...], files: GgufFiles, processor: Any) -> ForeignWeight:
    names = sorted(names, key=lambda name: "_up_" in name)  # gate stands above up
    if sum(math.prod(files.shapes[name]) for name in names) != math.prod(shape):
        raise unusable(target, f"{', '.join(names)} {[list(files.shapes[name]) for name in names]} is no {list(shape)}")
    kinds = [files.types[name] for name in names]
    order = _row_order(names[0], shape, processor) if len(names) == 1 and files.shapes[names[0]] == shape else None
    change = partial(_changed, names, shape, processor)
    in_order = order is not None and bool((order == torch.arange(len(order))).all())
    parts = {str(place): name for place, name in enumerate(names)}
    return ForeignWeight(target, shape, parts, (kinds, order, change), by_rows=in_order)


def _row_order(name: str, shape: tuple[int, ...], processor: Any) -> torch.Tensor | None:
    """Returns which row of the file each row of a matrix is; None for a tensor that is changed in another way."""
    if len(shape) != 2:
        return None
    rows = np.arange(1.0, shape[0] + 1)[:, None]
    order = processor.process(rows, name).weights
    if order.shape != rows.shape or not np.array_equal(np.sort(order, axis=0), rows):
        return None
    return torch.from_numpy(order[:, 0]).long() - 1


def _changed(names: list[str], shape: tuple[int, ...], processor: Any, arrays: list[Any]) -> torch.Tensor:
    """Returns the parameter that transformers makes of decoded tensors; experts stand side by side."""
    if _EXPERTS.fullmatch(names[0]):
        return torch.from_numpy(np.concatenate(arrays, axis=1)).view(shape)
    (array,) = arrays
    sink: dict[str, dict[str, torch.Tensor]] = {"tensors": {}}
    done = processor.process(array, names[0], tensor_key_mapping={}, parsed_parameters=sink)
    if sink["tensors"]:  # GPT-2's head is put aside
        return next(iter(sink["tensors"].values())).view(shape)
    return torch.from_numpy(np.ascontiguousarray(done.weights)).view(shape)


def read(weight: ForeignWeight, stored: Stored) -> Content:
    """See `Format`."""
    kinds, order, change = weight.details
    if order is None:
        return Decoded(lambda: change([_decoded(stored[str(place)], kind) for place, kind in enumerate(kinds)]).float())
    kind = kinds[0]
    if weight.by_rows:
        order = slice(None)
    if kind.name in super_blocks.BITS:
        return SuperBlocks(stored["0"], kind, order, (weight.shape[0], weight.shape[1]))
    if (unpack := _CODES.get(kind.name)) is None:
        return Decoded(lambda: torch.from_numpy(_decoded(stored["0"], kind))[order].float())
    bits, codes = unpack
    shape = (weight.shape[0], weight.shape[1])
    blocks_NGy = stored["0"].view(shape[0], shape[1] // _GROUP, -1)
    if kind.name.endswith("_1"):
        codes_NGy = torch.cat([blocks_NGy[..., :2], blocks_NGy[..., 4:]], -1)  # without the minimum
        scale_NG, minimum_NG = (_half(blocks_NGy, place)[order] for place in (0, 2))
        return Affine(bits, shape, lambda: codes(codes_NGy)[order], scale_NG.contiguous(), minimum_NG.contiguous())
    return Integers(
        bits=bits,
        shape=shape,
        codes=lambda: codes(blocks_NGy)[order],
        scale_NG=_half(blocks_NGy, 0)[order].contiguous(),
        zero_NG=None,
    )


def _half(blocks_NGy: torch.Tensor, place: int) -> torch.Tensor:
    """Returns the float16 at a byte of every block."""
    return blocks_NGy[..., place : place + 2].contiguous().view(torch.float16)[..., 0]


@dataclass(frozen=True)
class SuperBlocks:
    """The content of a matrix in a K-quant: see `Content`."""

    bytes_NY: torch.Tensor  # noqa: N815
    kind: Any
    order: Any
    """Which row of the file each row is."""
    shape: tuple[int, int]

    @cached_property
    def _blocks_NBY(self) -> torch.Tensor:  # noqa: N802
        return self.bytes_NY[self.order].view(self.shape[0], self.shape[1] // super_block.COLUMNS, -1)

    @cached_property
    def _statistics(self) -> super_blocks.Statistics:
        return super_blocks.statistics(self.kind.name, self._blocks_NBY)

    def decode(self) -> torch.Tensor:
        """See `Content`."""
        return torch.from_numpy(_decoded(self.bytes_NY, self.kind))[self.order]

    def scheme(self) -> Scheme | None:
        """See `Content`."""
        bits, units = super_blocks.BITS[self.kind.name], (self._statistics.d_NB, self._statistics.dmin_NB)
        if not all(bool(unit.isfinite().all()) for unit in units if unit is not None):
            return None
        group_size, symmetric = super_block.KINDS[bits][:2]
        return Scheme(layout=super_block.LAYOUT, bits=bits, group_size=group_size, options={"symmetric": symmetric})

    def packed(self) -> PackedTensor | None:
        """See `Content`."""
        if self.scheme() is None:
            return None
        found, rows = self._statistics, self.shape[0]
        return super_block.pack(
            super_blocks.codes(self.kind.name, self._blocks_NBY).flatten(1),
            found.scale_NBS.reshape(rows, -1),
            None if found.minimum_NBS is None else found.minimum_NBS.reshape(rows, -1),
            found.d_NB,
            found.dmin_NB,
            bits=super_blocks.BITS[self.kind.name],
        )


def _decoded(bytes_NY: torch.Tensor, kind: Any) -> Any:
    from gguf import quants

    return np.array(quants.dequantize(bytes_NY.numpy(), kind), dtype=np.float32)


def _halves(bytes_NGh: torch.Tensor) -> torch.Tensor:
    """Returns the two codes of every byte: all lower ones of a group, then all upper ones."""
    return torch.cat([bytes_NGh & 15, bytes_NGh >> 4], dim=-1)


def _of_4_bits(blocks_NGy: torch.Tensor) -> torch.Tensor:
    return _halves(blocks_NGy[..., 2:]).flatten(1)


def _of_5_bits(blocks_NGy: torch.Tensor) -> torch.Tensor:
    fifth_NGg = (blocks_NGy[..., 2:6, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return (_halves(blocks_NGy[..., 6:]) | (fifth_NGg.flatten(2) << 4)).flatten(1)


def _of_8_bits(blocks_NGy: torch.Tensor) -> torch.Tensor:
    return (blocks_NGy[..., 2:] ^ 128).flatten(1)


_CODES: dict[str, tuple[int, Callable[[torch.Tensor], torch.Tensor]]] = {
    "Q4_0": (4, _of_4_bits),
    "Q5_0": (5, _of_5_bits),
    "Q8_0": (8, _of_8_bits),
    "Q4_1": (4, _of_4_bits),
    "Q5_1": (5, _of_5_bits),
}
