from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from scipy import sparse

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.models.als import ALS, principal_axes


def test_enough_steps_are_the_ridge_regression_written_out():
    rng = np.random.default_rng(0)
    y_jd = rng.normal(size=(9, 3))
    W_bj = np.zeros((3, 9))
    W_bj[0, [1, 4]], W_bj[2, [0, 2, 3, 8]] = [1, 0.5], [2, 1, 1, 0.25]
    model = ALS(n_factors=3, unseen=0.2, l2=0.5, nu=0.7, steps=9)
    x_bd = solved(model, W_bj, y_jd).numpy()
    for row in (0, 2):
        w_j = W_bj[row]
        l2 = 0.5 * ((w_j > 0).sum() + 0.2 * 9) ** 0.7
        A = y_jd.T @ np.diag(w_j + 0.2) @ y_jd + l2 * np.eye(3)
        np.testing.assert_allclose(x_bd[row], np.linalg.solve(A, y_jd.T @ w_j), rtol=1e-4)
    assert x_bd[1].tolist() == [0.0] * 3  # nothing liked


def test_the_prior_stands_for_so_many_likes_of_what_everybody_likes(ratings):
    model = ft.fit(
        ALS(n_factors=4, unseen=0.1, l2=0.01, steps=50, prior=2.0), ratings, progress=False
    ).model
    assert isinstance(model, ALS)
    X_ui, Y_id = model.learn_likes(ratings), model.item_id_.double()
    popular_i = torch.from_numpy(X_ui.sum(axis=0).A1).double()
    popular_i *= 2 / popular_i.sum()
    whole = histories_of(ratings, np.array([0, 1, -1]), ratings)
    x_bd, L_bi = model.user_factors(whole), model.likes(whole, len(Y_id)).toarray()
    unseen, l2_of_like = model.decided("unseen"), model.decided("l2")
    for x_d, w_i in zip(x_bd, torch.from_numpy(L_bi).double(), strict=True):
        l2 = l2_of_like * ((w_i > 0).sum() + unseen * len(Y_id)) ** model.nu
        weight_i = w_i + popular_i
        A = Y_id.T @ ((weight_i + unseen)[:, None] * Y_id) + l2 * torch.eye(4)
        expected_d = torch.linalg.solve(A, Y_id.T @ weight_i)
        torch.testing.assert_close(x_d, expected_d.float(), rtol=1e-3, atol=1e-4)
    nobody_i = model.score(whole)[2]
    assert torch.corrcoef(torch.stack([nobody_i, popular_i.float()]))[0, 1] > 0.8


def solved(model: ALS, W_bj: np.ndarray, y_jd: np.ndarray) -> torch.Tensor:
    """Rows solved in the basis of the factors given."""
    start_bd, Y_jd = torch.zeros(len(W_bj), y_jd.shape[1]), torch.from_numpy(y_jd).float()
    turned_jd, start_bd, square_d = principal_axes(Y_jd, start_bd, model.decided("unseen"))
    x_bd = model.solve(sparse.csr_matrix(W_bj.astype(np.float32)), turned_jd, square_d, start_bd)
    return x_bd @ torch.linalg.lstsq(turned_jd, Y_jd).solution


def objective(X_ui: np.ndarray, x_ud: np.ndarray, y_id: np.ndarray, model: ALS) -> float:
    n_users, n_items = X_ui.shape
    score_ui = x_ud @ y_id.T
    error = (X_ui * (score_ui - 1) ** 2).sum() + model.unseen * (score_ui**2).sum()
    l2_u = (X_ui.sum(axis=1) + model.unseen * n_items) ** model.nu
    l2_i = (X_ui.sum(axis=0) + model.unseen * n_users) ** model.nu
    return error + model.l2 * (l2_u @ (x_ud**2).sum(axis=1) + l2_i @ (y_id**2).sum(axis=1))


def test_every_iteration_lowers_the_objective():
    rng = np.random.default_rng(1)
    X_ui = (rng.random((30, 12)) < 0.3).astype(float)
    X_ui[:, 0] = X_ui[0] = 1
    user, item = np.nonzero(X_ui)
    clicks = ft.from_frame(pl.DataFrame({"user": user, "item": item}))
    values = []
    for iterations in (1, 2, 4, 8):
        wanted = ALS(n_factors=4, unseen=0.1, l2=0.05, iterations=iterations, prior=0)
        model: Any = ft.fit(wanted, clicks, progress=False).model
        x_ud = model.user_factors(histories_of(clicks, np.arange(30), clicks))
        values.append(objective(X_ui, x_ud.numpy(), model.item_id_.numpy(), model))
    assert values == sorted(values, reverse=True)


def test_rows_come_out_the_same_in_any_batches(monkeypatch, ratings):
    X_ui = ALS().learn_likes(ratings)
    other = torch.randn(len(ratings.items), 5, generator=torch.Generator().manual_seed(0))
    turned, start, square_d = principal_axes(other, torch.zeros(len(ratings.users), 5), 0.1)
    args = X_ui, turned, square_d, start
    whole = ALS(n_factors=5, unseen=0.1, l2=0.01).solve(*args)
    monkeypatch.setattr("foretaste.models.als.BATCH_FLOATS", 300)
    torch.testing.assert_close(
        ALS(n_factors=5, unseen=0.1, l2=0.01).solve(*args), whole, rtol=1e-4, atol=1e-5
    )


def test_three_steps_from_nothing_come_close_to_the_exact_factors(ratings):
    few: Any = ft.fit(ALS(n_factors=8, unseen=0.1, l2=0.01), ratings, progress=False).model
    many = ALS(n_factors=8, unseen=0.1, l2=0.01, steps=50)
    args = few.learn_likes(ratings), few.item_id_, few.square_d_, torch.zeros(60, 8)
    near_ud, exact_ud = (m.solve(*args) for m in (few, many))
    assert (near_ud - exact_ud).norm() < 0.05 * exact_ud.norm()
