"""The baselines that every model has to beat: chance, means, biases, popularity, weighted votes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.errors import ModelError
from foretaste.models.base import Model, RatingPrediction, Shape
from foretaste.training.engine import Engine

DAY_MS = 86_400_000


@dataclass(eq=False)
class GlobalMean(Model):
    """Predict the mean rating of training for every user and item; it knows neither.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> ratings = pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": [5, 2]})
        >>> recommender = ft.fit(ft.GlobalMean(), ft.from_frame(ratings))
        >>> recommender.predict(users=["a"], items=["y"])["rating"].item()
        3.5
    """

    name: ClassVar[str] = "global-mean"
    needs_ratings: ClassVar[bool] = True

    mean_: float = field(init=False, repr=False)
    n_items_: int = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Take the mean of all ratings."""
        self.mean_ = float(train.interactions.value_r.mean(dtype="float64"))
        self.n_items_ = len(train.items)
        return self

    def score(self, histories: Histories) -> Tensor:
        """Return the mean for every history and item: (B, items)."""
        return torch.full((len(histories), self.n_items_), self.mean_, dtype=torch.float32)

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Return the mean for every pair."""
        return RatingPrediction(torch.full((len(item_p),), self.mean_, dtype=torch.float32))

    def cost(self, shape: Shape) -> Cost:
        """Estimate one pass over the ratings."""
        return Cost(seconds=1e-8 * shape.interactions, memory_bytes=8)


@dataclass(eq=False)
class Bias(Model):
    """Predict mean + user bias + item bias, each bias shrunk towards zero (Koren 2010, 2.1).

    It does not know tastes: every user gets the items in the same order.  A user's bias follows
    from the history alone, so that new users and those of training are treated alike.

    Args:
        l2_user: Ridge penalty of a user's bias, in ratings without bias that are added.
        l2_item: Ridge penalty of an item's bias, in the same unit.
        iterations: Alternations between the biases of users and of items.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> ratings = pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": [5, 2]})
        >>> recommender = ft.fit(ft.Bias(), ft.from_frame(ratings))
        >>> recommender.recommend(user="b", k=1)["item"].item()
        'x'
    """

    name: ClassVar[str] = "bias"
    needs_ratings: ClassVar[bool] = True

    l2_user: float = 5.0
    l2_item: float = 3.0
    iterations: int = 10
    mean_: float = field(init=False, repr=False)
    item_i_: Tensor = field(init=False, repr=False)
    scale_: list[float] = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Alternate between the biases of users and of items, each in closed form."""
        x = train.interactions
        user_r, item_r = torch.from_numpy(x.user_r).long(), torch.from_numpy(x.item_r).long()
        self.mean_ = float(x.value_r.mean(dtype="float64"))
        self.scale_ = list(train.scale)
        rest_r = torch.from_numpy(x.value_r) - self.mean_
        user_u = torch.zeros(len(train.users), dtype=torch.float32)
        for _ in range(self.iterations):
            self.item_i_ = shrunk_mean(
                rest_r - user_u[user_r], item_r, len(train.items), self.l2_item
            )
            user_u = shrunk_mean(
                rest_r - self.item_i_[item_r], user_r, len(train.users), self.l2_user
            )
        return self

    def user_bias(self, histories: Histories) -> Tensor:
        """Return the bias of each history, 0 for an empty one: (B,).

        Args:
            histories: Histories of B users, who need not have been in training.
        """
        rest_h = histories.value_h - self.mean_ - self.item_i_[histories.item_h]
        return shrunk_mean(rest_h, histories.user_h, len(histories), self.l2_user)

    def score(self, histories: Histories) -> Tensor:
        """Return expected ratings, not clipped, so that the order stays strict: (B, items)."""
        return self.mean_ + self.user_bias(histories)[:, None] + self.item_i_

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Predict the ratings of pairs; an unknown item has no bias."""
        item_bias_p = torch.where(item_p >= 0, self.item_i_[item_p], 0.0)
        return RatingPrediction(
            (self.mean_ + self.user_bias(histories)[user_p] + item_bias_p).clamp(*self.scale_)
        )

    def cost(self, shape: Shape) -> Cost:
        """Estimate two passes over the ratings for each iteration."""
        seconds = 4e-8 * self.iterations * shape.interactions
        return Cost(seconds, memory_bytes=40 * shape.interactions)


def shrunk_mean(value_r: Tensor, group_r: Tensor, n_groups: int, l2: float) -> Tensor:
    """Return the mean of each group's values and of `l2` zeros, 0 for an empty group.

    Args:
        value_r: Values (r,).
        group_r: The group of each value (r,), int64.
        n_groups: How many groups there are.
        l2: How many zeros are added to each group; need not be whole.

    Returns:
        (n_groups,), float32.
    """
    total_g = torch.zeros(n_groups, dtype=torch.float64).index_add_(0, group_r, value_r.double())
    count_g = torch.bincount(group_r, minlength=n_groups)
    return (total_g / (count_g.double() + l2).clamp(min=1e-12)).float()


@dataclass(eq=False)
class Popularity(Model):
    """Score an item by its number of interactions, whatever their values.

    It does not know the user: all get the same list, less what each has already rated or clicked.

    Args:
        half_life_days: Age in days, from the newest interaction, at which an interaction counts
            half; None counts all equally.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> clicks = pl.DataFrame({"user": ["a", "b", "b"], "item": ["x", "x", "y"]})
        >>> recommender = ft.fit(ft.Popularity(), ft.from_frame(clicks))
        >>> recommender.recommend(history=[], k=1)["item"].item()
        'x'
    """

    name: ClassVar[str] = "popularity"

    half_life_days: float | None = None
    count_i_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Count the interactions of each item, discounted by age where that is wanted.

        With kinds of events each counts as much as its value, the weight of its kind.
        """
        x = train.interactions
        weight_r = torch.ones(len(x), dtype=torch.float64)
        if train.kinds is not None:
            weight_r = torch.from_numpy(x.value_r).double()
        if self.half_life_days is not None:
            if x.time_r is None:
                raise ModelError(
                    "recent popularity needs times.", fix="Name the column with --time-column."
                )
            age_r = torch.from_numpy(x.time_r.max() - x.time_r).double() / DAY_MS
            weight_r = weight_r * torch.exp2(-age_r / self.half_life_days)
        count_i = torch.zeros(len(train.items), dtype=torch.float64)
        count_i.index_add_(0, torch.from_numpy(x.item_r).long(), weight_r)
        self.count_i_ = count_i.float()
        return self

    def score(self, histories: Histories) -> Tensor:
        """Return the counts for every history: (B, items)."""
        return self.count_i_.repeat(len(histories), 1)

    def cost(self, shape: Shape) -> Cost:
        """Estimate one pass over the interactions."""
        return Cost(seconds=3e-8 * shape.interactions, memory_bytes=8 * shape.items)


@dataclass(eq=False)
class Random(Model):
    """Score items at random, to show what a list is worth by luck.

    It knows neither users nor items.  A score is a hash of the item and of the history, so that
    the same history gets the same list, whichever users are scored together.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> clicks = pl.DataFrame({"user": ["a", "b", "b"], "item": ["x", "x", "y"]})
        >>> recommender = ft.fit(ft.Random(), ft.from_frame(clicks), seed=1)
        >>> recommender.recommend(user="a", k=1)["item"].item()
        'y'
    """

    name: ClassVar[str] = "random"

    salt_: int = field(init=False, repr=False)
    n_items_: int = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Keep the number of items, and a number that depends on the seed."""
        self.salt_ = int(engine.rng("random").integers(1 << 32))
        self.n_items_ = len(train.items)
        return self

    def score(self, histories: Histories) -> Tensor:
        """Return scores that are uniform in [0, 1): (B, items)."""
        key_b = torch.zeros(len(histories), dtype=torch.int64)
        key_b.index_add_(0, histories.user_h, _mixed(histories.item_h + self.salt_))
        item_i = _mixed(torch.arange(self.n_items_) - self.salt_)
        return (_mixed(key_b[:, None] + item_i) >> 8 & 0xFFFFFF).float() / (1 << 24)

    def cost(self, shape: Shape) -> Cost:
        """Estimate next to nothing, as nothing is learned."""
        return Cost(seconds=1e-6, memory_bytes=8)


def _mixed(x: Tensor) -> Tensor:
    """Hash int64 numbers by the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & 0x1FFFFFFFF)


@dataclass(eq=False)
class WeightedRating(Model):
    """Score an item by W = v / (v + m) R + m / (v + m) C, of v votes with mean R.

    C is the mean of all R, and m a quantile of v.  Items with fewer than m votes come after all
    others, in the order of their W.  It does not know the user: all get the same list.

    Args:
        quantile: Share of the items that have fewer than m votes, 0 to 1.
        votes: Column of v in the item table.
        average: Column of R there; where the table lacks either, both come from the ratings.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> ratings = pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": [5, 2]})
        >>> recommender = ft.fit(ft.WeightedRating(), ft.from_frame(ratings))
        >>> recommender.recommend(history=[], k=1)["item"].item()
        'x'
    """

    name: ClassVar[str] = "weighted-rating"
    needs_interactions: ClassVar[bool] = False

    quantile: float = 0.9
    votes: str = "vote_count"
    average: str = "vote_average"
    mean_: float = field(init=False, repr=False)  # C
    votes_needed_: float = field(init=False, repr=False)  # m
    span_: float = field(init=False, repr=False)  # of R
    score_i_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Find C and m, then apply the formula."""
        v_i, R_i = self._columns(train.item_frame)
        if v_i is None or R_i is None:
            v_i, R_i = self._of_ratings(train)
        self.mean_ = float(np.nanmean(R_i))
        self.votes_needed_ = float(np.nanquantile(v_i, self.quantile))
        self.span_ = float(np.nanmax(R_i) - np.nanmin(R_i))
        self.score_i_ = self._weighted(v_i, R_i)
        return self

    def score(self, histories: Histories) -> Tensor:
        """Return the same scores for every history: (B, items)."""
        return self.score_i_.repeat(len(histories), 1)

    def with_items(self, table: pl.DataFrame) -> Self:
        """Return a copy that also scores new items, which come last where they have no votes."""
        v_i, R_i = self._columns(table)
        unknown_i = np.full(len(table), np.nan)
        v_i, R_i = (unknown_i if x is None else x for x in (v_i, R_i))
        grown = copy.copy(self)
        grown.score_i_ = torch.cat([self.score_i_, self._weighted(v_i, R_i)])
        return grown

    def _columns(self, table: pl.DataFrame) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return v and R from the table: (items,) each, NaN where a cell is empty."""
        v, R = (
            table[name].cast(pl.Float64, strict=False).to_numpy() if name in table.columns else None
            for name in (self.votes, self.average)
        )
        return v, R

    def _of_ratings(self, train: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Return v and R of the ratings: (items,) each, R NaN where an item has none."""
        if not train.explicit:
            raise ModelError(
                f"{self.name} needs the columns {self.votes!r} and {self.average!r} of items, or "
                f"ratings, and {train.name} has neither.",
                fix="Join a table of items that has them (--items).",
            )
        x, n_items = train.interactions, len(train.items)
        v_i = np.bincount(x.item_r, minlength=n_items).astype(np.float64)
        total_i = np.bincount(x.item_r, x.value_r, minlength=n_items)
        return v_i, np.where(v_i > 0, total_i / np.maximum(v_i, 1), np.nan)

    def _weighted(self, v_i: np.ndarray, R_i: np.ndarray) -> Tensor:
        """Return the scores of items from v and R: (items,), single."""
        v_i = np.where(np.isnan(v_i) | np.isnan(R_i), 0.0, v_i)
        m, C = self.votes_needed_, self.mean_
        W_i = (v_i * np.nan_to_num(R_i) + m * C) / np.maximum(v_i + m, 1e-12)
        # W lies within the span of R, so that a W less that span and 1 comes after all others.
        return torch.from_numpy(np.where(v_i >= m, W_i, W_i - self.span_ - 1)).float()

    def cost(self, shape: Shape) -> Cost:
        """Estimate one pass over the ratings, and one over the items."""
        return Cost(seconds=1e-8 * shape.interactions + 1e-3, memory_bytes=40 * shape.items)
