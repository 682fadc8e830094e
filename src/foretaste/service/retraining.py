"""Training again on a bundle's data and every event since, and whether that made it better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.dataset import Dataset, build, id_table
from foretaste.data.splitting import Split
from foretaste.errors import UsageError
from foretaste.evaluation.evaluate import evaluate
from foretaste.models.base import configure
from foretaste.recommending.fitting import fit
from foretaste.recommending.recommender import Recommender
from foretaste.service.served import lines
from foretaste.service.store import Store

TESTED = 0.2  # of the fresh events, the newest
K = 10


@dataclass(frozen=True)
class Comparison:
    """NDCG of the bundle and of its like trained on newer events, on events that neither had seen.

    tested: how many events those are.
    """

    old: float
    new: float
    tested: int

    @property
    def not_worse(self) -> bool:
        """The new one may take the place of the old."""
        return self.new >= self.old


def compare(old: Recommender, store: Store, *, seed: int = 0) -> Comparison:
    """Measure the bundle's model as it is, and trained again, on the newest events.

    The newest fifth of the events that the bundle does not hold is put aside; the other model is
    trained on everything before.  UsageError where there is nothing to measure.
    """
    everything = _rows(old.dataset, store)
    known = _frame(old.dataset).select("user", "item", "value")
    fresh = everything.join(known, on=["user", "item", "value"], how="anti").sort("time", "order")
    test = fresh.tail(max(1, round(TESTED * len(fresh))))
    before = everything.join(test, on=["user", "item"], how="anti")
    if test.is_empty() or before.is_empty():
        raise UsageError(
            "there is no event that the bundle does not hold.", fix="Wait for some, or use --force."
        )
    past, held_out = (_dataset(rows, old.dataset, store) for rows in (before, test))
    old_score, new_score = (
        evaluate(one, Split(one.dataset, past, held_out, "the newest events"), k=K, ratings=False)
        .metrics[f"ndcg@{K}"]
        .value
        for one in (old, _trained(old, past, seed))
    )
    if math.isnan(old_score) or math.isnan(new_score):
        raise UsageError(
            "none of the newest events is one that a list should have found.",
            fix="Wait for more, or use --force.",
        )
    return Comparison(old_score, new_score, len(test))


def retrain(old: Recommender, store: Store, *, seed: int = 0) -> Recommender:
    """The bundle's model, trained on its data and all events since, without those removed."""
    return _trained(old, _dataset(_rows(old.dataset, store), old.dataset, store), seed)


def _trained(old: Recommender, dataset: Dataset, seed: int) -> Recommender:
    return fit(configure(type(old.model), old.model.hyperparameters()), dataset, seed=seed)


def _frame(dataset: Dataset) -> pl.DataFrame:
    """Interactions as columns user, item (text), value, time (ms), order."""
    x = dataset.interactions
    return pl.DataFrame(
        {
            "user": dataset.users[x.user_r].cast(pl.String),
            "item": dataset.items[x.item_r].cast(pl.String),
            "value": x.value_r.astype(np.float32),
            "time": np.zeros(len(x), np.int64) if x.time_r is None else x.time_r,
            "order": x.order_r.astype(np.int64),
        }
    )


def _rows(dataset: Dataset, store: Store) -> pl.DataFrame:
    """The bundle's interactions and the events, one for each user and item: the events count."""
    frame = _frame(dataset)
    gone = store.forgotten(frame["user"].unique().to_list())
    frame = frame.filter(~pl.col("user").is_in(list(gone)))
    liked = dataset.scale[1] if dataset.explicit else 1.0
    events = store.all_events()
    since = pl.DataFrame(
        {
            "user": pl.Series([e.user for e in events], dtype=pl.String),
            "item": pl.Series([e.item for e in events], dtype=pl.String),
            "value": pl.Series(
                [liked if e.value is None else e.value for e in events], dtype=pl.Float32
            ),
            "time": pl.Series([e.time for e in events], dtype=pl.Int64),
        }
    ).unique(["user", "item"], keep="last", maintain_order=True)
    after = 1 + (0 if frame.is_empty() else int(frame["order"].max()))  # type: ignore[arg-type]
    order = pl.Series("order", np.arange(after, after + len(since)), dtype=pl.Int64)
    kept = frame.join(since, on=["user", "item"], how="anti")
    return pl.concat([kept, since.with_columns(order)])


def _dataset(rows: pl.DataFrame, like: Dataset, store: Store) -> Dataset:
    """A Dataset of the rows, with what is known of its items and users."""
    ids = {}
    for kind, before in (("user", like.users), ("item", like.items)):
        column = rows[kind]
        if before.values.dtype.is_integer():  # new ids need not be numbers: then none is
            numbers = column.cast(pl.Int64, strict=False)
            same = (numbers.cast(pl.String) == column).fill_null(False).all()
            column = numbers if same else column
        ids[kind] = column
    timed = like.interactions.time_r is not None
    built = build(
        ids["user"], ids["item"], rows["value"] if like.explicit else None,
        rows["time"] if timed else None, order=rows["order"], name=like.name,
    )  # fmt: skip
    items = _described(id_table(like.items, like.item_table), store.described("items"))
    users = _described(id_table(like.users, like.user_table), store.described("users"))
    built = built.with_items(items) if items.width > 1 else built
    return built.with_users(users) if users.width > 1 else built


def _described(table: pl.DataFrame, fields: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """The table, ids as text, with the lines described since in place of and after its own."""
    key = table.columns[0]
    table = table.with_columns(pl.col(key).cast(pl.String))
    if not fields:
        return table
    since = lines(table, fields)
    return pl.concat(
        [table.update(since, on=key, how="left"), since.join(table, on=key, how="anti")]
    )
