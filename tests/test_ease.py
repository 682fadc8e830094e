from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.errors import ModelError
from foretaste.models import ease
from foretaste.models.ease import EASE, ease_weights, ease_weights_of_few


def test_each_ease_column_is_a_ridge_regression_on_the_other_items():
    rng = np.random.default_rng(0)
    X = (rng.random((50, 8)) < 0.3).astype(float)
    B = ease_weights(torch.from_numpy(X.T @ X), l2=2.0).numpy()
    for j in range(8):
        rest = [i for i in range(8) if i != j]
        A, b = X[:, rest], X[:, j]
        ridge = np.linalg.solve(A.T @ A + 2.0 * np.eye(7), A.T @ b)
        np.testing.assert_allclose(B[rest, j], ridge, rtol=1e-5, atol=1e-6)
        assert B[j, j] == 0.0


def test_dropout_is_the_regression_on_histories_of_which_that_share_is_hidden():
    rng = np.random.default_rng(0)
    X = (rng.random((60, 5)) < 0.5).astype(float)
    hidden = np.concatenate([X * (rng.random(X.shape) >= 0.4) / 0.6 for _ in range(4000)])
    B = ease_weights(torch.from_numpy(X.T @ X), l2=1e-9, dropout=0.4).numpy()
    rest = [0, 1, 3, 4]
    found = np.linalg.lstsq(hidden[:, rest], np.tile(X[:, 2], 4000), rcond=None)[0]
    np.testing.assert_allclose(B[rest, 2], found, atol=0.01)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_where_users_are_few_a_smaller_system_gives_the_same_weights(dropout):
    rng = np.random.default_rng(2)
    X = torch.from_numpy((rng.random((30, 80)) < 0.2) * rng.random((30, 80)))
    large = ease_weights(X.T @ X, 0.5, dropout)
    small = ease_weights_of_few(X, 0.5, dropout)
    torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-7)
    assert large.is_contiguous()  # a score sums rows
    assert small.is_contiguous()


def test_only_what_was_liked_counts():
    frame = pl.DataFrame(
        {"user": [1, 1, 2, 2, 3, 3], "item": list("ababac"), "rating": [5, 4, 5, 5, 1, 5]}
    )
    model = ft.fit(EASE(l2=0.5, fallback="none"), ft.from_frame(frame), progress=False)
    scores = model.recommend(history=["a"], k=2)
    assert scores["item"].to_list() == ["b", "c"]  # user 3 did not like a
    assert scores["score"][1] == pytest.approx(0.0, abs=1e-6)
    disliked = model.recommend(history={"a": 1.0}, k=2)
    assert disliked["score"].to_list() == pytest.approx([0.0, 0.0])


def test_clicks_all_count(ratings):
    clicks = ft.from_frame(ratings.frame().drop("value"))
    recommender = ft.fit(EASE(l2=10.0), clicks, progress=False)
    assert recommender.recommend(history=["i1", "i2"], k=3)["score"].to_numpy().min() > 0


def test_it_beats_popularity_where_tastes_differ():
    """Two groups of users who like different halves of the items."""
    rng = np.random.default_rng(1)
    user, item = np.nonzero(rng.random((80, 40)) < 0.4)
    same = (user % 2) == (item % 2)
    clicks = ft.from_frame(pl.DataFrame({"user": user[same], "item": item[same]}))
    parts = ft.split(clicks, "users", test=0.25, seed=0)
    ndcg = [
        ft.evaluate(ft.fit(model, parts.train, progress=False), parts).metrics["ndcg@10"].value
        for model in (EASE(l2=20.0), ft.Popularity())
    ]
    assert ndcg[0] > 1.3 * ndcg[1]


def test_a_catalogue_that_is_too_large_is_refused_with_what_it_would_take(ratings, monkeypatch):
    monkeypatch.setattr(ease, "MAX_BYTES", 1 << 10)
    with pytest.raises(
        ModelError,
        match=r"ease needs 2\.98e-05 GiB for 40 items, more than 9\.54e-07\. "
        r"Use sparse-ease, which does not grow with items squared, or graph-filter\.",
    ):
        ft.fit(EASE(), ratings, progress=False)
