"""Who interacted with what: external ids mapped to rows, and the arrays everything else reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    values: unique, Int64 or String; ascending, but for items that were added later.
    """

    values: pl.Series
    kind: str = "id"

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _ascending(self) -> tuple[pl.Series, IntArray | None]:
        """The values in ascending order, and their rows where the order is another one."""
        if self.values.is_sorted():
            return self.values, None
        rows = self.values.arg_sort()
        return self.values.gather(rows), rows.to_numpy().astype(np.int64)

    def __getitem__(self, rows: IntArray) -> pl.Series:
        """External ids of the given rows, in their order."""
        return self.values.gather(np.asarray(rows))

    def find(self, ids: Sequence[object] | pl.Series) -> IntArray:
        """Rows of external ids, -1 where unknown; `42` and `"42"` name the same id."""
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
        """Rows of external ids; UnknownIdError names those that are not here."""
        rows = self.find(ids)
        if (rows < 0).any():
            unknown = [ids[int(i)] for i in np.flatnonzero(rows < 0)]
            close = ", ".join(str(i) for i in self.values.head(3))
            raise UnknownIdError(
                self.kind, unknown, fix=f"Ids here look like {close} ({len(self):,} in all)."
            )
        return rows


def map_ids(column: pl.Series, kind: str) -> tuple[Ids, IntArray]:
    """Ids of a column (integers or String, no nulls), and the row of every cell."""
    if column.dtype.is_integer() and len(column):
        cells = column.to_numpy()
        low, high = int(cells.min()), int(cells.max())
        low = 0 if 0 <= low <= high - low else low  # a little more room spares a copy
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


@dataclass(frozen=True, eq=False)
class Interactions:
    """Parallel arrays over interactions r, sorted by user, then time, then file order.

    user_r, item_r: rows in the Ids (int32).  value_r: rating or weight (float32).
    time_r: milliseconds since 1970 UTC (int64), or None.  order_r: position in the source (int64).
    """

    user_r: IntArray
    item_r: IntArray
    value_r: FloatArray
    time_r: IntArray | None
    order_r: IntArray

    def __post_init__(self) -> None:
        """Own every array: torch cannot share memory that polars or a file lent read-only."""
        for name, array in vars(self).items():
            if array is not None:
                object.__setattr__(self, name, np.require(array, requirements="W"))

    def __len__(self) -> int:
        return len(self.user_r)

    def take(self, rows: IntArray | BoolArray) -> Interactions:
        """The interactions at `rows` (a mask or ascending positions), still sorted."""
        time_r = None if self.time_r is None else self.time_r[rows]
        return Interactions(
            self.user_r[rows], self.item_r[rows], self.value_r[rows], time_r, self.order_r[rows]
        )

    def pointers(self, n_users: int) -> IntArray:
        """Where each user's interactions start: (n_users + 1,), as in a CSR matrix."""
        return np.searchsorted(self.user_r, np.arange(n_users + 1))


def arrange(
    user_r: IntArray,
    item_r: IntArray,
    value_r: FloatArray,
    time_r: IntArray | None,
    order_r: IntArray | None = None,
) -> Interactions:
    """Interactions sorted by (user, time, file order), whatever order they came in.

    order_r: None for 0, 1, 2, ...
    """
    first = _sorting(user_r, time_r, order_r)
    if first is None:
        order_r = np.arange(len(user_r)) if order_r is None else order_r
        return Interactions(user_r, item_r, value_r, time_r, order_r)
    return Interactions(
        user_r[first],
        item_r[first],
        value_r[first],
        None if time_r is None else time_r[first],
        first if order_r is None else order_r[first],
    )


def _sorting(
    user_r: IntArray, time_r: IntArray | None, order_r: IntArray | None
) -> IntArray | None:
    """Positions that sort by (user, time, order), or None where they are sorted already."""
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
    """Positions that sort a key, equal ones in the order they came.

    key: int64, not negative; overwritten.  Sorting (key, position) as one number is several times
    as fast as a stable argsort.
    """
    place_bits = (len(key) - 1).bit_length()
    if int(key.max()).bit_length() + place_bits > 63:
        return np.argsort(key, kind="stable")
    key <<= place_bits
    key |= np.arange(len(key))
    key.sort()
    key &= (1 << place_bits) - 1
    return key


def _ticks(time_r: IntArray) -> IntArray:
    """Times from the first on, in seconds where all are whole: short, for the sorting key."""
    offset_r = time_r - time_r.min()
    for start in range(0, len(offset_r), 1 << 15):  # in pieces that stay in the cache
        piece = offset_r[start : start + (1 << 15)]
        if not np.array_equal(piece // 1000 * 1000, piece):
            return offset_r
    offset_r //= 1000
    return offset_r
