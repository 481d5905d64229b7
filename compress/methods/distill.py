"""Distillation: trains a student to predict the same next-token distributions as a dense teacher.

Sources: Hinton et al., arXiv 1503.02531 (temperature); Muralidharan et al., arXiv 2407.14679 §3 (Minitron: after
pruning, the divergence of the logits alone is best, cross-entropy adds nothing, hidden states help only when many
layers were removed); Gu et al., arXiv 2306.08543 (reverse divergence); Hu et al., arXiv 2106.09685 (LoRA).

Differs from the papers in:
- the state with the lowest held-out loss is kept, the first one included, so training never makes it worse;
- with `top_k` the teacher's other tokens are stored as one bucket; others drop them and renormalise;
- the hidden loss is relative to the teacher's mean square and has a fixed weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from compress.errors import MethodError
from compress.methods.protocol import TrainingOptions

KIND = "train"
NEEDS = frozenset({"tokens"})
TRAINER = "compress.training.distillation"
NEEDS_OTHER_TEACHER = True
LOSSES = ("kl", "reverse_kl")
RATES = {"all": 3e-4, "lora": 2e-3, "packed": 5e-3}
"""What can be trained, and its default rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(TrainingOptions):
    """Options of distillation."""

    teacher: str | None = None
    """The dense model to learn from: atlas, a folder or a hub id. Not given: the model that the recipe starts from."""
    loss: str = "kl"
    """Divergence of the next token: `kl` (teacher to student) or `reverse_kl` (student to teacher)."""
    temperature: float = 1.0
    """Divides the logits of teacher and student, above 0; the loss is multiplied by its square."""
    ce_weight: float = 0.0
    """Share of the cross-entropy with the text in the loss, 0 to 1; the divergence has the rest."""
    hidden_weight: float = 0.0
    """Weight of the relative squared distance of the hidden states, 0 or more; needs a student of the same depth."""
    train: str = "all"
    """What is trained: `all` dense tensors; `lora` (low-rank updates of the linears, merged at the end); `packed` (the
    floating-point planes of packed linears, norms and biases)."""
    lora_rank: int = 16
    """Rank of the updates with `train=lora`, 1 or more."""
    lora_alpha: float = 32.0
    """Scale of the updates times their rank with `train=lora`, above 0."""
    rate: float | None = None
    """Learning rate after the warm-up, above 0; with `packed` in units of each tensor's root mean square. Not given:
    3e-4 for `all`, 2e-3 for `lora`, 5e-3 for `packed`."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices with `all` and `lora`, 0 or more."""
    clip: float = 1.0
    """Greatest norm of the gradient, above 0; inf for none."""
    top_k: int = 0
    """Likeliest tokens whose probabilities are stored when the teacher runs once, before training; 0: it runs in every
    step."""
    evaluate_every: int = 50
    """Steps between two evaluations of the held-out sequences, 1 or more."""

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise MethodError(f"loss={self.loss!r}", allowed=", ".join(LOSSES))
        if self.train not in RATES:
            raise MethodError(f"train={self.train!r}", allowed=", ".join(RATES))
        if not 0 < self.temperature < float("inf"):
            raise MethodError(f"temperature={self.temperature}", allowed="more than 0")
        if not 0 <= self.ce_weight <= 1:
            raise MethodError(f"ce_weight={self.ce_weight}", allowed="0 to 1")
        if not 0 <= self.hidden_weight < float("inf"):
            raise MethodError(f"hidden_weight={self.hidden_weight}", allowed="0 or more")
        if self.lora_rank < 1:
            raise MethodError(f"lora_rank={self.lora_rank}", allowed="1 or more")
        if not 0 < self.lora_alpha < float("inf"):
            raise MethodError(f"lora_alpha={self.lora_alpha}", allowed="more than 0")
        if self.top_k < 0:
            raise MethodError(f"top_k={self.top_k}", allowed="0 or more")
        if self.top_k and self.hidden_weight:
            raise MethodError(
                f"top_k={self.top_k} with hidden_weight={self.hidden_weight}",
                do="Leave top_k at 0: hidden states are not kept",
            )
