"""A fixed linear with correlated, anisotropic inputs and a few heavy weights, as real layers have."""

import torch

from compress.calibration.stats import LayerStats
from compress.format import layouts
from compress.format.packed import PackedTensor


def correlated_layer(rows: int = 48, width: int = 96, tokens: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the weight [rows, width] and the inputs [tokens, width]."""
    generator = torch.Generator().manual_seed(7)
    w_NK = torch.randn(rows, width, generator=generator) * 0.02
    w_NK[torch.rand(rows, width, generator=generator) < 0.004] *= 8
    latent = torch.randn(tokens, 24, generator=generator) @ torch.randn(24, width, generator=generator) / 24**0.5
    x_TK = latent + 0.5 * torch.randn(tokens, width, generator=generator)
    scale_K = torch.arange(1, width + 1).float()[torch.randperm(width, generator=generator)] ** -0.4
    return w_NK, x_TK * scale_K


def statistics(x_TK: torch.Tensor) -> LayerStats:
    """Returns the statistics of these inputs."""
    stats = LayerStats.empty(x_TK.shape[1])
    stats.update(x_TK)
    return stats


def output_error(w_NK: torch.Tensor, x_TK: torch.Tensor, packed: PackedTensor) -> float:
    """Returns ‖(W − Ŵ)X‖² / ‖WX‖²."""
    layouts.check(packed)
    wrong = (w_NK - layouts.unpack(packed)) @ x_TK.T
    return float(wrong.square().sum() / (w_NK @ x_TK.T).square().sum())
