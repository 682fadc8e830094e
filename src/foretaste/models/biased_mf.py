"""Matrix factorisation with biases: a point estimate of ratings, by alternating least squares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.models.base import Model, RatingPrediction, Shape
from foretaste.models.bayesian import factor_rows
from foretaste.training.engine import Engine


@dataclass(eq=False)
class BiasedMF(Model):
    """Predict ratings by factors x and biases b of users and items, as a point estimate.

    They minimise (Zhou et al. 2008; Koren et al. 2009, equation 5)
    sum over ratings (y - mean - b_u - b_i - x_u.x_i)^2
    + sum_r n_r^nu (l2 |x_r|^2 + l2_bias b_r^2) over users and items r with n_r ratings each.

    Each side is solved exactly given the other.  A user's vector is solved from the history by the
    same function in training and in serving, so that only item vectors are kept.  It knows neither
    the times of ratings, nor which items are rated at all, nor how uncertain a prediction is.

    Args:
        n_factors: Factors of a user and of an item.
        l2: Ridge penalty of the factors.
        l2_bias: Ridge penalty of the biases.
        nu: Exponent of the number of ratings in the penalties, 0 for the same penalty everywhere.
        iterations: Alternations between users and items.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> ratings = pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": [5, 2]})
        >>> recommender = ft.fit(ft.BiasedMF(n_factors=1), ft.from_frame(ratings))
        >>> recommender.recommend(user="b")["item"].item()
        'x'
    """

    name: ClassVar[str] = "biased-mf"
    needs_ratings: ClassVar[bool] = True

    n_factors: int = 16
    l2: float = 1.1
    l2_bias: float = 0.5
    nu: float = 0.5
    iterations: int = 20
    mean_: float = field(init=False, repr=False)
    scale_: list[float] = field(init=False, repr=False)
    item_ik_: Tensor = field(init=False, repr=False)  # factors, then the bias

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Solve for users, then for items, in turn."""
        x, n_users, n_items = train.interactions, len(train.users), len(train.items)
        user_n, item_n = torch.from_numpy(x.user_r).long(), torch.from_numpy(x.item_r).long()
        self.mean_ = float(x.value_r.mean(dtype="float64"))
        self.scale_ = list(train.scale)
        y_n = torch.from_numpy(x.value_r) - self.mean_
        draw_ik = torch.randn(
            n_items, self.n_factors + 1, generator=engine.generator("items"), dtype=torch.float32
        )
        item_ik = draw_ik * 0.1
        item_ik[:, -1] = 0.0
        by_user = factor_rows.padded_blocks(user_n, item_n, n_users, n_items)
        by_item = factor_rows.padded_blocks(item_n, user_n, n_items, n_users)
        with engine.meter("als", self.iterations) as meter:
            for _ in range(self.iterations):
                user_uk = self.solve(by_user, torch.bincount(user_n), item_ik, y_n, item_n)
                item_ik = self.solve(by_item, torch.bincount(item_n), user_uk, y_n, user_n)
                meter.advance()
        self.item_ik_ = item_ik
        return self

    def solve(
        self, blocks: list[factor_rows.Block], count_r: Tensor, other_jk: Tensor, y_n: Tensor,
        other_n: Tensor,
    ) -> Tensor:  # fmt: skip
        """Solve for the vectors of one side, users or items, given those of the other.

        Args:
            blocks: The ratings of each row, padded by `factor_rows.padded_blocks`.
            count_r: How many ratings each row has: (r,).
            other_jk: Vectors of the other side, factors and then the bias: (j, k).
            y_n: Ratings less their mean: (n,).
            other_n: The row of the other side that each rating belongs to: (n,).

        Returns:
            Vectors, factors and then the bias: (r, k).
        """
        l2_kk = torch.full((self.n_factors + 1,), self.l2, dtype=torch.float32)
        l2_kk[-1] = self.l2_bias
        # The weight n^-nu of the ratings has the effect of n^nu on the ridge penalty.
        weight_r = count_r.clamp(min=1).float() ** -self.nu
        D_jk = factor_rows.design(other_jk, torch.ones(len(other_jk), dtype=torch.float32))
        zero_rk = torch.zeros(len(count_r), self.n_factors + 1, dtype=torch.float32)
        rest_n = y_n - other_jk[:, -1][other_n]
        return factor_rows.draw_rows(blocks, D_jk, rest_n, weight_r, zero_rk, l2_kk.diag(), None)[0]

    def fold_in(self, histories: Histories) -> Tensor:
        """Return the vector of each history, zero for an empty one: (B, k).

        Args:
            histories: Histories of B users, who need not have been in training.
        """
        blocks = factor_rows.padded_blocks(
            histories.user_h, histories.item_h, len(histories), len(self.item_ik_)
        )
        y_h = histories.value_h - self.mean_
        return self.solve(blocks, histories.length_b, self.item_ik_, y_h, histories.item_h)

    def score(self, histories: Histories) -> Tensor:
        """Return expected ratings before clipping: (B, items)."""
        x_bk = self.fold_in(histories)
        score_bi = x_bk[:, :-1] @ self.item_ik_[:, :-1].T
        return score_bi + (self.mean_ + self.item_ik_[:, -1] + x_bk[:, -1:])

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Predict the ratings of pairs; an unknown item has no bias and no factors."""
        x_pk = self.fold_in(histories)[user_p]
        y_pk = self.item_ik_[item_p] * (item_p >= 0)[:, None]
        mean_p = self.mean_ + (x_pk * y_pk)[:, :-1].sum(1) + x_pk[:, -1] + y_pk[:, -1]
        return RatingPrediction(mean_p.clamp(*self.scale_))

    def item_vectors(self) -> Tensor:
        """Return the item factors, without the bias: (items, d)."""
        return self.item_ik_[:, :-1]

    def cost(self, shape: Shape) -> Cost:
        """Estimate outer products of padded ratings, then a Cholesky factor for each row."""
        n, rows, k = shape.interactions, shape.users + shape.items, self.n_factors + 1
        each = 1e-7 * n * (k / 17) ** 2 + 5e-6 * rows * (k / 17) ** 3
        return Cost(seconds=self.iterations * each, memory_bytes=80 * n + 4 * k**2 * rows)
