"""Side information: features of users and items, and how they move prior means (Simm et al. 2017).

Axes: r rows (users or items), c columns of raw features, f their principal directions, k factors
then the bias, n ratings.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from foretaste.models.bayesian.drift import gamma


def implicit_features(row_n: Tensor, partner_n: Tensor, rows: int, partners: int) -> Tensor:
    """Return who rated what as features: rows of unit length (SVD++), and half the log of a count.

    Args:
        row_n: The row of each rating: (n,), int64.
        partner_n: The row of the other side that each rating belongs to: (n,), int64.
        rows: How many rows there are.
        partners: How many rows the other side has.

    Returns:
        A sparse tensor: (rows, partners + 1).
    """
    length_r = torch.bincount(row_n, minlength=rows)
    some_r = length_r.nonzero()[:, 0]
    row_m = torch.cat([row_n, some_r])
    column_m = torch.cat([partner_n, torch.full_like(some_r, partners)])
    # A row of n ratings has n entries of n^-1/2, so that its length is 1 however many they are.
    value_m = torch.cat([length_r[row_n] ** -0.5, length_r[some_r].log() / 2])
    return torch.sparse_coo_tensor(
        torch.stack([row_m, column_m]), value_m, (rows, partners + 1), check_invariants=False
    ).coalesce()


def principal_basis(F_rc: Tensor, rank: int, rng: Generator) -> Tensor:
    """Find the leading principal directions of features.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011), then an exact rotation. The
    coefficients have a prior, so directions of small weight hardly move a prior mean; dropping them
    makes the precision of the coefficients diagonal, and each draw two thin products.

    Args:
        F_rc: Features, dense or sparse: (r, c).
        rank: How many directions are wanted.
        rng: Draws the subspace that the iteration starts from.

    Returns:
        The directions, and in a last row minus the means of the features along them: (c + 1, f).
    """
    rows, c = F_rc.shape
    # Sorted once, as each product of a transposed view would sort it again.
    F_cr = F_rc.t().coalesce() if F_rc.is_sparse else F_rc.t()
    if not min(rank, c):
        return torch.zeros(c + 1, 0, device=rng.device)
    if rank >= c:
        Q_cf = torch.eye(c, device=rng.device)
    else:
        # 16 directions more than are wanted, because the last of a random subspace are poor.
        Q_cf = torch.randn(c, min(rank + 16, rows, c), generator=rng, device=rng.device)
        for _ in range(3):
            # A sparse product gathers rows of Q, which LAPACK leaves scattered in memory.
            Q_cf = torch.linalg.qr(F_cr @ (F_rc @ Q_cf)).Q.contiguous()
    B_rf = (F_rc @ Q_cf).double()
    mean_f = B_rf.mean(0)
    weight_f, E_ff = torch.linalg.eigh((B_rf - mean_f).T @ (B_rf - mean_f))
    # Directions that carry nothing (a constant column, repeated columns) would only add noise.
    E_ff = E_ff[:, weight_f > 1e-6 * weight_f[-1].clamp(min=1e-12)].flip(1)[:, :rank]
    return torch.cat([Q_cf.double() @ E_ff, -(mean_f @ E_ff)[None]]).float()


def project(F_rc: Tensor, basis_cf: Tensor) -> Tensor:
    """Return features in a basis, where B^T B is diagonal over the rows that the basis is of.

    Args:
        F_rc: Features, dense or sparse: (r, c).
        basis_cf: The basis, as `principal_basis` returns it: (c + 1, f).

    Returns:
        B_rf: (r, f).
    """
    return F_rc @ basis_cf[:-1] + basis_cf[-1]


def coefficients(
    E_rk: Tensor, B_rf: Tensor, Lambda_kk: Tensor, scale: Tensor, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Draw Macau's beta, where rows E ~ N(B beta, Lambda^-1), and its scale (Simm et al. 2017).

    The prior is beta ~ N(0, (scale Lambda)^-1).  As B^T B is diagonal, the rows of beta are
    independent given Lambda.

    Args:
        E_rk: Vectors less all that the features do not explain: (r, k).
        B_rf: Features in their basis: (r, f).
        Lambda_kk: Precision of the vectors: (k, k).
        scale: Precision of beta in units of Lambda.
        rng: Random numbers of the draw.

    Returns:
        beta (f, k), and the new scale.
    """
    # Matrix normal: rows have the precision (b_f^2 + scale), columns Lambda.
    precision_f1 = B_rf.square().sum(0)[:, None] + scale
    L_kk = torch.linalg.cholesky(Lambda_kk)
    noise_kf = torch.randn(len(L_kk), len(precision_f1), generator=rng, device=rng.device)
    noise_fk = torch.linalg.solve_triangular(L_kk.T, noise_kf, upper=True).T
    beta_fk = (B_rf.T @ E_rk) / precision_f1 + noise_fk / precision_f1.sqrt()
    energy = (beta_fk @ Lambda_kk * beta_fk).double().sum()
    shape = torch.tensor(1 + beta_fk.numel() / 2, device=rng.device)
    return beta_fk, gamma(shape, 1e-3 + energy / 2, rng).float()
