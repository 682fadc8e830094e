"""Matrix factorisation with biases: its solves against ridge regressions written out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.data.histories import histories_of
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
        rest = batch.value_h[own].double().numpy() - model.mean_ - Y[:, -1]
        ridge = len(Y) ** model.nu * np.diag([model.l2] * model.n_factors + [model.l2_bias])
        expected = np.linalg.solve(Z.T @ Z + ridge, Z.T @ rest)
        np.testing.assert_allclose(x_bk[b].numpy(), expected, rtol=1e-3, atol=1e-4)


def loss(model: ft.BiasedMF, train: ft.Dataset) -> float:
    """The objective of the docstring, users at their best given the items."""
    batch = histories_of(train, np.arange(len(train.users)), train)
    total, x_uk = 0.0, model.fold_in(batch)
    score_ui = model.score(batch)
    total += float((score_ui[batch.user_h, batch.item_h] - batch.value_h).square().sum())
    x = train.interactions
    for row_r, vector_rk in ((x.user_r, x_uk), (x.item_r, model.item_ik_)):
        ridge_r = torch.from_numpy(np.bincount(row_r)) ** model.nu
        square_rk = vector_rk.square()
        total += float((ridge_r * model.l2 * square_rk[:, :-1].sum(1)).sum())
        total += float((ridge_r * model.l2_bias * square_rk[:, -1]).sum())
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
    level_b = fitted.model.mean_ + fitted.model.fold_in(batch)[:, -1]
    torch.testing.assert_close(rated.mean_p, level_b.clamp(*parts.train.scale))
