"""The teacher's predictions: computed anew for every batch, or computed once and the likeliest tokens stored.

    teacher-0003.safetensors     sequences 192 to 255 of a cached teacher
        token_ids [S, T, k] int32         the k likeliest next tokens, likeliest first
        log_probs [S, T, k + 1] float32   their log-probabilities at the temperature, then that of all others together
        identity [32] uint8               sha256 of teacher, tokens, k and temperature

Shape letters: S sequences of one file, B sequences of one call, T tokens, V vocabulary, k tokens kept.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from compress.errors import MethodError, counted
from compress.format import files
from compress.models.blocks import split
from compress.training import losses
from compress.tuning.checkpoint import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compress.progress import Progress

_SEQUENCES_PER_FILE = 64


class TeacherOutput(NamedTuple):
    """The teacher's predictions for some sequences: logits, or the likeliest tokens that were stored."""

    logits_BTV: torch.Tensor | None  # noqa: N815
    top: tuple[torch.Tensor, torch.Tensor] | None
    """Token ids [B, T, k] and log-probabilities [B, T, k + 1]."""
    hidden: tuple[torch.Tensor, ...]
    """Hidden states [B, T, H] after every block, if they were asked for."""


Teacher = Callable[[torch.Tensor], TeacherOutput]
"""Indices of sequences [B] -> the teacher's predictions for them."""


def vocabulary(model: nn.Module) -> int:
    """Returns the number of tokens that a model gives logits for."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    width = getattr(head, "out_features", None) or head.weight.shape[0]
    return int(width)


def check_vocabularies(student: nn.Module, teacher: nn.Module) -> None:
    """Raises MethodError unless both models give logits for the same number of tokens."""
    teacher_tokens, student_tokens = vocabulary(teacher), vocabulary(student)
    if teacher_tokens != student_tokens:
        raise MethodError(
            f"the teacher has a vocabulary of {teacher_tokens} tokens",
            allowed=f"{student_tokens}, that of the student",
            do="Name a teacher with the same tokenizer",
        )


def check_tokenizers(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Raises MethodError unless both tokenizers give every token the same id."""
    student_ids, teacher_ids = student.get_vocab(), teacher.get_vocab()
    if student_ids != teacher_ids:
        tokens = student_ids.keys() | teacher_ids.keys()
        differ = sorted(token for token in tokens if student_ids.get(token) != teacher_ids.get(token))
        many = f"{counted(len(differ), 'token')} differ{'s' if len(differ) == 1 else ''}"
        raise MethodError(
            f"the teacher has another vocabulary: {many}, such as {differ[0]!r}",
            allowed="the tokens of the student, with the same ids",
            do="Name a teacher with the same tokenizer",
        )


class LiveTeacher:
    """A teacher in memory that computes its predictions for every batch."""

    def __init__(self, model: nn.Module, tokens_ST: torch.Tensor, *, hidden: bool = False):
        """`model` must be in evaluation mode and on its device; `hidden` asks for hidden states too."""
        self._model, self._tokens_ST, self._hidden = model, tokens_ST, hidden

    @torch.no_grad()
    def __call__(self, chosen_B: torch.Tensor) -> TeacherOutput:
        tokens_BT = self._tokens_ST[chosen_B].to(next(self._model.parameters()).device)
        output = self._model(input_ids=tokens_BT, use_cache=False, output_hidden_states=self._hidden)
        return TeacherOutput(output.logits, None, after_blocks(output) if self._hidden else ())


class CachedTeacher:
    """A teacher whose predictions `cache_predictions` has stored."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self._folder, self._device = folder, device

    def __call__(self, chosen_B: torch.Tensor) -> TeacherOutput:
        from safetensors import safe_open

        rows: dict[str, list[torch.Tensor]] = {"token_ids": [], "log_probs": []}
        for sequence in chosen_B.tolist():
            number, row = divmod(sequence, _SEQUENCES_PER_FILE)
            with safe_open(_path(self._folder, number), framework="pt") as file:
                for name in rows:
                    rows[name].append(file.get_slice(name)[row])
        token_ids, log_probs = (torch.stack(tensors).to(self._device) for tensors in rows.values())
        return TeacherOutput(None, (token_ids, log_probs), ())


def cache_predictions(
    model: nn.Module,
    tokens_ST: torch.Tensor,
    folder: Path,
    progress: Progress,
    *,
    k: int,
    temperature: float,
    micro_batch: int,
    precision: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Writes the teacher's k likeliest tokens for all sequences into `folder`; files that are there already are kept.

    Processes divide the files among them; the folder must be the same for all. Memory: one file's predictions and the
    logits of `micro_batch` sequences. Disk: 8·k + 4 bytes per token.

    Args:
        precision: makes the context (autocast) in which the teacher computes.

    Raises:
        MethodError: k is not below the vocabulary.
    """
    from accelerate import PartialState

    if k >= vocabulary(model):
        raise MethodError(f"top_k={k}", allowed=f"1 to {vocabulary(model) - 1}, or 0 for a teacher asked in every step")
    state = PartialState()
    live = LiveTeacher(model, tokens_ST)
    weights = [parameter.detach() for parameter in model.parameters()]
    identity = digest([f"{k} {temperature}", tokens_ST, *weights])
    parts_S = split(torch.arange(len(tokens_ST)), _SEQUENCES_PER_FILE)
    with progress.stage("Asking the teacher", len(parts_S)) as task:
        for number, part_S in enumerate(parts_S):
            path = _path(folder, number)
            if number % state.num_processes == state.process_index and not _is_complete(path, identity):
                predictions = _predict(live, part_S, k, temperature, micro_batch, precision)
                files.write_tensors(path, predictions | {"identity": identity})
            task.advance(1)
    state.wait_for_everyone()


@torch.no_grad()
def _predict(
    live: LiveTeacher,
    part_S: torch.Tensor,
    k: int,
    temperature: float,
    micro_batch: int,
    precision: Callable[[], AbstractContextManager[Any]],
) -> dict[str, torch.Tensor]:
    """Returns `token_ids` and `log_probs` of the sequences of one file."""
    token_ids, log_probs = [], []
    for chosen_B in split(part_S, micro_batch):
        with precision():
            logits_BTV = live(chosen_B).logits_BTV
        assert logits_BTV is not None
        for logits_TV in logits_BTV:
            token_ids_Tk, log_probs_Tk = losses.top_log_probs(logits_TV, k, temperature)
            token_ids.append(token_ids_Tk.cpu())
            log_probs.append(log_probs_Tk.cpu())
    return {"token_ids": torch.stack(token_ids), "log_probs": torch.stack(log_probs)}


def after_blocks(output: Any) -> tuple[torch.Tensor, ...]:
    """Returns the hidden states after every block from a model's output, whose first entry is the embedding."""
    return tuple(output.hidden_states[1:])


def _path(folder: Path, number: int) -> Path:
    return folder / f"teacher-{number:04d}.safetensors"


def _is_complete(path: Path, identity: torch.Tensor) -> bool:
    """Returns whether the file is there, readable, and of this teacher and these tokens; any other is overwritten."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return torch.equal(file.get_tensor("identity"), identity)
    except (OSError, SafetensorError):
        return False
