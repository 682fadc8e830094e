"""A Dataset: interactions, the external ids behind their rows, and what is known of each item."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.interactions import (
    BoolArray,
    Ids,
    IntArray,
    Interactions,
    arrange,
    map_ids,
    stable_order,
)
from foretaste.errors import DataError, UsageError

DUPLICATES = ("last", "mean", "sum", "keep", "error")
FINGERPRINT_ROWS = 100_000  # lines of a table that are text at a time


@dataclass(frozen=True)
class ReadReport:
    """What happened between the source and the Dataset: nothing is lost without a line here.

    rows: rows in the source.  dropped: rows that could not be read (`bad_rows="drop"`).
    merged: rows that another row of the same user and item replaced, by the rule `duplicates`.
    """

    source: str = ""
    rows: int = 0
    dropped: int = 0
    merged: int = 0
    duplicates: str = "last"
    encoding: str = "utf-8"
    columns: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions with their ids; the only form in which data enters a split, a model or a bundle.

    users, items: external ids, ascending; every one of them has an interaction.  The exceptions: a
    catalogue (`items_only`) has items alone, and items added later (`add_items`) come last.
    item_table, user_table: one row per id in row order, first column the id; None where nothing is
    known.  explicit: whether the values are ratings (a clicks table has values of 1).
    """

    users: Ids
    items: Ids
    interactions: Interactions
    explicit: bool = True
    name: str = "ratings"
    item_table: pl.DataFrame | None = None
    user_table: pl.DataFrame | None = None
    report: ReadReport = field(default_factory=ReadReport)

    def __len__(self) -> int:
        return len(self.interactions)

    def __repr__(self) -> str:
        what = "ratings" if self.explicit else "interactions"
        return (
            f"<Dataset {self.name}: {len(self):,} {what}, {len(self.users):,} users, "
            f"{len(self.items):,} items>"
        )

    @cached_property
    def pointers(self) -> IntArray:
        """Where each user's interactions start: (users + 1,)."""
        return self.interactions.pointers(len(self.users))

    @cached_property
    def levels(self) -> np.ndarray:
        """The distinct values, ascending."""
        return np.unique(self.interactions.value_r)

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return (float(self.levels[0]), float(self.levels[-1])) if len(self) else (0.0, 1.0)

    @property
    def step(self) -> float:
        """The smallest distance between two values: 1 for whole stars, 0.5 for half stars."""
        return float(np.diff(self.levels).min()) if len(self.levels) > 1 else 1.0

    @property
    def item_frame(self) -> pl.DataFrame:
        """The item table; the ids alone where nothing is known."""
        return self._frame_of(self.items, self.item_table)

    @property
    def user_frame(self) -> pl.DataFrame:
        """The user table; the ids alone where nothing is known."""
        return self._frame_of(self.users, self.user_table)

    @staticmethod
    def _frame_of(ids: Ids, table: pl.DataFrame | None) -> pl.DataFrame:
        return pl.DataFrame({ids.kind: ids.values}) if table is None else table

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that could change a result: ids, arrays, tables, the kind of values.

        Equal data have equal fingerprints wherever they were read from; the name, the report and
        the positions in the source do not count.
        """
        sha = hashlib.sha256(b"explicit" if self.explicit else b"implicit")
        for ids in (self.users, self.items):
            sha.update("\x1f".join(str(i) for i in ids.values).encode())
        x = self.interactions
        for array in (x.user_r, x.item_r, x.value_r, x.time_r):
            sha.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        for table in (self.item_table, self.user_table):
            if table is None:
                sha.update(b"none")
                continue
            sha.update(str(list(table.schema.items())).encode())
            # as text: the bytes behind a null or a slice differ between equal tables
            for part in table.iter_slices(FINGERPRINT_ROWS):
                sha.update(part.write_ndjson().encode())
        return sha.hexdigest()

    def take(self, keep_r: BoolArray) -> Dataset:
        """The Dataset of the marked interactions only; ids without one are gone from it.

        keep_r: (interactions,) bool.
        """
        kept = self.interactions.take(keep_r)
        users, user_r, user_rows = _compact(self.users, kept.user_r)
        items, item_r, item_rows = _compact(self.items, kept.item_r)
        return replace(
            self,
            users=users,
            items=items,
            interactions=replace(kept, user_r=user_r, item_r=item_r),
            item_table=None if self.item_table is None else self.item_table[item_rows],
            user_table=None if self.user_table is None else self.user_table[user_rows],
        )

    def with_items(self, table: pl.DataFrame) -> Dataset:
        """The same with a table of items: first column the id, one line for each of them."""
        return replace(self, item_table=_align(table, self.items))

    def join_items(self, table: pl.DataFrame) -> Dataset:
        """The same with the columns of a table of items beside those it has; first column the id.

        A name that is there already gets _2.  DataError where no item of the table is known.
        """
        key = table.columns[0]
        known = self.items.find(table[key]) >= 0
        if not known.any():
            ids, own = (", ".join(map(str, s.head(3))) for s in (table[key], self.items.values))
            raise DataError(
                f"none of the {len(self.items):,} items is in the table of items: its column "
                f"{key!r} has ids such as {ids}, the interactions {own}.",
                where=self.name, fix="Name another column of ids, or give links from one to the "
                "other.",
            )  # fmt: skip
        more = _align(table, self.items)
        if self.item_table is None:
            return replace(self, item_table=more)
        joined = self.item_table.join(
            more, on=self.items.kind, how="left", suffix="_2", maintain_order="left"
        )
        return replace(self, item_table=joined)

    def add_items(self, table: pl.DataFrame) -> Dataset:
        """The same with further items that nobody has interacted with, in rows after the others.

        table: first column the id; of the other columns, those that the items have already.
        UsageError where an id is here already, or a cell has another type than its column.
        """
        own = id_table(self.items, self.item_table)
        key, kind = table.columns[0], self.items.kind
        new = table.rename({key: kind})
        new = new.select(name for name in own.columns if name in new.columns)
        try:
            new = new.cast({name: own.schema[name] for name in new.columns})  # type: ignore[arg-type]
        except pl.exceptions.PolarsError as error:
            raise UsageError(
                f"the new items do not fit those here: {str(error).splitlines()[0]}.",
                fix=_columns(own.schema),
            ) from None
        ids = new[kind]
        twice = ids.filter((self.items.find(ids) >= 0) | ids.is_duplicated().to_numpy())
        if len(twice) or ids.null_count():
            what = (
                f"item {twice[0]!r} is there already, or twice" if len(twice) else "an id is empty"
            )
            raise UsageError(f"{what}.", fix="Give a line for each item that is new.")
        items = replace(self.items, values=pl.concat([self.items.values, ids.alias(kind)]))
        grown = pl.concat([own, new], how="diagonal")
        return replace(self, items=items, item_table=grown if grown.width > 1 else None)

    def with_users(self, table: pl.DataFrame) -> Dataset:
        """The same with a table of users: first column the id, one line for each of them."""
        return replace(self, user_table=_align(table, self.users))

    def user_frame_of(self, user_features: Mapping[str, Any]) -> pl.DataFrame:
        """What is known of a new user as a line of the user table: some of its columns.

        UsageError where there is no such column, or a cell has another type.
        """
        known = dict(list(self.user_frame.schema.items())[1:])
        hint = _columns(known)
        for name in user_features:
            if name not in known:
                raise UsageError(f"users have no column {name!r}.", fix=hint)
        try:
            return pl.DataFrame(
                {name: pl.Series([cell]).cast(known[name]) for name, cell in user_features.items()}
            )
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise UsageError(
                f"user_features={dict(user_features)!r}: {str(error).splitlines()[0]}.", fix=hint
            ) from None

    def frame(self) -> pl.DataFrame:
        """Columns user, item, value and time (UTC; where there are times) in external ids."""
        x = self.interactions
        columns = {
            "user": self.users[x.user_r],
            "item": self.items[x.item_r],
            "value": pl.Series(x.value_r),
        }
        if x.time_r is not None:
            columns["time"] = pl.Series(x.time_r).cast(pl.Datetime("ms", "UTC"))
        return pl.DataFrame(columns)

    def tables(self) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
        """All of it as JSON values and tables, to be kept in files; `from_tables` reads them."""
        x = self.interactions
        columns = {"user": x.user_r, "item": x.item_r, "value": x.value_r, "order": x.order_r}
        if x.time_r is not None:
            columns["time"] = x.time_r
        about = {
            "name": self.name,
            "explicit": self.explicit,
            "fingerprint": self.fingerprint,
            "report": asdict(self.report),
        }
        return about, {
            "interactions": pl.DataFrame(columns),
            "items": id_table(self.items, self.item_table),
            "users": id_table(self.users, self.user_table),
        }


def from_tables(about: Mapping[str, Any], tables: Mapping[str, pl.DataFrame]) -> Dataset:
    """The inverse of `Dataset.tables`; KeyError or TypeError where something is not there."""
    table, items, users = tables["interactions"], tables["items"], tables["users"]
    return Dataset(
        Ids(users["user"], "user"),
        Ids(items["item"], "item"),
        Interactions(
            table["user"].to_numpy(), table["item"].to_numpy(), table["value"].to_numpy(),
            table["time"].to_numpy() if "time" in table.columns else None,
            table["order"].to_numpy(),
        ),
        explicit=about["explicit"],
        name=about["name"],
        item_table=items if items.width > 1 else None,
        user_table=users if users.width > 1 else None,
        report=ReadReport(**{**about["report"], "notes": tuple(about["report"]["notes"])}),
    )  # fmt: skip


def id_table(ids: Ids, table: pl.DataFrame | None) -> pl.DataFrame:
    """The table that goes with the ids: their own column alone where there is none."""
    return pl.DataFrame({ids.kind: ids.values}) if table is None else table


def build(
    user: pl.Series, item: pl.Series, value: pl.Series | None, time: pl.Series | None,
    *, order: pl.Series | None = None, duplicates: str = "last", name: str = "ratings",
    report: ReadReport | None = None,
) -> Dataset:  # fmt: skip
    """A Dataset of clean columns, sorted, with duplicates of a user and an item resolved.

    user, item: integers or String, no nulls.  value: Float32, or None for clicks.  time: Int64
    milliseconds, or None.  order: position in the source where rows are missing from it.
    """
    if duplicates not in DUPLICATES:
        raise UsageError(f"duplicates={duplicates!r}.", fix=f"Use one of {', '.join(DUPLICATES)}.")
    if not len(user):
        raise DataError("there is no row in it.", where=name, fix="Give a file with ratings.")
    rows, explicit = len(user), value is not None
    users, user_r = map_ids(user, "user")
    items, item_r = map_ids(item, "item")
    del user, item
    value_r = np.ones(rows, dtype=np.float32) if value is None else value.to_numpy()
    time_r = None if time is None else time.to_numpy()
    order_r = None if order is None else order.to_numpy()
    arranged = arrange(user_r, item_r, value_r, time_r, order_r)
    del value, time, order, user_r, item_r, value_r, time_r, order_r  # room for a sort
    kept = _without_duplicates(arranged, users, items, duplicates, name)
    report = replace(
        report or ReadReport(rows=rows), merged=rows - len(kept), duplicates=duplicates
    )
    return Dataset(users, items, kept, explicit=explicit, name=name, report=report)


def items_only(table: pl.DataFrame, name: str = "catalogue") -> Dataset:
    """Items without interactions, for models that look at their columns alone.

    table: first column the id, unique; the others what is known of each item.
    """
    items, _ = map_ids(table[table.columns[0]].drop_nulls(), "item")
    none = np.empty(0, dtype=np.int32)
    nothing = Interactions(
        none, none, np.empty(0, dtype=np.float32), None, np.empty(0, dtype=np.int64)
    )
    users = Ids(pl.Series("user", [], dtype=pl.String), "user")
    empty = Dataset(
        users, items, nothing, explicit=False, name=name, report=ReadReport(source=name)
    )
    return empty.with_items(table)


def _without_duplicates(
    x: Interactions, users: Ids, items: Ids, rule: str, name: str
) -> Interactions:
    """One interaction for each user and item: the last in time; its value, the mean or the sum."""
    if rule == "keep":  # every row is an event, as a second purchase is
        return x
    n_pairs = len(users) * len(items)
    pair_r = x.user_r.astype(np.uint32 if n_pairs < 2**32 else np.int64)
    pair_r *= len(items)
    pair_r += x.item_r.astype(pair_r.dtype)
    ordered = np.sort(pair_r)
    if not (ordered[1:] == ordered[:-1]).any():
        return x
    place_r = stable_order(pair_r.astype(np.int64))  # by pair, and within a pair by time
    pair_r = pair_r[place_r]
    last_r = np.append(pair_r[1:] != pair_r[:-1], True)
    if rule == "error":
        twice = pair_r[~last_r]
        user_row, item_row = divmod(int(twice[0]), len(items))
        user, item = users.values[user_row], items.values[item_row]
        raise DataError(
            f"user {user!r} has item {item!r} more than once ({len(twice):,} such rows in all).",
            where=name, fix="Choose --duplicates last, mean or sum.",
        )  # fmt: skip
    keep = np.zeros(len(x), dtype=bool)
    keep[place_r[last_r]] = True
    if rule == "last":
        return x.take(keep)
    first_g = np.append(0, np.flatnonzero(last_r)[:-1] + 1)
    value_g = np.add.reduceat(x.value_r[place_r].astype(np.float64), first_g)
    if rule == "mean":
        value_g /= np.diff(np.append(first_g, len(x)))
    value_r = x.value_r.copy()
    value_r[place_r[last_r]] = value_g
    return replace(x, value_r=value_r).take(keep)


def _compact(ids: Ids, row_r: IntArray) -> tuple[Ids, IntArray, IntArray]:
    """The ids still in use, the rows renumbered, and the old rows kept."""
    used = np.zeros(len(ids), dtype=bool)
    used[row_r] = True
    old_rows = np.flatnonzero(used)
    new_row = (np.cumsum(used) - 1).astype(np.int32)
    return replace(ids, values=ids[old_rows]), new_row[row_r], old_rows


def _columns(schema: Mapping[str, Any]) -> str:
    return f"Columns here: {', '.join(f'{n} ({t})' for n, t in schema.items()) or 'none'}."


def _align(table: pl.DataFrame, ids: Ids) -> pl.DataFrame:
    """The table's lines in the order of the ids; nulls where it has no line for one."""
    key = table.columns[0]
    table = table.with_columns(pl.col(key).cast(ids.values.dtype, strict=False)).unique(
        key, keep="first", maintain_order=True
    )
    return pl.DataFrame({ids.kind: ids.values}).join(
        table.rename({key: ids.kind}), on=ids.kind, how="left", maintain_order="left"
    )
