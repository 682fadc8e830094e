"""Published divisions of public data sets into train and test, by position in the source file.

The module says which interactions a split tests on; `splitting.py` makes the parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from foretaste.data.dataset import Dataset
from foretaste.data.interactions import BoolArray
from foretaste.errors import DataError, UsageError

SPLITS = ("random", "leave-last", "next-item", "time", "users")  # of any data set
GOWALLA_TRAIN = 810_128  # interactions in train.txt; test.txt follows them


@dataclass(frozen=True)
class CanonicalSplit:
    """A published division into train and test, by position in the source file.

    Args:
        what: The split in words.
        rows: Interactions of the whole data set.
        test: Returns the marks of the test part of a Dataset, (interactions,) bool.
    """

    what: str
    rows: int
    test: Callable[[Dataset], BoolArray]


@dataclass(frozen=True)
class StrongSplit:
    """Strong generalisation (Liang et al. 2018): ratings become clicks, whole users are held out.

    Args:
        what: The split in words.
        rows: Interactions of the whole data set.
        validation: Test on the validation users, and leave the test users out altogether.
        positive_threshold: The lowest rating that is kept.
        least: The number of kept ratings that a user must have.
        seed: The seed of the permutation of users and of the hidden items.
        held_out: The fraction of users in the test part, and again in the validation part.
        hidden: The fraction of items of a held-out user that must be found.
    """

    what: str
    rows: int
    validation: bool
    positive_threshold: float = 4.0
    least: int = 5
    seed: int = 98_765
    held_out: float = 0.1
    hidden: float = 0.2


@dataclass(frozen=True)
class NextItemSplit:
    """The next item of each user: the last is tested on, and the one before it not trained on.

    Args:
        what: The split in words.
        rows: Interactions of the whole data set.
        least: How many interactions an item must have; those of others are left out.
    """

    what: str
    rows: int
    least: int = 1


AnySplit = CanonicalSplit | StrongSplit | NextItemSplit


def canonical_splits(name: str) -> dict[str, str]:
    """Return the published splits of a data set: what each is, by its name.

    Args:
        name: A data set of the catalog; another one has no published splits.
    """
    return {which: split.what for which, split in CANONICAL.get(name, {}).items()}


def canonical_test(dataset: Dataset, name: str, which: str) -> BoolArray:
    """Return marks of the interactions that a published split tests on, (interactions,) bool.

    Args:
        dataset: The whole data set.
        name: Its name in the catalog.
        which: The name of the split.

    Raises:
        UsageError: There is no such split, or it divides histories.
        DataError: The Dataset is not the whole data set.
    """
    found = canonical(dataset, name, which)
    if not isinstance(found, CanonicalSplit):
        raise UsageError(
            f"the split {which!r} of {name!r} divides histories.",
            fix="Ask `split` for its parts.",
        )
    return found.test(dataset)


def canonical(dataset: Dataset, name: str, which: str) -> AnySplit:
    """Return a published split of a data set, to be applied to all of it.

    Args:
        dataset: The whole data set.
        name: Its name in the catalog.
        which: The name of the split.

    Raises:
        UsageError: There is no such split.
        DataError: The Dataset is not the whole data set.
    """
    splits = CANONICAL.get(name, {})
    if which not in splits:
        known = ", ".join(dict.fromkeys([*SPLITS, *splits]))
        raise UsageError(f"no split {which!r} of {name!r}.", fix=f"Use one of {known}.")
    split = splits[which]
    in_order = np.sort(dataset.interactions.order_r)
    if not np.array_equal(in_order, np.arange(split.rows)):
        raise DataError(
            f"the split {which!r} is defined on all {split.rows:,} interactions of {name}, "
            f"here are {len(dataset):,}.", where=dataset.name,
            fix="Give all of it, no row dropped.",
        )  # fmt: skip
    return split


def _range(low: int, high: int, dataset: Dataset) -> BoolArray:
    order_r = dataset.interactions.order_r
    return (order_r >= low) & (order_r < high)


def _permuted(seed: int, fraction: float, dataset: Dataset) -> BoolArray:
    """Mark the first fraction of a permutation of the rows by NumPy's legacy generator."""
    n = len(dataset)
    test_o = np.zeros(n, dtype=bool)
    test_o[np.random.RandomState(seed).permutation(n)[: math.ceil(fraction * n)]] = True
    return test_o[dataset.interactions.order_r]


def _nth_of_user(low: int, high: int, dataset: Dataset) -> BoolArray:
    """Mark the interactions of each user from number `low` to before `high` in file order."""
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
_STRONG = "ratings of 4 and more, users with 5 of them; a tenth held out, a fifth of theirs hidden"
_ML_1M_SPLITS: dict[str, AnySplit] = {
    "strong": StrongSplit(f"{_STRONG}; {_LEGACY}(98765)", 1_000_209, validation=False),
    "strong-validation": StrongSplit(
        f"the tenth before: {_STRONG}; {_LEGACY}(98765)", 1_000_209, validation=True
    ),
    "article": CanonicalSplit(
        f"80/20: {_LEGACY}(1), the first 200,042 rows test", 1_000_209, partial(_permuted, 1, 0.2)
    ),
    "next-item": NextItemSplit(
        "each user's last by (time, file order), the one before it in the history and not in "
        "train, items with 5 interactions",
        1_000_209,
        least=5,
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

CANONICAL: Mapping[str, Mapping[str, AnySplit]] = {
    "ml-100k": _ML_100K_SPLITS,
    "ml-1m": _ML_1M_SPLITS,
    "ml-latest-small": _SMALL_SPLITS,
    "gowalla-lightgcn": _GOWALLA_SPLITS,
}
