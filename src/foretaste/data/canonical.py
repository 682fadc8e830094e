"""Canonical splits: the published divisions of the catalog's data sets into train and test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from foretaste.data.dataset import Dataset
from foretaste.data.interactions import BoolArray
from foretaste.errors import DataError, UsageError

GOWALLA_TRAIN = 810_128  # interactions in train.txt; test.txt follows them


@dataclass(frozen=True)
class CanonicalSplit:
    """A published division into train and test, by position in the source file.

    rows: interactions of the whole data set.  test: takes it, gives the (interactions,) bool array
    of its test part.
    """

    what: str
    rows: int
    test: Callable[[Dataset], BoolArray]


def canonical_splits(name: str) -> dict[str, str]:
    """The published splits of a data set: name, and what it is."""
    return {which: split.what for which, split in CANONICAL.get(name, {}).items()}


def canonical_test(dataset: Dataset, name: str, which: str) -> BoolArray:
    """Which interactions of a whole catalog data set the published split `which` tests on.

    Returns (interactions,) bool.
    """
    splits = CANONICAL.get(name, {})
    if which not in splits:
        known = ", ".join(["random", "leave-last", "time", "users", *splits])
        raise UsageError(f"no split {which!r} of {name!r}.", fix=f"Use one of {known}.")
    split = splits[which]
    in_order = np.sort(dataset.interactions.order_r)
    if not np.array_equal(in_order, np.arange(split.rows)):
        raise DataError(
            f"the split {which!r} is defined on all {split.rows:,} interactions of {name}, "
            f"here are {len(dataset):,}.", where=dataset.name,
            fix="Give all of it, no row dropped.",
        )  # fmt: skip
    return split.test(dataset)


def _range(low: int, high: int, dataset: Dataset) -> BoolArray:
    order_r = dataset.interactions.order_r
    return (order_r >= low) & (order_r < high)


def _permuted(seed: int, fraction: float, dataset: Dataset) -> BoolArray:
    """The first of a permutation of the rows, as numpy's legacy generator draws it."""
    n = len(dataset)
    test_o = np.zeros(n, dtype=bool)
    test_o[np.random.RandomState(seed).permutation(n)[: math.ceil(fraction * n)]] = True
    return test_o[dataset.interactions.order_r]


def _nth_of_user(low: int, high: int, dataset: Dataset) -> BoolArray:
    """Each user's interactions number low to high (excluded) in file order."""
    x = dataset.interactions
    by_file = np.lexsort((x.order_r, x.user_r))
    test_r = np.zeros(len(x), dtype=bool)
    place = np.arange(len(x)) - dataset.pointers[:-1][x.user_r]
    test_r[by_file] = (place >= low) & (place < high)
    return test_r


# The publisher's script mku.sh made u1 to u5, ua and ub by cutting and sorting u.data; from its
# order they come out byte for byte (tests/test_catalog.py): no split file is needed.
_ML_100K_SPLITS = {
    f"u{k}": CanonicalSplit(
        f"u{k}.base / u{k}.test: fold {k} of 5 in file order", 100_000,
        partial(_range, 20_000 * (k - 1), 20_000 * k),
    )
    for k in range(1, 6)
} | {
    "ua": CanonicalSplit(
        "ua.base / ua.test: ten ratings of each user", 100_000, partial(_nth_of_user, 0, 10)
    ),
    "ub": CanonicalSplit(
        "ub.base / ub.test: ten others of each user", 100_000, partial(_nth_of_user, 10, 20)
    ),
}  # fmt: skip

_LEGACY = "numpy.random.RandomState"
_ML_1M_SPLITS = {
    "article": CanonicalSplit(
        f"80/20: {_LEGACY}(1), the first 200,042 rows test", 1_000_209, partial(_permuted, 1, 0.2)
    ),
    "90-10": CanonicalSplit(
        f"90/10: {_LEGACY}(0), the first tenth test", 1_000_209, partial(_permuted, 0, 0.1)
    ),
}
_SMALL_SPLITS = {
    "80-20": CanonicalSplit(
        f"80/20: {_LEGACY}(42), the first fifth test", 100_836, partial(_permuted, 42, 0.2)
    )
}
_GOWALLA_ALL = 1_027_370
_GOWALLA_SPLITS = {
    "lightgcn": CanonicalSplit(
        "train.txt / test.txt of LightGCN", _GOWALLA_ALL,
        partial(_range, GOWALLA_TRAIN, _GOWALLA_ALL),
    )
}  # fmt: skip

CANONICAL: dict[str, dict[str, CanonicalSplit]] = {
    "ml-100k": _ML_100K_SPLITS,
    "ml-1m": _ML_1M_SPLITS,
    "ml-latest-small": _SMALL_SPLITS,
    "gowalla-lightgcn": _GOWALLA_SPLITS,
}
