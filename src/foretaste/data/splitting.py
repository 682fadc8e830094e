"""Splits: what a model may learn from, what it may be shown of a user, and what it must find.

The module does not know models: it divides interactions, whoever is tested on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from foretaste.data.canonical import NextItemSplit, StrongSplit, canonical, canonical_splits
from foretaste.data.dataset import Dataset
from foretaste.data.interactions import BoolArray, IntArray
from foretaste.errors import DataError, UsageError


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
            user, "next-item" likewise, without training on the one before it, which is kept for
            validation, "time" on the newest ones, and "users" on users who are not trained on. The
            name of a canonical split of a catalog data set, such as "u1", "article" or "strong",
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
    elif how == "next-item" and how not in canonical_splits(dataset.name):
        return _next_item(dataset, NextItemSplit("each user's last interaction", len(dataset)))
    else:
        published = canonical(dataset, dataset.name, how)
        if isinstance(published, StrongSplit):
            return _strong(dataset, published)
        if isinstance(published, NextItemSplit):
            return _next_item(dataset, published)
        test_r = published.test(dataset)
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


def _next_item(dataset: Dataset, how: NextItemSplit) -> Split:
    """Test on the last interaction of users with three, and keep the one before it out of train."""
    count_i = np.bincount(dataset.interactions.item_r, minlength=len(dataset.items))
    kept = dataset.take(count_i[dataset.interactions.item_r] >= how.least)
    user_r = kept.interactions.user_r
    left_r = kept.pointers[1:][user_r] - np.arange(len(kept))
    left_r = np.where(np.diff(kept.pointers)[user_r] >= 3, left_r, 3)
    return Split(
        _part(kept, left_r > 2, "next-item", "train"),
        _part(kept, left_r > 1, "next-item", "history"),
        _part(kept, left_r == 1, "next-item", "test"),
        f"next item: {how.what}; users with three interactions or more",
    )


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
