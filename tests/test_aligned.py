# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse
from scipy.optimize import nnls

import foretaste as ft
from foretaste.data.features import ItemFeatures
from foretaste.data.histories import Histories, histories_of
from foretaste.models.aligned_ease import cosines
from foretaste.models.als import content_ridge as ridge
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
    everyone = histories_of(ratings, np.arange(len(ratings.users)), ratings)
    assert torch.equal(extended.score(everyone)[:, :n_items], model.score(everyone))
    batch = histories_of(ratings, np.array([0, 1]), ratings)
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
    liked = Histories(
        torch.tensor([0, 1]), torch.tensor([n_items]), torch.ones(1), None, torch.tensor([-1])
    )
    red_i = torch.from_numpy(ratings.items.values.to_numpy() % 2 == 0)
    score_i = extended.score(liked)[0, :n_items]
    assert score_i[red_i].mean() > score_i[~red_i].mean()


def test_smoothed_cosines_are_those_of_sets_of_labels():
    F = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
    found = cosines(sparse.csr_matrix(F), sparse.csr_matrix(F), smoothing=2.0)
    shared, size = F @ F.T, np.sqrt(np.outer(F.sum(1), F.sum(1)))
    np.testing.assert_allclose(found, shared / (size + 2.0), rtol=1e-6)
    np.testing.assert_allclose(
        cosines(sparse.csr_matrix(F), sparse.csr_matrix(F), 0.0)[:2, :2],
        [[1, 2**-0.5], [2**-0.5, 1]], rtol=1e-6,
    )  # fmt: skip


def described_worlds(n_users: int, n_items: int) -> tuple[ft.Dataset, pl.DataFrame]:
    """`worlds` with a second column, and three items of neither."""
    ratings, rng = worlds(n_users, n_items), np.random.default_rng(1)
    table = ratings.item_frame.with_columns(
        size=pl.Series(rng.choice(["s", "m", "l"], len(ratings.items)))
    )
    new = pl.DataFrame(
        {"item": [1000, 1001, 1002], "kind": ["red", "blue", None], "size": ["s", "m", "l"]}
    )
    return ratings.with_items(table), new


@pytest.mark.parametrize(("n_users", "n_items"), [(120, 60), (30, 90)])
def test_aligned_ease_is_the_formula_of_the_paper(n_users, n_items, monkeypatch):
    monkeypatch.setattr("foretaste.models.aligned_ease.BLOCK", 5_000)  # in many blocks
    ratings, new = described_worlds(n_users, n_items)
    model = ft.fit(ft.AlignedEASE(l2=20.0, beta=3.0, smoothing=1.0), ratings, progress=False).model
    users = histories_of(ratings, np.arange(len(ratings.users)), ratings)
    X = users.dense(len(ratings.items)).double().numpy()
    features = [ItemFeatures([c]) for c in model.columns_]
    assert len(features) == 2

    def similarities(table):
        one = [
            cosines(f.encode(ratings.item_frame), f.encode(table), 1.0).astype(float)
            for f in features
        ]
        return [*one, *(a * b for a, b in itertools.combinations(one, 2))]

    known = [S * (1 - np.eye(len(S))) for S in similarities(ratings.item_frame)]
    A = np.stack([(X @ S).ravel() for S in known] + [np.ones(X.size)], axis=1)
    mu = nnls(A, X.ravel())[0][:-1]
    assert mu.max() > 0
    np.testing.assert_allclose(model.mu_k_, mu, atol=1e-3 * mu.max())
    g = sum(m * S for m, S in zip(mu, similarities(new), strict=True))
    b = 3 / 4 * np.linalg.solve(X.T @ X + 20 / 4 * np.eye(X.shape[1]), X.T @ X @ g)
    extended = model.with_items(new)
    found = extended.weights_ij_
    np.testing.assert_allclose(found[:-3, -3:], b, atol=2e-3 * np.abs(b).max())
    assert torch.equal(found[-3:, :-3], found[:-3, -3:].T)
    assert torch.equal(found[:-3, :-3], model.weights_ij_)
    plain = ft.fit(ft.EASE(l2=20.0), ratings, progress=False).model
    assert torch.equal(model.weights_ij_, plain.weights_ij_)


def test_a_new_item_of_a_worlds_colour_is_found_by_that_worlds_users():
    ratings, new = described_worlds(120, 60)
    fitted = ft.fit(ft.AlignedEASE(l2=20.0), ratings, progress=False)
    grown = fitted.with_items(new[:1]).with_items(new[1:])  # one after the other
    for user in (0, 1, 2, 3):
        ours, theirs = (1000, 1001) if user % 2 == 0 else (1001, 1000)
        listed = grown.recommend(user, candidates=[1000, 1001, 1002], k=3)["item"].to_list()
        assert listed[0] == ours
        assert (
            grown.recommend(history=[ours], k=5)["item"]
            .is_in(ratings.items.values.filter(ratings.items.values % 2 == user % 2))
            .all()
        )
        assert theirs not in grown.similar(ours, k=20)["item"]


def test_columns_that_say_the_same_twice_share_what_they_say():
    ratings, new = described_worlds(120, 60)
    table = ratings.item_frame
    twice, new_twice = (
        t.with_columns(again=pl.col("kind"), size=pl.lit(None, pl.String)) for t in (table, new)
    )
    once, doubled = (
        ft.fit(ft.AlignedEASE(l2=20.0), ratings.with_items(t), progress=False).with_items(n)
        for t, n in ((table.drop("size"), new.drop("size")), (twice, new_twice))
    )
    for user in (0, 1):
        asked = {"candidates": [1000, 1001, 1002], "k": 3}
        assert once.recommend(user, **asked)["item"].equals(
            doubled.recommend(user, **asked)["item"]
        )


def test_without_columns_aligned_ease_is_ease_and_new_items_score_nothing(ratings):
    fitted = ft.fit(ft.AlignedEASE(), ratings, progress=False)
    plain = ft.fit(ft.EASE(), ratings, progress=False)
    users = histories_of(ratings, np.arange(len(ratings.users)), ratings)
    grown = fitted.model.with_items(pl.DataFrame({"item": ["x", "y"]}))
    score_ui = grown.score(users)
    assert torch.equal(score_ui[:, :-2], plain.model.score(users))
    assert (score_ui[:, -2:] == 0).all()
