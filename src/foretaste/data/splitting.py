"""Splits: what a model may learn from, what it may be shown of a user, and what it must find."""

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
    """Three Datasets without a row in common, except that `history` is `train` for users in it.

    train: all that `fit` sees, with ids of its own: a user or item of the test alone is not in it.
    history: what the model may be shown of the test users (`train`, or the fold-in of held-out
    users). test: what must be predicted or found.  protocol: the split in words, for reports.
    """

    train: Dataset
    history: Dataset
    test: Dataset
    protocol: str


def split(
    dataset: Dataset, how: str = "random", *, test: float = 0.2, seed: int = 0, hidden: float = 0.2
) -> Split:
    """Divide a Dataset into what is learned from and what is tested on.

    how: "random" (interactions), "leave-last" (each user's last one), "time" (the newest), "users"
    (held-out users, folded in from all but `hidden` of their interactions), or the name of a
    canonical split of a catalog data set ("u1", "article", "strong").  test: fraction of
    interactions or of users.
    Validation data is carved from `split.train` by the same function.
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
    """Splits whose test parts are disjoint and together the whole: random interactions."""
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
    """Marks drawn in file order, so that they do not depend on how interactions are sorted."""
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
    return time_r >= border  # rows of one moment stay together


def _held_out_users(dataset: Dataset, test: float, hidden: float, seed: int) -> Split:
    """Strong generalisation: of each held-out user a fraction is hidden (rounded down, at least one)."""
    rng = np.random.default_rng(seed)
    n_users = len(dataset.users)
    held_u = np.zeros(n_users, dtype=bool)
    held_u[rng.permutation(n_users)[: round(test * n_users)]] = True
    held_u &= np.diff(dataset.pointers) > 1  # nothing to fold in from a single interaction
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

    rows: interactions of the whole data set.  test: takes it, gives the (interactions,) bool array
    of its test part.
    """

    what: str
    rows: int
    test: Callable[[Dataset], BoolArray]


@dataclass(frozen=True)
class StrongSplit:
    """Strong generalisation as published: whole users held out, from ratings made clicks.

    rows: interactions of the whole data set.  positive_threshold: the lowest rating that is kept.
    least: of them a user must have.  seed: of the permutation of users and of the hidden items.
    validation: test on the tenth before the last one, and leave the last one out altogether.
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
    """Train on eight tenths of the users, whichever of the other two is tested on."""
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
    """Marks of the hidden items: drawn user by user, each one's items in the order of their ids.

    So does the code of Liang et al. 2018, with the seed that the permutation has too.
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
    """The published splits of a data set: name, and what it is."""
    return {which: split.what for which, split in CANONICAL.get(name, {}).items()}


def canonical_test(dataset: Dataset, name: str, which: str) -> BoolArray:
    """Which interactions of a whole catalog data set the published split `which` tests on.

    Returns (interactions,) bool.
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
