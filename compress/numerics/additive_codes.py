"""Codes of an additive code: which vector of each codebook stands for a group, searched with the whole row in view.

The loss of a row is (w − ŵ) G (w − ŵ)ᵀ. With R = W − Ŵ and P = R G, putting the sum u of new vectors in place of the
sum v in group j changes it by −2 s (u − v)·P_j + s² (u − v) G_jj (u − v)ᵀ, so a search needs only P_j and G_jj, and P
follows by one product of rank g. Rows do not depend on one another.

Shape letters: N out features, K in features, M codebooks, J groups of g columns, V vectors of a codebook, W beam.
"""

from __future__ import annotations

import torch

_CHUNK = 1 << 23
"""Scores of candidates held at once."""


class Search:
    """Codes [N, J, M] of rows [N, K] under G, with codebooks and row scales that may change between sweeps."""

    def __init__(self, w_NK: torch.Tensor, gram_KK: torch.Tensor, width: int, codes_NJM: torch.Tensor):
        self.w_NK, self.gram_KK, self.width, self.codes_NJM = w_NK, gram_KK, width, codes_NJM

    def sweep(self, books_MVg: torch.Tensor, scale_N: torch.Tensor, beam: int, order_J: list[int]) -> None:
        """Searches every group once, in `order_J`; no row's loss rises."""
        rows = max(1, _CHUNK // (beam * books_MVg.shape[1]))
        for start in range(0, self.w_NK.shape[0], rows):
            part = slice(start, start + rows)
            _sweep_rows(
                self.w_NK[part], self.gram_KK, self.width, self.codes_NJM[part], books_MVg, scale_N[part], beam, order_J
            )


def start(
    w_NK: torch.Tensor,
    upper_KK: torch.Tensor,
    order_J: list[int],
    books_MVg: torch.Tensor,
    scale_N: torch.Tensor,
    beam: int,
) -> torch.Tensor:
    """Returns first codes int64 [N, J, M]: group after group, each group's error spread over the groups to come.

    The groups are taken in `order_J`; the columns of `w_NK` and of `upper_KK` stand in that order already.

    UᵀU is the inverse of the damped Gram matrix, as in `_sweep`: what a group costs once the later ones have
    compensated for it is the distance in the metric of the inverse of U_jj.
    """
    width = books_MVg.shape[2]
    codes_NJM = torch.empty(w_NK.shape[0], len(order_J), books_MVg.shape[0], dtype=torch.int64, device=w_NK.device)
    rows = max(1, _CHUNK // (beam * books_MVg.shape[1]))
    eye_gg = torch.eye(width, device=w_NK.device)
    for first in range(0, w_NK.shape[0], rows):
        left_NK, scale_N1 = w_NK[first : first + rows].clone(), scale_N[first : first + rows, None]
        for place, j in enumerate(order_J):
            here = slice(place * width, (place + 1) * width)
            inverse_gg = torch.linalg.solve_triangular(upper_KK[here, here], eye_gg, upper=True)
            metric_gg = inverse_gg @ inverse_gg.T
            pull_Ng = left_NK[:, here] / scale_N1 @ metric_gg
            code_NM = _beam(pull_Ng, metric_gg, books_MVg, beam, list(range(books_MVg.shape[0])))[0]
            codes_NJM[first : first + rows, j] = code_NM
            error_Ng = left_NK[:, here] - scale_N1 * sums(books_MVg, code_NM)
            left_NK[:, here.stop :] -= error_Ng @ inverse_gg @ upper_KK[here, here.stop :]
    return codes_NJM


def _sweep_rows(
    w_NK: torch.Tensor,
    gram_KK: torch.Tensor,
    width: int,
    codes_NJM: torch.Tensor,
    books_MVg: torch.Tensor,
    scale_N: torch.Tensor,
    beam: int,
    order_J: list[int],
) -> None:
    scale_N1, books = scale_N[:, None], books_MVg.shape[0]
    decoded_NJg = sum(books_MVg[book][codes_NJM[..., book]] for book in range(books))
    assert isinstance(decoded_NJg, torch.Tensor)
    pull_NK = (w_NK - decoded_NJg.flatten(1) * scale_N1) @ gram_KK
    for turn, j in enumerate(order_J):
        here = slice(j * width, (j + 1) * width)
        block_gg, old_Ng = gram_KK[here, here], decoded_NJg[:, j]
        # in units of the scale: loss(u) = s² (u G_jj uᵀ − 2 u·q) with q = P_j / s + v G_jj
        q_Ng = torch.addmm(pull_NK[:, here] / scale_N1, old_Ng, block_gg)
        order = [(turn + book) % books for book in range(books)]
        code_NM, loss_N = _beam(q_Ng, block_gg, books_MVg, beam, order)
        old_loss_N = ((old_Ng @ block_gg - 2 * q_Ng) * old_Ng).sum(1)
        better_N1 = (loss_N < old_loss_N)[:, None]
        code_NM = torch.where(better_N1, code_NM, codes_NJM[:, j])
        new_Ng = torch.where(better_N1, sums(books_MVg, code_NM), old_Ng)
        pull_NK.addmm_((old_Ng - new_Ng) * scale_N1, gram_KK[here])
        codes_NJM[:, j] = code_NM
        decoded_NJg[:, j] = new_Ng


def nearest_sums(points_Ng: torch.Tensor, books_MVg: torch.Tensor, beam: int) -> torch.Tensor:
    """Returns the codes [N, M] of sums near to the points, by plain distance."""
    eye_gg = torch.eye(points_Ng.shape[1], device=points_Ng.device)
    rows = max(1, _CHUNK // (beam * books_MVg.shape[1]))
    order = list(range(books_MVg.shape[0]))
    parts = [points_Ng[start : start + rows] for start in range(0, points_Ng.shape[0], rows)]
    return torch.cat([_beam(part_Ng, eye_gg, books_MVg, beam, order)[0] for part_Ng in parts])


def sums(books_MVg: torch.Tensor, code_NM: torch.Tensor) -> torch.Tensor:
    """Returns the sum [N, g] of the vectors that codes [N, M] choose."""
    total_Ng = books_MVg[0].index_select(0, code_NM[:, 0])
    for book in range(1, books_MVg.shape[0]):
        total_Ng += books_MVg[book].index_select(0, code_NM[:, book])
    return total_Ng


def _beam(
    q_Ng: torch.Tensor, metric_gg: torch.Tensor, books_MVg: torch.Tensor, beam: int, order: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns codes [N, M] of a sum u with a small u A uᵀ − 2 u·q, and that value [N].

    Codebooks are taken in `order`; after each, the `beam` best of all hypotheses are kept.
    """
    rows, (books, vectors, width) = q_Ng.shape[0], books_MVg.shape
    metric_MVg = books_MVg @ metric_gg
    own_MV = (metric_MVg * books_MVg).sum(-1)
    cost_NW = q_Ng.new_zeros(rows, 1)
    picked: list[torch.Tensor] = []  # codes [N, W] by the codebook in `order`
    push_NWg = q_Ng[:, None]  # q − A (what is chosen so far)
    for place, book in enumerate(order):
        wide = cost_NW.shape[1]
        score_NWV = torch.addmm(own_MV[book], push_NWg.reshape(-1, width), books_MVg[book].T, alpha=-2)
        score_NV = score_NWV.view(rows, wide, vectors).add_(cost_NW[..., None]).flatten(1)
        keep = 1 if place == books - 1 else min(beam, score_NV.shape[1])
        if keep == 1:
            cost_NW, at_NW = score_NV.min(1, keepdim=True)
        else:
            cost_NW, at_NW = score_NV.topk(keep, dim=1, largest=False, sorted=False)
        parent_NW, code_NW = at_NW // vectors, at_NW % vectors
        picked = [codes.gather(1, parent_NW) for codes in picked] + [code_NW]
        if place < books - 1:
            push_NWg = push_NWg.gather(1, parent_NW[..., None].expand(-1, -1, width))
            push_NWg = push_NWg - metric_MVg[book][code_NW]
    code_NM = torch.empty(rows, books, dtype=torch.int64, device=q_Ng.device)
    for book, codes in zip(order, picked, strict=True):
        code_NM[:, book] = codes[:, 0]
    return code_NM, cost_NW[:, 0]
