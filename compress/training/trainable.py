"""What of a student learns: all dense tensors, low-rank updates beside its linears, or what is real in packed ones.

Shape letters: B sequences, T tokens of one, V vocabulary.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from compress.errors import MethodError
from compress.models import linears
from compress.models.skeleton import find_blocks
from compress.runtime import skeleton
from compress.tuning.student import Student, as_float

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.methods.distill import Config


class Pupil(Protocol):
    """A module that gives the output of the student for tokens, and knows what of it is trained."""

    @property
    def module(self) -> nn.Module:
        """The module that holds all masters."""

    def start(self) -> list[torch.Tensor]:
        """Returns what the student was before any training, for the identity of the run."""

    def __call__(self, tokens_BT: torch.Tensor, *, hidden: bool) -> Any:
        """Returns the model's output, with hidden states when asked."""

    def masters(self) -> dict[str, nn.Parameter]:
        """Returns what is trained, float32."""

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        """Returns what has changed, as it is to be stored; the pupil must not be used afterwards."""


def enrol(student: nn.Module, config: Config) -> Pupil:
    """Returns the pupil that `config.train` asks for; it takes the student over.

    Raises:
        MethodError: the student has packed linears and is to be trained as a dense one, or the other way round.
    """
    packed = skeleton.packed_layers(student)
    if config.train == "packed":
        if not packed:
            raise MethodError("train='packed' for a student without packed linears", allowed="all, lora")
        return OfPacked(student)
    if packed:
        raise MethodError(
            f"train={config.train!r} for a student with {len(packed)} packed linears",
            allowed="packed",
            do="Train before it is packed, or what is real in the packed linears with train='packed'",
            layer=next(iter(packed)),
        )
    return OfAll(student) if config.train == "all" else OfUpdates(student, config)


def block_linears(model: Any) -> list[linears.LinearRef]:
    """Returns the linears of all decoder blocks of a whole model, in the order of the module tree."""
    names = find_blocks(model)
    return [ref for name in names for ref in linears.find_linears(model.get_submodule(name), name)]


class OfAll:
    """All floating point parameters of a dense model learn."""

    def __init__(self, student: nn.Module):
        self._dtypes = {name: p.dtype for name, p in student.named_parameters() if p.is_floating_point()}
        self.module = as_float(student).eval().requires_grad_(False)
        self._masters: dict[str, nn.Parameter] = {}
        for name in self._dtypes:
            self._masters[name] = student.get_parameter(name)
            self._masters[name].requires_grad_()

    def start(self) -> list[torch.Tensor]:
        return list(self._masters.values())

    def __call__(self, tokens_BT: torch.Tensor, *, hidden: bool) -> Any:
        return self.module(input_ids=tokens_BT, use_cache=False, output_hidden_states=hidden)

    def masters(self) -> dict[str, nn.Parameter]:
        return self._masters

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        return {name: p.detach().cpu().to(self._dtypes[name]) for name, p in self._masters.items()}, {}


class OfUpdates:
    """LoRA: the linears of the blocks stay, a product of rank r beside each of them learns and is merged at the end.

    Matrices of fused experts get none: peft wraps modules, and they have none of their own.
    """

    def __init__(self, student: nn.Module, config: Config):
        from peft import LoraConfig, get_peft_model

        refs = block_linears(student)
        targets = [ref.name for ref in refs if ref.kind != "expert"]
        if not targets:
            raise MethodError("a student without linears that LoRA can stand beside", do="Choose train='all'")
        self._dtypes = {f"{name}.weight": student.get_parameter(f"{name}.weight").dtype for name in targets}
        conv1d = any(ref.kind == "conv1d" for ref in refs)
        lora = LoraConfig(
            r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=0.0, bias="none",  # type: ignore[arg-type]
            target_modules=targets, fan_in_fan_out=conv1d, task_type="CAUSAL_LM",
        )  # fmt: skip
        with torch.random.fork_rng(), warnings.catch_warnings():
            # peft 0.21 asks transformers 5.23 under a name that it is about to drop
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            torch.manual_seed(config.training_seed)
            self._model: Any = get_peft_model(as_float(student), lora)  # type: ignore[arg-type]
        self.module: nn.Module = self._model.eval()
        self._masters: dict[str, nn.Parameter] = {
            name: p for name, p in self._model.named_parameters() if p.requires_grad
        }

    def start(self) -> list[torch.Tensor]:
        return [parameter.detach() for parameter in self._model.parameters()]

    def __call__(self, tokens_BT: torch.Tensor, *, hidden: bool) -> Any:
        return self.module(input_ids=tokens_BT, use_cache=False, output_hidden_states=hidden)

    def masters(self) -> dict[str, nn.Parameter]:
        return self._masters

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        merged = self._model.merge_and_unload()
        weights = {name: merged.get_parameter(name).detach() for name in self._dtypes}
        return {name: weight.cpu().to(self._dtypes[name]) for name, weight in weights.items()}, {}


class OfPacked:
    """The continuous planes of packed linears learn, and norms and biases, in units of each tensor's magnitude."""

    def __init__(self, student: nn.Module):
        self.module: nn.Module
        self.module = self._student = Student(student)
        self._masters = {f"move.{number}": move for number, move in enumerate(self._student.moves())}

    def start(self) -> list[torch.Tensor]:
        planes = [plane for layer in self._student.layers.values() for plane in layer.parts.packed.planes.values()]
        dense = [parameter.detach() for parameter in self._student.model.parameters()]
        return [*planes, *dense, *(part.stored for part in self._student.vectors.values())]

    def __call__(self, tokens_BT: torch.Tensor, *, hidden: bool) -> Any:
        return self._student.output(tokens_BT, hidden=hidden)

    def masters(self) -> dict[str, nn.Parameter]:
        return self._masters

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        packed, dense = self._student.result()
        return dense, packed
