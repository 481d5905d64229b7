"""What the teacher says of the sequences: asked anew for every batch, or asked once and its likeliest tokens kept.

    teacher-0003.safetensors     sequences 192 to 255 of a kept teacher
        places [S, T, k] int32         the k likeliest next tokens, likeliest first
        shares [S, T, k + 1] float32   their log-probabilities at the temperature, then that of all others together
        identity [32] uint8            sha256 of teacher, tokens, k and temperature

Shape letters: S sequences of one file, B sequences of one call, T tokens, V vocabulary, k tokens kept.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from compress.errors import MethodError
from compress.format import files
from compress.models.blocks import split
from compress.training import losses
from compress.tuning.state import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compress.progress import Progress

_FILE_SEQUENCES = 64


class Wanted(NamedTuple):
    """What the teacher says of some sequences: logits, or the shares that were kept of them."""

    logits_BTV: torch.Tensor | None  # noqa: N815
    shares: tuple[torch.Tensor, torch.Tensor] | None
    """places [B, T, k] and log-probabilities [B, T, k + 1]."""
    hidden: tuple[torch.Tensor, ...]
    """Hidden states [B, T, H] after every block, where they were asked for."""


Teacher = Callable[[torch.Tensor], Wanted]
"""Numbers of sequences [B] -> what the teacher says of them."""


def vocabulary(model: nn.Module) -> int:
    """Returns the number of tokens that a model gives logits for."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    width = getattr(head, "out_features", None) or head.weight.shape[0]
    return int(width)


def check_vocabularies(student: nn.Module, teacher: nn.Module) -> None:
    """Raises MethodError unless both models give logits for as many tokens."""
    given, allowed = vocabulary(teacher), vocabulary(student)
    if given != allowed:
        raise MethodError(
            f"the teacher has a vocabulary of {given} tokens",
            allowed=f"{allowed}, that of the student",
            do="Name a teacher with the same tokenizer",
        )


def check_tokenizers(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Raises MethodError unless both tokenizers give every token the same number."""
    mine, other = student.get_vocab(), teacher.get_vocab()
    if mine != other:
        differ = sorted(token for token in mine.keys() | other.keys() if mine.get(token) != other.get(token))
        raise MethodError(
            f"the teacher has another vocabulary: {len(differ)} tokens differ, among them {differ[0]!r}",
            allowed="the tokens of the student, under the same numbers",
            do="Name a teacher with the same tokenizer",
        )


class Live:
    """A teacher that is in memory and asked for every batch."""

    def __init__(self, model: nn.Module, tokens_ST: torch.Tensor, *, hidden: bool = False):
        """Takes the model as it is: in evaluation mode, on the device that it is to run on."""
        self._model, self._tokens_ST, self._hidden = model, tokens_ST, hidden

    @torch.no_grad()
    def __call__(self, chosen_B: torch.Tensor) -> Wanted:
        tokens_BT = self._tokens_ST[chosen_B].to(next(self._model.parameters()).device)
        output = self._model(input_ids=tokens_BT, use_cache=False, output_hidden_states=self._hidden)
        return Wanted(output.logits, None, after_blocks(output) if self._hidden else ())


class Kept:
    """A teacher that was asked once, `keep` having written what it said."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self._folder, self._device = folder, device

    def __call__(self, chosen_B: torch.Tensor) -> Wanted:
        from safetensors import safe_open

        found: dict[str, list[torch.Tensor]] = {"places": [], "shares": []}
        for number in chosen_B.tolist():
            with safe_open(_path(self._folder, number // _FILE_SEQUENCES), framework="pt") as file:
                for name, rows in found.items():
                    rows.append(file.get_slice(name)[number % _FILE_SEQUENCES])
        places, shares = (torch.stack(rows).to(self._device) for rows in found.values())
        return Wanted(None, (places, shares), ())


def keep(
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
    """Asks the teacher for all sequences and writes its k likeliest tokens into `folder`; whole files are kept.

    Ranks divide the files. The folder must be one for all of them. Memory: one file's shares and the logits of
    `micro_batch` sequences. Disk: 8·k + 4 bytes per token.

    Raises:
        MethodError: k is not below the vocabulary.
    """
    from accelerate import PartialState

    if k >= vocabulary(model):
        raise MethodError(f"top_k={k}", allowed=f"1 to {vocabulary(model) - 1}, or 0 to ask the teacher every time")
    state = PartialState()
    asked = Live(model, tokens_ST)
    weights = [parameter.detach() for parameter in model.parameters()]
    identity = digest([f"{k} {temperature}", tokens_ST, *weights])
    parts_S = split(torch.arange(len(tokens_ST)), _FILE_SEQUENCES)
    with progress.stage("Asking the teacher", len(parts_S)) as task:
        for number, part_S in enumerate(parts_S):
            path = _path(folder, number)
            if number % state.num_processes == state.process_index and not _is_of(path, identity):
                places, shares = [], []
                for chosen_B in split(part_S, micro_batch):
                    with torch.no_grad(), precision():
                        logits_BTV = asked(chosen_B).logits_BTV
                        assert logits_BTV is not None
                    for logits_TV in logits_BTV:
                        places_Tk, shares_Tk = losses.top_shares(logits_TV, k, temperature)
                        places.append(places_Tk.cpu())
                        shares.append(shares_Tk.cpu())
                tensors = {"places": torch.stack(places), "shares": torch.stack(shares), "identity": identity}
                files.write_tensors(path, tensors)
            task.advance(1)
    state.wait_for_everyone()


def after_blocks(output: Any) -> tuple[torch.Tensor, ...]:
    """Returns the hidden states after every block out of what a model gave; the first entry is the embedding."""
    return tuple(output.hidden_states[1:])


def _path(folder: Path, number: int) -> Path:
    return folder / f"teacher-{number:04d}.safetensors"


def _is_of(path: Path, identity: torch.Tensor) -> bool:
    """Whether a whole file of this teacher and these tokens is there; one of another is written anew."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return torch.equal(file.get_tensor("identity"), identity)
    except (OSError, SafetensorError):
        return False
