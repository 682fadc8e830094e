"""Penalties of rating models as rules of the ratings: variances of biases, factors worth having.

Nothing here depends on a seed: what it returns is a matter of the data alone.
Axes: n ratings, r rows (users or items), j rows of the other side, k factors then the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from foretaste.data.dataset import Dataset
from foretaste.models.baselines import shrunk_mean
from foretaste.models.bayesian import factor_rows

NO_FACTORS = 1e6  # a penalty of factors, in standard deviations, that leaves the biases alone
L2_PATH = (0.7, 1.0, 1.4, 2.0, 2.8)  # tried on held-out ratings, each from the one before
FIRST_ITERATIONS, NEXT_ITERATIONS = 5, 2  # of the first of them, and of each of the others
NU = 0.5  # with factors, on MovieLens and most synthetic shapes better than the same penalty
HELD_OUT = 0.1  # of the ratings
SURE = 2.0  # standard errors by which factors must beat the biases there
FEWEST = 10  # ratings of which a tenth can be held out
NOISE_ITERATIONS, BIAS_ITERATIONS = 15, 10


@dataclass(frozen=True)
class Ridge:
    """The penalties of BiasedMF, for ratings in standard deviations.

    Args:
        l2: Of the factors.
        l2_user: Of the biases of users.
        l2_item: Of the biases of items.
        nu: Exponent of the number of ratings by which a row's penalties grow.
    """

    l2: float
    l2_user: float
    l2_item: float
    nu: float


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings of users and items, laid out for alternating least squares.

    Args:
        user_n: Rows of the users: (n,), int64.
        item_n: Rows of the items: (n,), int64.
        y_n: Ratings less their mean, in standard deviations: (n,), single.
        n_users: How many users there are, with or without ratings.
        n_items: How many items there are, with or without ratings.
    """

    user_n: Tensor
    item_n: Tensor
    y_n: Tensor
    n_users: int
    n_items: int

    @cached_property
    def by_user(self) -> list[factor_rows.Block]:
        """The ratings of each user, padded."""
        return factor_rows.padded_blocks(self.user_n, self.item_n, self.n_users, self.n_items)

    @cached_property
    def by_item(self) -> list[factor_rows.Block]:
        """The ratings of each item, padded."""
        return factor_rows.padded_blocks(self.item_n, self.user_n, self.n_items, self.n_users)

    @cached_property
    def count_u(self) -> Tensor:
        """How many ratings each user has: (users,)."""
        return torch.bincount(self.user_n, minlength=self.n_users)

    @cached_property
    def count_i(self) -> Tensor:
        """How many ratings each item has: (items,)."""
        return torch.bincount(self.item_n, minlength=self.n_items)

    @cached_property
    def variances(self) -> tuple[float, float, float]:
        """Variances of the noise, of the biases of users and of those of items."""
        return variance_components(self)

    def users(self, item_ik: Tensor, ridge: Ridge) -> Tensor:
        """Return the vectors of users given those of items: (users, k).

        Args:
            item_ik: Vectors of the items.
            ridge: The penalties.
        """
        penalty = ridge.l2, ridge.l2_user, ridge.nu
        return solve(self.by_user, self.count_u, item_ik, self.y_n, self.item_n, penalty)

    def items(self, user_uk: Tensor, ridge: Ridge) -> Tensor:
        """Return the vectors of items given those of users: (items, k).

        Args:
            user_uk: Vectors of the users.
            ridge: The penalties.
        """
        penalty = ridge.l2, ridge.l2_item, ridge.nu
        return solve(self.by_item, self.count_i, user_uk, self.y_n, self.user_n, penalty)

    def take(self, kept_n: Tensor) -> Ratings:
        """Return the marked ratings.

        Args:
            kept_n: The marks: (n,), bool.
        """
        user_n, item_n, y_n = (x[kept_n] for x in (self.user_n, self.item_n, self.y_n))
        return Ratings(user_n, item_n, y_n, self.n_users, self.n_items)


def ratings_of(train: Dataset, y_n: Tensor) -> Ratings:
    """Return the ratings of a Dataset, laid out.

    Args:
        train: Whose ratings they are.
        y_n: The ratings less their mean, in standard deviations: (n,), single.
    """
    x = train.interactions
    user_n, item_n = torch.from_numpy(x.user_r).long(), torch.from_numpy(x.item_r).long()
    return Ratings(user_n, item_n, y_n, len(train.users), len(train.items))


def solve(
    blocks: list[factor_rows.Block], count_r: Tensor, other_jk: Tensor, y_n: Tensor,
    other_n: Tensor, penalty: tuple[float, float, float],
) -> Tensor:  # fmt: skip
    """Solve for the vectors of one side, users or items, given those of the other.

    Args:
        blocks: The ratings of each row, padded by `factor_rows.padded_blocks`.
        count_r: How many ratings each row has: (r,).
        other_jk: Vectors of the other side, factors and then the bias: (j, k).
        y_n: Ratings less their mean, in standard deviations: (n,).
        other_n: The row of the other side that each rating belongs to: (n,).
        penalty: Ridge penalties of the factors and of the bias, and the exponent nu.

    Returns:
        Vectors, factors and then the bias: (r, k).
    """
    l2, l2_bias, nu = penalty
    l2_k = torch.full((other_jk.shape[1],), l2, dtype=torch.float32)
    l2_k[-1] = l2_bias
    # The weight n^-nu of the ratings has the effect of n^nu on the ridge penalty.
    weight_r = count_r.clamp(min=1).float() ** -nu
    D_jk = factor_rows.design(other_jk, torch.ones(len(other_jk), dtype=torch.float32))
    zero_rk = torch.zeros(len(count_r), other_jk.shape[1], dtype=torch.float32)
    rest_n = y_n - other_jk[:, -1][other_n]
    return factor_rows.draw_rows(blocks, D_jk, rest_n, weight_r, zero_rk, l2_k.diag(), None)[0]


def start(n_items: int, n_factors: int, rng: torch.Generator) -> Tensor:
    """Return small random factors of items to start from, and biases of 0: (items, k).

    Args:
        n_items: How many items there are.
        n_factors: How many factors, without the bias.
        rng: Draws the factors.
    """
    item_ik = 0.1 * torch.randn(n_items, n_factors + 1, generator=rng, dtype=torch.float32)
    item_ik[:, -1] = 0.0
    return item_ik


def bias_ridges(ratings: Ratings, nu: float) -> tuple[float, float]:
    """Return penalties of the biases of users and of items, from the variances in the ratings.

    A bias has the penalty s^2 / s_b^2, the variance of the noise over that of the biases (ridge
    regression as a posterior mean); as the ridge of a row grows with n_r^nu, it is divided by the
    mean of n_r^nu.

    Args:
        ratings: The ratings.
        nu: The exponent.
    """
    noise, *variances = ratings.variances
    found = []
    for variance, count_r in zip(variances, (ratings.count_u, ratings.count_i), strict=True):
        # A variance of nothing, or noise of nothing, is one of too few ratings to tell.
        ratio = min(max(noise / max(variance, 1e-9), 0.1), 1000.0)
        found.append(ratio / float((count_r[count_r > 0].float() ** nu).mean()))
    return found[0], found[1]


def variance_components(ratings: Ratings) -> tuple[float, float, float]:
    """Estimate the variances of y = b_u + b_i + e by expectation maximisation, a side at a time.

    (Searle, Casella and McCulloch 1992, chapter 8, with the posterior of each bias taken given the
    mean of the others.)

    Args:
        ratings: The ratings.

    Returns:
        Variances of the noise, of the biases of users and of those of items.
    """
    y_n = ratings.y_n.double().numpy()
    noise = max(float(y_n.var()), 1e-9)
    sides = [
        (row_n.numpy(), count_r.double().numpy())
        for row_n, count_r in (
            (ratings.user_n, ratings.count_u), (ratings.item_n, ratings.count_i)
        )
    ]  # fmt: skip
    variance = [noise / 10, noise / 10]
    fit_n, doubt_n = [np.zeros_like(y_n)] * 2, [np.zeros_like(y_n)] * 2
    for _ in range(NOISE_ITERATIONS):
        for side, (row_n, count_r) in enumerate(sides):
            rest_n = y_n - fit_n[1 - side]
            doubt_r = 1 / (count_r / noise + 1 / variance[side])
            bias_r = np.bincount(row_n, rest_n, minlength=len(count_r)) * doubt_r / noise
            variance[side] = max(float((bias_r**2 + doubt_r)[count_r > 0].mean()), 1e-9)
            fit_n[side], doubt_n[side] = bias_r[row_n], doubt_r[row_n]
        rest_n = y_n - fit_n[0] - fit_n[1]
        noise = max(float((rest_n**2 + doubt_n[0] + doubt_n[1]).mean()), 1e-9)
    return noise, variance[0], variance[1]


def biases(
    ratings: Ratings, l2_sides: tuple[float, float] | None = None
) -> tuple[Tensor, Tensor, float]:
    """Return biases alone.

    Args:
        ratings: The ratings.
        l2_sides: Penalties of the biases of users and of items; None for those of `bias_ridges`.

    Returns:
        Biases of users (users,) and of items (items,), and the penalty of a user's bias.
    """
    user_n, item_n, y_n = ratings.user_n, ratings.item_n, ratings.y_n
    l2_user, l2_item = l2_sides or bias_ridges(ratings, 0.0)
    user_u = item_i = torch.zeros(0, dtype=torch.float32)
    item_of_n = torch.zeros_like(y_n)
    for _ in range(BIAS_ITERATIONS):
        user_u = shrunk_mean(y_n - item_of_n, user_n, ratings.n_users, l2_user)
        item_i = shrunk_mean(y_n - user_u[user_n], item_n, ratings.n_items, l2_item)
        item_of_n = item_i[item_n]
    return shrunk_mean(y_n - item_of_n, user_n, ratings.n_users, l2_user), item_i, l2_user


def best_l2(ratings: Ratings, n_factors: int) -> float:
    """Return the penalty of factors that is best on a held-out tenth of the ratings.

    The path goes from the weakest penalty to the strongest, each from the vectors of the one
    before, and ends where one is worse than the one before.  Where the best is not better than the
    biases alone by SURE standard errors, over users, it is NO_FACTORS.

    Args:
        ratings: The ratings.
        n_factors: How many factors there are.
    """
    if len(ratings.y_n) < FEWEST or not n_factors:
        return NO_FACTORS
    test_n = torch.from_numpy(np.random.default_rng(0).random(len(ratings.y_n)) < HELD_OUT)
    rest, test = ratings.take(~test_n), ratings.take(test_n)
    if not len(test.y_n) or not len(rest.y_n):
        return NO_FACTORS
    low, high = float(ratings.y_n.min()), float(ratings.y_n.max())

    def errors(fit_n: Tensor) -> Tensor:
        """Return squared errors of the held-out ratings: (n,)."""
        return (fit_n.clamp(low, high) - test.y_n).square().double()

    rng = torch.Generator().manual_seed(0)
    user_u, item_i, _ = biases(rest)
    baseline_n = errors(user_u[test.user_n] + item_i[test.item_n])
    item_ik, best, best_n = start(rest.n_items, n_factors, rng), NO_FACTORS, None
    l2_user, l2_item = bias_ridges(rest, NU)
    for l2 in L2_PATH:
        ridge = Ridge(l2, l2_user, l2_item, NU)
        for _ in range(FIRST_ITERATIONS if best_n is None else NEXT_ITERATIONS):
            item_ik = rest.items(rest.users(item_ik, ridge), ridge)
        user_uk = rest.users(item_ik, ridge)
        fit_n = factor_rows.dot(user_uk[test.user_n], item_ik[test.item_n])
        gain_n = baseline_n - errors(fit_n)
        if best_n is not None and gain_n.sum() <= best_n.sum():
            break
        best, best_n = l2, gain_n
    assert best_n is not None
    gain_u = torch.zeros(ratings.n_users, dtype=torch.double).index_add_(0, test.user_n, best_n)
    error = float(gain_u.square().sum().sqrt())
    return best if float(gain_u.sum()) > SURE * error else NO_FACTORS
