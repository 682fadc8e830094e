"""Interactions: external ids mapped to rows, and the arrays that everything else reads.

The module does not know where ids come from, nor what a value means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from foretaste.errors import UnknownIdError

IntArray = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]
FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]

_DENSE_LOOKUP = 1 << 26  # integer ids within this range map through one array (256 MiB at most)


@dataclass(frozen=True, eq=False)
class Ids:
    """The external ids of users or of items; row r of every array inside belongs to `values[r]`.

    Args:
        values: The ids, each once, Int64 or String; ascending, except items that were added later.
        kind: "user" or "item", for messages and as the name of a column.
    """

    values: pl.Series
    kind: str = "id"

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _ascending(self) -> tuple[pl.Series, IntArray | None]:
        """The ids in ascending order, and their rows where they are not in that order already."""
        if self.values.is_sorted():
            return self.values, None
        rows = self.values.arg_sort()
        return self.values.gather(rows), rows.to_numpy().astype(np.int64)

    def __getitem__(self, rows: IntArray) -> pl.Series:
        """Return the external ids of rows.

        Args:
            rows: Rows, (n,).
        """
        return self.values.gather(np.asarray(rows))

    def find(self, ids: Sequence[object] | pl.Series) -> IntArray:
        """Return the rows of external ids, (n,) int64, -1 for an id that is unknown.

        Args:
            ids: External ids; `42` and `"42"` are the same id.
        """
        asked = (
            ids if isinstance(ids, pl.Series) else pl.Series([str(i) for i in ids], dtype=pl.String)
        )
        if self.values.dtype == pl.Int64 and asked.dtype == pl.String:
            number = asked.cast(pl.Int64, strict=False)
            asked = pl.select(pl.when(number.cast(pl.String) == asked).then(number)).to_series()
        asked = asked.cast(self.values.dtype, strict=False)
        if not len(self):
            return np.full(len(asked), -1)
        values, rows = self._ascending
        place = values.search_sorted(asked.fill_null(values[0])).to_numpy().astype(np.int64)
        place = np.minimum(place, len(self) - 1)
        place = place if rows is None else rows[place]
        same = (self.values.gather(place) == asked).fill_null(False).to_numpy()
        return np.where(same, place, -1)

    def rows(self, ids: Sequence[object] | pl.Series) -> IntArray:
        """Return the rows of external ids, (n,) int64.

        Args:
            ids: External ids; `42` and `"42"` are the same id.

        Raises:
            UnknownIdError: Some of them are unknown; names them.
        """
        rows = self.find(ids)
        if (rows < 0).any():
            unknown = [ids[int(i)] for i in np.flatnonzero(rows < 0)]
            close = ", ".join(str(i) for i in self.values.head(3))
            raise UnknownIdError(
                self.kind, unknown, fix=f"Ids here look like {close} ({len(self):,} in all)."
            )
        return rows


def map_ids(column: pl.Series, kind: str) -> tuple[Ids, IntArray]:
    """Return the Ids of a column, and the row of every cell, (cells,) int32.

    Args:
        column: Integers or String, without nulls.
        kind: "user" or "item".
    """
    if column.dtype.is_integer() and len(column):
        cells = column.to_numpy()
        low, high = int(cells.min()), int(cells.max())
        low = 0 if 0 <= low <= high - low else low  # costs a little memory and saves a copy
        span = high - low + 1
        if span <= min(_DENSE_LOOKUP, 16 * len(cells) + 65_536):
            offset = cells if low == 0 else cells - low
            seen = np.zeros(span, dtype=bool)
            seen[offset] = True
            row_of = np.cumsum(seen, dtype=np.int32) - np.int32(1)
            return Ids(pl.Series(kind, np.flatnonzero(seen) + low), kind), row_of[offset]
    if column.dtype.is_integer():
        column = column.cast(pl.Int64)
    values = column.unique().sort().alias(kind)
    rows = (column.rank("dense") - 1).cast(pl.Int32).to_numpy()
    return Ids(values, kind), rows


def compact(ids: Ids, row_r: IntArray) -> tuple[Ids, IntArray, IntArray]:
    """Return the ids still in use, the new row of every cell, and the old rows of the ids.

    Args:
        ids: The ids before.
        row_r: Their rows in the cells that are left, (cells,) int32.
    """
    used = np.zeros(len(ids), dtype=bool)
    used[row_r] = True
    old_rows = np.flatnonzero(used)
    new_row = (np.cumsum(used) - 1).astype(np.int32)
    return replace(ids, values=ids[old_rows]), new_row[row_r], old_rows


@dataclass(frozen=True, eq=False)
class Interactions:
    """Parallel arrays over interactions r, sorted by user, then time, then file order.

    Args:
        user_r: Rows of users in their Ids, (interactions,) int32.
        item_r: Rows of items in their Ids, (interactions,) int32.
        value_r: Ratings or weights, (interactions,) float32.
        time_r: Milliseconds since 1970 UTC, (interactions,) int64, or None.
        order_r: Positions in the source, (interactions,) int64.
        kind_r: Codes of the kinds of events, (interactions,) int16; None where there are no kinds.
    """

    user_r: IntArray
    item_r: IntArray
    value_r: FloatArray
    time_r: IntArray | None
    order_r: IntArray
    kind_r: IntArray | None = None

    def __post_init__(self) -> None:
        """Copy arrays in read-only memory, of polars or of a file, which torch cannot share."""
        for name, array in vars(self).items():
            if array is not None:
                object.__setattr__(self, name, np.require(array, requirements="W"))

    def __len__(self) -> int:
        return len(self.user_r)

    def take(self, rows: IntArray | BoolArray) -> Interactions:
        """Return some of the interactions, still sorted.

        Args:
            rows: Marks, (interactions,) bool, or ascending positions.
        """
        time_r = None if self.time_r is None else self.time_r[rows]
        kind_r = None if self.kind_r is None else self.kind_r[rows]
        return Interactions(
            self.user_r[rows], self.item_r[rows], self.value_r[rows], time_r, self.order_r[rows],
            kind_r,
        )  # fmt: skip

    def pointers(self, n_users: int) -> IntArray:
        """Return where the interactions of each user start, (n_users + 1,), as in a CSR matrix.

        Args:
            n_users: The number of users.
        """
        return np.searchsorted(self.user_r, np.arange(n_users + 1))


def arrange(
    user_r: IntArray,
    item_r: IntArray,
    value_r: FloatArray,
    time_r: IntArray | None,
    order_r: IntArray | None = None,
    kind_r: IntArray | None = None,
) -> Interactions:
    """Return interactions sorted by user, time and file order.

    Args:
        user_r: Rows of users, (interactions,) int32, in any order.
        item_r: Rows of items, (interactions,) int32.
        value_r: Ratings or weights, (interactions,) float32.
        time_r: Milliseconds since 1970 UTC, (interactions,) int64, or None.
        order_r: Positions in the source, (interactions,) int64; None for 0, 1, 2 and so on.
        kind_r: Codes of kinds, (interactions,) int16, or None.
    """
    first = _sorting(user_r, time_r, order_r)
    if first is None:
        order_r = np.arange(len(user_r)) if order_r is None else order_r
        return Interactions(user_r, item_r, value_r, time_r, order_r, kind_r)
    return Interactions(
        user_r[first],
        item_r[first],
        value_r[first],
        None if time_r is None else time_r[first],
        first if order_r is None else order_r[first],
        None if kind_r is None else kind_r[first],
    )


def _sorting(
    user_r: IntArray, time_r: IntArray | None, order_r: IntArray | None
) -> IntArray | None:
    """Return positions that sort by user, time and order, or None where all is sorted already."""
    n = len(user_r)
    if n < 2:
        return None
    if order_r is not None and not (order_r[1:] > order_r[:-1]).all():
        return np.lexsort((order_r, np.zeros(n) if time_r is None else time_r, user_r))
    key = user_r.astype(np.int64)
    if time_r is not None:
        tick_r = _ticks(time_r)
        time_bits = int(tick_r.max()).bit_length()
        if int(user_r.max()).bit_length() + time_bits > 63:
            return np.lexsort((time_r, user_r))
        key <<= time_bits
        key |= tick_r
        del tick_r
    return None if (key[1:] >= key[:-1]).all() else stable_order(key)


def stable_order(key: IntArray) -> IntArray:
    """Return positions that sort a key, equal ones in the order in which they came.

    Args:
        key: Numbers that are not negative, (n,) int64; overwritten.
    """
    # Sorting key and position as one number is several times as fast as a stable argsort.
    place_bits = (len(key) - 1).bit_length()
    if int(key.max()).bit_length() + place_bits > 63:
        return np.argsort(key, kind="stable")
    key <<= place_bits
    key |= np.arange(len(key))
    key.sort()
    key &= (1 << place_bits) - 1
    return key


def _ticks(time_r: IntArray) -> IntArray:
    """Return times since the first, in whole seconds where that loses nothing, for short keys."""
    offset_r = time_r - time_r.min()
    for start in range(0, len(offset_r), 1 << 15):  # in pieces that stay in the cache
        piece = offset_r[start : start + (1 << 15)]
        if not np.array_equal(piece // 1000 * 1000, piece):
            return offset_r
    offset_r //= 1000
    return offset_r
