"""Drift: Ornstein-Uhlenbeck processes of each user along the times of their ratings.

Axes: n ratings, m nodes of a timeline, c time scales, q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


def gamma(shape: Tensor, rate: Tensor, rng: Generator) -> Tensor:
    """Draw from Gamma distributions, double.

    Args:
        shape: Shapes, of any axes.
        rate: Rates, of the same axes.
        rng: Random numbers of the draw.
    """
    # The Gamma distribution of torch.distributions takes no generator.
    unit = torch._standard_gamma(shape.double(), generator=rng)  # pyright: ignore[reportPrivateImportUsage]
    return unit / rate.double()


@dataclass(frozen=True)
class Timeline:
    """The nodes of drift, one for each distinct pair of user and time, in order.

    Args:
        user_m: User of each node: (m,).
        time_m: Time of each node in milliseconds: (m,).
        node_n: Node of each rating: (n,).
    """

    user_m: Tensor
    time_m: Tensor
    node_n: Tensor

    def decay(self, seconds: float) -> Tensor:
        """Return the correlation of each node with the one before, 0 where a user starts: (m,).

        Args:
            seconds: Time scale of the process.
        """
        gap_m = self.time_m.diff(prepend=self.time_m[:1]).clamp(min=0).double() / 1000
        same_m = self.user_m.diff(prepend=self.user_m[:1] - 1) == 0
        # Below a thousandth two nodes are as good as independent, and a zero there cuts the system
        # into pieces, so that the reduction in `tridiagonal_solve` ends after a few strides.
        phi_m = torch.exp(-gap_m / seconds) * same_m
        return torch.where(phi_m < 1e-3, 0.0, phi_m).float()

    def sums(self, x_n: Tensor) -> Tensor:
        """Return totals over the ratings of each node: (..., m).

        Args:
            x_n: A number for each rating: (..., n).
        """
        total_m = x_n.new_zeros(*x_n.shape[:-1], len(self.time_m))
        return total_m.index_add_(-1, self.node_n, x_n)

    def bridge(self, seconds: float, user_q: Tensor, time_q: Tensor) -> Bridge:
        """Return how a process at queries depends on the nodes before and after.

        Args:
            seconds: Time scale of the process.
            user_q: User of each query: (q,).
            time_q: Time of each query in milliseconds: (q,).
        """
        # User and time in one sorted key: one search finds the neighbours of every query.  A query
        # outside the range is held at its ends, so that it cannot reach into the keys of another
        # user.
        first, span = self.time_m.min(), self.time_m.max() - self.time_m.min() + 2
        key_m = self.user_m * span + self.time_m - first
        key_q = user_q * span + torch.minimum((time_q - first).clamp(min=-1), span)
        after_q = torch.searchsorted(key_m, key_q, right=True)

        def correlation(node_q: Tensor) -> tuple[Tensor, Tensor]:
            """Return nodes within range, and correlations, 0 where another user's or out of it."""
            inside_q = node_q.clamp(0, len(key_m) - 1)
            gap_q = (time_q - self.time_m[inside_q]).abs().double() / 1000
            same_q = (self.user_m[inside_q] == user_q) & (inside_q == node_q)
            return inside_q, torch.exp(-gap_q / seconds) * same_q

        (before_q, near_q), (after_q, far_q) = correlation(after_q - 1), correlation(after_q)
        return Bridge(before_q, after_q, near_q, far_q)


@dataclass(frozen=True)
class Bridge:
    """The nodes before and after a query, and the correlations of a process with its values there.

    Args:
        before_q: Node before each query: (q,).
        after_q: Node after each query: (q,).
        before_rho_q: Correlation with the node before, 0 where there is none: (q,).
        after_rho_q: Correlation with the node after, 0 where there is none: (q,).
    """

    before_q: Tensor
    after_q: Tensor
    before_rho_q: Tensor
    after_rho_q: Tensor

    def mean(self, s_m: Tensor) -> Tensor:
        """Return expected values of a process at the queries: (..., q).

        Args:
            s_m: Values of the process at the nodes: (..., m).
        """
        # The Markov property: given the nodes on both sides the value is Gaussian with a mean
        # linear in the two.  The weights solve the 2 x 2 system [1 rs; rs 1] (a, b) = (r, s) with
        # r, s the correlations.
        rho_q, sigma_q = self.before_rho_q, self.after_rho_q
        unknown_q = (1 - (rho_q * sigma_q) ** 2).clamp(min=1e-9)
        a_q, b_q = rho_q * (1 - sigma_q**2) / unknown_q, sigma_q * (1 - rho_q**2) / unknown_q
        return a_q.float() * s_m[..., self.before_q] + b_q.float() * s_m[..., self.after_q]


def bridged_variance(
    bridges: list[Bridge], tau_c: Tensor, before_m: Tensor, after_m: Tensor
) -> Tensor:
    """Return the variance of the sum of processes at queries, given observations at nodes.

    Args:
        bridges: The nodes before and after the queries, one bridge for each time scale; [] for the
            prior variance.
        tau_c: Precisions of the processes: (c, ...).
        before_m: Precision of what is observed at a node before a query: (..., m).
        after_m: Precision of what is observed at a node after a query: (..., m).

    Returns:
        Variances: (..., q).
    """
    variance = (1 / tau_c).sum(0)
    if not bridges:
        return variance
    before_q, after_q = bridges[0].before_q, bridges[0].after_q
    # Covariances of the sum between query and before, query and after, before and after.
    qb_q, qa_q, ba_q = (
        sum(rho_q / tau for rho_q, tau in zip(rho, tau_c, strict=True))
        for rho in (
            [x.before_rho_q for x in bridges], [x.after_rho_q for x in bridges],
            [x.before_rho_q * x.after_rho_q for x in bridges],
        )
    )  # fmt: skip
    b_q, a_q = variance + 1 / before_m[..., before_q], variance + 1 / after_m[..., after_q]
    # Var(q) - k^T K^-1 k for the 2 x 2 covariance K of the two observations, written out.
    known_q = (qb_q**2 * a_q - 2 * qb_q * qa_q * ba_q + qa_q**2 * b_q) / (a_q * b_q - ba_q**2)
    return (variance - known_q).float()


def timeline(user_n: Tensor, time_n: Tensor) -> Timeline:
    """Sort ratings by user and time, and merge those of the same time into one node.

    Args:
        user_n: User of each rating: (n,).
        time_n: Time of each rating in milliseconds: (n,).
    """
    # Two stable sorts are one sort by user, then time; ratings of one moment share a node.
    order_n = torch.argsort(time_n, stable=True)
    order_n = order_n[torch.argsort(user_n[order_n], stable=True)]
    user_m, time_m = user_n[order_n], time_n[order_n]
    new_m = torch.ones_like(user_m, dtype=torch.bool)
    new_m[1:] = (user_m.diff() != 0) | (time_m.diff() != 0)
    node_n = torch.empty_like(user_n)
    node_n[order_n] = new_m.cumsum(0) - 1
    return Timeline(user_m[new_m], time_m[new_m], node_n)


def tridiagonal_solve(low_m: Tensor, diagonal_m: Tensor, right_jm: Tensor) -> Tensor:
    """Solve a symmetric, diagonally dominant, tridiagonal system.

    Parallel cyclic reduction (Hockney 1965) takes elementwise steps, log2 of the correlation length
    of them.

    Args:
        low_m: Entry m couples m and m - 1: (..., m).
        diagonal_m: The diagonal: (..., m).
        right_jm: The right-hand sides: (j, m).

    Returns:
        The solutions: (j, m).
    """

    def either_side(x: Tensor, fill: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the entries one stride before and one after each entry."""
        padded = torch.nn.functional.pad(x, (stride, stride), value=fill)
        return padded[..., : -2 * stride], padded[..., 2 * stride :]

    stride = 1
    a_m, b_m, c_m = low_m, diagonal_m, either_side(low_m)[1]
    while stride < b_m.shape[-1]:
        (a_before, a_after), (c_before, c_after) = either_side(a_m), either_side(c_m)
        b_before, b_after = either_side(b_m, 1.0)
        right_before, right_after = either_side(right_jm)
        # Each equation gets rid of its neighbours by adding multiples of theirs; what remains
        # couples it to those twice as far away.
        down_m, up_m = -a_m / b_before, -c_m / b_after
        b_m = b_m + down_m * c_before + up_m * a_after
        right_jm = right_jm + down_m * right_before + up_m * right_after
        a_m, c_m = down_m * a_before, up_m * c_after
        stride *= 2
        # The coupling that is left is smaller than single precision can show.
        if float((a_m.abs() / b_m).max()) < 1e-5:
            break
    return right_jm / b_m


def draw_drift(
    h_m: Tensor, weight_m: Tensor, phi_m: Tensor, tau: Tensor, rng: Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw a process that is observed with noise at its nodes, then its precision.

    The draw solves for a perturbed right-hand side (Papandreou and Yuille 2010).

    Args:
        h_m: Sums of residuals times their precisions: (m,).
        weight_m: Sums of those precisions: (m,).
        phi_m: Correlation of each node with the one before: (m,).
        tau: Precision of the process.
        rng: Random numbers of the draw; None for the mean and the same tau.

    Returns:
        The process at the nodes (m,), and a new tau.
    """
    # Precision of a step s_m - phi s_(m-1) in units of tau: 1 / (1 - phi^2), and 1 where a user
    # starts.
    q_m = torch.where(phi_m > 0, 1 / (1 - phi_m**2).clamp(min=1e-6), 1.0)

    def after(x_m: Tensor) -> Tensor:
        """Return the entry after each entry, 0 after the last."""
        return torch.cat([x_m[1:], x_m.new_zeros(1)])

    diagonal_m = tau * (q_m + after(phi_m**2 * q_m)) + weight_m
    low_m = -tau * phi_m * q_m
    if rng is None:
        return tridiagonal_solve(low_m, diagonal_m, h_m[None])[0], tau
    # Perturb and solve: the right-hand side has covariance equal to the precision matrix, so that
    # the solution has its inverse.  One normal for each step of the prior, and one for each
    # observation.
    prior_m, seen_m = torch.randn(2, len(q_m), generator=rng, device=rng.device)
    prior_m = prior_m * (tau * q_m).sqrt()
    noise_m = prior_m - after(phi_m * prior_m) + weight_m.sqrt() * seen_m
    s_m = tridiagonal_solve(low_m, diagonal_m, (h_m + noise_m)[None])[0]
    step_m = s_m - phi_m * torch.cat([s_m.new_zeros(1), s_m[:-1]])
    # Gamma(1, 0.01) is the prior of the precision, conjugate to the standardised steps.
    shape = torch.tensor(1 + len(s_m) / 2, device=rng.device)
    tau = gamma(shape, 1e-2 + (step_m.double() ** 2 * q_m).sum() / 2, rng).float()
    # Interweaving (Yu and Meng 2011) draws the standard deviation again, given the standardised
    # process: given the process itself, the variance of half a million nodes hardly moves.
    eta_m = s_m * tau.sqrt()
    information = (eta_m**2 * weight_m).double().sum()
    sigma = (eta_m * h_m).double().sum() / information
    sigma = sigma + torch.randn((), generator=rng, device=rng.device) / information.sqrt()
    # The sign of sigma is that of the process, which is turned with it; only its size is kept,
    # since the standard deviation comes back as tau = sigma^-2.
    sigma = sigma.abs().clamp(min=1e-3).float()
    return sigma * eta_m, sigma**-2


def draw_drifts(
    s_cm: Tensor, tau_c: Tensor, phi_cm: list[Tensor], h_m: Tensor, weight_m: Tensor,
    rng: Generator | None,
) -> None:  # fmt: skip
    """Draw the process of each time scale given the others, in place.

    Args:
        s_cm: The processes at the nodes, which are overwritten: (c, m).
        tau_c: Their precisions, which are overwritten: (c,).
        phi_cm: Correlation of each node with the one before, by time scale: (m,) each.
        h_m: Sums of residuals, with all drift in them, times their precisions: (m,).
        weight_m: Sums of those precisions: (m,).
        rng: Random numbers of the draws; None for means and the same precisions.
    """
    for c, phi_m in enumerate(phi_cm):
        # Gauss-Seidel over the time scales: each is drawn on what the others leave.
        others_m = s_cm.sum(0) - s_cm[c]
        s_cm[c], tau_c[c] = draw_drift(h_m - weight_m * others_m, weight_m, phi_m, tau_c[c], rng)
