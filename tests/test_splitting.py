from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.data.canonical import SPLITS
from foretaste.errors import DataError, UsageError
from tests.conftest import synthetic


def pairs(dataset):
    return set(dataset.frame().select("user", "item").iter_rows())


@pytest.mark.parametrize("how", SPLITS)
def test_every_interaction_lies_in_exactly_one_part(how, ratings):
    parts = ft.split(ratings, how, test=0.2, seed=5)
    if how == "next-item":  # what is known of users is all that is not tested on
        assert pairs(parts.train) < pairs(parts.history)
        parts = dataclasses.replace(parts, train=parts.history)
    every = [parts.train, parts.test] + ([] if parts.history is parts.train else [parts.history])
    assert sum(len(part) for part in every) == len(ratings)
    assert set.union(*(pairs(part) for part in every)) == pairs(ratings)


@pytest.mark.parametrize("how", SPLITS)
def test_train_equals_a_dataset_read_from_a_file_without_the_test_rows(how, ratings):
    parts = ft.split(ratings, how, test=0.2, seed=5)
    rows = ratings.frame().join(parts.train.frame(), on=["user", "item"], how="semi")
    read = ft.from_frame(rows)
    assert read.fingerprint == parts.train.fingerprint
    assert read.scale == parts.train.scale


@pytest.mark.parametrize("how", SPLITS)
def test_nothing_of_the_test_reaches_training(how, ratings):
    """Ratings of the test part are turned upside down: what is learned must not change."""
    parts = ft.split(ft.from_frame(ratings.frame()), how, test=0.2, seed=5)
    hidden = parts.test.frame().select("user", "item", test=True)
    frame = ratings.frame().join(hidden, on=["user", "item"], how="left", maintain_order="left")
    flipped = frame.with_columns(
        value=pl.when("test").then(6 - pl.col("value")).otherwise(pl.col("value"))
    ).drop("test")
    poisoned = ft.split(ft.from_frame(flipped), how, test=0.2, seed=5)
    assert poisoned.train.fingerprint == parts.train.fingerprint
    assert poisoned.test.fingerprint != parts.test.fingerprint
    honest, fooled = (ft.fit(ft.Bias(), p.train, progress=False) for p in (parts, poisoned))
    assert honest.recommend(history=["i1"]).equals(fooled.recommend(history=["i1"]))


def test_a_random_split_does_not_depend_on_how_users_are_named(ratings):
    frame = ratings.frame()
    order = np.argsort(ratings.interactions.order_r)
    renamed = frame[order].with_columns(pl.col("user").str.reverse())
    a = ft.split(ft.from_frame(frame[order]), "random", seed=1).test.frame()
    b = ft.split(ft.from_frame(renamed), "random", seed=1).test.frame()
    b = b.with_columns(pl.col("user").str.reverse())
    assert pairs_of(a) == pairs_of(b)


def pairs_of(frame):
    return set(frame.select("user", "item").iter_rows())


def test_leave_last_takes_the_newest_and_file_order_breaks_ties():
    frame = pl.DataFrame(
        {"user": ["a", "a", "a", "b", "b", "c"], "item": [1, 2, 3, 1, 2, 9], "rating": [1.0] * 6,
         "time": [20, 30, 10, 5, 5, 1]}
    )  # fmt: skip
    test = ft.split(ft.from_frame(frame), "leave-last").test
    assert pairs(test) == {("a", 2), ("b", 2)}


def test_a_time_split_puts_everything_newer_in_the_test():
    parts = ft.split(synthetic(seed=2), "time", test=0.1)
    train, test = (part.interactions.time_r for part in (parts.train, parts.test))
    assert train is not None
    assert test is not None
    assert train.max() < test.min()


def test_held_out_users_are_folded_in_from_the_rest_of_their_items(ratings):
    parts = ft.split(ratings, "users", test=0.2, seed=1, hidden=0.2)
    held = set(parts.test.users.values)
    assert not held & set(parts.train.users.values)
    assert held == set(parts.history.users.values)
    n_all = dict(ratings.frame().group_by("user").len().iter_rows())
    for user, hidden in parts.test.frame().group_by("user").len().iter_rows():
        assert hidden == max(1, int(0.2 * n_all[user]))


def test_validation_is_carved_from_train(ratings):
    outer = ft.split(ratings, "random", seed=1)
    inner = ft.split(outer.train, "random", seed=1)
    assert not pairs(inner.test) & pairs(outer.test)
    assert pairs(inner.train) | pairs(inner.test) == pairs(outer.train)


def test_errors_say_what_to_do(ratings):
    with pytest.raises(DataError, match="frame: a time split needs times"):
        ft.split(synthetic(times=False), "time")
    with pytest.raises(UsageError, match="Fractions lie between 0 and 1"):
        ft.split(ratings, test=1.5)
    one_each = ft.from_frame(pl.DataFrame({"user": [1, 2], "item": [1, 1], "rating": [1.0, 2.0]}))
    with pytest.raises(DataError, match="the 'leave-last' split leaves no interaction for test"):
        ft.split(one_each, "leave-last")


def test_next_item_tests_on_the_last_and_keeps_the_one_before_it_out_of_train():
    rows = [("a", i, t) for t, i in enumerate("vwxy")] + [("b", "x", 0), ("b", "v", 1)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    parts = ft.split(ft.from_frame(frame), "next-item")
    assert parts.test.frame().select("user", "item").rows() == [("a", "y")]
    assert parts.history.frame().filter(user="a")["item"].to_list() == ["v", "w", "x"]
    assert parts.train.frame().filter(user="a")["item"].to_list() == ["v", "w"]
    assert parts.train.frame().filter(user="b")["item"].to_list() == ["x", "v"]
