"""Training again on a bundle's data and every event since, and whether that made it better.

Nothing is promoted here: the command decides by the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.building import Events, build
from foretaste.data.dataset import Dataset, id_table
from foretaste.data.splitting import Split
from foretaste.evaluation.evaluate import evaluate
from foretaste.evaluation.statistics import Tally, resampled
from foretaste.models.base import configure, default_threshold
from foretaste.recommending.fitting import fit
from foretaste.recommending.recommender import Recommender
from foretaste.service.snapshot import known_event, lines
from foretaste.service.store import Store

TESTED = 0.2  # share of the new events that is put aside, the newest of them
K = 10  # length of the lists that are judged
METRIC = f"ndcg@{K}"
# Users with something to find. With 30 of them the 95 % percentile interval of a mean difference in
# NDCG holds the truth in 92 % of samples and reaches 0.11 to each side (simulated: a quarter of the
# users find something); with 10 it is 89 % and 0.17, and only a collapse would be noticed.
LEAST_USERS = 30
SAME = ["user", "item", "kind"]  # the columns in which an event and one that it replaces agree
EACH = [*SAME, "order"]  # where repeats are kept, none replaces another


@dataclass(frozen=True)
class Comparison:
    """NDCG@10 of the bundle's model and of one trained again, on events that are new to both.

    It knows nothing of the model that is trained on everything in the end: the tested events are
    in that training, so it is judged by the model that was trained on what came before them.

    Attributes:
        old: NDCG of the bundle as it is served, from 0 to 1; None where no user was measured.
        new: NDCG of the model trained again on what came before the tested events, or None.
        difference: new - old, or None.
        low: Lower end of the difference's 95 % interval (paired bootstrap over users), or None.
        high: Upper end of it, or None.
        users: The number of users with something to find: a tested event that is relevant.
        events: The number of tested events, dislikes included.
    """

    old: float | None
    new: float | None
    difference: float | None
    low: float | None
    high: float | None
    users: int
    events: int

    @property
    def verdict(self) -> str:
        """Return "promoted", "refused" (worse with 95 % certainty) or "not enough evidence"."""
        if self.high is None or self.users < LEAST_USERS:
            return "not enough evidence"
        return "refused" if self.high < 0 else "promoted"

    @property
    def sentence(self) -> str:
        """Return the numbers and the verdict in words."""
        if self.difference is None:
            measured = ""
        else:
            measured = (
                f"NDCG@{K} of the {self.users:,} users with something to find in the "
                f"{self.events:,} newest events: {self.old:.4f} as served, {self.new:.4f} trained "
                f"again, difference {self.difference:+.4f} (95 % interval {self.low:+.4f} to "
                f"{self.high:+.4f}). "
            )
        follows = {
            "promoted": "Promoted: it is not worse with 95 % certainty.",
            "refused": "Not promoted: it is worse with 95 % certainty (--force would).",
            "not enough evidence": "Not promoted for want of evidence: the newest events that the "
            f"bundle does not hold have {self.users:,} users with something to find, and a "
            f"comparison needs {LEAST_USERS}. Wait for more, or use --force.",
        }
        return measured + follows[self.verdict]

    def summary(self) -> dict[str, Any]:
        """Return every number, the verdict and the sentence as JSON values."""
        return {**asdict(self), "verdict": self.verdict, "sentence": self.sentence}


def compare(old: Recommender, store: Store, *, seed: int = 0) -> Comparison:
    """Measure the bundle's model as it is, and trained again, on the newest events.

    Of the events whose user, item and kind the bundle does not hold together, the newest fifth is
    put aside; the other model is trained on everything else.

    Args:
        old: The recommender that is served.
        store: The events since it was trained.
        seed: The seed of the training.

    Returns:
        The paired comparison; without numbers where no user has anything to find.
    """
    everything, known = _rows(old.dataset, store), _frame(old.dataset)
    same = EACH if old.dataset.keeps_repeats else SAME
    fresh = everything.join(known, on=same, how="anti", nulls_equal=True).sort("time", "order")
    test = fresh.tail(max(1, round(TESTED * len(fresh))))
    before = everything.join(test, on=same, how="anti", nulls_equal=True)
    threshold, kinds = default_threshold(old.dataset, None), old.dataset.kinds
    relevant = pl.col("value") >= threshold if kinds is None else pl.col("kind") == kinds.target
    users = test.filter(relevant)["user"].n_unique()
    if not users or before.is_empty():
        return Comparison(None, None, None, None, None, users, len(test))
    past, held_out = (_dataset(rows, old.dataset, store) for rows in (before, test))
    tallies = []
    for one in (old, _trained(old, past, seed)):
        split = Split(one.dataset, past, held_out, "the newest events")
        report = evaluate(one, split, k=K, relevance_threshold=threshold, ratings=False)
        tally = report.tallies[METRIC]
        judged_b = tally.weight_b > 0
        tallies.append(Tally(tally.total_b[judged_b], tally.weight_b[judged_b]))
    old_s, new_s = resampled(tallies)
    low, high = np.quantile(new_s - old_s, [0.025, 0.975]).tolist()
    old_ndcg, new_ndcg = (tally.value for tally in tallies)
    return Comparison(old_ndcg, new_ndcg, new_ndcg - old_ndcg, low, high, users, len(test))


def retrain(old: Recommender, store: Store, *, seed: int = 0) -> Recommender:
    """Train the bundle's model on its data and all events since, without users who were removed.

    Args:
        old: The recommender that is served.
        store: The events since it was trained.
        seed: The seed of the training.

    Returns:
        The new recommender. Without a new event it was trained on the very data of the old one.
    """
    return _trained(old, _dataset(_rows(old.dataset, store), old.dataset, store), seed)


def _trained(old: Recommender, dataset: Dataset, seed: int) -> Recommender:
    """Return a recommender with the model of another, trained on a Dataset."""
    return fit(configure(type(old.model), old.model.hyperparameters()), dataset, seed=seed)


def _frame(dataset: Dataset) -> pl.DataFrame:
    """Return interactions as columns user, item and kind (text), value, time (ms) and order.

    With kinds the value is an amount, in double precision so that its product with the weight is
    the value that the Dataset has; without, every kind is null.
    """
    x, kinds = dataset.interactions, dataset.kinds
    value_r, kind = (
        x.value_r.astype(np.float64),
        pl.Series([None], dtype=pl.String).new_from_index(0, len(x)),
    )
    if kinds is not None and x.kind_r is not None:
        value_r = kinds.amount(x.kind_r, x.value_r)
        kind = pl.Series(kinds.names, dtype=pl.String).gather(x.kind_r)
    return pl.DataFrame(
        {
            "user": dataset.users[x.user_r].cast(pl.String),
            "item": dataset.items[x.item_r].cast(pl.String),
            "kind": kind,
            "value": value_r,
            "time": np.zeros(len(x), np.int64) if x.time_r is None else x.time_r,
            "order": x.order_r.astype(np.int64),
        }
    )


def _rows(dataset: Dataset, store: Store) -> pl.DataFrame:
    """Return interactions and events, those of one user, item and kind replaced by the last event.

    Where the Dataset keeps repeats, nothing is replaced. Events of kinds that the Dataset lacks are
    left out.
    """
    frame = _frame(dataset)
    gone = store.forgotten(frame["user"].unique().to_list())
    frame = frame.filter(~pl.col("user").is_in(list(gone)))
    found = (known_event(dataset, event) for event in store.all_events())
    events = [event for event in found if event is not None]
    like = 1.0 if dataset.kinds is not None else dataset.liked
    since = pl.DataFrame(
        {
            "user": pl.Series([e.user for e in events], dtype=pl.String),
            "item": pl.Series([e.item for e in events], dtype=pl.String),
            "kind": pl.Series([e.kind for e in events], dtype=pl.String),
            "value": pl.Series(
                [like if e.value is None else e.value for e in events], dtype=pl.Float64
            ),
            "time": pl.Series([e.time for e in events], dtype=pl.Int64),
        }
    )
    if not dataset.keeps_repeats:
        since = since.unique(SAME, keep="last", maintain_order=True)
    after = 1 + (0 if frame.is_empty() else int(frame["order"].max()))  # type: ignore[arg-type]
    order = pl.Series("order", np.arange(after, after + len(since)), dtype=pl.Int64)
    if not dataset.keeps_repeats:
        frame = frame.join(since, on=SAME, how="anti", nulls_equal=True)
    return pl.concat([frame, since.with_columns(order)])


def _dataset(rows: pl.DataFrame, like: Dataset, store: Store) -> Dataset:
    """Return a Dataset of rows, with what is known of its items and users."""
    ids = {}
    for kind, before in (("user", like.users), ("item", like.items)):
        column = rows[kind]
        if before.values.dtype.is_integer():  # if one new id is no number, all become text
            numbers = column.cast(pl.Int64, strict=False)
            same = (numbers.cast(pl.String) == column).fill_null(False).all()
            column = numbers if same else column
        ids[kind] = column
    timed = like.interactions.time_r is not None
    values = rows["value"] if like.kinds is not None else rows["value"].cast(pl.Float32)
    built = build(
        ids["user"], ids["item"], values, rows["time"] if timed else None, order=rows["order"],
        events=None if like.kinds is None else Events(rows["kind"], like.kinds),
        duplicates="keep" if like.keeps_repeats else "last", name=like.name,
    )  # fmt: skip
    report = replace(like.report, rows=like.report.rows + len(built) - len(like))
    built = replace(built, explicit=like.explicit, report=report)
    items = _described(id_table(like.items, like.item_table), store.described("items"))
    users = _described(id_table(like.users, like.user_table), store.described("users"))
    built = built.with_items(items) if items.width > 1 else built
    built = built.with_users(users) if users.width > 1 else built
    used_i = np.bincount(like.interactions.item_r, minlength=len(like.items)) > 0
    idle = like.items[np.flatnonzero(~used_i)].cast(pl.String)  # items without an interaction
    idle = idle.filter(~idle.is_in(rows["item"].implode()))
    return (
        built.add_items(items.filter(pl.col("item").is_in(idle.implode()))) if len(idle) else built
    )


def _described(table: pl.DataFrame, fields: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Return a table, ids as text, with lines described since in place of and after its own."""
    key = table.columns[0]
    table = table.with_columns(pl.col(key).cast(pl.String))
    if not fields:
        return table
    since = lines(table, fields)
    return pl.concat(
        [table.update(since, on=key, how="left"), since.join(table, on=key, how="anti")]
    )
