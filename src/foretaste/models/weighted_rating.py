"""IMDB's weighted rating: a chart that everyone gets, of items with enough votes."""

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
from foretaste.errors import ModelError
from foretaste.models.base import Model, Shape, UserBatch
from foretaste.training.engine import Engine


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

    def score(self, batch: UserBatch) -> Tensor:
        """The same for every history: (B, items)."""
        return self.score_i_.repeat(len(batch), 1)

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

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
        """One pass over the items."""
        return Cost(seconds=1e-8 * shape.interactions + 1e-3, memory_bytes=40 * shape.items)
