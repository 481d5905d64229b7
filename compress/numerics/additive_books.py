"""Fits the codebooks of additive quantisation: a start from residual k-means, then least squares for given codes.

Shape letters: N out features, K in features, M codebooks, J groups of g columns, V vectors of a codebook, P points.
"""

from __future__ import annotations

import torch

_ROUNDS = 64
"""Draws of the k-means++ start; each draws an equal part of the centroids, one at least."""
_LLOYD = 8
"""Rounds of Lloyd after the start; the codebooks are fitted to the codes afterwards, so convergence is not needed."""
_POINTS_PER_VECTOR = 64
"""Points that k-means sees for each vector; more cost time and change little."""
_CHUNK = 1 << 24
"""Distances held at once."""
_DONE = 1e-8
"""Share of the first residual at which a least-squares fit is solved as far as float32 can tell."""


def residual_kmeans(points_Pg: torch.Tensor, books: int, bits: int, generator: torch.Generator) -> torch.Tensor:
    """Returns codebooks [M, 2^bits, g]: k-means of the points, then of what is left of them, and so on.

    Where there are fewer points than vectors every point becomes a vector of its own, and the others stay zero.
    """
    vectors = 1 << bits
    most = _POINTS_PER_VECTOR * vectors
    if points_Pg.shape[0] > most:
        picked = torch.randperm(points_Pg.shape[0], generator=generator)[:most]
        points_Pg = points_Pg[picked.to(points_Pg.device)]
    residual_Pg = points_Pg.clone()
    books_MVg = points_Pg.new_zeros(books, vectors, points_Pg.shape[1])
    for book_Vg in books_MVg:
        centroids_Cg = _kmeans(residual_Pg, vectors, generator)
        book_Vg[: centroids_Cg.shape[0]] = centroids_Cg
        residual_Pg -= book_Vg[nearest(residual_Pg, centroids_Cg)]
    return books_MVg


def nearest(points_Pg: torch.Tensor, centroids_Cg: torch.Tensor) -> torch.Tensor:
    """Returns the index of the nearest centroid of each point [P]."""
    half_C = centroids_Cg.square().sum(1) / 2
    index_P = torch.empty(points_Pg.shape[0], dtype=torch.int64, device=points_Pg.device)
    step = max(1, _CHUNK // centroids_Cg.shape[0])
    for start in range(0, points_Pg.shape[0], step):
        part = slice(start, start + step)
        # ½‖p − c‖² without its part in p alone
        index_P[part] = torch.addmm(half_C, points_Pg[part], centroids_Cg.T, alpha=-1).argmin(1)
    return index_P


def _kmeans(points_Pg: torch.Tensor, vectors: int, generator: torch.Generator) -> torch.Tensor:
    """Returns at most `vectors` centroids [C, g]: a k-means++ start in a few draws, then Lloyd's rounds."""
    if points_Pg.shape[0] <= vectors:
        return points_Pg.clone()
    centroids_Cg = _spread(points_Pg, vectors, generator)
    for _ in range(_LLOYD):
        index_P = nearest(points_Pg, centroids_Cg)
        count_C = torch.bincount(index_P, minlength=centroids_Cg.shape[0])
        sums_Cg = torch.zeros_like(centroids_Cg).index_add_(0, index_P, points_Pg)
        # an empty cluster keeps its centroid
        centroids_Cg = torch.where(count_C[:, None] > 0, sums_Cg / count_C[:, None].clamp_min(1), centroids_Cg)
    return centroids_Cg


def _spread(points_Pg: torch.Tensor, vectors: int, generator: torch.Generator) -> torch.Tensor:
    """Returns `vectors` of the points, each draw in proportion to the squared distance to those drawn before."""
    distance_P = points_Pg.square().sum(1)
    drawn: list[torch.Tensor] = []
    missing = vectors
    for rounds_left in range(min(_ROUNDS, vectors), 0, -1):
        wanted = -(-missing // rounds_left)
        # keys of a draw without replacement: the greatest of log(uniform) / weight (Efraimidis and Spirakis)
        uniform_P = torch.rand(points_Pg.shape[0], generator=generator).to(points_Pg.device)
        key_P = uniform_P.clamp_min_(1e-12).log_() / distance_P.clamp_min(1e-30)
        fresh_Cg = points_Pg[key_P.topk(wanted).indices]
        drawn.append(fresh_Cg)
        missing -= wanted
        index_P = nearest(points_Pg, fresh_Cg)
        distance_P = torch.minimum(distance_P, (points_Pg - fresh_Cg[index_P]).square().sum(1))
    return torch.cat(drawn)


class LeastSquares:
    """Solves for the codebooks that minimise tr((W − Ŵ) G (W − Ŵ)ᵀ) for given codes and row scales.

    Ŵ is linear in the codebooks, so this is a least-squares problem; its normal matrix (all vectors of all codebooks
    against each other) is too large to form. Conjugate gradients need only its products: decode, multiply by G, add up
    per vector. They are preconditioned by the g x g diagonal blocks, Σ s² G_jj over the groups that use a vector.
    """

    def __init__(self, codes_NJM: torch.Tensor, scale_N: torch.Tensor, gram_KK: torch.Tensor, shape_MVg: torch.Size):
        self.codes_NJM, self.scale_N1, self.gram_KK, self.shape_MVg = codes_NJM, scale_N[:, None], gram_KK, shape_MVg
        books, vectors, width = shape_MVg
        groups = codes_NJM.shape[1]
        blocks_Jgg = torch.stack(
            [gram_KK[j * width : (j + 1) * width, j * width : (j + 1) * width] for j in range(groups)]
        )
        self.flat_MNJ = [codes_NJM[..., book].long().flatten() for book in range(books)]
        # how much of each group's block a vector has: [V, J] = Σ s² over the rows that use it there
        inverse = []
        place_NJ = torch.arange(groups, device=gram_KK.device).expand(codes_NJM.shape[0], -1).flatten()
        square_NJ = scale_N.square()[:, None].expand(-1, groups).flatten()
        for flat_NJ in self.flat_MNJ:
            share_VJ = gram_KK.new_zeros(vectors * groups).index_add_(0, flat_NJ * groups + place_NJ, square_NJ)
            block_Vgg = (share_VJ.view(vectors, groups) @ blocks_Jgg.flatten(1)).view(vectors, width, width)
            # a vector that no group uses has a block of zeros; the shift keeps it invertible, and the vector as it is
            diagonal_Vg = block_Vgg.diagonal(dim1=1, dim2=2)
            diagonal_Vg += 1e-6 * diagonal_Vg.mean(1, keepdim=True) + torch.finfo(torch.float32).tiny ** 0.5
            inverse.append(torch.linalg.inv(block_Vgg))
        self.inverse_MVgg = torch.stack(inverse)

    def solve(self, w_NK: torch.Tensor, start_MVg: torch.Tensor, steps: int) -> torch.Tensor:
        """Returns the codebooks [M, V, g] after at most `steps` steps of conjugate gradients.

        Args:
            w_NK: the weight to fit, float32.
            start_MVg: codebooks to start from.
            steps: 1 or more; each costs one product with G.
        """
        books_MVg = start_MVg.clone()
        residual_MVg = self._gather((w_NK - self.decode(books_MVg)) @ self.gram_KK)
        move_MVg = ahead_MVg = self._precondition(residual_MVg)
        product = torch.sum(residual_MVg * ahead_MVg)
        first = float(product)
        for _ in range(steps):
            image_MVg = self._gather(self.decode(move_MVg) @ self.gram_KK)
            curvature = torch.sum(move_MVg * image_MVg)
            if not (float(curvature) > 0 and float(product) > _DONE * first):
                # solved, but for directions without curvature: vectors of two codebooks moved against one another
                break
            length = product / curvature
            books_MVg += length * move_MVg
            residual_MVg -= length * image_MVg
            ahead_MVg = self._precondition(residual_MVg)
            before, product = product, torch.sum(residual_MVg * ahead_MVg)
            move_MVg = ahead_MVg + product / before * move_MVg
        return books_MVg

    def decode(self, books_MVg: torch.Tensor) -> torch.Tensor:
        """Returns Ŵ [N, K]."""
        rows, groups, _ = self.codes_NJM.shape
        value = books_MVg[0].index_select(0, self.flat_MNJ[0])
        for book_Vg, flat_NJ in zip(books_MVg[1:], self.flat_MNJ[1:], strict=True):
            value += book_Vg.index_select(0, flat_NJ)
        return value.view(rows, groups * self.shape_MVg[2]) * self.scale_N1

    def _gather(self, image_NK: torch.Tensor) -> torch.Tensor:
        """Returns the transpose of `decode`: for each vector [M, V, g] the sum of s · `image_NK` where it is used."""
        width = self.shape_MVg[2]
        parts_Pg = (image_NK * self.scale_N1).view(-1, width)
        sums_MVg = parts_Pg.new_zeros(self.shape_MVg)
        for sums_Vg, flat_NJ in zip(sums_MVg, self.flat_MNJ, strict=True):
            sums_Vg.index_add_(0, flat_NJ, parts_Pg)
        return sums_MVg

    def _precondition(self, residual_MVg: torch.Tensor) -> torch.Tensor:
        return (self.inverse_MVgg @ residual_MVg[..., None])[..., 0]
