"""Repeats: where events repeat, every one is kept, and lists may hold what was seen."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.data.histories import Histories


def weeks(repeats: bool, ratings: bool = False, users: int = 30, n_weeks: int = 8) -> pl.DataFrame:
    """Users who buy one of their three favourites every week, or something new."""
    rng = np.random.default_rng(0)
    rows = []
    for u in range(users):
        favourites = rng.choice(12, 3, replace=False)
        for week in range(n_weeks):
            item = rng.choice(favourites) if repeats else (u + 5 * week) % 40
            rows.append((f"u{u}", f"i{item:02}", 1_600_000_000 + week * 604_800 + u))
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return (
        frame.with_columns(rating=pl.Series(rng.integers(1, 6, len(frame)))) if ratings else frame
    )


def test_events_that_repeat_are_all_kept_and_the_report_says_so():
    data = ft.from_frame(weeks(repeats=True))
    assert len(data) == 240
    assert data.keeps_repeats
    assert not data.exclude_seen
    assert any("of the events repeat what the user had before" in n for n in data.report.notes)


@pytest.mark.parametrize("frame", [weeks(repeats=False), weeks(repeats=True, ratings=True)])
def test_new_items_and_ratings_keep_one_row_each_and_leave_out_what_was_seen(frame):
    data = ft.from_frame(frame)
    assert data.report.duplicates == "last"
    assert data.exclude_seen
    assert len(data) == frame.select("user", "item").n_unique()


def test_few_repeats_are_merged_as_noise():
    frame = weeks(repeats=False)
    data = ft.from_frame(pl.concat([frame, frame.head(10).with_columns(pl.col("time") + 1)]))
    assert len(data) == 240
    assert data.report.merged == 10


def test_weekly_purchases_are_found_under_a_time_split():
    parts = ft.split(ft.from_frame(weeks(repeats=True)), "time", test=0.2)
    fitted = ft.fit(ft.ALS(n_factors=8), parts.train, progress=False)
    report = ft.evaluate(fitted, parts, k=5)
    assert report.summary()["metrics"]["recall@5"]["value"] > 0.8


def test_a_request_may_say_otherwise():
    fitted = ft.fit(ft.Popularity(), ft.from_frame(weeks(repeats=True)), progress=False)
    seen = set(fitted.dataset.frame().filter(user="u1")["item"].to_list())
    as_data_are = set(fitted.recommend("u1", k=12)["item"].to_list())
    left_out = set(fitted.recommend("u1", k=12, exclude_seen=True)["item"].to_list())
    assert seen <= as_data_are
    assert not seen & left_out


def test_repeats_weigh_as_one_like_or_by_the_logarithm_of_their_number():
    data = ft.from_frame(
        {"user": ["a"] * 4 + ["b"], "item": ["x", "x", "x", "y", "x"]}, duplicates="keep"
    )
    uniform = ft.EASE().learn_likes(data).toarray()
    counted = ft.EASE(weighting="log").learn_likes(data).toarray()
    assert uniform.tolist() == [[1, 1], [1, 0]]
    np.testing.assert_allclose(counted, [[2, 1], [1, 0]])


def test_a_history_that_comes_with_a_request_keeps_repeats_where_the_data_do():
    from foretaste.recommending.request import new_user

    lengths = [
        len(new_user(ft.from_frame(weeks(repeats=r)), ["i01", "i05", "i01"])[0].item_h)
        for r in (True, False)
    ]
    assert lengths == [3, 2]


def test_newer_events_stand_beside_older_ones_where_repeats_are_kept():
    import torch

    old = Histories.of_one(np.array([1, 2]), np.ones(2), np.array([10, 20]))
    new = torch.tensor([2]), torch.tensor([1.0]), torch.tensor([30])
    assert old.with_events(*new).item_h.tolist() == [1, 2]
    assert old.with_events(*new, keep=True).item_h.tolist() == [1, 2, 2]


def test_retraining_keeps_repeats(tmp_path):
    from foretaste.service.records import Event
    from foretaste.service.retraining import retrain
    from foretaste.service.store import Store

    fitted = ft.fit(ft.ItemKNN(), ft.from_frame(weeks(repeats=True)), progress=False)
    store = Store.open(f"sqlite:///{tmp_path / 'events.sqlite'}")
    store.add([Event("u1", "i01", None, 1_700_000_000_000 + n) for n in range(3)])
    again = retrain(fitted, store)
    assert len(again.dataset) == 243
    assert again.dataset.keeps_repeats
