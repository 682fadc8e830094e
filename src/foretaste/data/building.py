"""From clean columns to a Dataset: ids to rows, sorting, and duplicates of a user and an item.

The module does not know files: `casting.py` makes its columns from cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.dataset import REPEATED, Dataset, ReadReport
from foretaste.data.interactions import Ids, Interactions, arrange, map_ids, stable_order
from foretaste.data.kinds import MAX_KINDS, Kinds, kinds_from, kinds_of
from foretaste.errors import DataError, UsageError

DUPLICATES = ("auto", "last", "mean", "sum", "keep", "error")


@dataclass(frozen=True, eq=False)
class Events:
    """The kind of each row of a table.

    Args:
        name_r: The name of the kind of each row, (rows,) String, without nulls.
        kinds: All kinds that rows may have, with their weights.
    """

    name_r: pl.Series
    kinds: Kinds

    def codes(self) -> np.ndarray:
        """Return the code of the kind of each row, (rows,) int16."""
        codes = pl.Series(range(len(self.kinds.names)), dtype=pl.Int16)
        return self.name_r.replace_strict(pl.Series(self.kinds.names), codes).to_numpy()


@dataclass(frozen=True)
class EventRules:
    """What a caller says of the kinds of events; the module's reader of cells asks it.

    Args:
        weights: The weight of every kind by its name; None for 1 each.
        target: The kind to be predicted; None for the default of `kinds_of`.
        named: Whether the caller named the column; one that was guessed from its name holds kinds
            only where it has between 2 and MAX_KINDS different texts, and no empty cell.
    """

    weights: Mapping[str, float] | None = None
    target: str | None = None
    named: bool = False

    def events(self, cell_r: pl.Series | None, where: str) -> tuple[Events | None, str]:
        """Return the kinds of rows and a note of them; None where the column holds no kinds.

        Args:
            cell_r: The cells, (rows,) String; None without a column.
            where: The source and the column, for messages.

        Raises:
            UsageError: The weights or the target do not go with the kinds, or there is no column.
            DataError: The column has too many kinds.
        """
        if cell_r is None:
            if self.weights is not None or self.target is not None:
                raise UsageError(
                    "event weights or a target, and no column of kinds of events.",
                    fix="Name it with --event-column (Python: event=).",
                )
            return None, ""
        n_kinds = cell_r.n_unique()
        if not self.named and (
            n_kinds < 2
            or n_kinds > MAX_KINDS
            or cell_r.null_count()
            or not cell_r.cast(pl.Float64, strict=False).null_count()
        ):
            return None, f"column {where!r} is not read as kinds of events (--event-column)"
        if n_kinds > MAX_KINDS:
            raise DataError(
                f"the column has {n_kinds:,} kinds of events, such as {cell_r[0]!r}.", where=where,
                fix=f"Name a column of {MAX_KINDS} at most.",
            )  # fmt: skip
        rows = cell_r.value_counts(name="rows")
        counts = dict(zip(rows[cell_r.name], rows["rows"], strict=True))
        kinds = kinds_of(counts, self.weights, self.target)
        listed = ", ".join(f"{name} ({counts[name]:,})" for name in kinds.names)
        return Events(cell_r, kinds), f"kinds of events: {listed}; weights {kinds}"


def build(  # noqa: PLR0913 -- everything that a reader knows of a table
    user: pl.Series, item: pl.Series, value: pl.Series | None, time: pl.Series | None,
    *, order: pl.Series | None = None, events: Events | None = None, duplicates: str = "auto",
    name: str = "ratings", report: ReadReport | None = None,
) -> Dataset:  # fmt: skip
    """Return the Dataset of clean columns, sorted, with duplicates of a user and an item resolved.

    Args:
        user: Ids, integers or String, without nulls.
        item: Ids likewise.
        value: Ratings, Float32; None for clicks, which get the weight 1.
        time: Milliseconds since 1970 UTC, Int64, or None.
        order: Position of each row in the source, Int64; None for 0, 1, 2 and so on.
        events: The kinds of events; a value is then an amount, which its kind's weight multiplies,
            and rows of one user and one item are duplicates where their kind is the same.
        duplicates: Of several rows of one user and one item "last" keeps the newest, "mean" and
            "sum" give it the mean or the sum of the values, "keep" keeps all, "error" refuses;
            "auto" is "keep" for events of which a tenth or more are such repeats, else "last".
        name: What messages call the Dataset.
        report: What happened so far; the merged rows are counted into it.

    Raises:
        UsageError: There is no such rule.
        DataError: There is no row, or a duplicate by the rule "error".
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
    kinds, kind_r = (None, None) if events is None else (events.kinds, events.codes())
    time_r = None if time is None else time.to_numpy()
    order_r = None if order is None else order.to_numpy()
    arranged = arrange(user_r, item_r, value_r, time_r, order_r, kind_r)
    # Makes room for a sort.
    del value, time, order, events, user_r, item_r, value_r, time_r, order_r, kind_r
    if duplicates == "auto" and explicit and kinds is None:
        duplicates = "last"  # of two ratings the newer one is the opinion
    target = None if kinds is None else kinds.target_code
    kept, duplicates, repeats = _without_duplicates(
        arranged, users, items, duplicates, name, target
    )
    report = report or ReadReport(rows=rows)
    report = replace(report, merged=rows - len(kept), duplicates=duplicates)
    if repeats:
        found = (
            f"{repeats / rows:.0%} of the events repeat what the user had before: all are kept, "
            "and lists may hold what was seen (--duplicates last keeps the newest alone)"
        )
        report = replace(report, notes=(*report.notes, found))
    if kinds is not None and kept.kind_r is not None:
        amounts = bool((kept.value_r.astype(np.float32) != 1).any())
        kept = replace(kept, value_r=kinds.weigh(kept.kind_r, kept.value_r))
        kinds, explicit = replace(kinds, amounts=amounts), False
    return Dataset(users, items, kept, explicit=explicit, name=name, report=report, kinds=kinds)


def from_tables(about: Mapping[str, Any], tables: Mapping[str, pl.DataFrame]) -> Dataset:
    """Return the Dataset that `Dataset.tables` was called on.

    Args:
        about: The JSON values.
        tables: The tables by name: interactions, items and users.

    Raises:
        KeyError: A value, a table or a column is missing.
        TypeError: The report has a field that is not known here.
    """
    table, items, users = tables["interactions"], tables["items"], tables["users"]
    return Dataset(
        Ids(users["user"], "user"),
        Ids(items["item"], "item"),
        Interactions(
            table["user"].to_numpy(), table["item"].to_numpy(), table["value"].to_numpy(),
            table["time"].to_numpy() if "time" in table.columns else None,
            table["order"].to_numpy(),
            table["kind"].to_numpy() if "kind" in table.columns else None,
        ),
        explicit=about["explicit"],
        name=about["name"],
        item_table=items if items.width > 1 else None,
        user_table=users if users.width > 1 else None,
        report=ReadReport(**{**about["report"], "notes": tuple(about["report"]["notes"])}),
        kinds=kinds_from(about["kinds"]) if "kinds" in about else None,
    )  # fmt: skip


def items_only(table: pl.DataFrame, name: str = "catalogue") -> Dataset:
    """Return a catalogue: items without interactions, for models that look at item columns alone.

    Args:
        table: Its first column is the id, each once; the others are what is known of the items.
        name: What messages call it.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> films = ft.items_only(pl.DataFrame({"id": [1, 2], "title": ["Alien", "Brazil"]}))
        >>> films
        <Dataset catalogue: 0 interactions, 0 users, 2 items>
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
    x: Interactions, users: Ids, items: Ids, rule: str, name: str, target: int | None
) -> tuple[Interactions, str, int]:
    """Return one interaction for each user, item and kind, the newest, with the rule's value.

    Then the rule that "auto" came to, and how many repeats it kept.  It looks at the events of the
    target kind alone, where there are kinds: a film is viewed twice before it is bought once.
    """
    if rule == "keep":  # every row is an event, as a second purchase is
        return x, rule, 0
    asked, rule = rule, "last" if rule == "auto" else rule
    n_kinds = 1 if x.kind_r is None else int(x.kind_r.max(initial=0)) + 1
    n_pairs = len(users) * len(items) * n_kinds
    pair_r = x.user_r.astype(np.uint32 if n_pairs < 2**32 else np.int64)
    pair_r *= len(items)
    pair_r += x.item_r.astype(pair_r.dtype)
    if x.kind_r is not None:
        pair_r = pair_r * pair_r.dtype.type(n_kinds) + x.kind_r.astype(pair_r.dtype)
    ordered = np.sort(pair_r)
    n_repeats = int((ordered[1:] == ordered[:-1]).sum())
    if asked == "auto":
        of_target = ordered if target is None else ordered[ordered % n_kinds == target]
        if (of_target[1:] == of_target[:-1]).sum() >= max(1, REPEATED * len(of_target)):
            return x, "keep", n_repeats
    if not n_repeats:
        return x, rule, 0
    place_r = stable_order(pair_r.astype(np.int64))  # by pair, and within a pair by time
    pair_r = pair_r[place_r]
    last_r = np.append(pair_r[1:] != pair_r[:-1], True)
    if rule == "error":
        twice = pair_r[~last_r]
        user_row, item_row = divmod(int(twice[0]) // n_kinds, len(items))
        user, item = users.values[user_row], items.values[item_row]
        raise DataError(
            f"user {user!r} has item {item!r} more than once ({len(twice):,} such rows in all).",
            where=name, fix="Choose --duplicates last, mean or sum.",
        )  # fmt: skip
    keep = np.zeros(len(x), dtype=bool)
    keep[place_r[last_r]] = True
    if rule == "last":
        return x.take(keep), rule, 0
    first_g = np.append(0, np.flatnonzero(last_r)[:-1] + 1)
    value_g = np.add.reduceat(x.value_r[place_r].astype(np.float64), first_g)
    if rule == "mean":
        value_g /= np.diff(np.append(first_g, len(x)))
    value_r = x.value_r.copy()
    value_r[place_r[last_r]] = value_g
    return replace(x, value_r=value_r).take(keep), rule, 0
