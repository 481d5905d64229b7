"""Searches new codes for an additive tensor so that it comes nearer to a target weight: the V step of PV-tuning.

Source: Malinovskii et al., "PV-Tuning", arXiv 2405.14852, §3.3: only the few groups that are farthest
from the target get new codes, chosen by plain distance.

Shape letters: N out features, K in features, M codebooks, J groups of g columns, P chosen groups.
"""

from __future__ import annotations

import torch

from compress.errors import MethodError
from compress.format.layouts import additive
from compress.format.packed import PackedTensor
from compress.numerics import additive_codes as coding


def recode(
    packed: PackedTensor, target_NK: torch.Tensor, share: float, beam_width: int = 4
) -> tuple[PackedTensor, int]:
    """Returns the tensor with new codes for at most `share` of its groups, and how many groups changed.

    Only a group that comes nearer to `target_NK` (float [N, K]) changes, so ‖Ŵ − target‖ never rises; codebooks and
    scales stay as they are.
    """
    if not 0 <= share <= 1:
        raise MethodError(f"share={share}", allowed="0 to 1")
    codes_NJM, books_MVg = additive.expand(packed).codes_NJM.long(), packed.planes["codebooks"].float()
    rows, groups, _ = codes_NJM.shape
    present_PG = additive.unpack(packed).view(rows * groups, -1)
    wanted_PG = target_NK.float().reshape(rows * groups, -1)
    far_P = (wanted_PG - present_PG).square().sum(1)
    chosen_P = far_P.topk(int(share * far_P.numel())).indices
    scale_P1 = packed.planes["scale"].float().repeat_interleave(groups)[chosen_P, None]
    chosen_P, scale_P1 = chosen_P[scale_P1[:, 0] != 0], scale_P1[scale_P1[:, 0] != 0]
    if chosen_P.numel() == 0:
        return packed, 0
    code_PM = coding.nearest_sums(wanted_PG[chosen_P] / scale_P1, books_MVg, beam_width)
    reached_PG = coding.sums(books_MVg, code_PM) * scale_P1
    nearer_P = (wanted_PG[chosen_P] - reached_PG).square().sum(1) < far_P[chosen_P]
    codes_PM = codes_NJM.view(rows * groups, -1)
    changed_P = nearer_P & (codes_PM[chosen_P] != code_PM).any(1)
    codes_PM[chosen_P[changed_P]] = code_PM[changed_P]
    recoded = additive.pack(codes_NJM, packed.planes["codebooks"], packed.planes["scale"])
    return recoded, int(changed_P.sum())
