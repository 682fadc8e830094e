"""Rows of factors, of users or of items, drawn or solved given those of the other side.

Axes: n ratings, r rows, k factors then the bias, b rows of a block, d padded ratings of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

CHUNK_RATINGS = 1 << 16  # padded ratings gathered at once: bounds memory, fits the level-2 cache
PADDING = 1.25  # a block's longest row is at most this much longer than its shortest


def gaussian(P_bkk: Tensor, h_bk: Tensor, rng: Generator | None) -> tuple[Tensor, Tensor]:
    """Draw from N(P^-1 h, P^-1) for each b.

    Args:
        P_bkk: Precisions: (b, k, k).
        h_bk: Precisions times means: (b, k).
        rng: Random numbers of the draw; None for the mean in place of the draw.

    Returns:
        The draws and the means: (b, k) each.
    """
    # P = L L^T: L^-T noise has the covariance P^-1, and one factor serves the mean and the draw.
    L_bkk = torch.linalg.cholesky(P_bkk)
    mean_bk1 = draw_bk1 = torch.cholesky_solve(h_bk[..., None], L_bkk)
    if rng is not None:
        noise_bk1 = torch.randn(mean_bk1.shape, generator=rng, device=rng.device)
        draw_bk1 = mean_bk1 + torch.linalg.solve_triangular(L_bkk.mT, noise_bk1, upper=True)
    return draw_bk1[..., 0], mean_bk1[..., 0]


@dataclass(frozen=True)
class Block:
    """Rows of similar length with their ratings, padded by a dummy rating and a dummy partner.

    Args:
        rows_b: Which rows they are: (b,).
        ratings_bd: The ratings of each row, as positions among all n: (b, d).
        partners_bd: The rows of the other side that those ratings belong to: (b, d).
    """

    rows_b: Tensor
    ratings_bd: Tensor
    partners_bd: Tensor


def padded_blocks(row_n: Tensor, partner_n: Tensor, rows: int, partners: int) -> list[Block]:
    """Cut ratings into blocks of rows; n is the dummy rating, and `partners` the dummy partner.

    Args:
        row_n: The row of each rating: (n,), int64.
        partner_n: The row of the other side that each rating belongs to: (n,), int64.
        rows: How many rows there are.
        partners: How many rows the other side has.
    """
    n = len(row_n)
    order_n = torch.argsort(row_n, stable=True)
    order_n = torch.cat([order_n, order_n.new_tensor([n])])
    partner_n = torch.cat([partner_n, partner_n.new_tensor([partners])])
    length_r = torch.bincount(row_n, minlength=rows)
    start_r = length_r.cumsum(0) - length_r
    sorted_r = torch.argsort(length_r, stable=True)
    lengths = length_r[sorted_r].tolist()
    blocks, first = [], 0
    while first < rows:
        # A block ends where its rows would be padded by a quarter, or would not fit the cache any
        # more.
        longest, last = max(8, math.ceil(lengths[first] * PADDING)), first + 1
        while last < rows and lengths[last] <= longest and (last - first) * longest < CHUNK_RATINGS:
            last += 1
        rows_b = sorted_r[first:last]
        step_d = torch.arange(max(lengths[last - 1], 1), device=row_n.device)
        # The dummy rating n and the dummy partner add zero rows to D, and so nothing to P and h.
        slot_bd = torch.where(step_d < length_r[rows_b, None], start_r[rows_b, None] + step_d, n)
        ratings_bd = order_n[slot_bd]
        blocks.append(Block(rows_b, ratings_bd, partner_n[ratings_bd]))
        first = last
    return blocks


def design(X_rk: Tensor, noise_r: Tensor) -> Tensor:
    """Return partners as regressors, [factors, 1] sqrt(noise), and one zero row for padding.

    Args:
        X_rk: Vectors of the partners: (r, k).
        noise_r: Noise precisions of the partners: (r,).

    Returns:
        (r + 1, k).
    """
    D_rk = torch.cat([X_rk[:, :-1], torch.ones_like(X_rk[:, :1])], 1) * noise_r.sqrt()[:, None]
    return torch.cat([D_rk, torch.zeros_like(D_rk[:1])])


def dot(X_qk: Tensor, V_qk: Tensor) -> Tensor:
    """Return ratings of pairs, less the mean rating and without drift: (..., q).

    Args:
        X_qk: Vectors of the users: (..., q, k).
        V_qk: Vectors of the items: (..., q, k).
    """
    return (X_qk * V_qk)[..., :-1].sum(-1) + X_qk[..., -1] + V_qk[..., -1]


def draw_rows(
    blocks: list[Block], D_rk: Tensor, y_n: Tensor, weight_r: Tensor,
    prior_rk: Tensor, Lambda_kk: Tensor, rng: Generator | None, P_rkk: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Draw every row from N(P^-1 h, P^-1), its conditional given the other side.

    P = Lambda + weight D^T D and h = Lambda prior + weight D^T y (BPMF, equations 11 to 13), where
    D and y are both scaled by the root of the partner's noise precision.

    Args:
        blocks: The ratings of each row, padded.
        D_rk: Partners as regressors, as `design` returns them.
        y_n: Ratings less all that the row does not explain, scaled: (n,).
        weight_r: Weight of each row's ratings: (r,).
        prior_rk: Prior means of the rows: (r, k).
        Lambda_kk: Prior precision of every row: (k, k).
        rng: Random numbers of the draws; None for the means in place of the draws.
        P_rkk: Where to write the precisions P: (r, k, k); None for nowhere.

    Returns:
        The draws and their means, (r, k) each, and D x of each rating for the draws x: (n,).
    """
    X_rk, mean_rk = prior_rk.new_empty(2, *prior_rk.shape)
    h_rk = prior_rk @ Lambda_kk
    y_n = torch.cat([y_n, y_n.new_zeros(1)])
    fit_n = torch.zeros_like(y_n)
    for block in blocks:
        D_bdk = D_rk.index_select(0, block.partners_bd.flatten())
        D_bdk = D_bdk.view(*block.partners_bd.shape, -1)
        y_bd1 = y_n.take(block.ratings_bd)[..., None]
        weight_b1 = weight_r[block.rows_b, None]
        P_bkk = weight_b1[..., None] * (D_bdk.mT @ D_bdk) + Lambda_kk
        h_bk = weight_b1 * (D_bdk.mT @ y_bd1)[..., 0] + h_rk[block.rows_b]
        X_bk, mean_rk[block.rows_b] = gaussian(P_bkk, h_bk, rng)
        X_rk[block.rows_b] = X_bk
        fit_n[block.ratings_bd] = (D_bdk @ X_bk[..., None])[..., 0]
        if P_rkk is not None:
            P_rkk[block.rows_b] = P_bkk
    return X_rk, mean_rk, fit_n[:-1]
