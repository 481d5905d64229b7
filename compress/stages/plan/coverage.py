"""Coverage: which share of a model is compressed, what stays dense, why, and which modules hold it.

Every matrix inside a decoder block counts, whatever module holds it: one that is not recognised lowers the share
instead of dropping out of the sum. Embedding and head are packed with bits of their own and are counted apart; norms
and biases stay dense by design and are listed with their sizes, so that nobody takes "3 bits" for the whole file.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from compress.errors import CoverageError, RecipeError
from compress.models.linears import is_linear
from compress.models.moe.routers import find_routers

if TYPE_CHECKING:
    from compress.models.linears import LinearRef
    from compress.stages.plan.ends import End

ROUTER = "router"
CONVOLUTION = "convolution"
TABLE = "embedding table in a block"
UNKNOWN_LAYOUT = "experts in an unknown layout"
READ_DIRECTLY = "read directly by its module"
SKIPPED = "skipped linears"


@dataclass(frozen=True, slots=True)
class DenseMatrix:
    """A matrix of a decoder block that no method packs."""

    name: str
    """Dotted name of the parameter."""
    size: int
    """Number of its weights."""
    module: str
    """Class of the module that holds it."""
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """Counts of parameters, each counted once."""

    total: int
    """All parameters of the model; a tied head counts once, with the embedding."""
    candidates: int
    """Weights of all matrices in decoder blocks."""
    compressed: int
    """Those of the candidates that are packed."""
    outside: Mapping[str, int]
    """Role (embedding, head, or both in one) -> parameters that are packed outside the blocks."""
    left: Mapping[str, int]
    """Reason -> parameters that stay dense, over the whole model."""
    skipped: tuple[str, ...]
    """Linears that stay dense because the recipe says so."""
    matrices: tuple[DenseMatrix, ...] = ()
    """Matrices in decoder blocks that stay dense for any other reason."""

    @property
    def share(self) -> float:
        """Compressed share of the matrices in decoder blocks, 0 to 1."""
        return self.compressed / self.candidates if self.candidates else 0.0

    @property
    def packed(self) -> int:
        """All packed parameters, inside and outside the blocks."""
        return self.compressed + sum(self.outside.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form of the manifest."""
        return {
            "total_parameters": self.total,
            "linear_parameters": self.candidates,
            "compressed_parameters": self.compressed,
            "share_of_linears": round(self.share, 6),
            "packed_outside_blocks": dict(self.outside),
            "share_of_model": round(self.packed / self.total, 6) if self.total else 0.0,
            "left_dense": dict(self.left),
            "dense_matrices": summary(self.matrices),
            "skipped": list(self.skipped),
        }


def select(names: Iterable[str], skip: Iterable[str]) -> tuple[str, ...]:
    """Returns the names that a glob of `skip` matches; a glob that matches nothing is an error (a typo, likely)."""
    names = list(names)
    matched: set[str] = set()
    for glob in skip:
        hits = fnmatch.filter(names, glob)
        if not hits:
            raise RecipeError(f"--skip {glob!r} matches no linear", allowed=f"globs over names such as {names[0]}")
        matched.update(hits)
    return tuple(name for name in names if name in matched)


def dense_matrices(block: nn.Module, prefix: str, refs: Iterable[LinearRef]) -> Iterator[DenseMatrix]:
    """Yields the matrices below `block` that are none of the linears `refs`, with the reason; `prefix` is its path.

    A matrix is a parameter with two dimensions or more that are longer than 1: a vector stored as [1, 1, H] is none,
    and neither are the biases of all experts in one parameter, which are added and not multiplied.
    """
    packable = {ref.parameter for ref in refs}
    routers = find_routers(block)
    for path, module in block.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = ".".join(part for part in (prefix, path, key) if part)
            is_matrix = sum(length > 1 for length in parameter.shape) >= 2 and not key.endswith("bias")
            if is_matrix and name not in packable:
                reason = ROUTER if module in routers else _reason_of_matrix(module, name, parameter.dim())
                yield DenseMatrix(name, parameter.numel(), type(module).__name__, reason)


def account(
    linears: Mapping[str, tuple[int, int]],
    matrices: Sequence[DenseMatrix],
    dense: Mapping[str, tuple[int, ...]],
    skipped: tuple[str, ...],
    floor: float,
    ends: Sequence[End] = (),
) -> Coverage:
    """Returns the account.

    Args:
        linears: name -> shape of every linear that could be packed.
        matrices: the other matrices of the decoder blocks.
        dense: name -> shape of every stored tensor that is no linear; those of `matrices` are among them.
        skipped: names of linears that stay dense.
        floor: least share of the matrices in decoder blocks that must be compressed, 0 to 1.
        ends: the embedding and the head; those that are packed are not left dense.

    Raises:
        CoverageError: the share is below `floor`.
    """
    sizes = {name: math.prod(shape) for name, shape in linears.items()}
    reasons = {matrix.name: matrix.reason for matrix in matrices}
    outside = {end.role: math.prod(end.shape) for end in ends if end.packed}
    packed = {end.parameter for end in ends if end.packed}
    reasons |= {end.parameter: f"{end.role}, {end.reason}" for end in ends if end.reason}
    left: dict[str, int] = {}
    for name, shape in dense.items():
        if name in packed:
            continue
        reason = reasons.get(name) or _label(name)
        left[reason] = left.get(reason, 0) + math.prod(shape)
    total = sum(sizes.values()) + sum(outside.values()) + sum(left.values())
    skipped_size = sum(sizes[name] for name in skipped)
    if skipped_size:
        left[SKIPPED] = skipped_size
    candidates = sum(sizes.values()) + sum(matrix.size for matrix in matrices)
    compressed = sum(sizes.values()) - skipped_size
    coverage = Coverage(total, candidates, compressed, outside, left, skipped, tuple(matrices))
    if coverage.share < floor:
        raise _too_little(coverage, floor, skipped_size)
    return coverage


def summary(matrices: Iterable[DenseMatrix]) -> list[dict[str, Any]]:
    """Returns one JSON entry for each reason and class of module, the largest first."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for matrix in matrices:
        empty = {
            "reason": matrix.reason,
            "module": matrix.module,
            "matrices": 0,
            "parameters": 0,
            "first": matrix.name,
        }
        entry = entries.setdefault((matrix.reason, matrix.module), empty)
        entry["matrices"] += 1
        entry["parameters"] += matrix.size
    return sorted(entries.values(), key=lambda entry: -int(entry["parameters"]))


def warning(coverage: Mapping[str, Any]) -> str | None:
    """Returns a sentence about the matrices that stay dense unasked; `coverage` as the manifest has it."""
    entries = coverage.get("dense_matrices") or []
    if not entries:
        return None
    share = sum(entry["parameters"] for entry in entries) / coverage["linear_parameters"]
    return f"{share:.2%} of the matrix parameters in decoder blocks stay dense: {_listed(entries)}"


def _listed(entries: Iterable[Mapping[str, Any]]) -> str:
    return "; ".join(
        f"{entry['reason']}, {entry['parameters']:,} in {entry['matrices']} × {entry['module']} ({entry['first']} …)"
        for entry in entries
    )


def _too_little(coverage: Coverage, floor: float, skipped_size: int) -> CoverageError:
    parts = [f"{SKIPPED}, {skipped_size:,}"] if skipped_size else []
    parts += [_listed(summary(coverage.matrices))] if coverage.matrices else []
    return CoverageError(
        f"only {coverage.share:.1%} of the matrix parameters in decoder blocks would be compressed; "
        f"left dense: {'; '.join(parts) or 'all'}",
        allowed=f"{floor:.0%} or more",
        do="Skip fewer linears, or lower --min-coverage",
    )


def _reason_of_matrix(module: nn.Module, name: str, dims: int) -> str:
    """Says why a matrix is not among the linears."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return CONVOLUTION
    if isinstance(module, nn.Embedding):
        return TABLE
    words = f"{name} {type(module).__name__}".lower()
    if "expert" in words and dims >= 3 and not is_linear(module):
        return UNKNOWN_LAYOUT
    return ROUTER if "router" in words else READ_DIRECTLY


def _label(name: str) -> str:
    """Says what a dense tensor outside the matrices of the blocks is, by the words that models use for it."""
    lowered = name.lower()
    for label, words in (
        ("bias", ("bias",)),
        ("norm", ("norm", "ln_")),
        ("embedding", ("embed", "wte", "wpe")),
        ("head", ("lm_head", "embed_out")),
        (ROUTER, ("router", "gate.weight")),
    ):
        if any(word in lowered for word in words):
            return label
    return "other"
