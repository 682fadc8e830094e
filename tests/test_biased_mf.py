"""Matrix factorisation with biases: its solves against ridge regressions written out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.models.penalties import L2_PATH, NO_FACTORS, NU, Ratings, variance_components
from foretaste.training.engine import Engine

NOISE = 0.3


def known(seed: int = 0):
    """Ratings of two known factors and biases, and noise."""
    draw = np.random.default_rng(seed)
    user, item = np.nonzero(draw.random((120, 70)) < 0.4)
    taste = draw.normal(size=(120, 2)) @ draw.normal(size=(2, 70)) * 0.5
    truth = 3 + draw.normal(size=(120, 1)) * 0.4 + draw.normal(size=70) * 0.4 + taste
    value = truth[user, item] + draw.normal(size=len(user)) * NOISE
    columns = {"user": [f"u{u}" for u in user], "item": [f"i{i}" for i in item], "rating": value}
    return ft.from_frame(pl.DataFrame(columns))


@pytest.fixture(scope="module")
def parts():
    return ft.split(known(), "random", test=0.2, seed=1)


@pytest.fixture(scope="module")
def fitted(parts):
    return ft.fit(ft.BiasedMF(n_factors=4, l2=0.3), parts.train, progress=False)


def test_a_users_vector_is_a_ridge_regression_whose_ridge_grows_with_the_ratings(fitted, parts):
    model, train = fitted.model, parts.train
    batch = histories_of(train, np.arange(len(train.users)), train)
    x_bk = model.fold_in(batch)
    for b in (0, 5, 60):
        own = (batch.user_h == b).numpy()
        Y = model.item_ik_[batch.item_h[own]].double().numpy()
        Z = np.column_stack([Y[:, :-1], np.ones(len(Y))])
        rest = model.standardised(batch.value_h[own]).double().numpy() - Y[:, -1]
        l2, l2_bias, nu = (model.ridge_[name] for name in ("l2", "l2_user", "nu"))
        ridge = len(Y) ** nu * np.diag([l2] * model.n_factors + [l2_bias])
        expected = np.linalg.solve(Z.T @ Z + ridge, Z.T @ rest)
        np.testing.assert_allclose(x_bk[b].numpy(), expected, rtol=1e-3, atol=1e-4)


def loss(model: ft.BiasedMF, train: ft.Dataset) -> float:
    """The objective of the docstring, users at their best given the items."""
    batch = histories_of(train, np.arange(len(train.users)), train)
    total, x_uk = 0.0, model.fold_in(batch)
    score_ui = model.score(batch)
    rest_h = (score_ui[batch.user_h, batch.item_h] - batch.value_h) / model.unit_
    total += float(rest_h.square().sum())
    x, ridge = train.interactions, model.ridge_
    for row_r, vector_rk, l2_bias in (
        (x.user_r, x_uk, ridge["l2_user"]), (x.item_r, model.item_ik_, ridge["l2_item"])
    ):  # fmt: skip
        ridge_r = torch.from_numpy(np.bincount(row_r)) ** ridge["nu"]
        square_rk = vector_rk.square()
        total += float((ridge_r * ridge["l2"] * square_rk[:, :-1].sum(1)).sum())
        total += float((ridge_r * l2_bias * square_rk[:, -1]).sum())
    return total


def test_each_iteration_lowers_the_objective(parts):
    losses = [
        loss(ft.BiasedMF(n_factors=4, l2=0.3, iterations=n).fit(parts.train, Engine()), parts.train)
        for n in range(1, 6)
    ]
    assert all(after < before for before, after in pairwise(losses))


def test_known_factors_are_found_to_within_a_third_of_the_noise(fitted, parts):
    rmse = ft.evaluate(fitted, parts, ranking=False).metrics["rmse"].value
    baseline = ft.evaluate(ft.fit(ft.Bias(), parts.train, progress=False), parts, ranking=False)
    assert rmse < 1.33 * NOISE
    assert rmse < 0.6 * baseline.metrics["rmse"].value


def test_without_factors_it_is_user_and_item_biases(parts):
    fields = {"n_factors": 0, "nu": 0.0, "l2_bias": 4.0}
    fitted = ft.fit(ft.BiasedMF(**fields), parts.train, progress=False)
    bias = ft.fit(ft.Bias(l2_user=4.0, l2_item=4.0, iterations=30), parts.train, progress=False)
    batch = histories_of(parts.train, np.arange(20), parts.train)
    torch.testing.assert_close(
        fitted.model.score(batch), bias.model.score(batch), atol=1e-3, rtol=0
    )


def test_an_item_that_nobody_rated_gets_the_users_own_level(fitted, parts):
    batch = histories_of(parts.train, np.arange(3), parts.train)
    rated = fitted.model.predict(batch, torch.arange(3), torch.full((3,), -1))
    level_b = fitted.model.clipped(fitted.model.fold_in(batch)[:, -1])
    torch.testing.assert_close(rated.mean_p, level_b)


def shaped(n_users, n_items, each, factors, seed=0, noise=0.8, outliers=0.0):
    """Ratings of users with `each` ratings, two factors of some strength, and skewed noise."""
    draw = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), each)
    item = np.concatenate([draw.choice(n_items, each, replace=False) for _ in range(n_users)])
    taste = draw.normal(size=(n_users, 2)) @ draw.normal(size=(2, n_items)) * factors
    value = draw.normal(size=n_users)[user] * 0.4 + draw.normal(size=n_items)[item] * 0.4
    value = value + taste[user, item] + draw.normal(size=len(user)) * noise
    value -= (draw.random(len(user)) < outliers) * 3.0
    columns = {"user": user, "item": item, "rating": np.clip(np.round(4.2 + value), 1, 5)}
    return ft.split(ft.from_frame(pl.DataFrame(columns)), "random", test=0.25, seed=seed)


SHAPES = {
    "few ratings of a user": (600, 150, 5, 0.2),
    "noise around the biases": (200, 120, 30, 0.0),
    "strong factors": (200, 120, 40, 0.7),
    "few and skewed": (600, 150, 5, 0.0, 0, 0.5, 0.1),
}


def sure_loss(model, parts):
    """How far the RMSE lies above that of the biases, less two standard errors over users."""
    errors = [
        ft.evaluate(ft.fit(m, parts.train, progress=False), parts, ranking=False).tallies["rmse"]
        for m in (model, ft.Bias())
    ]
    apart_b = errors[0].total_b - errors[1].total_b
    return float(apart_b.sum() - 2 * np.sqrt((apart_b**2).sum())) / float(errors[1].weight_b.sum())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_no_shape_of_ratings_makes_it_worse_than_the_biases(shape):
    assert sure_loss(ft.BiasedMF(), shaped(*shape)) < 0


def test_penalties_are_a_matter_of_the_data_and_are_kept():
    strong, plain = (shaped(*SHAPES[name]).train for name in ("strong factors", "few and skewed"))
    auto = ft.BiasedMF().auto_fields(strong)
    assert auto["l2"] in L2_PATH
    assert auto["nu"] == NU
    fitted = ft.fit(ft.BiasedMF(), strong, seed=5, progress=False).model
    assert isinstance(fitted, ft.BiasedMF)
    assert fitted.ridge_ == auto
    alone = ft.BiasedMF().auto_fields(plain)
    assert (alone["l2"], alone["nu"]) == (NO_FACTORS, 0.0)
    assert ft.BiasedMF(l2=1.0, l2_bias=0.5, nu=0.5).auto_fields(strong) == {}


def test_variances_of_biases_and_noise_are_found():
    draw = np.random.default_rng(0)
    user, item = np.nonzero(draw.random((400, 300)) < 0.1)
    y_n = draw.normal(size=400)[user] * 0.5 + draw.normal(size=300)[item] * 0.3
    y_n = torch.from_numpy(y_n + draw.normal(size=len(user)) * 0.8).float()
    ratings = Ratings(torch.from_numpy(user), torch.from_numpy(item), y_n, 400, 300)
    found = np.sqrt(variance_components(ratings))
    np.testing.assert_allclose(found, [0.8, 0.5, 0.3], rtol=0.1)


def test_a_bundle_of_0_1_0_keeps_the_penalties_of_its_fields():
    old = ft.BiasedMF(l2=1.1, l2_bias=0.5, nu=0.5)
    old.restore({"item_ik_": torch.zeros(2, 17)}, {"mean_": 3.0, "scale_": [1.0, 5.0]})
    assert old.ridge_ == {"l2": 1.1, "l2_user": 0.5, "l2_item": 0.5, "nu": 0.5}
    assert old.unit_ == 1.0
