"""The interface of a method file: one Protocol for each of the three kinds of stage.

| KIND      | the stage makes                                                      | Protocol        |
|-----------|----------------------------------------------------------------------|-----------------|
| `pack`    | planes of a layout from dense weights, one linear at a time          | `PackMethod`    |
| `rewrite` | a dense model of another shape from a dense model                    | `RewriteMethod` |
| `train`   | a model with learned tensors from a dense or packed model            | `TrainMethod`   |

`registry.load` returns a file as an object of its Protocol, which `loading` makes and checks. Abstract members must
stand in the file. All others are optional: their bodies below are the defaults, and the file's own definition replaces
them. Callers therefore call every member without asking whether the file has it, and a misspelt one is an error when
the file is loaded.

Shape letters: N out features, K in features, S sequences, T tokens.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from compress.calibration.stats import LayerStats
    from compress.format.packed import PackedTensor
    from compress.progress import Progress

BITS = (2, 3, 4, 5, 6, 8)
"""Widths that `--target-bits` chooses from for a method that has the option `bits` and no `candidates`."""


class MethodFile(Protocol):
    """Members that a file of any kind must define."""

    KIND: str
    """`pack`, `rewrite` or `train`; a literal, since it is read without importing the file."""
    NEEDS: frozenset[str]
    """Calibration data that is read: for `pack` fields of LayerStats, otherwise `tokens`; empty for none."""
    Config: type[Any]
    """Frozen dataclass of the options; every field has a literal default and a string below it, the help text."""


class PackFile(MethodFile, Protocol):
    """Members that a file of kind `pack` must define."""

    @abstractmethod
    def check(self, shape: tuple[int, int], config: Any) -> None:
        """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat.

        Called for every linear when a run is planned, before any work is done.
        """

    @abstractmethod
    def solve(self, w_NK: torch.Tensor, stats: LayerStats | None, config: Any) -> PackedTensor:
        """Returns the packed form of `w_NK` (float [N, K]); pure, and with the same bytes for the same input.

        `stats` are sums over the inputs of the linear, None where NEEDS is empty. An expert that no token reached has
        `num_tokens` 0 and a Gram matrix of zeros.
        """


class Loaded(MethodFile, Protocol):
    """A file as `registry.load` returns it."""

    name: str
    """The method's name: that of its file."""
    module: str
    """Full name of the module, by which another process imports it."""
    provided: frozenset[str]
    """Hooks that stand in the file itself."""


class PackMethod(PackFile, Loaded, Protocol):
    """A method that packs one linear at a time."""

    KIND: Literal["pack"]
    PACKS: bool = True
    """False for a method that leaves every linear as the source has it; its `check` and `solve` are not called."""
    COMPOSES: bool = False
    """True for a method whose PackedTensor is made of parts; it cannot follow a stage that made parts."""

    def needs(self, config: Any) -> frozenset[str]:
        """Returns the fields of LayerStats that are read with these options. Default: NEEDS."""
        return self.NEEDS

    def activations(self, config: Any) -> str | None:
        """Returns what packed linears round their inputs to, a kind of `format.activations`. Default: None, nothing."""
        return None

    def candidates(self, config: Any) -> list[dict[str, Any]]:
        """Returns the option overrides that `--target-bits` chooses from per linear, coarse to fine.

        Default: `BITS` for a method with the option `bits`, otherwise none, and `--target-bits` is refused.
        """
        return [{"bits": bits} for bits in BITS] if any(option.name == "bits" for option in fields(config)) else []

    def nominal(self, bits: int) -> dict[str, Any]:
        """Returns the options that make this a `bits`-bit method; `compress frontier --bits` uses them."""
        return {"bits": bits}

    def pinned(self, config: Any, packed: PackedTensor) -> dict[str, Any]:
        """Returns options that hold a linear to the size of `packed`, which mixed precision has chosen.

        Needed where the size depends on the inputs, as that of outliers does: the inputs differ between measuring and
        packing. Default: none.
        """
        return {}

    def shared(self, weights: Sequence[torch.Tensor], config: Any) -> Any:
        """Returns the Config for all linears that receive one input (q, k and v; gate and up; experts).

        Engines fuse these linears, so an option that must be equal among them is decided here. `weights` are [N, K]
        with equal K; each is read when it is indexed, so hold no more than one. Default: `config`.
        """
        return config

    def joins(self, config: Any) -> bool:
        """Returns whether `shared` reads weights with these options: then one process solves them together.

        Default: whether the file has `shared`.
        """
        return "shared" in self.provided

    def measure(self, w_NK: torch.Tensor, stats: LayerStats | None, config: Any) -> float:
        """Returns the loss of one linear at `config`, 0 or more, for `allot`; a file with `allot` defines it too."""
        raise NotImplementedError

    def allot(
        self, losses: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], config: Any
    ) -> dict[str, dict[str, Any]]:
        """Returns, by linear, the options in which it differs from `config`, given what `measure` returned for each.

        Called once with losses of 1: an empty answer skips the measuring. Default: empty.
        """
        return {}


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A model of another shape, not written yet."""

    config: Mapping[str, Any]
    """config.json of the result."""
    structure: Mapping[str, Any] | None
    """Shapes that differ from those that config.json implies (`format.manifest`); None for a plain checkpoint."""
    report: Mapping[str, Any]
    """Sections for the manifest, by name."""
    blocks: int
    """Number of decoder blocks of the result."""
    shards: Callable[[], Iterator[dict[str, torch.Tensor]]] = field(repr=False)
    """Yields the tensors outside the blocks, then those of each block, by their names in the result."""


class RewriteMethod(Loaded, Protocol):
    """A method that makes a dense model of another shape."""

    KIND: Literal["rewrite"]
    REWRITER: str = ""
    """Module whose functions `rewrite` and `check_model` do the work, for a file that does not define them itself.

    Files of this package see tensors only, so code that walks a model belongs in a package above this one.
    """

    def rewrite(
        self, walker: Any, tokens_ST: torch.Tensor | None, config: Any, memory_limit: int | None, progress: Progress
    ) -> Rewritten:
        """Returns the rewritten model; its tensors are computed as `shards` is read.

        Args:
            walker: a `compress.models.blocks.BlockWalker` of the source model.
            tokens_ST: calibration text, int64 token ids; None where NEEDS is empty.
            config: options of the method.
            memory_limit: bytes that the process may take (`--max-memory`), or None.
            progress: where the steps are reported to.

        Raises:
            MethodError: the options do not fit the model.
            MemoryLimitError: the work would not fit below `memory_limit`.
        """
        rewritten: Rewritten = importlib.import_module(self.REWRITER).rewrite(
            walker, tokens_ST, config, memory_limit, progress
        )
        return rewritten

    def check_model(self, walker: Any, config: Any) -> None:
        """Raises a CompressError for a model or options with which `rewrite` would fail, before any text is read.

        `walker` is as in `rewrite`. Default: nothing is checked, but by the module that REWRITER names.
        """
        if self.REWRITER:
            importlib.import_module(self.REWRITER).check_model(walker, config)

    def kept_share(self, config: Any) -> float:
        """Returns the share of the parameters that stays, for the estimated size of `--dry-run`. Default: all."""
        return 1.0

    def memory_bytes(self, parameters: int, config: Any) -> int:
        """Returns the bytes that the work takes for a model of `parameters`, for the estimate of `--dry-run`.

        Default: a quarter of the model in float32, more than one block takes.
        """
        return parameters


@dataclass(frozen=True, slots=True)
class Trained:
    """The trained tensors of a model, with the report of the training."""

    dense: dict[str, torch.Tensor] = field(repr=False)
    """Dense tensors by their names in the model, in the dtypes that they had there."""
    packed: dict[str, PackedTensor] = field(repr=False)
    """Packed linears by name."""
    report: dict[str, Any]
    """JSON: losses before and after, steps; the same for the same input, recipe and seed."""
    timing: dict[str, float]
    """JSON: tokens per second and seconds of this run, which no manifest should hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Options of every training; the Config of a `train` method extends this class.

    A field that a Config declares again has its type, default and help text from there. In `--help` a Config's fields
    stand in the order of its file, and the fields of this class up to one that is declared again stand before it.
    """

    steps: int = 500
    """Steps of AdamW, 0 or more."""
    batch: int = 16
    """Sequences of one step over all processes, 1 or more."""
    micro_batch: int = 4
    """Sequences in memory at once, 1 or more: bounds activations and logits, changes nothing but rounding."""
    rate: float | None = None
    """Learning rate after the warm-up, above 0."""
    warmup: float = 0.05
    """Share of the steps over which the rate rises, 0 to 1; after it, the rate falls to zero along a cosine."""
    weight_decay: float = 0.0
    """Decoupled weight decay of all matrices, 0 or more."""
    clip: float = 1.0
    """Greatest norm of the gradient, above 0; inf for none."""
    checkpoint_every: int = 100
    """Steps between two checkpoints, 1 or more; a killed run resumes from the last one."""
    evaluate_every: int = 100
    """Steps between two evaluations of the held-out sequences, 1 or more."""
    held_out: float = 0.05
    """Share of the sequences that is held out for evaluation, above 0 and below 1; at least one sequence."""
    bf16: bool = False
    """Runs teacher and student in bfloat16; what is trained stays float32."""
    training_seed: int = 0
    """Seed of the order of the sequences and of random starts, 0 or more; --seed is that of the calibration."""


class TrainMethod(Loaded, Protocol):
    """A method that trains a whole model towards a dense teacher; its Config extends TrainingOptions."""

    KIND: Literal["train"]
    TRAINER: str = ""
    """Module whose function `train` does the work, for a file that does not define it itself."""
    NEEDS_OTHER_TEACHER: bool = False
    """True for a method that learns nothing when the student is its own teacher; such a stage is refused."""

    def train(
        self,
        student_model: nn.Module,
        teacher_model: nn.Module,
        tokens_ST: torch.Tensor,
        config: Any,
        work_dir: Path,
        progress: Progress,
    ) -> Trained:
        """Returns the trained tensors; every process of `accelerate launch` calls it.

        Args:
            student_model: the model that the stage before left, packed linears included; taken over.
            teacher_model: a dense model with the same vocabulary.
            tokens_ST: calibration text, int64 token ids.
            config: options of the method.
            work_dir: an existing folder for checkpoints, which a killed run goes on from.
            progress: where the steps are reported to.
        """
        trained: Trained = importlib.import_module(self.TRAINER).train(
            student_model, teacher_model, tokens_ST, config, work_dir, progress
        )
        return trained

    def check(self, shape: tuple[int, int], config: Any) -> None:
        """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat. Default: all can."""

    def stored_bits(self, config: Any) -> float | None:
        """Returns the stored bits per weight of the linears afterwards; None (default) where they stay as they are."""
        return None


Method: TypeAlias = PackMethod | RewriteMethod | TrainMethod
