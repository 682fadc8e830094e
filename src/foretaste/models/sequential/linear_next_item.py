"""The next item by one ridge regression on decayed sums of all that came before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch
from scipy import linalg
from torch import Tensor, nn

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.errors import ModelError
from foretaste.models.base import Model, Shape, searched
from foretaste.models.sequential.prefixes import Prefixes, entries_kept
from foretaste.training.engine import Engine

MOST_UNKNOWNS = 16_384  # of each item's regression: their matrix takes 1 GiB
START_L2 = 1e-3  # an empty history is pulled towards nothing, but for rounding


@dataclass(eq=False)
class LinearNextItem(Model):
    """Score an item by the chance that it comes next, linear in decayed sums of the history.

    Every prefix of every history is a row of F: for each decay c and item i the sum of c^k over
    the entries of i, with k the number of entries after it, and a one.  The row of Y marks the
    entry that follows.  All items' regressions share their matrix, so one system gives

        W = (F^T F + diag(l2 n_i^power))^-1 F^T Y,   with n_i the entries of item i.

    With the one decay 0 that is a Markov chain, shrunk; the higher the decay, the more it is EASE
    (Steck 2019) for histories that grow.  SLIST (Choi et al. 2021, arXiv 2103.16104) solves a
    system of this kind for sessions.

    Every entry counts, whatever was thought of it: the model knows what comes next, not what will
    be liked.  It knows the order of a history and not the time between its entries, and neither
    the columns of users nor those of items.

    Args:
        decays: What an entry weighs for each entry after it, 0 up to 1 exclusive; 0 leaves the
            last entry alone.  Where items times decays are too many unknowns, the last ones go.
        l2: Ridge penalty of an item with one entry.
        power: Exponent of the entries of an item in its penalty.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> plays = pl.DataFrame({"user": ["a"] * 3 + ["b"], "item": ["x", "y", "z", "y"]})
        >>> recommender = ft.fit(ft.LinearNextItem(), ft.from_frame(plays))
        >>> recommender.recommend(user="b", k=1)["item"].item()
        'z'
    """

    name: ClassVar[str] = "linear-next-item"

    decays: tuple[float, ...] = (0.0, 0.8, 0.95, 0.5)
    l2: float = searched(58.0, 1.0, 1000.0, log=True)
    power: float = searched(0.5, 0.0, 1.0)
    decays_: list[float] = field(init=False, repr=False)
    start_i_: Tensor = field(init=False, repr=False)
    weights_cij_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Sum up all prefixes without writing one down, then solve.

        Raises:
            ModelError: A decay is out of its range, or there are too many items.
        """
        if not self.decays or not all(0 <= decay < 1 for decay in self.decays):
            raise ModelError(
                f"decays={list(self.decays)}.", fix="Give numbers from 0 up to 1, without 1."
            )
        n_items = len(train.items)
        if n_items >= MOST_UNKNOWNS:
            raise ModelError(
                f"linear-next-item solves for all {n_items:,} items at once; the limit is "
                f"{MOST_UNKNOWNS - 1:,}.",
                fix="Use sasrec, which does not grow with items squared.",
            )
        self.decays_ = list(self.decays[: decays_that_fit(n_items, len(self.decays))])
        item_r = train.interactions.item_r
        prefixes = Prefixes(item_r, train.pointers, n_items, self.decays_)
        with engine.meter(self.name, len(self.decays_) + 2) as meter:
            A_ff, B_fi = prefixes.matrices(meter.advance)
            penalty_i = self.l2 * np.bincount(item_r, minlength=n_items).clip(min=1) ** self.power
            penalty_f = np.append(np.tile(penalty_i, len(self.decays_)), START_L2)
            A_ff.ravel()[:: len(A_ff) + 1] += penalty_f
            # In place: the matrix is most of what is in memory. LAPACK wants columns, and a
            # symmetric matrix is its own transpose.
            factor = linalg.cho_factor(A_ff.T, overwrite_a=True, check_finite=False)
            meter.advance()
            W_fi = torch.from_numpy(linalg.cho_solve(factor, B_fi, check_finite=False))
            meter.advance()
        self.start_i_ = W_fi[-1].clone()
        self.weights_cij_ = W_fi[:-1].reshape(len(self.decays_), n_items, n_items).contiguous()
        return self

    def score(self, histories: Histories) -> Tensor:
        """Return estimated chances of each item to be the next entry: (B, items)."""
        entry_h = torch.arange(1, 1 + len(histories.item_h))
        after_h = histories.pointer_b[1:][histories.user_h] - entry_h
        score_bi = self.start_i_.repeat(len(histories), 1)
        for decay, weights_ij in zip(self.decays_, self.weights_cij_, strict=True):
            kept_h = after_h < entries_kept(decay)
            recent = histories.only(kept_h)
            score_bi += nn.functional.embedding_bag(
                recent.item_h, weights_ij, recent.pointer_b, mode="sum", include_last_offset=True,
                per_sample_weights=decay ** after_h[kept_h].float(),
            )  # fmt: skip
        return score_bi

    def cost(self, shape: Shape) -> Cost:
        """Estimate sums over pairs of entries, one Cholesky factor and its solutions."""
        decays = self.decays[: decays_that_fit(shape.items, len(self.decays))]
        unknowns = len(decays) * shape.items
        pairs = shape.interactions * sum(map(entries_kept, decays))
        return Cost(
            seconds=0.1 + 4e-12 * unknowns**2 * (unknowns + 6 * shape.items) + 3e-8 * pairs,
            memory_bytes=4 * unknowns**2 + 16 * unknowns * shape.items + 60 * shape.interactions,
        )


def decays_that_fit(n_items: int, n_decays: int) -> int:
    """Return how many decays of a catalogue the system has room for, one at least.

    Args:
        n_items: How many items there are.
        n_decays: How many decays are wanted.
    """
    return max(1, min(n_decays, (MOST_UNKNOWNS - 1) // max(n_items, 1)))
