"""Drift: Ornstein-Uhlenbeck processes of each user along the moments of their ratings.

Axes: n ratings, m nodes of a timeline, c time scales, q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


def gamma(shape: Tensor, rate: Tensor, rng: Generator) -> Tensor:
    """Gamma draws of the given shape and rate, double."""
    # torch.distributions takes no generator
    unit = torch._standard_gamma(shape.double(), generator=rng)  # pyright: ignore[reportPrivateImportUsage]
    return unit / rate.double()


@dataclass(frozen=True)
class Timeline:
    """Distinct (user, time in milliseconds) nodes in order, and the node of each rating."""

    user_m: Tensor
    time_m: Tensor
    node_n: Tensor

    def decay(self, seconds: float) -> Tensor:
        """Correlation of each node with the one before it, 0 where a user starts."""
        gap_m = self.time_m.diff(prepend=self.time_m[:1]).clamp(min=0).double() / 1000
        same_m = self.user_m.diff(prepend=self.user_m[:1] - 1) == 0
        phi_m = torch.exp(-gap_m / seconds) * same_m
        return torch.where(phi_m < 1e-3, 0.0, phi_m).float()

    def sums(self, x_n: Tensor) -> Tensor:
        """Totals over the ratings of each node: (m,)."""
        total_m = x_n.new_zeros(*x_n.shape[:-1], len(self.time_m))
        return total_m.index_add_(-1, self.node_n, x_n)

    def bridge(self, seconds: float, user_q: Tensor, time_q: Tensor) -> Bridge:
        """How an Ornstein-Uhlenbeck process at the queries depends on the nodes either side."""
        first, span = self.time_m.min(), self.time_m.max() - self.time_m.min() + 2
        key_m = self.user_m * span + self.time_m - first
        key_q = user_q * span + torch.minimum((time_q - first).clamp(min=-1), span)
        after_q = torch.searchsorted(key_m, key_q, right=True)

        def correlation(node_q: Tensor) -> tuple[Tensor, Tensor]:
            inside_q = node_q.clamp(0, len(key_m) - 1)
            gap_q = (time_q - self.time_m[inside_q]).abs().double() / 1000
            same_q = (self.user_m[inside_q] == user_q) & (inside_q == node_q)
            return inside_q, torch.exp(-gap_q / seconds) * same_q

        (before_q, near_q), (after_q, far_q) = correlation(after_q - 1), correlation(after_q)
        return Bridge(before_q, after_q, near_q, far_q)


@dataclass(frozen=True)
class Bridge:
    """The nodes before and after a query, and their correlations with it: 0 far from either."""

    before_q: Tensor
    after_q: Tensor
    before_rho_q: Tensor
    after_rho_q: Tensor

    def mean(self, s_m: Tensor) -> Tensor:
        """Expected values of a process at the queries, given the nodes."""
        rho_q, sigma_q = self.before_rho_q, self.after_rho_q
        unknown_q = (1 - (rho_q * sigma_q) ** 2).clamp(min=1e-9)
        a_q, b_q = rho_q * (1 - sigma_q**2) / unknown_q, sigma_q * (1 - rho_q**2) / unknown_q
        return a_q.float() * s_m[..., self.before_q] + b_q.float() * s_m[..., self.after_q]


def bridged_variance(
    bridges: list[Bridge], tau_c: Tensor, before_m: Tensor, after_m: Tensor
) -> Tensor:
    """Variance of the processes' sum at queries, given observations at the nodes either side.

    before_m, after_m: precision of what is observed at a node that is before, or after, a query.
    """
    variance = (1 / tau_c).sum(0)
    if not bridges:
        return variance
    before_q, after_q = bridges[0].before_q, bridges[0].after_q
    # covariances of the sum: query and before, query and after, before and after
    qb_q, qa_q, ba_q = (
        sum(rho_q / tau for rho_q, tau in zip(rho, tau_c, strict=True))
        for rho in (
            [x.before_rho_q for x in bridges], [x.after_rho_q for x in bridges],
            [x.before_rho_q * x.after_rho_q for x in bridges],
        )
    )  # fmt: skip
    b_q, a_q = variance + 1 / before_m[..., before_q], variance + 1 / after_m[..., after_q]
    known_q = (qb_q**2 * a_q - 2 * qb_q * qa_q * ba_q + qa_q**2 * b_q) / (a_q * b_q - ba_q**2)
    return (variance - known_q).float()


def timeline(user_n: Tensor, time_n: Tensor) -> Timeline:
    """Sorts ratings by user and time, and merges those of the same moment."""
    order_n = torch.argsort(time_n, stable=True)
    order_n = order_n[torch.argsort(user_n[order_n], stable=True)]
    user_m, time_m = user_n[order_n], time_n[order_n]
    new_m = torch.ones_like(user_m, dtype=torch.bool)
    new_m[1:] = (user_m.diff() != 0) | (time_m.diff() != 0)
    node_n = torch.empty_like(user_n)
    node_n[order_n] = new_m.cumsum(0) - 1
    return Timeline(user_m[new_m], time_m[new_m], node_n)


def tridiagonal_solve(low_m: Tensor, diagonal_m: Tensor, right_jm: Tensor) -> Tensor:
    """Solves a symmetric, diagonally dominant system for j right-hand sides; low[m] couples m, m-1.

    Parallel cyclic reduction (Hockney 1965): log2 of the correlation length elementwise steps.
    """

    def either_side(x: Tensor, fill: float = 0.0) -> tuple[Tensor, Tensor]:
        """The entries a stride before and after each."""
        edge = x.new_full((*x.shape[:-1], stride), fill)
        padded = torch.cat([edge, x, edge], -1)
        return padded[..., : -2 * stride], padded[..., 2 * stride :]

    stride = 1
    a_m, b_m, c_m = low_m, diagonal_m, either_side(low_m)[1]
    while stride < b_m.shape[-1]:
        (a_before, a_after), (c_before, c_after) = either_side(a_m), either_side(c_m)
        b_before, b_after = either_side(b_m, 1.0)
        right_before, right_after = either_side(right_jm)
        down_m, up_m = -a_m / b_before, -c_m / b_after
        b_m = b_m + down_m * c_before + up_m * a_after
        right_jm = right_jm + down_m * right_before + up_m * right_after
        a_m, c_m = down_m * a_before, up_m * c_after
        stride *= 2
        if float((a_m.abs() / b_m).max()) < 1e-5:
            break
    return right_jm / b_m


def draw_drift(
    h_m: Tensor, weight_m: Tensor, phi_m: Tensor, tau: Tensor, rng: Generator | None
) -> tuple[Tensor, Tensor]:
    """A process of precision tau, seen with noise at its nodes, and a new tau.

    h_m: observed residuals summed with their precisions.  weight_m: those precisions summed.  The
    draw solves for a perturbed right-hand side (Papandreou and Yuille 2010).  Without `rng` the
    mean, and tau stays.
    """
    q_m = torch.where(phi_m > 0, 1 / (1 - phi_m**2).clamp(min=1e-6), 1.0)

    def after(x_m: Tensor) -> Tensor:
        return torch.cat([x_m[1:], x_m.new_zeros(1)])

    diagonal_m = tau * (q_m + after(phi_m**2 * q_m)) + weight_m
    low_m = -tau * phi_m * q_m
    if rng is None:
        return tridiagonal_solve(low_m, diagonal_m, h_m[None])[0], tau
    prior_m, seen_m = torch.randn(2, len(q_m), generator=rng, device=rng.device)
    prior_m = prior_m * (tau * q_m).sqrt()
    noise_m = prior_m - after(phi_m * prior_m) + weight_m.sqrt() * seen_m
    s_m = tridiagonal_solve(low_m, diagonal_m, (h_m + noise_m)[None])[0]
    step_m = s_m - phi_m * torch.cat([s_m.new_zeros(1), s_m[:-1]])
    shape = torch.tensor(1 + len(s_m) / 2, device=rng.device)
    tau = gamma(shape, 1e-2 + (step_m.double() ** 2 * q_m).sum() / 2, rng).float()
    # interweaving (Yu and Meng 2011): the standard deviation again, given the standardised process;
    # given the process itself the variance of half a million nodes hardly moves
    eta_m = s_m * tau.sqrt()
    information = (eta_m**2 * weight_m).double().sum()
    sigma = (eta_m * h_m).double().sum() / information
    sigma = sigma + torch.randn((), generator=rng, device=rng.device) / information.sqrt()
    sigma = sigma.abs().clamp(min=1e-3).float()
    return sigma * eta_m, sigma**-2


def draw_drifts(
    s_cm: Tensor, tau_c: Tensor, phi_cm: list[Tensor], h_m: Tensor, weight_m: Tensor,
    rng: Generator | None,
) -> None:  # fmt: skip
    """Each time scale's process given the others, in place; h_m as if there were none."""
    for c, phi_m in enumerate(phi_cm):
        others_m = s_cm.sum(0) - s_cm[c]
        s_cm[c], tau_c[c] = draw_drift(h_m - weight_m * others_m, weight_m, phi_m, tau_c[c], rng)
