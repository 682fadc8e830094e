# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import numpy as np
import polars as pl
import torch
from scipy import sparse

import foretaste as ft
from foretaste.models.aligned import ridge
from foretaste.models.base import UserBatch, batch_of
from tests.test_cold_start import worlds


def test_the_regression_is_the_ridge_that_linear_algebra_gives():
    rng = np.random.default_rng(0)
    F_if, Y_id = rng.normal(size=(50, 12)) * (rng.random((50, 12)) < 0.4), rng.normal(size=(50, 3))
    weight_i = rng.random(50)
    exact = np.linalg.solve(
        F_if.T @ np.diag(weight_i) @ F_if + 2.0 * np.eye(12), F_if.T @ np.diag(weight_i) @ Y_id
    )
    found = ridge(sparse.csr_matrix(F_if), Y_id, weight_i, 2.0)
    np.testing.assert_allclose(found, exact, atol=1e-3)


def test_more_features_than_items_are_no_trouble():
    rng = np.random.default_rng(1)
    F_if, Y_id = rng.normal(size=(20, 200)), rng.normal(size=(20, 2))
    dual = F_if.T @ np.linalg.solve(F_if @ F_if.T + 5.0 * np.eye(20), Y_id)
    found = ridge(sparse.csr_matrix(F_if), Y_id, np.ones(20), 5.0)
    np.testing.assert_allclose(found, dual, atol=1e-3)


def test_a_new_item_is_offered_to_those_who_like_its_kind():
    ratings = worlds()
    model = ft.fit(ft.AlignedALS(n_factors=4), ratings, progress=False).model
    new = pl.DataFrame({"item": ["n-red", "n-blue"], "kind": ["red", "blue"]})
    extended = model.with_items(new)
    n_items = len(ratings.items)
    assert len(extended.item_vectors()) == n_items + 2
    assert torch.equal(extended.item_vectors()[:n_items], model.item_vectors())
    assert len(model.item_vectors()) == n_items, "the model itself stays as it was"
    everyone = batch_of(ratings, np.arange(len(ratings.users)), ratings)
    assert torch.equal(extended.score(everyone)[:, :n_items], model.score(everyone))
    batch = batch_of(ratings, np.array([0, 1]), ratings)
    red, blue = extended.score(batch)[:, n_items:]
    likes_red = ratings.users.values[0] % 2 == 0
    assert (red[0] > red[1]) == likes_red
    assert (blue[0] > blue[1]) != likes_red


def test_without_columns_a_new_item_is_the_mean_one(ratings):
    model = ft.fit(ft.AlignedALS(n_factors=4), ratings, progress=False).model
    new_cd = model.with_items(pl.DataFrame({"item": ["x", "y"]})).item_vectors()[-2:]
    assert torch.equal(new_cd[0], new_cd[1])
    assert torch.isfinite(new_cd).all()


def test_a_new_item_that_someone_likes_counts_like_any_other():
    ratings = worlds()
    model = ft.fit(ft.AlignedALS(n_factors=4), ratings, progress=False).model
    extended = model.with_items(pl.DataFrame({"item": [1000], "kind": ["red"]}))
    n_items = len(ratings.items)
    liked = UserBatch(
        torch.tensor([0, 1]), torch.tensor([n_items]), torch.ones(1), None, torch.tensor([-1])
    )
    red_i = torch.from_numpy(ratings.items.values.to_numpy() % 2 == 0)
    score_i = extended.score(liked)[0, :n_items]
    assert score_i[red_i].mean() > score_i[~red_i].mean()
