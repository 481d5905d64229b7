"""The linears whose codes are carried over from another program's checkpoint, by their names in the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.format import layouts, naming
from compress.models.foreign.integers import Integers, joined
from compress.models.linears import find_linears
from compress.models.stored import of_expert

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress.format.packed import PackedTensor
    from compress.format.scheme import Scheme
    from compress.models.foreign.weight import Content
    from compress.models.foreign.weights import ForeignWeights
    from compress.models.weights import Weights


class KeptCodes:
    """Linears, embedding and head that a layout of this package holds exactly."""

    def __init__(self, foreign: ForeignWeights, weights: Weights, model: PreTrainedModel) -> None:
        """`weights`: says which tensors of the checkpoint a parameter of `model` is made of."""
        self._foreign, self._weights, self._model = foreign, weights, model
        self._refs = {ref.name: ref for ref in find_linears(model, "")}
        self._schemes: dict[str, Scheme | None] = {}

    def scheme(self, name: str) -> Scheme | None:
        """Returns the scheme of a linear; None where no layout of ours holds it. Codes are not read.

        The experts of a projection are kept all or none.
        """
        if name not in self._schemes:
            expert = naming.parse_expert(name)
            alike = [name] if expert is None else self._experts(*expert[:2])
            schemes = {other: self._scheme(other) for other in alike}
            whole = None not in schemes.values()
            self._schemes |= {other: scheme if whole else None for other, scheme in schemes.items()}
        return self._schemes[name]

    def part(self, name: str) -> PackedTensor | None:
        """Returns the linear with its codes, or None where `scheme` is None."""
        content = None if self.scheme(name) is None else self._content(name)
        return None if content is None else content.packed()

    def entry(self, name: str) -> Mapping[str, Any] | None:
        """Returns the manifest's entry of a linear, or None where `scheme` is None. Codes are not read."""
        scheme = self.scheme(name)
        if scheme is None:
            return None
        rows, columns = self._shape(name)
        size = layouts.size_bytes(scheme, (rows, columns))
        return {
            "scheme": scheme.to_dict(),
            "shape": [rows, columns],
            "bias": name in self._refs and self._refs[name].bias,
            "method": self._foreign.label.partition(",")[0],
            "imported": self._foreign.label,
            "size_bytes": size,
            "bits_per_weight": round(8 * size / (rows * columns), 6),
            "outliers": 0,
            "relative_error": None,
            "tokens": None,
        }

    def _experts(self, path: str, projection: str) -> list[str]:
        wanted = naming.guard(path, projection)
        return [ref.name for ref in self._refs.values() if ref.kind == "expert" and ref.parameter == wanted]

    def _shape(self, name: str) -> tuple[int, int]:
        if name in self._refs:
            return self._refs[name].shape
        rows, columns = self._model.get_parameter(f"{name}.weight").shape
        return rows, columns

    def _scheme(self, name: str) -> Scheme | None:
        content = self._content(name)
        return None if content is None else content.scheme()

    def _content(self, name: str) -> Content | None:
        """Returns what is stored of a linear: of an expert's gate and up, one above the other."""
        ref = self._refs.get(name)
        if ref is None or ref.kind != "expert":
            single = self._weights.single_origin(f"{name}.weight")
            origins = [] if single is None else [single]
        elif ref.transposed or ref.flat:
            origins = []
        else:
            origins = [*of_expert(self._weights, ref.parameter, ref.experts[2])]
        if not origins or not set(origins) <= self._foreign.parameters:
            return None
        rows, columns = self._shape(name)
        shapes = [self._foreign.shape(origin) for origin in origins]
        if sum(shape[0] for shape in shapes) != rows or any(shape[1:] != (columns,) for shape in shapes):
            return None
        contents = [self._foreign.content(origin) for origin in origins]
        if len(contents) == 1:
            return contents[0]
        parts = [content for content in contents if isinstance(content, Integers)]
        return joined(parts) if len(parts) == len(contents) else None
