"""Matrix factorisation with biases: a point estimate of ratings, by alternating least squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.models import penalties
from foretaste.models.base import RatingPrediction, Shape
from foretaste.models.bayesian import factor_rows
from foretaste.models.learning_ratings import LearnsFromRatings
from foretaste.models.penalties import NO_FACTORS, Ratings, Ridge, ratings_of
from foretaste.training.engine import Engine

Auto = Literal["auto"]


@dataclass(eq=False)
class BiasedMF(LearnsFromRatings):
    """Predict ratings by factors x and biases b of users and items, as a point estimate.

    They minimise (Zhou et al. 2008; Koren et al. 2009, equation 5)
    sum over ratings (y - b_u - b_i - x_u.x_i)^2 + sum_r n_r^nu (l2 |x_r|^2 + l2_bias b_r^2)
    over users and items r with n_r ratings each, where y is a rating less the mean, in units of the
    standard deviation of ratings.

    Each side is solved exactly given the other.  A user's vector is solved from the history by the
    same function in training and in serving, so that only item vectors are kept.  It knows neither
    the times of ratings, nor which items are rated at all, nor how uncertain a prediction is.

    Args:
        n_factors: Factors of a user and of an item.
        l2: Ridge penalty of the factors; "auto" for the best on a held-out tenth of the ratings,
            and for biases alone where no factors beat them there by two standard errors.
        l2_bias: Ridge penalty of the biases; "auto" for one for users and one for items: the
            variance of the noise over that of the biases, by the mean of n_r^nu.
        nu: Exponent of the number of ratings in the penalties, 0 for the same penalty everywhere;
            "auto" for 0.5 with factors, and for 0 with biases alone.
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

    n_factors: int = 16
    l2: float | Auto = "auto"
    l2_bias: float | Auto = "auto"
    nu: float | Auto = "auto"
    iterations: int = 20
    ridge_: dict[str, float] = field(init=False, repr=False)
    item_ik_: Tensor = field(init=False, repr=False)  # factors, then the bias

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Choose the penalties that are "auto", then solve for users and for items in turn."""
        ratings = ratings_of(train, self.learn_unit(train))
        ridge = self._chosen(ratings)
        self.ridge_ = asdict(ridge)
        if ridge.l2 == NO_FACTORS and not ridge.nu:  # the same, in closed form for each bias
            _, item_i, _ = penalties.biases(ratings, (ridge.l2_user, ridge.l2_item))
            self.item_ik_ = nn.functional.pad(item_i[:, None], (self.n_factors, 0))
            return self
        item_ik = penalties.start(ratings.n_items, self.n_factors, engine.generator("items"))
        with engine.meter("als", self.iterations) as meter:
            for _ in range(self.iterations):
                item_ik = ratings.items(ratings.users(item_ik, ridge), ridge)
                meter.advance()
        self.item_ik_ = item_ik
        return self

    def auto_fields(self, train: Dataset) -> dict[str, float]:
        """Return what the penalties that are "auto" come to; `l2_bias` has one for each side."""
        model = self.unfitted()
        chosen = getattr(self, "ridge_", None) or asdict(
            model._chosen(ratings_of(train, model.learn_unit(train)))
        )
        given = {"l2": self.l2, "l2_user": self.l2_bias, "l2_item": self.l2_bias, "nu": self.nu}
        return {name: chosen[name] for name, value in given.items() if value == "auto"}

    def _chosen(self, ratings: Ratings) -> Ridge:
        """Return the penalties as given, and as the ratings decide where they are "auto"."""
        l2, nu = self.l2, self.nu
        if l2 == "auto":
            l2 = penalties.best_l2(ratings, self.n_factors)
        if nu == "auto":
            nu = 0.0 if l2 == NO_FACTORS else penalties.NU
        if self.l2_bias == "auto":
            return Ridge(l2, *penalties.bias_ridges(ratings, nu), nu)
        return Ridge(l2, self.l2_bias, self.l2_bias, nu)

    def fold_in(self, histories: Histories) -> Tensor:
        """Return the vector of each history, zero for an empty one: (B, k).

        Args:
            histories: Histories of B users, who need not have been in training.
        """
        blocks = factor_rows.padded_blocks(
            histories.user_h, histories.item_h, len(histories), len(self.item_ik_)
        )
        y_h = self.standardised(histories.value_h)
        penalty = self.ridge_["l2"], self.ridge_["l2_user"], self.ridge_["nu"]
        return penalties.solve(
            blocks, histories.length_b, self.item_ik_, y_h, histories.item_h, penalty
        )

    def score(self, histories: Histories) -> Tensor:
        """Return expected ratings before clipping: (B, items)."""
        x_bk = self.fold_in(histories)
        score_bi = x_bk[:, :-1] @ self.item_ik_[:, :-1].T
        return self.in_ratings(score_bi + (self.item_ik_[:, -1] + x_bk[:, -1:]))

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Predict the ratings of pairs; an unknown item has no bias and no factors."""
        x_pk = self.fold_in(histories)[user_p]
        y_pk = self.item_ik_[item_p] * (item_p >= 0)[:, None]
        return RatingPrediction(self.clipped(factor_rows.dot(x_pk, y_pk)))

    def item_vectors(self) -> Tensor:
        """Return the item factors, without the bias: (items, d)."""
        return self.item_ik_[:, :-1]

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """Put back what `state` returned; a bundle of 0.1.0 has its penalties in the fields."""
        super().restore(tensors, values)
        if "ridge_" not in values:
            l2, l2_bias, nu = (float(x) for x in (self.l2, self.l2_bias, self.nu))
            self.ridge_ = asdict(Ridge(l2, l2_bias, l2_bias, nu))
        return self

    def cost(self, shape: Shape) -> Cost:
        """Estimate outer products of padded ratings, then a Cholesky factor for each row."""
        n, rows, k = shape.interactions, shape.users + shape.items, self.n_factors + 1
        each = 1e-7 * n * (k / 17) ** 2 + 5e-6 * rows * (k / 17) ** 3
        chosen = 18 if self.l2 == "auto" else 0  # iterations on the path of penalties
        return Cost(
            seconds=(self.iterations + chosen) * each, memory_bytes=80 * n + 4 * k**2 * rows
        )
