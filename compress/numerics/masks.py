"""Training with n:m masks: straight-through gradients, the decay of pruned weights, and the SLoRB product.

Sources: SR-STE (Zhou et al., arXiv 2102.04010 eq. 9) and AST (Huang et al., arXiv 2407.20584 §3). The decay of AST is
λ (1 − m) ⊙ W beside the gradient and outside its first moment, so that AdamW divides it by √v like the gradient.

Shape letters: N out features, K in features, s blocks of k consecutive in features.
"""

from __future__ import annotations

from typing import Any

import torch

from compress.errors import MethodError


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w_NK: torch.Tensor, mask_NK: torch.Tensor) -> torch.Tensor:
        return w_NK * mask_NK

    @staticmethod
    def backward(ctx: Any, grad_NK: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return grad_NK, None


def masked(w_NK: torch.Tensor, mask_NK: torch.Tensor) -> torch.Tensor:
    """Returns W ⊙ m; the gradient goes to all of W, so that what is pruned learns whether it should come back."""
    result: torch.Tensor = _StraightThrough.apply(w_NK, mask_NK)  # type: ignore[no-untyped-call]
    return result


def decay_at(step: int, steps: int, final: float, ramp: float) -> float:
    """Returns λ of step `step`, counted from 0: it rises linearly to `final` over the share `ramp` of the steps."""
    rising = ramp * steps
    return final if step + 1 >= rising else final * (step + 1) / rising


def decay(
    w_NK: torch.Tensor, mask_NK: torch.Tensor, root_NK: torch.Tensor, strength: float, *, eps: float = 1e-10
) -> None:
    """Shrinks the pruned weights in place: W −= strength · (1 − m) ⊙ W / (√v + eps). Kept weights are not touched.

    Args:
        w_NK, mask_NK: float32 weights, and true where they are kept.
        root_NK: √v of AdamW, its bias corrected.
        strength: rate · λ.

    Differs from the published code in: v is that of the gradient alone, as AdamW has it; no weight goes beyond zero in
    one step; the mask is boolean (its complement as integers, −1 and −2, made pruned weights grow there).
    """
    assert mask_NK.dtype == torch.bool
    shrunk_NK = w_NK * (1 - strength / (root_NK + eps)).clamp_min(0)
    w_NK.copy_(torch.where(mask_NK, w_NK, shrunk_NK))


def flipped(before_NK: torch.Tensor, after_NK: torch.Tensor) -> int:
    """Returns how many weights were kept before and are pruned now."""
    return int((before_NK & ~after_NK).sum())


def check_blocks(in_features: int, k: int) -> None:
    """Raises MethodError unless blocks of k inputs divide a row."""
    if k < 2 or in_features % k:
        raise MethodError(
            f"slorb={k} for in_features={in_features}",
            allowed=", ".join(str(size) for size in (8, 16, 32, 64) if in_features % size == 0) or "0",
            do="Give a size of blocks that divides the layer's input width, or 0 for none",
        )


def slorb_start(w_NK: torch.Tensor, mask_NK: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns left [N, s] and right [s, K], whose product makes up for the pruned weights by one number per block.

    SLoRB of AST §3.3: right sums the inputs of each block of k, left holds the sum of the block's pruned weights over
    k, which is the least-squares choice for inputs that are alike and independent.
    """
    check_blocks(w_NK.shape[1], k)
    blocks = w_NK.shape[1] // k
    left_Ns = (w_NK * ~mask_NK).reshape(w_NK.shape[0], blocks, k).mean(-1)
    right_sK = torch.eye(blocks, device=w_NK.device).repeat_interleave(k, dim=1)
    return left_Ns, right_sK
