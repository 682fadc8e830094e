"""What is suspicious in a Dataset: one short rule for each way in which imports go wrong.

The rules do not know what is right: each finding says what was seen and what it may mean.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from foretaste.data.dataset import Dataset
from foretaste.data.interactions import FloatArray, Ids, IntArray
from foretaste.data.values import liked_from, liked_note, meaning_of

Severity = Literal["error", "warning", "note"]

DAY_MS = 86_400_000
YEAR_1971_MS, YEAR_1990_MS = 365 * DAY_MS, 7305 * DAY_MS
HEAVY = 0.1  # a user or item with this share of all interactions is suspicious ...
HEAVY_AMONG = 30  # ... where there are at least this many users or items
FEW = 1000  # fewer interactions than this are few
LONELY = 0.2  # share of users with a single interaction that deserves a note
SAME_TIME = 0.9  # share of interactions at the moment of the same user's previous one

_USER_WORDS = re.compile("user|customer|member|visitor|client|reader|player", re.IGNORECASE)
_ITEM_WORDS = re.compile("item|product|movie|film|book|isbn|sku|song|track|article", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """Something suspicious in a Dataset.

    Args:
        severity: "error" where nothing useful can come of the data, "warning", or "note".
        code: A short code for programs, such as "heavy-user".
        what: What was seen, with numbers.
        fix: What it may mean, and what to do about it.
    """

    severity: Severity
    code: str
    what: str
    fix: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the rules look at.

    Args:
        dataset: The Dataset.
        count_u: Interactions of each user, (users,).
        count_i: Interactions of each item, (items,).
        level_l: Distinct values, ascending, (levels,).
        count_l: Interactions with each distinct value, (levels,).
        now_ms: The present in milliseconds since 1970 UTC.
    """

    dataset: Dataset
    count_u: IntArray
    count_i: IntArray
    level_l: FloatArray
    count_l: IntArray
    now_ms: int

    @classmethod
    def of(cls, dataset: Dataset, now_ms: int | None = None) -> Evidence:
        """Count once what several rules need.

        Args:
            dataset: The Dataset.
            now_ms: The present in milliseconds since 1970 UTC; None for the clock.
        """
        x = dataset.interactions
        return cls(
            dataset,
            np.diff(dataset.pointers),
            np.bincount(x.item_r, minlength=len(dataset.items)),
            dataset.levels,
            np.bincount(np.searchsorted(dataset.levels, x.value_r)),
            int(time.time() * 1000) if now_ms is None else now_ms,
        )

    @property
    def n(self) -> int:
        """The number of interactions."""
        return len(self.dataset)


Rule = Callable[[Evidence], Iterator[Finding]]


def find_suspicions(evidence: Evidence) -> tuple[Finding, ...]:
    """Return what the rules find, the worst first.

    Args:
        evidence: What they look at.
    """
    found = [finding for rule in RULES for finding in rule(evidence)]
    worst = ["error", "warning", "note"]
    return tuple(sorted(found, key=lambda finding: worst.index(finding.severity)))


def utc(time_ms: int) -> str:
    """Return a time as ISO 8601 in UTC, to the second.

    Args:
        time_ms: Milliseconds since 1970.
    """
    return str(np.datetime64(time_ms, "ms").astype("datetime64[s]")) + "Z"


def _rows_left_out(e: Evidence) -> Iterator[Finding]:
    report = e.dataset.report
    if report.dropped:
        yield Finding(
            "warning", "rows-dropped",
            f"{report.dropped:,} of {report.rows:,} rows could not be read and are left out.",
            "Read once with --bad-rows error to see the first ten of them.",
        )  # fmt: skip
    if report.merged > 0.01 * report.rows:
        yield Finding(
            "note", "repeated-pairs",
            f"{report.merged:,} rows repeat a user and an item, merged by {report.duplicates!r}.",
            "If they are repeated events such as plays, --duplicates sum keeps their number.",
        )  # fmt: skip


def _ids(e: Evidence) -> Iterator[Finding]:
    for ids in (e.dataset.users, e.dataset.items):
        if ids.values.dtype == pl.String:
            yield from _text_ids(ids)


def _text_ids(ids: Ids) -> Iterator[Finding]:
    text = ids.values
    floats = text.filter(text.str.contains(r"^-?\d+\.0+$"))
    if len(floats):
        yield Finding(
            "warning", f"{ids.kind}-ids-like-floats",
            f"{len(floats):,} {ids.kind} ids look like floats: {_named(floats)}.",
            "A column of whole numbers with a gap becomes floats in pandas; write it as integers.",
        )  # fmt: skip
    plain = text.str.strip_chars()
    spaced = text.filter(text != plain)
    if len(spaced):
        yield Finding(
            "warning", f"{ids.kind}-ids-with-spaces",
            f"{len(spaced):,} {ids.kind} ids begin or end with a space: {_named(spaced)}.",
            "Strip them, or the same one counts twice.",
        )  # fmt: skip
    small = plain.str.to_lowercase()
    alike = text.filter(small.is_duplicated() & (text == plain)).sort()
    if len(alike) and plain.filter(small.is_duplicated()).n_unique() > 1:
        yield Finding(
            "warning", f"{ids.kind}-ids-differ-by-case",
            f"{len(alike):,} {ids.kind} ids differ from another only by case: {_named(alike)}.",
            "Write them in one case if they name the same one.",
        )  # fmt: skip


def _named(ids: pl.Series) -> str:
    return ", ".join(repr(i) for i in ids.head(3)) + _more(len(ids))


def _more(n: int) -> str:
    return f" and {n - 3:,} more" if n > 3 else ""


def _swapped(e: Evidence) -> Iterator[Finding]:
    columns = e.dataset.report.columns
    user, item = columns.get("user", ""), columns.get("item", "")
    user_is_item = _ITEM_WORDS.search(user) and not _USER_WORDS.search(user)
    item_is_user = _USER_WORDS.search(item) and not _ITEM_WORDS.search(item)
    if user_is_item or item_is_user:
        yield Finding(
            "warning", "swapped-columns",
            f"users come from column {user!r} and items from {item!r}: swapped?",
            f"If so, read with user={item!r}, item={user!r}.",
        )  # fmt: skip


def _concentration(e: Evidence) -> Iterator[Finding]:
    for ids, count in ((e.dataset.users, e.count_u), (e.dataset.items, e.count_i)):
        kind, most = ids.kind, int(count.max())
        if len(ids) >= HEAVY_AMONG and most >= HEAVY * e.n:
            yield Finding(
                "warning", f"heavy-{kind}",
                f"{kind} {ids.values[int(count.argmax())]!r} has {most:,} of {e.n:,} interactions "
                f"({most / e.n:.0%}).",
                "A test account, a robot, or a mark for 'not known'? Leave it out if so.",
            )  # fmt: skip
        if most == 1 and e.n > 1:
            yield Finding(
                "error", f"{kind}s-never-repeat",
                f"no {kind} has a second interaction.",
                f"Is the {kind} column a row number or an order number? Name the right one.",
            )  # fmt: skip


def _size(e: Evidence) -> Iterator[Finding]:
    if e.n < FEW:
        yield Finding(
            "warning", "few-interactions",
            f"only {e.n:,} interactions.",
            "A model learns little from them, and every interval will be wide; bring more.",
        )  # fmt: skip
    once, users = int((e.count_u == 1).sum()), len(e.count_u)
    if e.count_u.max() > 1 and once >= LONELY * users:
        yield Finding(
            "note", "users-with-one",
            f"{once:,} of {users:,} users ({once / users:.0%}) have a single interaction.",
            "Nothing can be held out from them; leave-last tests the others only.",
        )  # fmt: skip


def _times(e: Evidence) -> Iterator[Finding]:
    time_r = e.dataset.interactions.time_r
    if time_r is None:
        return
    first, last = int(time_r.min()), int(time_r.max())
    if first == last and e.n > 1:
        yield Finding(
            "warning", "one-time", f"all times are {utc(first)}.",
            "They carry nothing; name another column with --time-column, or none.",
        )  # fmt: skip
        return
    future = int((time_r > e.now_ms + DAY_MS).sum())
    if future:
        yield Finding(
            "warning", "future-times", f"{future:,} times lie in the future, up to {utc(last)}.",
            "Check the unit (seconds, milliseconds, microseconds) and the clock that wrote them.",
        )  # fmt: skip
    zero = int((time_r == 0).sum())
    if zero:
        yield Finding(
            "warning", "times-at-zero", f"{zero:,} times are 0 (1970-01-01).",
            "Usually the mark for a missing time; leave those rows out of a time split.",
        )  # fmt: skip
    early = int(((time_r < YEAR_1990_MS) & (time_r != 0)).sum())
    if early:
        unit = "Seconds read as milliseconds?" if last < YEAR_1971_MS else "Check the unit."
        yield Finding(
            "warning", "early-times", f"{early:,} times lie before 1990, from {utc(first)}.", unit
        )
    yield from _same_times(e, time_r)


def _same_times(e: Evidence, time_r: IntArray) -> Iterator[Finding]:
    user_r = e.dataset.interactions.user_r
    followed = int((user_r[1:] == user_r[:-1]).sum())
    same = int(((user_r[1:] == user_r[:-1]) & (time_r[1:] == time_r[:-1])).sum())
    if followed and same >= SAME_TIME * followed:
        yield Finding(
            "warning", "same-times",
            f"{same / followed:.0%} of the interactions have the time of the user's one before.",
            "Their order is that of the file; do not trust next-item results on it.",
        )  # fmt: skip


def _values(e: Evidence) -> Iterator[Finding]:
    if not e.dataset.explicit:
        return
    if len(e.level_l) == 1:
        yield Finding(
            "warning", "constant-values", f"all values are {e.level_l[0]:g}.",
            "There is nothing to predict in them; read it as clicks, without a rating column.",
        )  # fmt: skip
        return
    column = e.dataset.report.columns.get("value", "")
    if meaning_of(e.level_l, e.count_l, column).counts:
        yield Finding(
            "warning", "values-like-counts",
            f"values are whole numbers from {e.level_l[0]:g} to {e.level_l[-1]:g}, mostly low: "
            "counts, not ratings?",
            "Read them as clicks of such weights: --values clicks.",
        )  # fmt: skip
        return
    codes = list(_missing_codes(e))
    yield from codes
    if not codes and (note := liked_note(e.dataset, liked_from(e.dataset.scale))):
        yield Finding(
            "warning", "liked-share", f"{note}.",
            "Lists and evaluations take what is liked: --set positive_threshold=..., and "
            "--relevance-threshold where lists are evaluated.",
        )  # fmt: skip


def _missing_codes(e: Evidence) -> Iterator[Finding]:
    far = _far_values(e)
    if len(far):
        count = int(e.count_l[np.isin(e.level_l, far)].sum())
        shown = ", ".join(f"{value:g}" for value in far[:3])
        yield Finding(
            "warning", "values-outside-the-scale",
            f"{count:,} values lie far from all others: {shown}{_more(len(far))}.",
            "A mark for 'missing', or a slip? Leave those rows out: they stretch the rating scale.",
        )  # fmt: skip
    negative = e.level_l[e.level_l < 0]
    if len(negative) == 1 and len(e.level_l) > 3 and negative[0] not in far:
        yield Finding(
            "warning", "one-negative-value",
            f"{int(e.count_l[0]):,} values are {negative[0]:g}, all others are not negative.",
            "A mark for 'not rated'? --values rated leaves those rows out.",
        )  # fmt: skip
    zero = int(e.count_l[e.level_l == 0].sum())
    if len(e.level_l) > 3 and e.level_l[0] == 0 and zero == e.count_l.max():
        yield Finding(
            "warning", "zero-most-common",
            f"0 is the most common value ({zero:,} of {e.n:,}).",
            "In many files 0 means 'seen, not rated'; leave those rows out if it does here.",
        )  # fmt: skip


def _far_values(e: Evidence) -> FloatArray:
    """Return distinct values that lie at least twice the width of the others away from them.

    The others are what is left without the rarest 1 % of interactions at either end, without the
    highest value, or without the lowest.
    """
    reached_l = np.cumsum(e.count_l) / e.n
    common_l = (reached_l >= 0.01) & (reached_l - e.count_l / e.n <= 0.99)
    far_l = np.zeros(len(e.level_l), dtype=bool)
    for rest in (e.level_l[common_l], e.level_l[:-1], e.level_l[1:]):
        width = rest[-1] - rest[0]
        if len(rest) > 2:
            far_l |= np.maximum(rest[0] - e.level_l, e.level_l - rest[-1]) >= 2 * width
    return e.level_l[far_l]


RULES: tuple[Rule, ...] = (_rows_left_out, _swapped, _ids, _concentration, _size, _times, _values)
