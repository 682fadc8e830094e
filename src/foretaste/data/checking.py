"""The check of a Dataset: what it holds, what is suspicious in it, what a model would cost.

The module does not know any model: whoever asks for a check brings the costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.dataset import Dataset
from foretaste.data.features import ItemFeatures, column_width, filled, guess_kind
from foretaste.data.interactions import IntArray
from foretaste.data.suspicions import DAY_MS, Evidence, Finding, find_suspicions, utc
from foretaste.errors import DataError

MOST_LEVELS = 50  # with more distinct values than this, a histogram has bins
BINS = 20
NEWEST = 0.1  # the part of the interactions that a global time split tests on


@dataclass(frozen=True)
class Cost:
    """A rough estimate of what fitting a model takes.

    Args:
        seconds: Seconds on two cores.
        memory_bytes: Memory at the peak.
        note: What the estimate assumes, for readers.
    """

    seconds: float
    memory_bytes: float
    note: str = ""


@dataclass(frozen=True)
class Spread:
    """How a number is distributed over users or items: its mean and its quantiles."""

    mean: float
    min: float
    p25: float
    median: float
    p75: float
    p95: float
    max: float

    @classmethod
    def of(cls, number: IntArray) -> Spread:
        """Return mean and quantiles of some numbers.

        Args:
            number: One number for each user or item, (n,).
        """
        quantiles = np.quantile(number, [0.0, 0.25, 0.5, 0.75, 0.95, 1.0]).tolist()
        return cls(float(number.mean()), *quantiles)


@dataclass(frozen=True)
class Bin:
    """A bar of the histogram of values.

    Args:
        low: The lowest value in it.
        high: The highest value in it, equal to `low` where the bar is one distinct value.
        count: Interactions with such a value.
    """

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class TimeRange:
    """When the interactions happened.

    Args:
        first: The earliest time, ISO 8601 in UTC.
        last: The latest time, likewise.
        days: Days between the two.
        resolution: The coarsest unit that loses nothing: "millisecond", "second", "minute", "hour"
            or "day".
        distinct: Number of different times.
    """

    first: str
    last: str
    days: float
    resolution: str
    distinct: int


@dataclass(frozen=True)
class ColdStart:
    """What a global time split would meet that trains before a moment and tests from it on.

    Args:
        border: That moment, ISO 8601 in UTC.
        train: Interactions before it.
        test: Interactions from it on.
        test_users: Users in the test part.
        cold_users: Users in the test part without an interaction before the border.
        test_items: Items in the test part.
        cold_items: Items in the test part without an interaction before the border.
        cold_interactions: Interactions of the test part with a cold user or a cold item.
    """

    border: str
    train: int
    test: int
    test_users: int
    cold_users: int
    test_items: int
    cold_items: int
    cold_interactions: int


@dataclass(frozen=True)
class ColumnReport:
    """A column of the item table as models of content read it.

    Args:
        name: Its name.
        kind: One of `foretaste.data.features.KINDS`.
        features: The number of features that it makes, 0 where it is left out.
        filled: The share of the items with a value, 0 to 1.
    """

    name: str
    kind: str
    features: int
    filled: float


@dataclass(frozen=True)
class CheckReport:
    """What `foretaste check` shows.

    Args:
        name: Name of the Dataset.
        source: Where it was read from.
        explicit: Whether the values are ratings.
        rows: Rows in the source.
        dropped: Rows that could not be read and were left out.
        merged: Rows that another row of the same user and item replaced.
        duplicates: The rule by which they were replaced.
        notes: What was assumed in reading, in sentences.
        interactions: Number of interactions.
        users: Number of users.
        items: Number of items.
        density: Interactions divided by pairs of a user and an item.
        scale: Lowest and highest value.
        step: Smallest distance between two values.
        mean: Mean value.
        levels: Number of distinct values.
        histogram: Interactions by value.
        per_user: Interactions of each user.
        per_item: Interactions of each item.
        times: When they happened; None without times.
        cold: What a time split would meet; None without times.
        memory_bytes: Memory that the Dataset takes.
        findings: What is suspicious, the worst first.
        item_columns: The columns of the item table.
        costs: Estimates by name of a model.
        defaults: What fields that the data decide come to, by name of a model, then of a field.
    """

    name: str
    source: str
    explicit: bool
    rows: int
    dropped: int
    merged: int
    duplicates: str
    notes: tuple[str, ...]
    interactions: int
    users: int
    items: int
    density: float
    scale: tuple[float, float]
    step: float
    mean: float
    levels: int
    histogram: tuple[Bin, ...]
    per_user: Spread
    per_item: Spread
    times: TimeRange | None
    cold: ColdStart | None
    memory_bytes: int
    findings: tuple[Finding, ...]
    item_columns: tuple[ColumnReport, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether nothing worse than a note was found."""
        return all(finding.severity == "note" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the report as dictionaries, tuples, numbers and strings, which JSON can hold."""
        return asdict(self)


def check(
    dataset: Dataset, costs: Mapping[str, Cost] | None = None, *, now_ms: int | None = None
) -> CheckReport:
    """Return what a Dataset holds and what is suspicious in it, before anything is trained on it.

    Args:
        dataset: The Dataset; it is not changed.
        costs: Estimates by name of a model, which become part of the report; None for none.
        now_ms: The present in milliseconds since 1970 UTC; None for the clock. Interactions more
            than a day later are suspicious.

    Raises:
        DataError: The Dataset has no interactions.

    Example:
        >>> import foretaste as ft
        >>> report = ft.check(ft.from_frame({"user": ["a", "b"], "item": [1, 1]}))
        >>> report.interactions, report.healthy, report.findings[0].code
        (2, False, 'users-never-repeat')
    """
    if not len(dataset):
        raise DataError(
            f"there are {len(dataset.items):,} items in it and no interactions.",
            where=dataset.name, fix="Check a table of ratings or clicks; --items joins these.",
        )  # fmt: skip
    x = dataset.interactions
    evidence = Evidence.of(dataset, now_ms)
    return CheckReport(
        name=dataset.name,
        source=dataset.report.source,
        explicit=dataset.explicit,
        rows=dataset.report.rows,
        dropped=dataset.report.dropped,
        merged=dataset.report.merged,
        duplicates=dataset.report.duplicates,
        notes=dataset.report.notes,
        interactions=len(dataset),
        users=len(dataset.users),
        items=len(dataset.items),
        density=len(dataset) / (len(dataset.users) * len(dataset.items)),
        scale=dataset.scale,
        step=dataset.step,
        mean=float(x.value_r.mean(dtype=np.float64)),
        levels=len(evidence.level_l),
        histogram=_histogram(evidence),
        per_user=Spread.of(evidence.count_u),
        per_item=Spread.of(evidence.count_i),
        times=None if x.time_r is None else _time_range(x.time_r),
        cold=None if x.time_r is None else _cold_start(dataset, x.time_r),
        memory_bytes=_memory(dataset),
        findings=find_suspicions(evidence),
        item_columns=_item_columns(dataset.item_table),
        costs=dict(costs or {}),
    )


def _item_columns(table: pl.DataFrame | None) -> tuple[ColumnReport, ...]:
    if table is None:
        return ()
    learned = {c["name"]: column_width(c) for c in ItemFeatures.learn(table).columns}
    return tuple(
        ColumnReport(s.name, guess_kind(s), learned.get(s.name, 0), filled(s))
        for s in table.get_columns()[1:]
    )


def _histogram(evidence: Evidence) -> tuple[Bin, ...]:
    level_l, count_l = evidence.level_l, evidence.count_l
    if len(level_l) <= MOST_LEVELS:
        return tuple(
            Bin(level, level, count)
            for level, count in zip(level_l.tolist(), count_l.tolist(), strict=True)
        )
    count_b, edge_b = np.histogram(level_l, bins=BINS, weights=count_l)
    return tuple(
        Bin(low, high, round(count))
        for low, high, count in zip(
            edge_b[:-1].tolist(), edge_b[1:].tolist(), count_b.tolist(), strict=True
        )
    )


def _time_range(time_r: IntArray) -> TimeRange:
    ascending = np.sort(time_r)  # np.unique is ten times slower on a million times
    first, last = int(ascending[0]), int(ascending[-1])
    distinct = 1 + int((ascending[1:] != ascending[:-1]).sum())
    units = (("day", DAY_MS), ("hour", 3_600_000), ("minute", 60_000), ("second", 1000))
    resolution = next((name for name, ms in units if not (time_r % ms).any()), "millisecond")
    return TimeRange(utc(first), utc(last), (last - first) / DAY_MS, resolution, distinct)


def _cold_start(dataset: Dataset, time_r: IntArray) -> ColdStart:
    x = dataset.interactions
    n_test = max(1, round(NEWEST * len(time_r)))
    border = int(np.partition(time_r, -n_test)[-n_test])
    test_r = time_r >= border
    cold_r = np.zeros(len(x), dtype=bool)
    tested, cold = [], []
    for row_r, n in ((x.user_r, len(dataset.users)), (x.item_r, len(dataset.items))):
        known_n, tested_n = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        known_n[row_r[~test_r]] = True
        tested_n[row_r[test_r]] = True
        cold_r |= test_r & ~known_n[row_r]
        tested.append(int(tested_n.sum()))
        cold.append(int((tested_n & ~known_n).sum()))
    n_test = int(test_r.sum())  # interactions of one moment stay together
    return ColdStart(
        border=utc(border), train=len(x) - n_test, test=n_test,
        test_users=tested[0], cold_users=cold[0], test_items=tested[1], cold_items=cold[1],
        cold_interactions=int(cold_r.sum()),
    )  # fmt: skip


def _memory(dataset: Dataset) -> int:
    x = dataset.interactions
    arrays = (x.user_r, x.item_r, x.value_r, x.time_r, x.order_r)
    tables = (dataset.users.values, dataset.items.values, dataset.item_table, dataset.user_table)
    return sum(array.nbytes for array in arrays if array is not None) + sum(
        int(table.estimated_size()) for table in tables if table is not None
    )
