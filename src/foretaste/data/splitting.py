"""Splits: what a model may learn from, what it may be shown of a user, and what it must find.

The module does not know models: it divides interactions, whoever is tested on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from foretaste.data.dataset import Dataset
from foretaste.data.interactions import BoolArray, IntArray
from foretaste.errors import DataError, UsageError

SPLITS = ("random", "leave-last", "time", "users")
GOWALLA_TRAIN = 810_128  # interactions in train.txt; test.txt follows them


@dataclass(frozen=True, eq=False)
class Split:
    """Datasets to train on and to test on; test interactions are in neither of the other two.

    Args:
        train: What `fit` sees, with ids of its own: a user or an item that is only in the test
            part has no row in it.
        history: What a model may be shown of the test users: `train` itself, or the interactions
            from which held-out users are folded in.
        test: What must be predicted or found.
        protocol: The split in words, for reports.

    Example:
        >>> import foretaste as ft
        >>> data = ft.from_frame({"user": ["a", "a", "b", "b"], "item": [1, 2, 1, 3]})
        >>> parts = ft.split(data, "leave-last")
        >>> parts.test.frame()["item"].to_list(), parts.history is parts.train
        ([2, 3], True)
    """

    train: Dataset
    history: Dataset
    test: Dataset
    protocol: str


def split(
    dataset: Dataset, how: str = "random", *, test: float = 0.2, seed: int = 0, hidden: float = 0.2
) -> Split:
    """Divide a Dataset into what is trained on and what is tested on.

    To carve validation data, split the `train` of a split again.

    Args:
        dataset: What to divide; it is not changed.
        how: "random" tests on interactions drawn at random, "leave-last" on the last one of each
            user, "time" on the newest ones, and "users" on users who are not trained on. The name
            of a canonical split of a catalog data set, such as "u1", "article" or "strong",
            divides as published.
        test: The fraction that is tested on: of interactions, or of users with "users".
        seed: The seed of whatever is drawn at random.
        hidden: The fraction of the interactions of a held-out user that must be found with
            "users" (rounded down, at least one); the rest is the history.

    Raises:
        UsageError: A fraction is not between 0 and 1, or there is no such split.
        DataError: A part would be empty, or the data lack what the split needs, as times.

    Example:
        >>> import foretaste as ft
        >>> data = ft.from_frame({"user": [1, 1, 2, 2, 3], "item": ["a", "b", "a", "c", "a"]})
        >>> parts = ft.split(data, "random", test=0.4, seed=1)
        >>> len(parts.train), len(parts.test), parts.protocol
        (3, 2, 'random 60%/40% of interactions, seed 1')
    """
    if not 0 < test < 1 or not 0 < hidden < 1:
        raise UsageError(f"test={test}, hidden={hidden}.", fix="Fractions lie between 0 and 1.")
    if how == "users":
        return _held_out_users(dataset, test, hidden, seed)
    if how == "random":
        test_r = _random_test(dataset, test, seed)
        protocol = f"random {1 - test:.0%}/{test:.0%} of interactions, seed {seed}"
    elif how == "leave-last":
        test_r = _last_of_each_user(dataset)
        protocol = "each user's last interaction by (time, file order); users with one keep it"
    elif how == "time":
        test_r = _newest(dataset, test)
        protocol = f"global time split: the newest {test:.0%} of interactions"
    elif isinstance(canonical := _canonical(dataset, dataset.name, how), StrongSplit):
        return _strong(dataset, canonical)
    else:
        test_r = canonical.test(dataset)
        protocol = f"canonical split {how!r} of {dataset.name}"
    train = _part(dataset, ~test_r, how, "train")
    return Split(train, train, _part(dataset, test_r, how, "test"), protocol)


def folds_of(dataset: Dataset, folds: int, *, seed: int = 0) -> Iterator[Split]:
    """Yield splits whose test parts are disjoint and together the whole Dataset.

    Args:
        dataset: What to divide.
        folds: The number of splits.
        seed: The seed by which interactions are drawn.

    Raises:
        UsageError: There are fewer than two folds, or more folds than interactions.
    """
    if not 2 <= folds <= len(dataset):
        raise UsageError(f"folds={folds}.", fix="Use 2 at least, one for each interaction at most.")
    in_file_order = np.argsort(dataset.interactions.order_r, kind="stable")
    drawn = np.random.default_rng(seed).permutation(len(dataset))
    for fold, rows in enumerate(np.array_split(in_file_order[drawn], folds), 1):
        test_r = np.zeros(len(dataset), dtype=bool)
        test_r[rows] = True
        train = _part(dataset, ~test_r, "folds", "train")
        protocol = f"fold {fold} of {folds}, random interactions, seed {seed}"
        yield Split(train, train, _part(dataset, test_r, "folds", "test"), protocol)


def _part(dataset: Dataset, keep_r: BoolArray, how: str, part: str) -> Dataset:
    if not keep_r.any():
        raise DataError(
            f"the {how!r} split leaves no interaction for {part}.",
            where=dataset.name,
            fix="Choose another split or another fraction.",
        )
    return dataset.take(keep_r)


def _random_test(dataset: Dataset, test: float, seed: int) -> BoolArray:
    """Return marks drawn in file order, so that they do not depend on the order of interactions."""
    n = len(dataset)
    in_file_order = np.argsort(dataset.interactions.order_r, kind="stable")
    drawn = np.random.default_rng(seed).permutation(n)[: round(test * n)]
    test_r = np.zeros(n, dtype=bool)
    test_r[in_file_order[drawn]] = True
    return test_r


def _last_of_each_user(dataset: Dataset) -> BoolArray:
    start_u, end_u = dataset.pointers[:-1], dataset.pointers[1:]
    test_r = np.zeros(len(dataset), dtype=bool)
    test_r[end_u[end_u - start_u > 1] - 1] = True
    return test_r


def _newest(dataset: Dataset, test: float) -> BoolArray:
    time_r = dataset.interactions.time_r
    if time_r is None:
        raise DataError(
            "a time split needs times.", where=dataset.name, fix="Name the column: --time-column."
        )
    border = np.sort(time_r)[-max(1, round(test * len(time_r)))]
    return time_r >= border  # interactions of one moment stay together


def _held_out_users(dataset: Dataset, test: float, hidden: float, seed: int) -> Split:
    """Hold users out and hide a fraction of the interactions of each (strong generalisation)."""
    rng = np.random.default_rng(seed)
    n_users = len(dataset.users)
    held_u = np.zeros(n_users, dtype=bool)
    held_u[rng.permutation(n_users)[: round(test * n_users)]] = True
    held_u &= np.diff(dataset.pointers) > 1  # after hiding one there must be one to fold in from
    user_r = dataset.interactions.user_r
    shuffled = np.lexsort((rng.random(len(dataset)), user_r))
    place_r = np.empty(len(dataset), dtype=np.int64)
    place_r[shuffled] = np.arange(len(dataset)) - dataset.pointers[:-1][user_r]
    n_hidden_u = np.maximum(1, np.floor(hidden * np.diff(dataset.pointers)))
    return _folded_in(
        dataset, ~held_u[user_r], held_u[user_r], place_r < n_hidden_u[user_r],
        f"{test:.0%} of users held out, {hidden:.0%} of their items hidden, the rest folded in, "
        f"seed {seed}",
    )  # fmt: skip


def _folded_in(
    dataset: Dataset, train_r: BoolArray, held_r: BoolArray, hidden_r: BoolArray, protocol: str
) -> Split:
    return Split(
        _part(dataset, train_r, "users", "train"),
        _part(dataset, held_r & ~hidden_r, "users", "history"),
        _part(dataset, held_r & hidden_r, "users", "test"),
        protocol,
    )


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


def _strong(dataset: Dataset, how: StrongSplit) -> Split:
    """Train on eight tenths of the users, and test on one of the two tenths that are left."""
    x = dataset.interactions
    liked_r = x.value_r >= how.positive_threshold
    enough_u = np.bincount(x.user_r[liked_r], minlength=len(dataset.users)) >= how.least
    liked = dataset.take(liked_r & enough_u[x.user_r])
    ones_r = np.ones(len(liked), dtype=np.float32)
    clicks = replace(
        liked, explicit=False, interactions=replace(liked.interactions, value_r=ones_r)
    )
    n_users = len(clicks.users)
    n_held = round(how.held_out * n_users)
    permuted = np.random.RandomState(how.seed).permutation(n_users)
    test_u = np.sort(permuted[-n_held:])
    validation_u = np.sort(permuted[-2 * n_held : -n_held])
    asked_u = validation_u if how.validation else test_u
    return _folded_in(
        clicks,
        ~np.isin(clicks.interactions.user_r, [*test_u, *validation_u]),
        np.isin(clicks.interactions.user_r, asked_u),
        _chosen_of_users(clicks, asked_u, how),
        f"canonical split of {dataset.name}: {how.what}",
    )


def _chosen_of_users(clicks: Dataset, asked_u: IntArray, how: StrongSplit) -> BoolArray:
    """Return marks of the hidden items, drawn user by user among items in the order of their ids.

    The code of Liang et al. (2018) draws so, with the same seed as for the permutation of users.
    """
    rng = np.random.RandomState(how.seed)
    by_item = np.lexsort((clicks.interactions.item_r, clicks.interactions.user_r))
    hidden_r = np.zeros(len(clicks), dtype=bool)
    for start, end in zip(clicks.pointers[asked_u], clicks.pointers[asked_u + 1], strict=True):
        n_hidden = max(1, int(how.hidden * (end - start)))
        drawn = rng.choice(end - start, n_hidden, replace=False)
        hidden_r[by_item[start + drawn]] = True
    return hidden_r


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
        UsageError: There is no such split, or it holds out users.
        DataError: The Dataset is not the whole data set.
    """
    canonical = _canonical(dataset, name, which)
    if isinstance(canonical, StrongSplit):
        raise UsageError(
            f"the split {which!r} of {name!r} holds out users.", fix="Ask `split` for its parts."
        )
    return canonical.test(dataset)


def _canonical(dataset: Dataset, name: str, which: str) -> CanonicalSplit | StrongSplit:
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
_ML_1M_SPLITS: dict[str, CanonicalSplit | StrongSplit] = {
    "strong": StrongSplit(f"{_STRONG}; {_LEGACY}(98765)", 1_000_209, validation=False),
    "strong-validation": StrongSplit(
        f"the tenth before: {_STRONG}; {_LEGACY}(98765)", 1_000_209, validation=True
    ),
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

CANONICAL: Mapping[str, Mapping[str, CanonicalSplit | StrongSplit]] = {
    "ml-100k": _ML_100K_SPLITS,
    "ml-1m": _ML_1M_SPLITS,
    "ml-latest-small": _SMALL_SPLITS,
    "gowalla-lightgcn": _GOWALLA_SPLITS,
}
