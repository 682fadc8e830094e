from __future__ import annotations

import numpy as np
import polars as pl
import torch

import foretaste as ft
from foretaste.models.als import ALS


def test_a_row_is_the_ridge_regression_written_out():
    rng = np.random.default_rng(0)
    y_jd = rng.normal(size=(9, 3))
    model = ALS(n_factors=3, unseen=0.2, l2=0.5, nu=0.7)
    pointer_b, index_h = torch.tensor([0, 2, 2, 6]), torch.tensor([1, 4, 0, 2, 3, 8])
    x_bd = model.solve(pointer_b, index_h, torch.from_numpy(y_jd).float()).numpy()
    for row, liked in ((0, [1, 4]), (2, [0, 2, 3, 8])):
        l2 = 0.5 * (len(liked) + 0.2 * 9) ** 0.7
        A = y_jd[liked].T @ y_jd[liked] + 0.2 * y_jd.T @ y_jd + l2 * np.eye(3)
        np.testing.assert_allclose(
            x_bd[row], np.linalg.solve(A, y_jd[liked].sum(axis=0)), rtol=1e-4
        )
    assert x_bd[1].tolist() == [0.0] * 3  # nothing liked


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
        model = ALS(n_factors=4, unseen=0.1, l2=0.05, iterations=iterations)
        ft.fit(model, clicks, progress=False)
        pointer_u = torch.from_numpy(clicks.pointers)
        items = torch.from_numpy(clicks.interactions.item_r).long()
        x_ud = model.solve(pointer_u, items, model.item_id_)
        values.append(objective(X_ui, x_ud.numpy(), model.item_id_.numpy(), model))
    assert values == sorted(values, reverse=True)


def test_rows_come_out_the_same_in_any_batches(monkeypatch, ratings):
    x = ratings.interactions
    other = torch.randn(len(ratings.items), 5, generator=torch.Generator().manual_seed(0))
    args = torch.from_numpy(ratings.pointers), torch.from_numpy(x.item_r).long(), other
    whole = ALS(n_factors=5).solve(*args)
    monkeypatch.setattr("foretaste.models.als.BATCH_FLOATS", 300)
    torch.testing.assert_close(ALS(n_factors=5).solve(*args), whole, rtol=1e-4, atol=1e-5)
