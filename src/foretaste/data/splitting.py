"""Splits: what a model may learn from, what it may be shown of a user, and what it must find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretaste.data.catalog import canonical_test
from foretaste.data.dataset import Dataset
from foretaste.data.interactions import BoolArray
from foretaste.errors import DataError, UsageError

SPLITS = ("random", "leave-last", "time", "users")


@dataclass(frozen=True, eq=False)
class Split:
    """Three Datasets without a row in common, except that `history` is `train` for users in it.

    train: all that `fit` sees, with ids of its own: a user or item of the test alone is not in it.
    history: what the model may be shown of the test users (`train`, or the fold-in of held-out users).
    test: what must be predicted or found.  protocol: the split in words, for reports.
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
    (held-out users, folded in from all but `hidden` of their interactions), or the name of a canonical
    split of a catalog data set ("u1", "article").  test: fraction of interactions or users.
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
    else:
        test_r = canonical_test(dataset, dataset.name, how)
        protocol = f"canonical split {how!r} of {dataset.name}"
    train = _part(dataset, ~test_r, how, "train")
    return Split(train, train, _part(dataset, test_r, how, "test"), protocol)


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
    return time_r >= border      # rows of one moment stay together


def _held_out_users(dataset: Dataset, test: float, hidden: float, seed: int) -> Split:
    """Strong generalisation: of each held-out user a fraction is hidden (floor, at least one)."""
    rng = np.random.default_rng(seed)
    n_users = len(dataset.users)
    length_u = np.diff(dataset.pointers)
    held_u = np.zeros(n_users, dtype=bool)
    held_u[rng.permutation(n_users)[: round(test * n_users)]] = True
    held_u &= length_u > 1       # nothing to fold in from a single interaction
    user_r = dataset.interactions.user_r
    shuffled = np.lexsort((rng.random(len(dataset)), user_r))
    place_r = np.empty(len(dataset), dtype=np.int64)
    place_r[shuffled] = np.arange(len(dataset)) - dataset.pointers[:-1][user_r]
    n_hidden_u = np.maximum(1, np.floor(hidden * length_u))
    held_r = held_u[user_r]
    test_r = held_r & (place_r < n_hidden_u[user_r])
    return Split(
        _part(dataset, ~held_r, "users", "train"),
        _part(dataset, held_r & ~test_r, "users", "history"),
        _part(dataset, test_r, "users", "test"),
        f"{test:.0%} of users held out, {hidden:.0%} of their items hidden, the rest folded in, "
        f"seed {seed}",
    )
