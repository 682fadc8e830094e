"""Histories: what users did as ragged arrays; the one form in which a user reaches a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from foretaste.data.dataset import Dataset
from foretaste.data.interactions import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Histories:
    """The histories of B users; user b has the entries `pointer_b[b]` to `pointer_b[b + 1]`.

    Entries are in the order in which they happened. Histories know rows, not ids, and they do not
    know what a user liked: each model decides what a value means.

    Attributes:
        pointer_b: Where each history starts, (B + 1,) int64, as in a CSR matrix.
        item_h: Item rows, (entries,) int64.
        value_h: Ratings or weights, (entries,) float32.
        time_h: Milliseconds since 1970 UTC, (entries,) int64, or None where times are unknown.
        train_row_b: The user's row in training where the history is the one trained on, else -1.
        user_features: One row of the user table for each of the B users, which is read for users
            without a training row; None where nothing is known.
        kind_h: Codes of the kinds of events, (entries,) int64; None where there are no kinds.

    Example:
        >>> import foretaste as ft
        >>> import torch
        >>> two = ft.Histories.from_pairs(torch.tensor([0, 0, 1]), torch.tensor([5, 7, 5]), 2)
        >>> len(two), two.length_b.tolist()
        (2, [2, 1])
    """

    pointer_b: Tensor
    item_h: Tensor
    value_h: Tensor
    time_h: Tensor | None
    train_row_b: Tensor
    user_features: pl.DataFrame | None = None
    kind_h: Tensor | None = None

    @classmethod
    def of_one(
        cls,
        item_h: IntArray | Tensor,
        value_h: FloatArray | Tensor,
        time_h: IntArray | Tensor | None = None,
        train_row: int = -1,
        user_features: pl.DataFrame | None = None,
        kind_h: IntArray | Tensor | None = None,
    ) -> Histories:
        """Return the history of one user from its entries.

        Args:
            item_h: Item rows, (entries,).
            value_h: Ratings or weights, (entries,).
            time_h: Milliseconds, (entries,), or None.
            train_row: The user's row in training where this is the history trained on, else -1.
            user_features: One row of a user table, or None.
            kind_h: Codes of kinds, (entries,), or None.
        """
        return cls(
            torch.tensor([0, len(item_h)]),
            torch.as_tensor(item_h, dtype=torch.int64),
            torch.as_tensor(value_h, dtype=torch.float32),
            None if time_h is None else torch.as_tensor(time_h, dtype=torch.int64),
            torch.tensor([train_row]),
            user_features,
            None if kind_h is None else torch.as_tensor(kind_h, dtype=torch.int64),
        )

    @classmethod
    def from_pairs(
        cls, user_p: Tensor, item_p: Tensor, n_users: int, value_p: Tensor | None = None,
        kind_p: Tensor | None = None,
    ) -> Histories:  # fmt: skip
        """Return histories from pairs of a user and an item row, without times.

        Args:
            user_p: User b of each pair, ascending, (pairs,).
            item_p: Item row of each pair, (pairs,).
            n_users: B; users without a pair have an empty history.
            value_p: Values, (pairs,); ones where None.
            kind_p: Codes of kinds, (pairs,), int64, or None.
        """
        pointer_b = torch.searchsorted(user_p.contiguous(), torch.arange(n_users + 1))
        value_p = torch.ones(len(item_p), dtype=torch.float32) if value_p is None else value_p
        new_b = torch.full((n_users,), -1)
        return cls(pointer_b, item_p.long(), value_p, None, new_b, None, kind_p)

    @classmethod
    def concat(cls, parts: Sequence[Histories]) -> Histories:
        """Return the users of all parts, one after the other.

        Times and kinds are kept where every part with an entry has them. A user without features
        among users who have some gets a row of nulls.

        Args:
            parts: Histories of any numbers of users; without a part the result has no users.
        """
        if len(parts) == 1:
            return parts[0]
        none = torch.empty(0, dtype=torch.int64)
        return cls(
            nn.functional.pad(torch.cat([none, *(p.length_b for p in parts)]).cumsum(0), (1, 0)),
            torch.cat([none, *(part.item_h for part in parts)]),
            torch.cat([torch.empty(0, dtype=torch.float32), *(part.value_h for part in parts)]),
            _joined([part.time_h for part in parts], parts),
            torch.cat([none, *(part.train_row_b for part in parts)]),
            _features_of(parts),
            _joined([part.kind_h for part in parts], parts),
        )

    def __len__(self) -> int:
        return len(self.pointer_b) - 1

    @property
    def length_b(self) -> Tensor:
        """Entries in each history, (B,) int64."""
        return self.pointer_b.diff()

    @property
    def user_h(self) -> Tensor:
        """The user b of every entry, (entries,) int64."""
        return torch.repeat_interleave(torch.arange(len(self)), self.length_b)

    def __getitem__(self, users: slice) -> Histories:
        """Return the histories of a contiguous range of users."""
        start, stop, _ = users.indices(len(self))
        low, high = int(self.pointer_b[start]), int(self.pointer_b[stop])
        return Histories(
            self.pointer_b[start : stop + 1] - low,
            self.item_h[low:high],
            self.value_h[low:high],
            None if self.time_h is None else self.time_h[low:high],
            self.train_row_b[start:stop],
            None if self.user_features is None else self.user_features[start:stop],
            None if self.kind_h is None else self.kind_h[low:high],
        )

    def take(self, users: Tensor) -> Histories:
        """Return the histories of some users, in the order given; a user may be named twice.

        Args:
            users: Numbers of users b, int64.
        """
        before_b, entry_h = _ragged(self.pointer_b[users].numpy(), self.length_b[users].numpy())
        whole = replace(
            self, pointer_b=before_b, train_row_b=self.train_row_b[users],
            user_features=None if self.user_features is None else self.user_features[users.numpy()],
        )  # fmt: skip
        return whole._entries(entry_h)

    def only(self, kept_h: Tensor) -> Histories:
        """Return the marked entries of each history, in their order.

        Args:
            kept_h: (entries,) bool.
        """
        before_h = nn.functional.pad(kept_h.cumsum(0), (1, 0))
        return replace(self, pointer_b=before_h[self.pointer_b])._entries(kept_h)

    def seen(self, target: int | None) -> Histories:
        """Return the entries that count as seen, which a list leaves out.

        With kinds of events only those of the target do: an item that was viewed, and not bought,
        is the best candidate for a purchase.

        Args:
            target: The code of the kind that is to be predicted; None where all entries count.
        """
        return self if target is None or self.kind_h is None else self.only(self.kind_h == target)

    def _entries(self, entry_h: Tensor) -> Histories:
        """Return the same users with the entries at some places, or those that are marked."""
        return replace(
            self, item_h=self.item_h[entry_h], value_h=self.value_h[entry_h],
            time_h=None if self.time_h is None else self.time_h[entry_h],
            kind_h=None if self.kind_h is None else self.kind_h[entry_h],
        )  # fmt: skip

    def sorted_by(self, key_h: Tensor | np.ndarray) -> Histories:
        """Return each history in the order of a key; entries of equal keys stay as they are.

        Args:
            key_h: (entries,) numbers.
        """
        order_h = torch.from_numpy(np.lexsort((np.asarray(key_h), self.user_h.numpy())))
        return self._entries(order_h)

    def first(self, n: int) -> Histories:
        """Return the first entries of each history as the histories of new users.

        Args:
            n: The number of entries that are kept at most.
        """
        place_h = torch.arange(len(self.item_h)) - self.pointer_b[:-1][self.user_h]
        return self.only(place_h < n).as_new_users()

    def last(self, n: int) -> Histories:
        """Return the last entries of each history as the histories of new users.

        Args:
            n: The number of entries that are kept at most.
        """
        left_h = self.pointer_b[1:][self.user_h] - torch.arange(len(self.item_h))
        return self.only(left_h <= n).as_new_users()

    def as_new_users(self) -> Histories:
        """Return the same histories as those of new users, who have no row in training."""
        return replace(self, train_row_b=torch.full_like(self.train_row_b, -1))

    def with_events(
        self, item_n: Tensor, value_n: Tensor, time_n: Tensor | None,
        kind_n: Tensor | None = None, keep: bool = False,
    ) -> Histories:  # fmt: skip
        """Return the history of one user with newer entries in place of those of the same items.

        Args:
            item_n: Item rows of the newer entries, oldest first, (n,) int64; each once, or once
                for each kind.
            value_n: Their values, (n,) float32.
            time_n: Their times in milliseconds, (n,) int64, or None. Where both sides have times,
                entries are sorted by time; else the newer entries come last.
            kind_n: Codes of their kinds, (n,) int64, or None. Where both sides have kinds, an
                entry takes the place of one of the same item and the same kind.
            keep: Whether entries of the same items stay too, as repeats.
        """
        assert len(self) == 1, "events belong to one user"
        none = not len(self.item_h)
        if keep:
            old = self
        elif kind_n is not None and self.kind_h is not None:
            pair_h, pair_n = self.item_h << 16 | self.kind_h, item_n << 16 | kind_n
            old = self.only(~torch.isin(pair_h, pair_n))
        else:
            old = self.only(~torch.isin(self.item_h, item_n))

        def after(old_h: Tensor | None, new_n: Tensor) -> Tensor:
            return new_n if old_h is None else torch.cat([old_h, new_n])

        timed, kinds = self.time_h is not None or none, self.kind_h is not None or none
        grown = Histories.of_one(
            after(old.item_h, item_n), after(old.value_h, value_n),
            after(old.time_h, time_n) if timed and time_n is not None else None, -1,
            self.user_features, after(old.kind_h, kind_n) if kinds and kind_n is not None else None,
        )  # fmt: skip
        return grown if grown.time_h is None else grown.sorted_by(grown.time_h)

    def features(self, known_uf: Tensor, read: Callable[[pl.DataFrame], Tensor]) -> Tensor:
        """Return features of the users, (B, f); zeros where nothing is known.

        Args:
            known_uf: Features of the users of training, (users, f).
            read: Makes features of rows of the user table, for users who were not in training.
        """
        known_b = self.train_row_b >= 0
        # Copying the features of everybody would take longer than the users who are asked for.
        of_bf = known_uf.new_zeros(len(self), known_uf.shape[1])
        of_bf[known_b] = known_uf[self.train_row_b[known_b]]
        if self.user_features is not None:
            of_bf[~known_b] = read(self.user_features)[~known_b]
        return of_bf

    def dense(self, n_items: int, value_h: Tensor | None = None) -> Tensor:
        """Return the histories as a matrix, (B, items) float32.

        Args:
            n_items: Number of columns.
            value_h: The value of each entry in the matrix, (entries,); ones where None.
        """
        x_bi = torch.zeros(len(self), n_items, dtype=torch.float32)
        x_bi[self.user_h, self.item_h] = 1.0 if value_h is None else value_h
        return x_bi


def histories_of(histories: Dataset, user_rows: IntArray, known: Dataset) -> Histories:
    """Return the histories of users of one Dataset, in the item rows of the Dataset trained on.

    Args:
        histories: Where the histories are.
        user_rows: Rows of users in `histories`, (B,); -1 is a user without a history.
        known: The Dataset trained on; items that it lacks are left out.  Where it is `histories`
            itself, users keep their training rows.
    """
    x = histories.interactions
    start_b = np.where(user_rows < 0, 0, histories.pointers[user_rows])
    length_b = np.where(user_rows < 0, 0, histories.pointers[user_rows + 1] - start_b)
    before_b, entry_h = (t.numpy() for t in _ragged(start_b, length_b))
    item_h = x.item_r[entry_h].astype(np.int64)
    train_row_b, user_features = user_rows.astype(np.int64), None
    if histories is not known:
        if histories.user_table is not None:
            # A table of one user's row, -1, gathers a row of nulls: nothing is known of that user.
            row_b = pl.Series(user_rows).cast(pl.Int64).replace(-1, None)
            user_features = histories.user_table.select(pl.all().gather(row_b))
        train_row_b = np.full(len(user_rows), -1)
        item_h = known.items.find(histories.items.values)[item_h]
        kept_h = item_h >= 0
        entry_h, item_h = entry_h[kept_h], item_h[kept_h]
        # Pointers into the entries that are left: how many of those before were kept.
        before_b = np.concatenate([[0], np.cumsum(kept_h)])[before_b]
    return Histories(
        torch.from_numpy(before_b),
        torch.from_numpy(item_h),
        torch.from_numpy(x.value_r[entry_h]),
        None if x.time_r is None else torch.from_numpy(x.time_r[entry_h]),
        torch.from_numpy(train_row_b),
        user_features,
        _kinds_of(histories, entry_h, known),
    )


def _kinds_of(histories: Dataset, entry_h: IntArray, known: Dataset) -> Tensor | None:
    """Return the codes of kinds of entries as another Dataset has them; None without kinds."""
    kind_r, own, theirs = histories.interactions.kind_r, histories.kinds, known.kinds
    if kind_r is None or own is None or theirs is None:
        return None
    kind_h = kind_r[entry_h].astype(np.int64)
    if own.names != theirs.names:
        kind_h = np.array([theirs.code(name) for name in own.names], np.int64)[kind_h]
    return torch.from_numpy(kind_h)


def _ragged(start_b: IntArray, length_b: IntArray) -> tuple[Tensor, Tensor]:
    """Return pointers of ranges laid end to end, and the positions that they cover."""
    before_b = np.concatenate([[0], np.cumsum(length_b)])
    entry_h = np.arange(before_b[-1]) + np.repeat(start_b - before_b[:-1], length_b)
    return torch.from_numpy(before_b), torch.from_numpy(entry_h)


def _joined(columns: Sequence[Tensor | None], parts: Sequence[Histories]) -> Tensor | None:
    """Return a column of all parts; None where a part with an entry lacks it."""
    known = [column for column in columns if column is not None]
    lacking = any(
        column is None and len(part.item_h) for column, part in zip(columns, parts, strict=True)
    )
    return None if lacking or not known else torch.cat(known)


def _features_of(parts: Sequence[Histories]) -> pl.DataFrame | None:
    """Return rows of user tables one below the other, with nulls where nothing is known."""
    known = [part.user_features for part in parts if part.user_features is not None]
    if not known:
        return None
    tables = [
        known[0].clear(len(part)) if part.user_features is None else part.user_features
        for part in parts
    ]
    return pl.concat(tables, how="diagonal")
