"""Conditional draws of Bayesian matrix factorisation: the state of a chain, and one sweep of it.

    y_n ~ N(x_u . x_i + b_u + b_i + sum_c s_c(u, t),  1 / (alpha w_u w_i))
    (x, b)_r ~ N(mu + B_r beta, Lambda^-1),  one prior for users and one for items

BPMF (Salakhutdinov and Mnih 2008) with Macau's side information (Simm et al. 2017).
Axes: n ratings, r rows (users or items), k factors then the bias, f side features, g their groups,
m nodes of drift, c its time scales (drift.py), l levels of a probit or the cuts between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from foretaste.models.bayesian import probit
from foretaste.models.bayesian.drift import Timeline, draw_drifts, gamma, timeline
from foretaste.models.bayesian.factor_rows import Block, design, draw_rows, gaussian, padded_blocks
from foretaste.models.bayesian.side_information import coefficients

# Sweeps before drift and before noise are drawn: factors first learn what is neither of them.
FACTORS_FIRST = 3, 5


def normal_wishart(E_rk: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """Draw mean and precision of rows E ~ N(mu, Lambda^-1), with W0 = I, nu0 = k and beta0 = 2.

    (Salakhutdinov and Mnih 2008, equation 14; the Wishart draw is Bartlett's decomposition.)

    Args:
        E_rk: The rows: (r, k).
        rng: Random numbers of the draw.

    Returns:
        mu (k,), and Lambda (k, k).
    """
    n, k = E_rk.shape
    E_rk = E_rk.double()
    mean_k = E_rk.mean(0)
    centred_rk = E_rk - mean_k
    # The posterior of beta0 = 2 pseudo-rows at 0: their pull on the mean shows up as a rank-one
    # term.
    scatter_kk = centred_rk.T @ centred_rk + 2 * n / (2 + n) * mean_k.outer(mean_k)
    scatter_kk.diagonal().add_(1)
    # Bartlett: a Wishart matrix is L A A^T L^T, A lower triangular with normals below its diagonal
    # and roots of chi-squared draws, of nu - i degrees of freedom, on it.
    A_kk = torch.randn(k, k, generator=rng, dtype=E_rk.dtype, device=rng.device).tril(-1)
    half_k = (k + n - torch.arange(k, device=rng.device)) / 2
    A_kk.diagonal().copy_((2 * gamma(half_k, torch.ones_like(half_k), rng)).sqrt())
    M_kk = torch.linalg.cholesky(torch.linalg.inv(scatter_kk)) @ A_kk
    Lambda_kk = (M_kk @ M_kk.T).float()
    # mu ~ N(n / (n + 2) mean, ((n + 2) Lambda)^-1): `gaussian` takes precision and precision times
    # mean.
    h_k = n * (Lambda_kk @ mean_k.float())
    return gaussian(((n + 2) * Lambda_kk)[None], h_k[None], rng)[0][0], Lambda_kk


def doubt(side: Side, other: Side, alpha: Tensor) -> Tensor:
    """Estimate what not knowing a row adds to the variance of a rating by an average partner.

    Given n partners, a row has a covariance of about (Lambda + alpha w n M)^-1, with M the mean
    outer product of partners, and a rating the variance tr((Lambda + alpha w n M)^-1 M).  It is
    taken twice since the partners are uncertain too (of 0 to 3 times, twice was best on validation
    ratings).

    Args:
        side: The rows.
        other: Their partners.
        alpha: Noise precision of ratings.

    Returns:
        Variances of the rows, then of a row without ratings: (r + 1,).
    """
    D_rk = design(other.X_rk, torch.ones_like(other.noise_r))[:-1]
    # The eigenvalues of Lambda^-1 M are those of the symmetric L^-1 M L^-T, which eigvalsh can
    # take.
    L_kk = torch.linalg.cholesky(side.Lambda_kk)
    half_kr = torch.linalg.solve_triangular(L_kk, D_rk.T, upper=False)
    share_k = torch.linalg.eigvalsh(half_kr @ half_kr.T / len(D_rk))  # of Lambda^-1 M
    count_r = torch.bincount(side.row_n, minlength=len(side.noise_r))
    # The last entry is a row without ratings, whose doubt is all of the prior's variance.
    known_r = torch.cat([alpha * side.noise_r * count_r, alpha.new_zeros(1)])
    return 2 * (share_k / (1 + known_r[:, None] * share_k)).sum(1)


@dataclass
class Side:
    """Users or items: the current draw of their rows, and what it is drawn from.

    Args:
        row_n: The row of each rating: (n,).
        blocks: The ratings of each row, padded.
        features: Features of the rows in their basis, by group: (r, f) each.
        freedom: Degrees of freedom of each row's noise precision w ~ Gamma(freedom / 2,
            freedom / 2); 0 keeps w = 1.
        X_rk: Vectors of the rows as drawn: (r, k).
        mean_rk: Means of the conditionals that X_rk was drawn from: (r, k).
        noise_r: Noise precisions w: (r,).
        betas_fk: Coefficients of the features, by group: (f, k) each.
        scale_g: Precision of the coefficients of each group, in units of Lambda: (g,).
        mu_k: Prior mean of a row without features: (k,).
        Lambda_kk: Prior precision of a row: (k, k).
        prior_rk: Prior means of the rows: (r, k).
    """

    row_n: Tensor
    blocks: list[Block]
    features: list[Tensor]
    freedom: float
    X_rk: Tensor
    mean_rk: Tensor
    noise_r: Tensor
    betas_fk: list[Tensor]
    scale_g: Tensor
    mu_k: Tensor
    Lambda_kk: Tensor
    prior_rk: Tensor


@dataclass
class Chain:
    """The state of the sampler.

    Args:
        y_n: Ratings less their mean, or the latent values of an ordered probit: (n,).
        level_n: Level of each rating of a probit: (n,); empty where ratings are Gaussian.
        cut_l: Cuts between the levels of a probit: (l,); empty where ratings are Gaussian.
        users: The users.
        items: The items.
        time: When users rated; None for no drift.
        phi_cm: Correlations of each node with the one before it, by time scale: (m,) each.
        alpha: Noise precision of ratings, 1 for a probit.
        s_cm: Drift at the nodes: (c, m).
        tau_c: Precision of the drift of each time scale: (c,).
        offset: Mean of what the last draw leaves of the ratings, 0 for a probit.
    """

    y_n: Tensor
    level_n: Tensor
    cut_l: Tensor
    users: Side
    items: Side
    time: Timeline | None
    phi_cm: list[Tensor]
    alpha: Tensor
    s_cm: Tensor
    tau_c: Tensor
    offset: Tensor

    def drawn(self) -> dict[str, Tensor]:
        """Return every tensor that a sweep starts from, by name: all that a resumed chain needs."""
        named = {"alpha": self.alpha, "s_cm": self.s_cm, "tau_c": self.tau_c}
        if len(self.cut_l):
            named |= {"y_n": self.y_n, "cut_l": self.cut_l}
        for name, side in (("users", self.users), ("items", self.items)):
            named |= {f"{name}.{x}": getattr(side, x) for x in ("X_rk", "noise_r", "scale_g")}
            named |= {f"{name}.beta{g}": beta_fk for g, beta_fk in enumerate(side.betas_fk)}
        return named


def new_side(
    row_n: Tensor, partner_n: Tensor, rows: int, partners: int, features: list[Tensor],
    freedom: float, k: int, rng: Generator,
) -> Side:  # fmt: skip
    """Make a side with its padded blocks, and small random rows to start from.

    Args:
        row_n: The row of each rating: (n,), int64.
        partner_n: The row of the other side that each rating belongs to: (n,), int64.
        rows: How many rows there are.
        partners: How many rows the other side has.
        features: Features of the rows in their basis, by group: (r, f) each.
        freedom: Degrees of freedom of the rows' noise, 0 for none.
        k: Factors and the bias.
        rng: Random numbers of the start.
    """
    X_rk = torch.randn(rows, k, generator=rng, device=row_n.device) * 0.1
    return Side(
        row_n, padded_blocks(row_n, partner_n, rows, partners), features, freedom,
        X_rk, X_rk, torch.ones_like(X_rk[:, 0]), [X_rk.new_zeros(B.shape[1], k) for B in features],
        X_rk.new_full((len(features),), 10.0), X_rk.new_zeros(k),
        torch.eye(k, device=X_rk.device), torch.zeros_like(X_rk),
    )  # fmt: skip


def new_chain(
    y_n: Tensor, users: Side, items: Side, time_n: Tensor | None, drift_seconds: list[float],
    n_levels: int = 0,
) -> Chain:  # fmt: skip
    """Make a chain before its first sweep, with all drift at zero.

    Args:
        y_n: Ratings less their mean, or levels (int64) of a probit: (n,).
        users: The users.
        items: The items.
        time_n: Times of the ratings in milliseconds: (n,), or None.
        drift_seconds: Time scales of drift in seconds, [] for none.
        n_levels: How many levels a probit has; 0 where ratings are Gaussian.
    """
    level_n, cut_l = y_n.new_zeros(0, dtype=torch.long), y_n.new_zeros(0)
    if n_levels:
        level_n, cut_l = y_n, probit.initial_cuts(y_n, n_levels)
        zero_n = torch.zeros(len(y_n), device=y_n.device)
        y_n, _ = probit.latent_moments(zero_n, cut_l, level_n, zero_n + 1)
    time = None if time_n is None or not drift_seconds else timeline(users.row_n, time_n)
    phi_cm = [time.decay(seconds) for seconds in drift_seconds] if time is not None else []
    s_cm = y_n.new_zeros(len(phi_cm), len(phi_cm[0]) if phi_cm else 0)
    return Chain(
        y_n, level_n, cut_l, users, items, time, phi_cm, y_n.new_ones(()), s_cm,
        y_n.new_full((len(phi_cm),), 20.0), y_n.new_zeros(()),
    )  # fmt: skip


def draw_prior(side: Side, rng: Generator) -> None:
    """Draw mu and Lambda, then the coefficients of each feature group, and set the prior means.

    Args:
        side: Users or items, which are changed in place.
        rng: Random numbers of the draw.
    """
    linear = [B @ beta for B, beta in zip(side.features, side.betas_fk, strict=True)]
    total_rk = sum(linear, torch.zeros_like(side.X_rk))
    side.mu_k, side.Lambda_kk = normal_wishart(side.X_rk - total_rk, rng)
    for g, B_rf in enumerate(side.features):
        rest_rk = total_rk - linear[g]
        E_rk = side.X_rk - side.mu_k - rest_rk
        side.betas_fk[g], side.scale_g[g] = coefficients(
            E_rk, B_rf, side.Lambda_kk, side.scale_g[g], rng
        )
        total_rk = rest_rk + B_rf @ side.betas_fk[g]
    side.prior_rk = side.mu_k + total_rk


def draw_noise(side: Side, square_n: Tensor, rng: Generator) -> None:
    """Draw a noise precision for each row.

    Args:
        side: Users or items, which are changed in place.
        square_n: Squared residuals times all other factors of their precision: (n,).
        rng: Random numbers of the draw.
    """
    if not side.freedom:
        return
    count_r = torch.bincount(side.row_n, minlength=len(side.noise_r))
    # In double: hundreds of thousands of squares in single precision would lose the small ones.
    energy_r = torch.zeros_like(side.noise_r, dtype=torch.double)
    energy_r.index_add_(0, side.row_n, square_n.double())
    shape_r, rate_r = (side.freedom + count_r) / 2, (side.freedom + energy_r) / 2
    side.noise_r = gamma(shape_r, rate_r, rng).float()


def rescale_noise(chain: Chain, side: Side, rng: Generator) -> None:
    """Move a common factor between alpha and the noise precisions of a side.

    Given each other, both hardly move.  The factor's own conditional (Liu and Sabatti 2000) is
    Gamma(rows freedom / 2, freedom sum w / 2), as p(alpha) is proportional to 1 / alpha.

    Args:
        chain: The chain, whose alpha is changed in place.
        side: Users or items, which are changed in place.
        rng: Random numbers of the draw.
    """
    if not side.freedom:
        return
    half = side.freedom / 2
    shape = torch.tensor(len(side.noise_r) * half, device=rng.device)
    factor = gamma(shape, half * side.noise_r.double().sum(), rng).float()
    side.noise_r, chain.alpha = side.noise_r * factor, chain.alpha / factor


def draw_side(side: Side, other: Side, y_n: Tensor, alpha: Tensor, rng: Generator) -> Tensor:
    """Draw every row of a side given the other.

    Args:
        side: Users or items, which are changed in place.
        other: The other side.
        y_n: Ratings less their mean and drift: (n,).
        alpha: Noise precision of ratings.
        rng: Random numbers of the draw.

    Returns:
        The fit of y_n, with both biases: (n,).
    """
    # Users weigh w_u, items w_i.  The blocks of this side know their own w; the partner's is moved
    # into the design and the ratings by its root, which turns weighted into plain least squares.
    root_n, bias_n = other.noise_r.sqrt()[other.row_n], other.X_rk[:, -1][other.row_n]
    side.X_rk, side.mean_rk, fit_n = draw_rows(
        side.blocks, design(other.X_rk, other.noise_r), (y_n - bias_n) * root_n,
        alpha * side.noise_r, side.prior_rk, side.Lambda_kk, rng,
    )  # fmt: skip
    return fit_n / root_n + bias_n


def sweep(chain: Chain, number: int, rng: Generator) -> float:
    """Draw all unknowns once, each given the others, in place.

    Args:
        chain: The chain.
        number: How many sweeps came before.
        rng: Random numbers of the draws.

    Returns:
        The root mean square of what the draw leaves of y_n.
    """
    users, items, time = chain.users, chain.items, chain.time
    # Items first: their prior is what a user of few ratings leans on in the same sweep.
    draw_prior(items, rng)
    draw_prior(users, rng)
    y_n = chain.y_n if time is None else chain.y_n - chain.s_cm.sum(0)[time.node_n]
    draw_side(users, items, y_n, chain.alpha, rng)
    # The second call returns the fit by the new users and the new items, biases of both included.
    rest_n = chain.y_n - draw_side(items, users, y_n, chain.alpha, rng)
    if time is not None:
        if number >= FACTORS_FIRST[0]:
            # A node collects the ratings of one user at one time: sums of residual times precision,
            # and of the precisions, are all that the draw of a Gaussian process needs of them.
            weight_n = chain.alpha * users.noise_r[users.row_n] * items.noise_r[items.row_n]
            h_m, weight_m = time.sums(weight_n * rest_n), time.sums(weight_n)
            draw_drifts(chain.s_cm, chain.tau_c, chain.phi_cm, h_m, weight_m, rng)
        rest_n = rest_n - chain.s_cm.sum(0)[time.node_n]
    square_n = rest_n.square()
    if number >= FACTORS_FIRST[1]:
        # Each side's noise is drawn given the other's, so the other's weight belongs to the square.
        draw_noise(users, square_n * chain.alpha * items.noise_r[items.row_n], rng)
        draw_noise(items, square_n * chain.alpha * users.noise_r[users.row_n], rng)
    if len(chain.cut_l):
        # A probit has no noise precision to draw: its unit is that of the latent values, so alpha
        # stays 1.
        root_n = (users.noise_r[users.row_n] * items.noise_r[items.row_n]).sqrt()
        fit_n = chain.y_n - rest_n
        chain.cut_l = probit.draw_cuts(fit_n, chain.cut_l, chain.level_n, root_n, rng)
        chain.y_n = probit.draw_latent(fit_n, chain.cut_l, chain.level_n, root_n, rng)
    else:
        # Each row has noise of its own, so that the tail of skewed ratings counts little in a draw,
        # but fully in a mean.
        chain.offset = rest_n.mean()
        draw_alpha(chain, square_n, number, rng)
    return float(square_n.mean().sqrt())


def draw_alpha(chain: Chain, square_n: Tensor, number: int, rng: Generator) -> None:
    """Draw the noise precision, and the factors that it shares with the noise of each side.

    Args:
        chain: The chain, which is changed in place.
        square_n: Squared residuals: (n,).
        number: How many sweeps came before.
        rng: Random numbers of the draws.
    """
    users, items = chain.users, chain.items
    energy = (square_n * users.noise_r[users.row_n] * items.noise_r[items.row_n]).double().sum()
    # The prior of alpha is 1 / alpha, which adds nothing to the shape n / 2 or the rate.
    shape = torch.tensor(len(square_n) / 2, device=rng.device)
    chain.alpha = gamma(shape, energy / 2, rng).float()
    for side in (users, items) if number >= FACTORS_FIRST[1] else ():
        rescale_noise(chain, side, rng)
