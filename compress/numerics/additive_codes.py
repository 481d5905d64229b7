"""Searches the codes of additive quantisation: the vectors, one per codebook, whose sum stands for a group of weights.

The loss of a row is (w − ŵ) G (w − ŵ)ᵀ with the Gram matrix G of the inputs. Keep R = W − Ŵ and P = R G up to date.
Then to replace the sum v of group j by another sum u changes the loss by

    −2 s (u − v)·P_j + s² (u − v) G_jj (u − v)ᵀ        s the scale of the row

so a search of one group needs only P_j and G_jj, and after a change P follows by one product of rank g. The rows do not
depend on one another, and are searched in chunks that bound the memory of the scores.

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
        """Searches every group once, in `order_J`, and changes `codes_NJM` in place; no row's loss rises.

        Args:
            books_MVg: codebooks float32.
            scale_N: scales of the rows float32.
            beam: hypotheses kept per row, 1 or more.
            order_J: all groups, each once.
        """
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
    """Returns first codes int64 [N, J, M]: group after group, each group's error compensated by the later groups.

    This is the sweep of GPTQ with groups in place of columns. With UᵀU = G⁻¹ (`sweep.inverse_factor`) and e the error
    of group j, the later groups compensate best by w ← w − e U_jj⁻¹ U_j,later, and the loss then grows by ‖e U_jj⁻¹‖²:
    the nearest sum is searched in the metric U_jj⁻¹ U_jj⁻ᵀ.

    Args:
        w_NK: weights float32, columns in the order of the groups in `order_J`.
        upper_KK: U, columns in the same order.
        order_J: the groups, the most important ones first.
        books_MVg: codebooks float32.
        scale_N: scales of the rows float32.
        beam: hypotheses kept per row, 1 or more.
    """
    width = books_MVg.shape[2]
    codes_NJM = torch.empty(w_NK.shape[0], len(order_J), books_MVg.shape[0], dtype=torch.int64, device=w_NK.device)
    rows = max(1, _CHUNK // (beam * books_MVg.shape[1]))
    eye_gg = torch.eye(width, device=w_NK.device)
    for first in range(0, w_NK.shape[0], rows):
        residual_NK, scale_N1 = w_NK[first : first + rows].clone(), scale_N[first : first + rows, None]
        for place, j in enumerate(order_J):
            here = slice(place * width, (place + 1) * width)
            inverse_gg = torch.linalg.solve_triangular(upper_KK[here, here], eye_gg, upper=True)
            metric_gg = inverse_gg @ inverse_gg.T
            pull_Ng = residual_NK[:, here] / scale_N1 @ metric_gg
            code_NM = _beam(pull_Ng, metric_gg, books_MVg, beam, list(range(books_MVg.shape[0])))[0]
            codes_NJM[first : first + rows, j] = code_NM
            error_Ng = residual_NK[:, here] - scale_N1 * sums(books_MVg, code_NM)
            residual_NK[:, here.stop :] -= error_Ng @ inverse_gg @ upper_KK[here, here.stop :]
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
    """Does `Search.sweep` for some of the rows."""
    scale_N1, books = scale_N[:, None], books_MVg.shape[0]
    decoded_NJg = sum(books_MVg[book][codes_NJM[..., book]] for book in range(books))
    assert isinstance(decoded_NJg, torch.Tensor)
    pull_NK = (w_NK - decoded_NJg.flatten(1) * scale_N1) @ gram_KK
    for turn, j in enumerate(order_J):
        here = slice(j * width, (j + 1) * width)
        block_gg, old_Ng = gram_KK[here, here], decoded_NJg[:, j]
        # completing the change of the loss by what does not depend on u: s² (u G_jj uᵀ − 2 u·q), q = P_j / s + v G_jj
        q_Ng = torch.addmm(pull_NK[:, here] / scale_N1, old_Ng, block_gg)
        # each group starts with another codebook, so that none is always chosen before the others are known
        order = [(turn + book) % books for book in range(books)]
        code_NM, loss_N = _beam(q_Ng, block_gg, books_MVg, beam, order)
        # the beam may miss the sum there is: it is replaced only by a better one
        old_loss_N = ((old_Ng @ block_gg - 2 * q_Ng) * old_Ng).sum(1)
        better_N1 = (loss_N < old_loss_N)[:, None]
        code_NM = torch.where(better_N1, code_NM, codes_NJM[:, j])
        new_Ng = torch.where(better_N1, sums(books_MVg, code_NM), old_Ng)
        pull_NK.addmm_((old_Ng - new_Ng) * scale_N1, gram_KK[here])
        codes_NJM[:, j] = code_NM
        decoded_NJg[:, j] = new_Ng


def nearest_sums(points_Ng: torch.Tensor, books_MVg: torch.Tensor, beam: int) -> torch.Tensor:
    """Returns codes [N, M] of sums near to the points [N, g], by plain distance: the metric is the identity."""
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
    """Returns codes [N, M] of a sum u with a small u A uᵀ − 2 u·q, and that value [N]; A is `metric_gg`.

    A hypothesis is a choice from the codebooks so far, with sum t. To add vector b changes its value by
    b A bᵀ − 2 b·(q − A t), so each hypothesis carries q − A t and its value, and one product scores all its
    continuations. Codebooks are taken in `order`; after each, the `beam` best of all continuations are kept.
    """
    rows, (books, vectors, width) = q_Ng.shape[0], books_MVg.shape
    metric_MVg = books_MVg @ metric_gg
    own_MV = (metric_MVg * books_MVg).sum(-1)
    cost_NW = q_Ng.new_zeros(rows, 1)
    picked: list[torch.Tensor] = []  # codes [N, W] by the codebook in `order`
    push_NWg = q_Ng[:, None]  # q − A t of every hypothesis; one, with t = 0, to begin with
    for place, book in enumerate(order):
        wide = cost_NW.shape[1]
        score_NWV = torch.addmm(own_MV[book], push_NWg.reshape(-1, width), books_MVg[book].T, alpha=-2)
        score_NV = score_NWV.view(rows, wide, vectors).add_(cost_NW[..., None]).flatten(1)
        keep = 1 if place == books - 1 else min(beam, score_NV.shape[1])  # of the last codebook only the best counts
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
