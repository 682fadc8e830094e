from __future__ import annotations

import numpy as np
import polars as pl

import foretaste as ft
from foretaste.data.histories import histories_of
from tests.conftest import synthetic


def scores(model, dataset: ft.Dataset) -> np.ndarray:
    fitted = ft.fit(model, dataset, progress=False)
    return fitted.model.score(histories_of(dataset, np.arange(len(dataset.users)), dataset)).numpy()


def test_where_all_other_items_are_neighbours_it_is_ease():
    clicks = ft.from_frame(synthetic().frame().drop("value"))  # any two items share a user
    found, expected = (
        scores(kind(l2=7.0, dropout=0.2, activity_power=0.3), clicks)
        for kind in (ft.SparseEASE, ft.EASE)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_each_column_is_a_ridge_regression_on_the_items_of_the_highest_cosine():
    rng = np.random.default_rng(0)
    X = (rng.random((80, 9)) < 0.4).astype(float)
    X[X.sum(axis=1) == 0, 0] = 1
    user, item = np.nonzero(X)
    found = scores(
        ft.SparseEASE(l2=2.0, neighbours=3),
        ft.from_frame(pl.DataFrame({"user": user, "item": item})),
    )
    cosine = X.T @ X / np.sqrt(np.outer(X.sum(axis=0), X.sum(axis=0)))
    np.fill_diagonal(cosine, 0)
    for j in range(9):
        near = np.argsort(-cosine[j])[:3]
        A, b = X[:, near], X[:, j]
        expected = A @ np.linalg.solve(A.T @ A + 2.0 * np.eye(3), A.T @ b)
        np.testing.assert_allclose(found[:, j], expected, rtol=1e-4, atol=1e-5)


def test_an_item_that_shares_no_user_with_others_scores_nothing():
    clicks = ft.from_frame(pl.DataFrame({"user": [1, 1, 2, 2, 3], "item": list("ababc")}))
    score_ui = scores(ft.SparseEASE(), clicks)
    assert (score_ui[:, 2] == 0).all()
    assert score_ui[0, 0] > 0
