"""Ordered probit: a rating is the level whose interval holds a latent value (Albert and Chib 1993).

    level_n = l where cut_(l-1) < z_n < cut_l,   z_n ~ N(fit_n, 1 / root_n^2)

Axes: n ratings, l levels or the cuts between them.  Tails are taken in the lower half, in double:
in the upper half, the normal distribution function is 1 long before its interval is empty.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.special import erfc, ndtr, ndtri

FAR = 40.0  # standard deviations from its mean to which an interval is clipped
TINY = 1e-300  # a probability that is not zero


def level_of(value_n: Tensor, levels_l: Tensor) -> Tensor:
    """Return the nearest level of each rating: (n,), int64.

    Args:
        value_n: Ratings: (n,).
        levels_l: Levels in ascending order: (l,).
    """
    return torch.bucketize(value_n, (levels_l[1:] + levels_l[:-1]) / 2)


def initial_cuts(level_n: Tensor, n_levels: int) -> Tensor:
    """Return cuts to start from: quantiles of a normal of which a fit explains half the variance.

    Args:
        level_n: Levels of the ratings: (n,), int64.
        n_levels: How many levels there are.
    """
    # One more of each level: an empty one would put two cuts on the same place.
    share_l = torch.bincount(level_n, minlength=n_levels) + 1.0
    return math.sqrt(2) * ndtri((share_l.cumsum(0) / share_l.sum())[:-1])


def bounds(fit_n: Tensor, cut_l: Tensor, level_n: Tensor, root_n: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of each latent value's interval, in standard deviations from its mean.

    Args:
        fit_n: Means of the latent values: (..., n).
        cut_l: Cuts between the levels: (..., l).
        level_n: Levels of the ratings: (n,), int64.
        root_n: Roots of the precisions of the latent values: (..., n).

    Returns:
        Lower and upper ends, double: (..., n) each.
    """
    # The outer levels reach to infinity; 1e9 stands for it, because 0 times inf would be NaN.
    edge_1 = cut_l.new_full((*cut_l.shape[:-1], 1), 1e9)
    edges_l = torch.cat([-edge_1, cut_l, edge_1], -1).double()
    fit_n, root_n = fit_n.double(), root_n.double()
    low_n, high_n = ((edges_l[..., level_n + end] - fit_n) * root_n for end in (0, 1))
    return low_n.clamp(-FAR, FAR), high_n.clamp(-FAR, FAR)


def below(x_n: Tensor) -> Tensor:
    """Return the normal distribution function to its last digits, where ndtr is 0 from -8.3 down.

    Args:
        x_n: Where it is taken, in standard deviations: (n,).
    """
    return erfc(x_n / -math.sqrt(2)) / 2


def mass(a_n: Tensor, b_n: Tensor) -> Tensor:
    """Return the probability of each interval, always positive.

    Args:
        a_n: Lower ends, in standard deviations: (n,).
        b_n: Upper ends, in standard deviations: (n,).
    """
    upper_n = a_n + b_n > 0
    low_n, high_n = torch.where(upper_n, -b_n, a_n), torch.where(upper_n, -a_n, b_n)
    return (below(high_n) - below(low_n)).clamp(min=TINY)


def density(x_n: Tensor) -> Tensor:
    """Return the standard normal density.

    Args:
        x_n: Where it is taken: (n,).
    """
    return torch.exp(-(x_n**2) / 2) / math.sqrt(2 * math.pi)


def draw_latent(
    fit_n: Tensor, cut_l: Tensor, level_n: Tensor, root_n: Tensor, rng: Generator
) -> Tensor:
    """Draw latent values given their levels, by inversion of the truncated normal.

    Args:
        fit_n: Means of the latent values: (n,).
        cut_l: Cuts between the levels: (l,).
        level_n: Levels of the ratings: (n,), int64.
        root_n: Roots of the precisions of the latent values: (n,).
        rng: Random numbers of the draw.
    """
    a_n, b_n = bounds(fit_n, cut_l, level_n, root_n)
    upper_n = a_n + b_n > 0
    low_n, high_n = torch.where(upper_n, -b_n, a_n), torch.where(upper_n, -a_n, b_n)
    p_n, q_n = below(low_n), below(high_n)
    uniform_n = torch.rand(len(p_n), generator=rng, dtype=p_n.dtype, device=p_n.device)
    e_n = ndtri((p_n + uniform_n * (q_n - p_n)).clamp(min=TINY))
    e_n = torch.minimum(torch.maximum(e_n, low_n), high_n)
    return fit_n + (torch.where(upper_n, -e_n, e_n) / root_n).float()


def latent_moments(
    fit_n: Tensor, cut_l: Tensor, level_n: Tensor, root_n: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the latent values given their levels.

    Args:
        fit_n: Means of the latent values without their levels: (..., n).
        cut_l: Cuts between the levels: (..., l).
        level_n: Levels of the ratings: (n,), int64.
        root_n: Roots of the precisions of the latent values: (..., n).
    """
    a_n, b_n = bounds(fit_n, cut_l, level_n, root_n)
    mass_n = mass(a_n, b_n)
    step_n = (density(a_n) - density(b_n)) / mass_n
    step_n = torch.minimum(torch.maximum(step_n, a_n), b_n)  # rounding may leave the interval
    spread_n = 1 + (a_n * density(a_n) - b_n * density(b_n)) / mass_n - step_n**2
    spread_n = spread_n.clamp(0, 1)
    return fit_n + (step_n / root_n).float(), (spread_n / root_n**2).float()


def log_likelihood(
    fit_n: Tensor, cut_l: Tensor, level_n: Tensor, root_n: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log likelihood of the cuts, with latent values integrated out.

    Args:
        fit_n: Means of the latent values: (n,).
        cut_l: Cuts between the levels: (l,).
        level_n: Levels of the ratings: (n,), int64.
        root_n: Roots of the precisions of the latent values: (n,).

    Returns:
        The value, its gradient (l,), and its negative Hessian (l, l), all by the cuts.
    """
    a_n, b_n = bounds(fit_n, cut_l, level_n, root_n)
    mass_n, root_n = mass(a_n, b_n), root_n.double()
    at_a_n, at_b_n = root_n * density(a_n) / mass_n, root_n * density(b_n) / mass_n

    def per_level(x_n: Tensor) -> Tensor:
        """Return totals over the ratings of each level."""
        return torch.bincount(level_n, x_n, minlength=len(cut_l) + 1)

    # The derivative of log mass: a cut is the upper end of one level and the lower end of the next.
    gradient_l = per_level(at_b_n)[:-1] - per_level(at_a_n)[1:]
    diagonal_l = per_level(at_b_n * (at_b_n + b_n * root_n))[:-1]
    diagonal_l = diagonal_l + per_level(at_a_n * (at_a_n - a_n * root_n))[1:]
    # The Hessian is tridiagonal, as a rating depends on the two cuts beside its level alone.
    cross_l = per_level(at_a_n * at_b_n)[1:-1]
    H_ll = torch.diag(diagonal_l) - torch.diag(cross_l, 1) - torch.diag(cross_l, -1)
    return mass_n.log().sum(), gradient_l, H_ll


def draw_cuts(
    fit_n: Tensor, cut_l: Tensor, level_n: Tensor, root_n: Tensor, rng: Generator
) -> Tensor:
    """Take one Metropolis-Hastings step, proposed by the normal at a Newton step from the cuts.

    Given the latent values, the cuts hardly move (Cowles 1996), so here those are integrated out.

    Args:
        fit_n: Means of the latent values: (n,).
        cut_l: Cuts between the levels: (l,).
        level_n: Levels of the ratings: (n,), int64.
        root_n: Roots of the precisions of the latent values: (n,).
        rng: Random numbers of the step.

    Returns:
        New cuts, or cut_l where the proposal is rejected.
    """

    def proposal(x_l: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log likelihood at x, and mean and Cholesky factor of what x proposes."""
        value, gradient_l, H_ll = log_likelihood(fit_n, x_l, level_n, root_n)
        L_ll = torch.linalg.cholesky(H_ll)
        return value, x_l.double() + torch.cholesky_solve(gradient_l[:, None], L_ll)[:, 0], L_ll

    def log_density(x_l: Tensor, mean_l: Tensor, L_ll: Tensor) -> Tensor:
        """Return the log density of a normal of precision L L^T, less a constant."""
        return L_ll.diagonal().log().sum() - ((x_l - mean_l) @ L_ll).square().sum() / 2

    here, mean_l, L_ll = proposal(cut_l)
    # A draw from N(mean, (L L^T)^-1) is mean + L^-T noise.
    noise_l1 = torch.randn(len(cut_l), 1, generator=rng, dtype=L_ll.dtype, device=L_ll.device)
    new_l = mean_l + torch.linalg.solve_triangular(L_ll.T, noise_l1, upper=True)[:, 0]
    # Cuts out of order have no likelihood: rejected without asking for it.
    if bool((new_l.diff() <= 0).any()):
        return cut_l
    there, back_l, back_ll = proposal(new_l)
    # The proposal is not symmetric, since its mean and precision depend on where it starts:
    # Hastings's correction weighs the way back against the way there.
    ratio = there - here + log_density(cut_l.double(), back_l, back_ll)
    ratio = ratio - log_density(new_l, mean_l, L_ll)
    accepted = torch.rand((), generator=rng, device=new_l.device).log() < ratio
    return new_l.float() if accepted else cut_l


def rating_moments(
    fit_n: Tensor, deviation_n: Tensor, cut_l: Tensor, levels_l: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of ratings whose latent values are N(fit, deviation^2).

    The variance is summed from squares: as a difference it was negative where one level is certain.

    Args:
        fit_n: Means of the latent values: (..., n).
        deviation_n: Standard deviations of the latent values: (..., n).
        cut_l: Cuts between the levels, with axes that broadcast to the ratings': (..., l).
        levels_l: The ratings that the levels stand for: (l,).
    """
    below_nl = ndtr((cut_l - fit_n[..., None]) / deviation_n[..., None])
    edge_n1 = torch.zeros_like(below_nl[..., :1])
    P_nl = torch.diff(below_nl, dim=-1, prepend=edge_n1, append=edge_n1 + 1)
    mean_n = P_nl @ levels_l
    return mean_n, (P_nl * (levels_l - mean_n[..., None]).square()).sum(-1)
