from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.errors import ModelError

DAY = 86_400
LIKES = (ft.EASE, ft.ALS, ft.GraphFilter, ft.ItemKNN)


def weights(model, dataset: ft.Dataset) -> np.ndarray:
    """What the model sees of the data it is fitted to, (users, items)."""
    return model.learn_likes(dataset).toarray()


def stars(*values: float) -> ft.Dataset:
    frame = pl.DataFrame({"user": [1] * len(values), "item": range(len(values)), "rating": values})
    return ft.from_frame(frame)


def test_ratings_below_the_border_weigh_nothing_and_the_rest_alike():
    assert weights(ft.EASE(), stars(1, 3, 4, 5)).tolist() == [[0, 0, 1, 1]]
    assert weights(ft.EASE(positive_threshold=3), stars(1, 3, 4, 5)).tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("values", "liked"),
    [((-3, 1, 7), [0, 1, 1]), ((1, 1, 1), [1, 1, 1]), ((-3.0, 0.0, 0.5), [0, 0, 1])],
)
def test_clicks_are_liked_where_their_weight_is_above_zero(values, liked):
    clicks = replace(stars(*values), explicit=False)
    assert weights(ft.EASE(), clicks).tolist() == [liked]


def test_no_click_is_liked_where_no_weight_is_above_zero():
    clicks = replace(stars(-3, -1, 0), explicit=False)
    with pytest.raises(ModelError, match=r"ease learns from what is liked, and nothing is"):
        ft.fit(ft.EASE(), clicks, progress=False)


def test_graded_weights_are_shares_of_the_scale():
    seen = weights(ft.EASE(weighting="graded", positive_threshold=2.0), stars(1, 2, 3, 4, 5))
    np.testing.assert_allclose(seen, [[0, 0.4, 0.6, 0.8, 1.0]], rtol=1e-6)


def test_counts_weigh_their_logarithm():
    counts = stars(1, 3, 7)
    seen = weights(ft.EASE(weighting="log", positive_threshold=0.0), counts)
    np.testing.assert_allclose(seen, [[1, 2, 3]], rtol=1e-6)


def test_a_half_life_halves_the_weight_of_what_is_that_old():
    frame = pl.DataFrame({"user": [1, 1, 2], "item": [0, 1, 0], "time": [0, 10 * DAY, 20 * DAY]})
    clicks = ft.from_frame(frame)
    model = ft.EASE(half_life_days=10)
    np.testing.assert_allclose(weights(model, clicks), [[0.25, 0.5], [1, 0]], rtol=1e-6)


def test_users_who_like_much_can_weigh_less_in_each_like_in_training_and_in_serving():
    user, item = [1] * 4 + [2] * 2, [0, 1, 2, 3, 0, 1]  # 4 and 2 likes: 3 on average
    clicks = ft.from_frame(pl.DataFrame({"user": user, "item": item}))
    model = ft.ALS(activity_power=0.5)
    once, twice = (4 / 3) ** -0.5, (2 / 3) ** -0.5
    expected = [[once] * 4, [twice, twice, 0, 0]]
    np.testing.assert_allclose(weights(model, clicks), expected, rtol=1e-6)
    new_user = histories_of(clicks, np.array([1]), clicks)
    np.testing.assert_allclose(model.likes(new_user, 4).toarray(), [expected[1]], rtol=1e-6)
    assert model.likes(histories_of(clicks, np.array([-1]), clicks), 4).nnz == 0


def test_dislikes_are_what_is_below_the_border_and_weigh_by_their_age():
    frame = pl.DataFrame(
        {"user": [1, 1, 1, 2], "item": [0, 1, 2, 0], "rating": [2, 5, 3, 5],
         "time": [0, 0, 10 * DAY, 20 * DAY]}
    )  # fmt: skip
    dataset = ft.from_frame(frame)
    everyone = histories_of(dataset, np.arange(2), dataset)
    for model, expected in ((ft.ALS(), [1, 0, 1]), (ft.ALS(half_life_days=10), [0.25, 0, 0.5])):
        model.learn_likes(dataset)
        dislikes_ui = model.dislikes(everyone, 3)
        np.testing.assert_allclose(dislikes_ui.toarray(), [expected, [0, 0, 0]], rtol=1e-6)
        assert dislikes_ui.dtype == np.float32


def test_a_half_life_without_times_is_an_error():
    with pytest.raises(ModelError, match=r"half_life_days needs times\. Name the column of times"):
        ft.fit(ft.EASE(half_life_days=10), stars(4, 5), progress=False)


@pytest.mark.parametrize("kind", LIKES)
def test_recent_likes_count_more_in_training_and_in_serving(kind, ratings):
    alike, recent = kind(), kind(half_life_days=30.0)
    recommenders = [ft.fit(model, ratings, progress=False) for model in (alike, recent)]
    models: list[Any] = [recommender.model for recommender in recommenders]
    alike, recent = models
    batch = histories_of(ratings, np.arange(5), ratings)
    seen = [model.likes(batch, len(ratings.items)).toarray() for model in (alike, recent)]
    assert (seen[1] <= seen[0]).all()
    assert (seen[1] < seen[0]).any()
    assert not alike.score(batch).equal(recent.score(batch))
    assert len(recommenders[1].recommend(history=["i1", "i2"], k=5)) == 5  # no times: all recent
