"""The baselines every model has to beat: chance, means, biases, popularity, weighted votes."""

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
    """Predicts the mean rating for everything."""

    name: ClassVar[str] = "global-mean"
    needs_ratings: ClassVar[bool] = True

    mean_: float = field(init=False, repr=False)
    n_items_: int = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """The mean of all ratings."""
        self.mean_ = float(train.interactions.value_r.mean(dtype="float64"))
        self.n_items_ = len(train.items)
        return self

    def score(self, histories: Histories) -> Tensor:
        """The same score everywhere: (B, items)."""
        return torch.full((len(histories), self.n_items_), self.mean_, dtype=torch.float32)

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """The mean, for every pair."""
        return RatingPrediction(torch.full((len(item_p),), self.mean_, dtype=torch.float32))

    def cost(self, shape: Shape) -> Cost:
        """One pass over the ratings."""
        return Cost(seconds=1e-8 * shape.interactions, memory_bytes=8)


@dataclass(eq=False)
class Bias(Model):
    """Mean plus user bias plus item bias, each shrunk towards zero by ridge regression.

    l2_user, l2_item: how many ratings of zero bias each one starts with (Koren 2010, section 2.1).
    The user's bias is computed from the history alone, so strangers and users in training are
    equal.
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
        """Alternate between user and item biases, each in closed form."""
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
        """The bias of each history: (B,)."""
        rest_h = histories.value_h - self.mean_ - self.item_i_[histories.item_h]
        return shrunk_mean(rest_h, histories.user_h, len(histories), self.l2_user)

    def score(self, histories: Histories) -> Tensor:
        """Expected ratings, not clipped so that the order stays strict: (B, items)."""
        return self.mean_ + self.user_bias(histories)[:, None] + self.item_i_

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Ratings of pairs; an unknown item has no bias."""
        item_bias_p = torch.where(item_p >= 0, self.item_i_[item_p], 0.0)
        return RatingPrediction(
            (self.mean_ + self.user_bias(histories)[user_p] + item_bias_p).clamp(*self.scale_)
        )

    def cost(self, shape: Shape) -> Cost:
        """A few passes over the ratings."""
        seconds = 4e-8 * self.iterations * shape.interactions
        return Cost(seconds, memory_bytes=40 * shape.interactions)


def shrunk_mean(value_r: Tensor, group_r: Tensor, n_groups: int, l2: float) -> Tensor:
    """Mean of each group's values and of `l2` zeros: (n_groups,), float32; 0 for an empty group."""
    total_g = torch.zeros(n_groups, dtype=torch.float64).index_add_(0, group_r, value_r.double())
    count_g = torch.bincount(group_r, minlength=n_groups)
    return (total_g / (count_g + l2).clamp(min=1e-12)).float()


@dataclass(eq=False)
class Popularity(Model):
    """The most interactions first, the same list for everyone (less what each has seen).

    half_life_days: an interaction this much older than the newest counts half; None counts all
    alike.
    """

    name: ClassVar[str] = "popularity"

    half_life_days: float | None = None
    count_i_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Count interactions per item, discounted by age where asked."""
        x = train.interactions
        weight_r = torch.ones(len(x), dtype=torch.float64)
        if self.half_life_days is not None:
            if x.time_r is None:
                raise ModelError(
                    "recent popularity needs times.", fix="Name the column with --time-column."
                )
            age_r = torch.from_numpy(x.time_r.max() - x.time_r).double() / DAY_MS
            weight_r = torch.exp2(-age_r / self.half_life_days)
        count_i = torch.zeros(len(train.items), dtype=torch.float64)
        count_i.index_add_(0, torch.from_numpy(x.item_r).long(), weight_r)
        self.count_i_ = count_i.float()
        return self

    def score(self, histories: Histories) -> Tensor:
        """The counts, for every history: (B, items)."""
        return self.count_i_.repeat(len(histories), 1)

    def cost(self, shape: Shape) -> Cost:
        """One pass over the interactions."""
        return Cost(seconds=3e-8 * shape.interactions, memory_bytes=8 * shape.items)


@dataclass(eq=False)
class Random(Model):
    """Every unseen item with the same chance: what any list is worth by luck.

    The draw is a hash of the item and of the history, so the same history gets the same list,
    whoever else is served.
    """

    name: ClassVar[str] = "random"

    salt_: int = field(init=False, repr=False)
    n_items_: int = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Nothing but the number of items, and a seed."""
        self.salt_ = int(engine.rng("random").integers(1 << 32))
        self.n_items_ = len(train.items)
        return self

    def score(self, histories: Histories) -> Tensor:
        """Uniform in [0, 1): (B, items)."""
        key_b = torch.zeros(len(histories), dtype=torch.int64)
        key_b.index_add_(0, histories.user_h, _mixed(histories.item_h + self.salt_))
        item_i = _mixed(torch.arange(self.n_items_) - self.salt_)
        return (_mixed(key_b[:, None] + item_i) >> 8 & 0xFFFFFF).float() / (1 << 24)

    def cost(self, shape: Shape) -> Cost:
        """Nothing is learned."""
        return Cost(seconds=1e-6, memory_bytes=8)


def _mixed(x: Tensor) -> Tensor:
    """A hash of int64 numbers: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & 0x1FFFFFFFF)


@dataclass(eq=False)
class WeightedRating(Model):
    """W = v / (v + m) R + m / (v + m) C, of v votes with mean R; C is the mean of all R.

    m is the quantile `quantile` of v: items with fewer votes come after the chart of the others, in
    the same order.  votes, average: columns of v and R in the item table; where it has neither,
    both are of the ratings.
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
        """C and m, then the formula."""
        v_i, R_i = self._columns(train.item_frame)
        if v_i is None or R_i is None:
            v_i, R_i = self._of_ratings(train)
        self.mean_ = float(np.nanmean(R_i))
        self.votes_needed_ = float(np.nanquantile(v_i, self.quantile))
        self.span_ = float(np.nanmax(R_i) - np.nanmin(R_i))
        self.score_i_ = self._weighted(v_i, R_i)
        return self

    def score(self, histories: Histories) -> Tensor:
        """The same for every history: (B, items)."""
        return self.score_i_.repeat(len(histories), 1)

    def with_items(self, table: pl.DataFrame) -> Self:
        """A copy with the lines of an item table as further items; without votes they are last."""
        v_i, R_i = self._columns(table)
        unknown_i = np.full(len(table), np.nan)
        v_i, R_i = (unknown_i if x is None else x for x in (v_i, R_i))
        grown = copy.copy(self)
        grown.score_i_ = torch.cat([self.score_i_, self._weighted(v_i, R_i)])
        return grown

    def _columns(self, table: pl.DataFrame) -> tuple[np.ndarray | None, np.ndarray | None]:
        """v and R from the table: (items,) each, NaN where a cell is empty."""
        v, R = (
            table[name].cast(pl.Float64, strict=False).to_numpy() if name in table.columns else None
            for name in (self.votes, self.average)
        )
        return v, R

    def _of_ratings(self, train: Dataset) -> tuple[np.ndarray, np.ndarray]:
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
        v_i = np.where(np.isnan(v_i) | np.isnan(R_i), 0.0, v_i)
        m, C = self.votes_needed_, self.mean_
        W_i = (v_i * np.nan_to_num(R_i) + m * C) / np.maximum(v_i + m, 1e-12)
        # W lies within the span of R: what is moved down by it, and one, comes after the chart
        return torch.from_numpy(np.where(v_i >= m, W_i, W_i - self.span_ - 1)).float()

    def cost(self, shape: Shape) -> Cost:
        """One pass over the items."""
        return Cost(seconds=1e-8 * shape.interactions + 1e-3, memory_bytes=40 * shape.items)
