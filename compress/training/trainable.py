"""Which parameters are trained: all dense tensors, LoRA updates, or the floating-point planes of packed linears.

Shape letters: B sequences, T tokens per sequence, V vocabulary.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from compress.errors import MethodError, need_package
from compress.models import linears
from compress.models.skeleton import find_blocks
from compress.runtime import skeleton
from compress.tuning.student import Student, to_float32

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.methods.distill import Config


class Trainable(Protocol):
    """A student, the parameters of it that are trained, and how they become tensors to store."""

    @property
    def module(self) -> nn.Module:
        """The module that holds all masters."""

    def starting_weights(self) -> list[torch.Tensor]:
        """Returns the student's weights before training, for the identity of the run."""

    def __call__(self, tokens_BT: torch.Tensor, *, hidden: bool) -> Any:
        """Returns the model's output with logits [B, T, V], and with hidden states if `hidden`."""

    def masters(self) -> dict[str, nn.Parameter]:
        """Returns the trained parameters, float32, by name."""

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        """Returns changed dense tensors and packed linears, as they are to be stored; call it once, at the end."""


def make_trainable(student: nn.Module, config: Config) -> Trainable:
    """Returns the student with the parameters of `config.train` trainable; the student is changed in place.

    Raises:
        MethodError: the student has packed linears and is to be trained as a dense one, or the other way round.
    """
    packed = skeleton.packed_layers(student)
    if config.train == "packed":
        if not packed:
            raise MethodError("train='packed' for a student without packed linears", allowed="all, lora")
        return TrainablePacked(student)
    if packed:
        raise MethodError(
            f"train={config.train!r} for a student with {len(packed)} packed linears",
            allowed="packed",
            do="Train before it is packed, or the floating-point planes of the packed linears with train='packed'",
            layer=next(iter(packed)),
        )
    return TrainableDense(student) if config.train == "all" else TrainableLora(student, config)


def block_linears(model: Any) -> list[linears.LinearRef]:
    """Returns the linears of all decoder blocks of a whole model, in the order of the module tree."""
    names = find_blocks(model)
    return [ref for name in names for ref in linears.find_linears(model.get_submodule(name), name)]


class TrainableDense:
    """All floating-point parameters of a dense model."""

    def __init__(self, student: nn.Module):
        self._dtypes = {name: p.dtype for name, p in student.named_parameters() if p.is_floating_point()}
        self.module = to_float32(student).eval().requires_grad_(False)
        self._masters: dict[str, nn.Parameter] = {}
        for name in self._dtypes:
            self._masters[name] = student.get_parameter(name)
            self._masters[name].requires_grad_()

    def starting_weights(self) -> list[torch.Tensor]:
        return list(self._masters.values())

    def __call__(self, tokens_BT: torch.Tensor, *, hidden: bool) -> Any:
        return self.module(input_ids=tokens_BT, use_cache=False, output_hidden_states=hidden)

    def masters(self) -> dict[str, nn.Parameter]:
        return self._masters

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        return {name: p.detach().cpu().to(self._dtypes[name]) for name, p in self._masters.items()}, {}


class TrainableLora:
    """LoRA (arXiv 2106.09685): a trained product of rank r beside each fixed linear of the blocks, merged at the end.

    The matrices of fused experts get none: peft wraps modules, and these are parameters of one module.
    """

    def __init__(self, student: nn.Module, config: Config):
        need_package("peft", "train='lora'")
        from peft import LoraConfig, get_peft_model

        refs = block_linears(student)
        targets = [ref.name for ref in refs if ref.kind != "expert"]
        if not targets:
            raise MethodError("train='lora' for a student without linears that LoRA can wrap", do="Choose train='all'")
        self._dtypes = {f"{name}.weight": student.get_parameter(f"{name}.weight").dtype for name in targets}
        conv1d = any(ref.kind == "conv1d" for ref in refs)
        lora = LoraConfig(
            r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=0.0, bias="none",  # type: ignore[arg-type]
            target_modules=targets, fan_in_fan_out=conv1d, task_type="CAUSAL_LM",
        )  # fmt: skip
        with torch.random.fork_rng(), warnings.catch_warnings():
            # peft 0.21 reads an attribute that transformers 5.23 has deprecated
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            torch.manual_seed(config.training_seed)
            self._model: Any = get_peft_model(to_float32(student), lora)  # type: ignore[arg-type]
        self.module: nn.Module = self._model.eval()
        self._masters: dict[str, nn.Parameter] = {
            name: p for name, p in self._model.named_parameters() if p.requires_grad
        }

    def starting_weights(self) -> list[torch.Tensor]:
        return [parameter.detach() for parameter in self._model.parameters()]

    def __call__(self, tokens_BT: torch.Tensor, *, hidden: bool) -> Any:
        return self.module(input_ids=tokens_BT, use_cache=False, output_hidden_states=hidden)

    def masters(self) -> dict[str, nn.Parameter]:
        return self._masters

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        merged = self._model.merge_and_unload()
        weights = {name: merged.get_parameter(name).detach() for name in self._dtypes}
        return {name: weight.cpu().to(self._dtypes[name]) for name, weight in weights.items()}, {}


class TrainablePacked:
    """The continuous planes of packed linears, norms and biases, each in units of its root mean square."""

    def __init__(self, student: nn.Module):
        self.module: nn.Module
        self.module = self._student = Student(student)

    def starting_weights(self) -> list[torch.Tensor]:
        planes = [plane for layer in self._student.layers.values() for plane in layer.planes.packed.planes.values()]
        dense = [parameter.detach() for parameter in self._student.model.parameters()]
        return [*planes, *dense, *(vector.stored for vector in self._student.vectors.values())]

    def __call__(self, tokens_BT: torch.Tensor, *, hidden: bool) -> Any:
        return self._student.output(tokens_BT, hidden=hidden)

    def masters(self) -> dict[str, nn.Parameter]:
        return self._student.masters()

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        packed, dense = self._student.result()
        return dense, packed
