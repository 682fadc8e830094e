"""What the values of a table mean: ratings on a scale, counts without one, or "not rated".

The rules look at how often each value occurs, and at nothing else but the name of the column.
Axes: l distinct values, r interactions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from foretaste.data.dataset import Dataset
from foretaste.data.interactions import FloatArray, IntArray
from foretaste.errors import UsageError

VALUES = ("auto", "ratings", "rated", "clicks")
LIKED = 0.75  # of the scale, from where a rating counts as liked: 4 of 5 stars
FEW_LIKED, MOST_LIKED = 0.05, 0.95  # shares of liked interactions that say little of taste
MARKS = (-999.0, -99.0, -9.0, -1.0, 98.0, 99.0, 255.0, 999.0, 9999.0)  # usual for "missing"
STAR_LEVELS = 10  # counts go higher than scales of stars
TAIL = 0.99  # of the interactions, below which the bulk of the values lies
LOW, SPARSE = 0.25, 0.12  # a bulk whose median is as low, and whose upper half is as rare
GAP = 0.7  # of the bulk at the most lies between two neighbouring counts, as tails thin out slowly
ZEROS = 20.0  # times as common as 1 is a 0 that means "not rated", and not the worst rating, ...
COMMON = 0.25  # ... where it has this share of the interactions
COUNTED = re.compile(
    r"plays?|playcount|listens?|hours?|minutes?|seconds|quantity|qty|counts?|views?|visits?|clicks?"
    r"|purchases?|orders?|units|watchtime|playtime|dwell.*|times"
)


@dataclass(frozen=True)
class Meaning:
    """What the values of a table mean.

    Args:
        counts: Whether they are counts or amounts, without an upper end.
        marks: Values that stand for "not rated".
    """

    counts: bool
    marks: tuple[float, ...]


def liked_from(scale: tuple[float, float]) -> float:
    """Return the lowest rating that counts as liked, three quarters up a scale.

    Args:
        scale: The lowest and the highest rating.
    """
    low, high = scale
    return low + LIKED * (high - low)


def meaning_of(level_l: FloatArray, count_l: IntArray, column: str = "") -> Meaning:
    """Return what values mean, by how often each occurs.

    Args:
        level_l: The distinct values, ascending: (l,).
        count_l: How many interactions have each: (l,).
        column: The name of their column.
    """
    marks = _marks(level_l, count_l)
    rated_l = ~np.isin(level_l, marks)
    return Meaning(_are_counts(level_l[rated_l], count_l[rated_l], column), tuple(marks))


def _are_counts(level_l: FloatArray, count_l: IntArray, column: str) -> bool:
    """Return whether values are counts or amounts: not negative, most of them low, a thin tail.

    The rarest hundredth at the top is left out first, so that a slip in ratings makes no counts of
    them. A column named like a count may stop at fewer than STAR_LEVELS.
    """
    if len(level_l) < 2 or level_l[0] < 0:
        return False
    named = COUNTED.fullmatch(re.sub(r"[\W_]", "", column.lower())) is not None
    reached_l = np.cumsum(count_l) / count_l.sum()
    low, top = float(level_l[0]), float(level_l[np.searchsorted(reached_l, TAIL)])
    median = float(level_l[np.searchsorted(reached_l, 0.5)])
    if top <= low:  # 99 in 100 are the lowest value: ones, and a few higher ones
        return low <= 1 and (named or level_l[-1] > STAR_LEVELS)
    upper = float(count_l[level_l > (low + top) / 2].sum() / count_l.sum())
    gap = float(np.diff(level_l[level_l <= top]).max(initial=0.0))
    thin = gap <= GAP * (top - low) and (median - low) / (top - low) <= LOW and upper <= SPARSE
    endless = level_l[-1] > STAR_LEVELS and (top > STAR_LEVELS / 2 or not _whole(level_l))
    # Hundreds of different amounts, and one as far away as it can be only without a scale.
    far = len(level_l) > 100 and level_l[-1] - top > 2 * (top - low)
    return (thin and (named or endless)) or far or (named and len(level_l) > STAR_LEVELS)


def _whole(level_l: FloatArray) -> bool:
    return bool((level_l == np.floor(level_l)).all())


def _marks(level_l: FloatArray, count_l: IntArray) -> list[float]:
    """Return the values that stand for "not rated": codes beyond a gap, and zeros in excess."""
    if len(level_l) < 4:
        return []
    found = [
        float(level)
        for level in (level_l[0], level_l[-1])
        if level in MARKS and _apart(level, level_l[level_l != level])
    ]
    rest_l = ~np.isin(level_l, found)
    level_l, count_l = level_l[rest_l], count_l[rest_l]
    # Zeros in excess: the rest of the scale is not a falling tail that begins at 1, as counts have.
    steps_l = np.diff(level_l[1:])
    if len(steps_l) > 2 and level_l[0] == 0 and level_l[-1] <= STAR_LEVELS and steps_l.min() == 1:
        ones = int(count_l[level_l == 1].sum())
        falling = count_l[1:].argmax() == 0
        common = count_l[0] >= COMMON * count_l.sum() and count_l[0] >= ZEROS * ones
        if common and not falling and count_l[0] > count_l[1:].max():
            found.append(0.0)
    return found


def _apart(level: float, rest_l: FloatArray) -> bool:
    """Return whether a value lies beyond a gap: twice the width of the others, or below zero."""
    width = rest_l[-1] - rest_l[0]
    if level < 0 and rest_l[0] >= 0:
        return True
    return bool(max(rest_l[0] - level, level - rest_l[-1]) >= 2 * width)


def judged(dataset: Dataset, values: str = "auto") -> Dataset:
    """Return a Dataset whose values are what the caller says, or what the values themselves say.

    Args:
        dataset: As it was read; clicks stay as they are.
        values: "auto" leaves out marks for "not rated", and takes counts as clicks of such weights;
            "ratings" keeps all values as ratings, and "rated" those that are no marks; "clicks"
            takes every row as a click, and counts as weights.

    Raises:
        UsageError: There is no such choice.
    """
    if values not in VALUES:
        raise UsageError(f"values={values!r}.", fix=f"Use one of {', '.join(VALUES)}.")
    if not dataset.explicit or values == "ratings" or not len(dataset):
        return dataset
    value_r, column = dataset.interactions.value_r, dataset.report.columns.get("value", "")
    level_l, count_l = np.unique(value_r, return_counts=True)
    meaning = meaning_of(level_l, count_l, column)
    named = f"the values of {column!r}" if column else "the values"
    if values == "clicks" or (values == "auto" and meaning.counts):
        note = f"{named} are read as clicks"
        if meaning.counts:
            note = (
                f"{named} are counts without an upper end, so rows are clicks of such weights "
                "(weighting=log uses them; --values ratings takes them as ratings)"
            )
        else:
            ones_r = np.ones_like(value_r)
            dataset = replace(dataset, interactions=replace(dataset.interactions, value_r=ones_r))
        return _noted(replace(dataset, explicit=False), note)
    if not meaning.marks:
        return dataset
    marked_r = np.isin(value_r, meaning.marks)
    if marked_r.all():
        return dataset
    marks = " and ".join(f"{mark:g}" for mark in meaning.marks)
    note = (
        f"{marked_r.sum():,} rows of value {marks}, a mark for 'not rated', are left out "
        "(--values clicks takes every row as a click, --values ratings the mark as a rating)"
    )
    return _noted(dataset.take(~marked_r), note, int(marked_r.sum()))


def _noted(dataset: Dataset, note: str, unrated: int = 0) -> Dataset:
    report = replace(
        dataset.report, notes=(*dataset.report.notes, note),
        unrated=dataset.report.unrated + unrated,
    )  # fmt: skip
    return replace(dataset, report=report)


def liked_note(dataset: Dataset, threshold: float, name: str = "positive_threshold") -> str:
    """Return a sentence on a threshold that nearly all or nearly no ratings reach; "" otherwise.

    Args:
        dataset: The ratings; of clicks all are liked.
        threshold: The lowest rating that counts as liked.
        name: The option that sets the threshold.
    """
    if not dataset.explicit or len(dataset.levels) < 2:
        return ""
    value_r = dataset.interactions.value_r
    share = float((value_r >= np.float32(threshold)).mean())
    if FEW_LIKED <= share <= MOST_LIKED:
        return ""
    better = _halving(dataset.levels[1:], value_r)
    return (
        f"{share:.1%} of the ratings reach {threshold:g}, from where they count as liked; "
        f"{name}={better:g} would be reached by {float((value_r >= better).mean()):.0%}"
    )


def _halving(level_l: FloatArray, value_r: FloatArray) -> float:
    """Return the level that nearest to half of the ratings reach."""
    reached_l = 1 - np.searchsorted(np.sort(value_r), level_l) / len(value_r)
    return float(level_l[np.abs(reached_l - 0.5).argmin()])
