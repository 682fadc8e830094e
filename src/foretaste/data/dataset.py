"""The Dataset: interactions, the external ids of their users and items, and a table of each.

The module does not know where data come from: `reading` and `building.py` make Datasets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.interactions import BoolArray, Ids, IntArray, Interactions, compact
from foretaste.data.joining import align, find_ids, ids_like, lost_in_join
from foretaste.data.kinds import Kinds
from foretaste.errors import DataError, UsageError, refuse_fork

FINGERPRINT_ROWS = 100_000  # rows of a table that are turned into text at a time
# The share of events that repeat what the user had before, from which repeats are how these data
# are: shops of consumables and music lie far above it, films and books far below.
REPEATED = 0.1


@dataclass(frozen=True)
class ReadReport:
    """What happened between the source and the Dataset; no row is lost without being counted here.

    Args:
        source: The path, the URL without its password, or the name of a table in memory.
        rows: Rows in the source.
        dropped: Rows that could not be read and were left out (`bad_rows="drop"`).
        merged: Rows that another row of the same user and item replaced.
        duplicates: The rule by which they were replaced.
        encoding: The encoding that a text file was read in.
        columns: Name of the column in the source by role: user, item, value and time.
        notes: Sentences about what was assumed, for example the unit of times.
        unrated: Rows that were left out as their value stands for "not rated".
    """

    source: str = ""
    rows: int = 0
    dropped: int = 0
    merged: int = 0
    duplicates: str = "last"
    encoding: str = "utf-8"
    columns: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unrated: int = 0


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions with their ids; the only form in which data enters a split, a model or a bundle.

    A Dataset does not know what a user likes: a value is a number until a model sets a threshold.

    Args:
        users: External ids, ascending. Each has an interaction.
        items: External ids, ascending. Each has an interaction, except in a catalogue (see
            `items_only`), and except the items of `add_items`, which come last.
        interactions: Arrays of user rows, item rows, values and times.
        explicit: Whether the values are ratings. Clicks have weights, which are 1 as a rule.
        name: What messages and reports call it.
        item_table: One row for each item in the order of `items`, its first column the id; None
            where nothing is known of the items.
        user_table: The same for users.
        report: What happened when it was read.
        kinds: The kinds of its events, whose weights are in the values; None without kinds.

    Example:
        >>> import foretaste as ft
        >>> clicks = ft.from_frame({"user": ["a", "a", "b"], "item": [1, 2, 1]}, name="clicks")
        >>> clicks
        <Dataset clicks: 3 interactions, 2 users, 2 items>
        >>> clicks.items.values.to_list()
        [1, 2]
    """

    users: Ids
    items: Ids
    interactions: Interactions
    explicit: bool = True
    name: str = "ratings"
    item_table: pl.DataFrame | None = None
    user_table: pl.DataFrame | None = None
    report: ReadReport = field(default_factory=ReadReport)
    kinds: Kinds | None = None

    def __post_init__(self) -> None:
        """Refuse a process that was forked off one which had used foretaste (ModelError)."""
        refuse_fork()

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
        """Where the interactions of each user start, (users + 1,), as in a CSR matrix."""
        return self.interactions.pointers(len(self.users))

    @cached_property
    def levels(self) -> np.ndarray:
        """The distinct values, ascending, (levels,) float32."""
        return np.unique(self.interactions.value_r)

    @property
    def scale(self) -> tuple[float, float]:
        """The lowest and the highest value; 0 and 1 where there is no interaction."""
        return (float(self.levels[0]), float(self.levels[-1])) if len(self) else (0.0, 1.0)

    @property
    def liked(self) -> float:
        """The value of a like that comes without one: the highest rating, or a click's weight."""
        if self.kinds is not None:
            return self.kinds.value(None, None)
        return self.scale[1] if self.explicit else 1.0

    @property
    def target_kind(self) -> int | None:
        """The code of the kind of events that are to be predicted; None without kinds."""
        return None if self.kinds is None else self.kinds.target_code

    @cached_property
    def repeats(self) -> float:
        """The share of the events (of the target kind) that repeat what the user had before."""
        x = self.interactions
        target_r = slice(None) if self.kinds is None else x.kind_r == self.kinds.target_code
        pair_r = x.user_r[target_r].astype(np.int64) * len(self.items) + x.item_r[target_r]
        return 1 - len(np.unique(pair_r)) / len(pair_r) if len(pair_r) else 0.0

    @property
    def keeps_repeats(self) -> bool:
        """Whether every event counts, not the last one of a user and an item alone."""
        return self.report.duplicates == "keep"

    @property
    def exclude_seen(self) -> bool:
        """Whether lists leave out what a user has had: not where a tenth of the events repeat it.

        Films and books are read once, groceries and music again and again; a request may say
        otherwise.
        """
        return self.explicit or self.repeats < REPEATED

    @property
    def step(self) -> float:
        """The smallest distance between two values: 1 for whole stars, 0.5 for half stars."""
        return float(np.diff(self.levels).min()) if len(self.levels) > 1 else 1.0

    @property
    def item_frame(self) -> pl.DataFrame:
        """The item table, or the ids alone where nothing is known of the items."""
        return id_table(self.items, self.item_table)

    @property
    def user_frame(self) -> pl.DataFrame:
        """The user table, or the ids alone where nothing is known of the users."""
        return id_table(self.users, self.user_table)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all that could change a result: ids, arrays, tables, the kind of values.

        Equal data have equal fingerprints wherever they were read from: the name, the report and
        the positions in the source do not count.
        """
        sha = hashlib.sha256(b"explicit" if self.explicit else b"implicit")
        for ids in (self.users, self.items):
            sha.update("\x1f".join(str(i) for i in ids.values).encode())
        x = self.interactions
        for array in (x.user_r, x.item_r, x.value_r, x.time_r):
            sha.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        if self.kinds is not None and x.kind_r is not None:  # else as it was before there were any
            sha.update(str(replace(self.kinds, amounts=False)).encode() + x.kind_r.tobytes())
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
        """Return the Dataset of the marked interactions, without ids that have none of them.

        Args:
            keep_r: The marks, (interactions,) bool.
        """
        kept = self.interactions.take(keep_r)
        users, user_r, user_rows = compact(self.users, kept.user_r)
        items, item_r, item_rows = compact(self.items, kept.item_r)
        return replace(
            self,
            users=users,
            items=items,
            interactions=replace(kept, user_r=user_r, item_r=item_r),
            item_table=None if self.item_table is None else self.item_table[item_rows],
            user_table=None if self.user_table is None else self.user_table[user_rows],
        )

    def with_items(self, table: pl.DataFrame) -> Dataset:
        """Return the Dataset with another table of items.

        Args:
            table: Its first column is the id. Rows of other ids are left out, and an item without
                a row gets nulls.
        """
        return replace(self, item_table=align(table, self.items))

    def join_items(self, table: pl.DataFrame) -> Dataset:
        """Return the Dataset with the columns of a table beside those that its items have.

        Args:
            table: Its first column is the id, as `read_items` gives it. A column whose name is
                taken gets the ending _2. Ids are compared as text, and a note of the report says
            what the join loses.

        Raises:
            DataError: No item of the Dataset is in the table.
        """
        key = table.columns[0]
        known = find_ids(self.items, table[key]) >= 0
        if not known.any():
            ids, own = (", ".join(map(str, s.head(3))) for s in (table[key], self.items.values))
            raise DataError(
                f"none of the {len(self.items):,} items is in the table of items: its column "
                f"{key!r} has ids such as {ids}, the interactions {own}.",
                where=self.name, fix="Name another column of ids, or give links from one to the "
                "other.",
            )  # fmt: skip
        more = align(table, self.items)
        lost = lost_in_join(self.items, table[key])
        notes = (*self.report.notes, lost) if lost else self.report.notes
        report = replace(self.report, notes=notes)
        if self.item_table is None:
            return replace(self, item_table=more, report=report)
        joined = self.item_table.join(
            more, on=self.items.kind, how="left", suffix="_2", maintain_order="left"
        )
        return replace(self, item_table=joined, report=report)

    def add_items(self, table: pl.DataFrame) -> Dataset:
        """Return the Dataset with further items without interactions, in rows after the others.

        Args:
            table: One row for each new item, its first column the id. Of the other columns, those
                that the items have already are kept.

        Raises:
            UsageError: An id is there already, twice or empty, or a cell has another type than its
                column.
        """
        own = id_table(self.items, self.item_table)
        key, kind = table.columns[0], self.items.kind
        ids = ids_like(self.items, table[key])
        misfit = table[key].filter(ids.is_null() & table[key].is_not_null())
        if len(misfit):
            raise UsageError(
                f"the new items do not fit those here: id {misfit[0]!r} is no whole number as it "
                "is written.", fix=_columns(own.schema),
            )  # fmt: skip
        new = table.with_columns(ids).rename({key: kind})
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
        """Return the Dataset with another table of users.

        Args:
            table: Its first column is the id. Rows of other ids are left out, and a user without
                a row gets nulls.
        """
        return replace(self, user_table=align(table, self.users))

    def with_event_weights(
        self, weights: Mapping[str, float], target: str | None = None
    ) -> Dataset:
        """Return the Dataset with other weights of its kinds of events.

        Args:
            weights: The weight of every kind by its name.
            target: The kind to be predicted; None for the same as before.

        Raises:
            UsageError: There are no kinds, or the weights do not go with them.
        """
        x = self.interactions
        if self.kinds is None or x.kind_r is None:
            raise UsageError("there are no kinds of events.", fix="Name their column: event=.")
        kinds = self.kinds.reweighed(weights, target)
        value_r = kinds.weigh(x.kind_r, self.kinds.amount(x.kind_r, x.value_r))
        return replace(self, kinds=kinds, interactions=replace(x, value_r=value_r))

    def user_frame_of(self, user_features: Mapping[str, Any]) -> pl.DataFrame:
        """Return what is known of a new user as one row with some columns of the user table.

        Args:
            user_features: Value by name of a column.

        Raises:
            UsageError: There is no such column, or a value has another type than its column.
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
        """Return a row for each interaction: external user, external item, value and time (UTC).

        Without times there is no column of times. With kinds, the kind is the column event, and the
        value an amount. `from_frame` makes a Dataset of it again.
        """
        x = self.interactions
        columns = {
            "user": self.users[x.user_r],
            "item": self.items[x.item_r],
            "value": pl.Series(x.value_r),
        }
        if self.kinds is not None and x.kind_r is not None:
            columns["value"] = pl.Series(self.kinds.amount(x.kind_r, x.value_r))
            columns["event"] = pl.Series(self.kinds.names).gather(x.kind_r)
        if x.time_r is not None:
            columns["time"] = pl.Series(x.time_r).cast(pl.Datetime("ms", "UTC"))
        return pl.DataFrame(columns)

    def tables(self) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
        """Return everything as JSON values and tables; `from_tables` is the inverse."""
        x = self.interactions
        columns = {"user": x.user_r, "item": x.item_r, "value": x.value_r, "order": x.order_r}
        if x.time_r is not None:
            columns["time"] = x.time_r
        if x.kind_r is not None:
            columns["kind"] = x.kind_r
        about = {
            "name": self.name,
            "explicit": self.explicit,
            "fingerprint": self.fingerprint,
            "report": asdict(self.report),
        } | ({} if self.kinds is None else {"kinds": self.kinds.summary()})
        return about, {
            "interactions": pl.DataFrame(columns),
            "items": id_table(self.items, self.item_table),
            "users": id_table(self.users, self.user_table),
        }


def id_table(ids: Ids, table: pl.DataFrame | None) -> pl.DataFrame:
    """Return the table that goes with some ids.

    Args:
        ids: External ids of users or of items.
        table: One row for each id; None gives a table of the column of ids alone.
    """
    return pl.DataFrame({ids.kind: ids.values}) if table is None else table


def _columns(schema: Mapping[str, Any]) -> str:
    """Return a sentence that names the columns and their types."""
    return f"Columns here: {', '.join(f'{n} ({t})' for n, t in schema.items()) or 'none'}."
