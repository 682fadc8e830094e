"""Histories against plain lists of entries, one for each user."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foretaste as ft
from foretaste.data.histories import Histories, histories_of
from tests.conftest import synthetic


class E(NamedTuple):
    item: int
    value: float
    time: int


entry = st.builds(E, st.integers(0, 9), st.sampled_from([1.0, 2.5, 4.0]), st.integers(0, 99))
users_of = st.lists(st.lists(entry, max_size=6), max_size=5)


def made(users: list[list[E]], times: bool = True) -> Histories:
    """The same as arrays, written out entry by entry."""
    flat = [e for user in users for e in user]
    return Histories(
        torch.tensor(np.cumsum([0, *map(len, users)])),
        torch.tensor([e.item for e in flat], dtype=torch.int64),
        torch.tensor([e.value for e in flat], dtype=torch.float32),
        torch.tensor([e.time for e in flat], dtype=torch.int64) if times else None,
        torch.arange(len(users)),
    )


def lists(histories: Histories) -> list[list[E]]:
    """Back to lists, one user at a time."""
    assert histories.time_h is not None
    bounds = histories.pointer_b.tolist()
    return [
        [
            E(*line)
            for line in zip(
                histories.item_h[low:high].tolist(), histories.value_h[low:high].tolist(),
                histories.time_h[low:high].tolist(), strict=True,
            )
        ]
        for low, high in pairwise(bounds)
    ]  # fmt: skip


@given(users_of)
def test_histories_are_what_was_put_in(users):
    histories = made(users)
    assert len(histories) == len(users)
    assert lists(histories) == users
    assert histories.length_b.tolist() == list(map(len, users))
    assert histories.user_h.tolist() == [b for b, user in enumerate(users) for _ in user]


@given(users_of, st.data())
def test_a_slice_and_a_choice_of_users_are_those_of_a_list(users, data):
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(users))] * 2)))
    assert lists(made(users)[start:stop]) == users[start:stop]
    if users:
        chosen = data.draw(st.lists(st.integers(0, len(users) - 1), max_size=7))
        taken = made(users).take(torch.tensor(chosen, dtype=torch.int64))
        assert lists(taken) == [users[b] for b in chosen]
        assert taken.train_row_b.tolist() == chosen


@given(users_of, st.integers(0, 7))
def test_the_first_and_the_last_entries_are_those_of_new_users(users, n):
    first, last = made(users).first(n), made(users).last(n)
    assert lists(first) == [user[:n] for user in users]
    assert lists(last) == [user[len(user) - min(n, len(user)) :] for user in users]
    assert (first.train_row_b == -1).all()
    assert (last.train_row_b == -1).all()


@given(users_of)
def test_some_entries_and_entries_by_time_keep_their_users(users):
    histories = made(users)
    liked = histories.only(histories.value_h >= 2.5)
    assert lists(liked) == [[e for e in user if e.value >= 2.5] for user in users]
    assert histories.time_h is not None
    by_time = histories.sorted_by(histories.time_h)
    assert lists(by_time) == [sorted(user, key=lambda e: e.time) for user in users]


@given(st.lists(users_of, max_size=4))
def test_parts_are_laid_end_to_end(parts):
    whole = Histories.concat([made(users) for users in parts])
    entries = [user for users in parts for user in users]
    assert [len(user) for user in entries] == whole.length_b.tolist()
    if any(entries):
        assert lists(whole) == entries


@given(users_of, users_of)
def test_times_are_kept_only_where_every_part_with_an_entry_has_them(timed, untimed):
    whole = Histories.concat([made(timed), made(untimed, times=False)])
    if any(untimed):
        assert whole.time_h is None
    elif any(timed):
        assert whole.time_h is not None
    assert whole.length_b.tolist() == [len(user) for user in [*timed, *untimed]]


def test_lines_of_user_features_stay_with_their_users():
    some, none = made([[E(1, 1.0, 0)]]), made([[], []])
    camps = [
        Histories(*list(vars(some).values())[:5], user_features=pl.DataFrame({"camp": [camp]}))
        for camp in ("even", "odd")
    ]
    whole = Histories.concat([camps[0], none, camps[1]])
    assert whole.user_features is not None
    assert whole.user_features["camp"].to_list() == ["even", None, None, "odd"]
    assert whole[1:].user_features["camp"].to_list() == [None, None, "odd"]  # type: ignore[index]
    assert Histories.concat([none, none]).user_features is None


@given(st.lists(entry, max_size=8), st.lists(entry, max_size=5, unique_by=lambda e: e.item))
def test_newer_events_take_the_place_of_entries_of_the_same_items(before, events):
    events.sort(key=lambda e: e.time)
    item_n, value_n, time_n = (
        torch.tensor([e[column] for e in events], dtype=dtype)
        for column, dtype in enumerate((torch.int64, torch.float32, torch.int64))
    )
    newer = {e.item for e in events}
    expected = [e for e in before if e.item not in newer] + events
    grown = made([before]).with_events(item_n, value_n, time_n)
    assert grown.train_row_b.tolist() == [-1]
    if grown.time_h is not None:
        assert lists(grown) == [sorted(expected, key=lambda e: e.time)]
    untimed = made([before], times=False).with_events(item_n, value_n, None)
    assert untimed.item_h.tolist() == [e.item for e in expected]
    assert untimed.time_h is None


def test_events_on_a_history_without_times_come_last():
    grown = made([[E(3, 1.0, 0), E(4, 1.0, 0)]], times=False).with_events(
        torch.tensor([3]), torch.tensor([5.0]), torch.tensor([77])
    )
    assert grown.item_h.tolist() == [4, 3]
    assert grown.time_h is None


@given(users_of)
def test_pairs_and_a_matrix_say_the_same(users):
    histories = made(users)
    again = Histories.from_pairs(histories.user_h, histories.item_h, len(users), histories.value_h)
    assert again.pointer_b.tolist() == histories.pointer_b.tolist()
    x_bi = again.dense(10)
    for b, user in enumerate(users):
        assert set(x_bi[b].nonzero()[:, 0].tolist()) == {e.item for e in user}


def test_histories_of_a_dataset_are_its_rows_and_those_of_another_lack_unknown_items():
    ratings = synthetic()
    mine = histories_of(ratings, np.array([3, -1, 0]), ratings)
    assert mine.train_row_b.tolist() == [3, -1, 0]
    for b, row in ((0, 3), (2, 0)):
        frame = ratings.frame().filter(user=str(ratings.users.values[row]))
        one = mine[b : b + 1]
        assert ratings.items[one.item_h.numpy()].to_list() == frame["item"].to_list()
        assert one.value_h.tolist() == frame["value"].to_list()
    assert mine.length_b[1] == 0
    fewer = ratings.take(ratings.interactions.item_r != 5)
    others = histories_of(ratings, np.arange(len(ratings.users)), fewer)
    assert len(others.item_h) == (ratings.interactions.item_r != 5).sum()
    assert (others.train_row_b == -1).all()


@pytest.mark.parametrize("rule", ["keep", "last", "sum"])
def test_repeated_events_may_be_kept(rule):
    plays = pl.DataFrame({"user": [1, 1, 1, 2], "item": [7, 7, 8, 7], "time": [10, 20, 15, 5]})
    clicks = ft.from_frame(plays, duplicates=rule)
    one = histories_of(clicks, np.array([0]), clicks)
    expected = {"keep": [0, 1, 0], "last": [1, 0], "sum": [1, 0]}[rule]
    assert one.item_h.tolist() == expected
    assert clicks.report.merged == {"keep": 0, "last": 1, "sum": 1}[rule]
