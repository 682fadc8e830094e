"""Histories: what users did, as ragged arrays; the one form in which a user reaches a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from foretaste.data.dataset import Dataset
from foretaste.data.interactions import IntArray


@dataclass(frozen=True, eq=False)
class Histories:
    """Histories of B users as ragged arrays: user b has entries pointer_b[b] to pointer_b[b + 1].

    item_h: item rows (int64).  value_h: ratings or weights (float32).  time_h: milliseconds
    (int64), or None.  train_row_b: the user's row in training where the history is the one trained
    on, else -1.  user_features: lines of a user table, for those who have no such row; None: unknown.
    """

    pointer_b: Tensor
    item_h: Tensor
    value_h: Tensor
    time_h: Tensor | None
    train_row_b: Tensor
    user_features: pl.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.pointer_b) - 1

    @property
    def length_b(self) -> Tensor:
        """Entries in each history."""
        return self.pointer_b.diff()

    @property
    def user_h(self) -> Tensor:
        """The user b of every entry."""
        return torch.repeat_interleave(torch.arange(len(self)), self.length_b)

    def __getitem__(self, users: slice) -> Histories:
        """The batch of a contiguous range of its users."""
        start, stop, _ = users.indices(len(self))
        low, high = int(self.pointer_b[start]), int(self.pointer_b[stop])
        return Histories(
            self.pointer_b[start : stop + 1] - low,
            self.item_h[low:high],
            self.value_h[low:high],
            None if self.time_h is None else self.time_h[low:high],
            self.train_row_b[start:stop],
            None if self.user_features is None else self.user_features[start:stop],
        )

    def take(self, users: Tensor) -> Histories:
        """The batch of some of its users, in the order given (int64)."""
        before_b, entry_h = _ragged(self.pointer_b[users].numpy(), self.length_b[users].numpy())
        time_h = None if self.time_h is None else self.time_h[entry_h]
        return Histories(
            before_b, self.item_h[entry_h], self.value_h[entry_h], time_h, self.train_row_b[users],
            None if self.user_features is None else self.user_features[users.numpy()],
        )  # fmt: skip

    def only(self, kept_h: Tensor) -> Histories:
        """The marked entries of each history."""
        before_h = nn.functional.pad(kept_h.cumsum(0), (1, 0))
        time_h = None if self.time_h is None else self.time_h[kept_h]
        return dataclasses.replace(
            self, pointer_b=before_h[self.pointer_b], item_h=self.item_h[kept_h],
            value_h=self.value_h[kept_h], time_h=time_h,
        )  # fmt: skip

    def features(self, known_uf: Tensor, read: Callable[[pl.DataFrame], Tensor]) -> Tensor:
        """Features of users: (B, f), zeros where nothing is known.

        known_uf: those of training.  read: makes them of `about`, for users who were not in it.
        """
        known_b = self.train_row_b >= 0
        of_bf = known_uf.new_zeros(len(self), known_uf.shape[1])
        of_bf[known_b] = known_uf[self.train_row_b[known_b]]  # a copy of all would take longer
        if self.user_features is not None:
            of_bf[~known_b] = read(self.user_features)[~known_b]
        return of_bf

    def dense(self, n_items: int, value_h: Tensor | None = None) -> Tensor:
        """Histories as a matrix: (B, items), value_h (default: ones) where there is an entry."""
        x_bi = torch.zeros(len(self), n_items, dtype=torch.float32)
        x_bi[self.user_h, self.item_h] = 1.0 if value_h is None else value_h
        return x_bi


def histories_of(histories: Dataset, user_rows: IntArray, known: Dataset) -> Histories:
    """The histories of `user_rows` of one Dataset, in the item rows of the Dataset trained on.

    A row of -1 is a user of `known` without history.  Items that `known` lacks are left out.
    """
    x = histories.interactions
    start_b = np.where(user_rows < 0, 0, histories.pointers[user_rows])
    length_b = np.where(user_rows < 0, 0, histories.pointers[user_rows + 1] - start_b)
    before_b, entry_h = (t.numpy() for t in _ragged(start_b, length_b))
    item_h = x.item_r[entry_h].astype(np.int64)
    train_row_b, user_features = user_rows.astype(np.int64), None
    if histories is not known:
        if histories.user_table is not None:
            row_b = pl.Series(user_rows).cast(pl.Int64).replace(-1, None)
            user_features = histories.user_table.select(pl.all().gather(row_b))
        train_row_b = np.full(len(user_rows), -1)
        item_h = known.items.find(histories.items.values)[item_h]
        kept_h = item_h >= 0
        entry_h, item_h = entry_h[kept_h], item_h[kept_h]
        before_b = np.concatenate([[0], np.cumsum(kept_h)])[before_b]
    return Histories(
        torch.from_numpy(before_b),
        torch.from_numpy(item_h),
        torch.from_numpy(x.value_r[entry_h]),
        None if x.time_r is None else torch.from_numpy(x.time_r[entry_h]),
        torch.from_numpy(train_row_b),
        user_features,
    )


def _ragged(start_b: IntArray, length_b: IntArray) -> tuple[Tensor, Tensor]:
    """Pointers of ranges laid end to end, and the positions that they cover."""
    before_b = np.concatenate([[0], np.cumsum(length_b)])
    entry_h = np.arange(before_b[-1]) + np.repeat(start_b - before_b[:-1], length_b)
    return torch.from_numpy(before_b), torch.from_numpy(entry_h)
