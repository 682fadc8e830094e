from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.models.graph_filter import GraphFilter, co_occurrence_vectors, right_singular_vectors
from tests.conftest import synthetic


def clicks(seed: int = 0) -> tuple[np.ndarray, ft.Dataset]:
    rng = np.random.default_rng(seed)
    X_ui = (rng.random((40, 15)) < 0.3).astype(float)
    X_ui[0, :2], X_ui[:2, 0] = 1, 1
    user, item = np.nonzero(X_ui)
    dataset = ft.from_frame(pl.DataFrame({"user": user, "item": item}))
    return X_ui[np.ix_(X_ui.any(axis=1), X_ui.any(axis=0))], dataset


def test_scores_are_the_formula_of_the_paper():
    X_ui, dataset = clicks()
    model = GraphFilter(n_factors=4, alpha=0.3, iterations=60)
    recommender = ft.fit(model, dataset, progress=False)
    model = recommender.model
    d_u, d_i = X_ui.sum(axis=1), X_ui.sum(axis=0)
    R_ui = X_ui / np.sqrt(d_u)[:, None] / np.sqrt(d_i)
    V_ik = np.linalg.svd(R_ui)[2][:4].T
    ideal_ij = np.diag(d_i**-0.5) @ V_ik @ V_ik.T @ np.diag(d_i**0.5)
    expected = X_ui @ (R_ui.T @ R_ui + 0.3 * ideal_ij)
    batch = histories_of(dataset, np.arange(len(dataset.users)), recommender.dataset)
    np.testing.assert_allclose(model.score(batch).numpy(), expected, rtol=1e-3, atol=1e-4)


def test_the_powers_generalise_the_normalisation():
    X_ui, dataset = clicks(1)
    model = GraphFilter(alpha=0.0, user_power=0.3, history_power=0.2, target_power=0.7)
    model = ft.fit(model, dataset, progress=False).model
    d_u, d_i = X_ui.sum(axis=1), X_ui.sum(axis=0)
    R_ui = X_ui / d_u[:, None] ** 0.3
    expected = (X_ui / d_i**0.2) @ R_ui.T @ R_ui / d_i**0.7
    batch = histories_of(dataset, np.arange(len(dataset.users)), dataset)
    np.testing.assert_allclose(model.score(batch).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize(("order", "powers"), [(1, (0.5, 0.5, 0.5)), (4, (0.3, 0.2, 0.7))])
def test_sharpening_solves_the_equation_of_bspm_in_one_step(order, powers):
    X_ui, dataset = clicks(2)
    user, history, target = powers
    fields = {"n_factors": 4, "user_power": user, "history_power": history, "target_power": target}
    batch = histories_of(dataset, np.arange(len(dataset.users)), dataset)
    blurred, sharpened = (
        ft.fit(GraphFilter(**fields, **own), dataset, progress=False).model.score(batch).numpy()
        for own in ({}, {"sharpen": 2.5, "sharpen_order": order})
    )
    d_u, d_i = X_ui.sum(axis=1), X_ui.sum(axis=0)
    R_ui = X_ui / d_u[:, None] ** user
    P_ij = (R_ui.T @ R_ui) / d_i[:, None] ** history / d_i**target

    def slope(s_bi):
        return -s_bi @ P_ij

    k1 = slope(blurred)
    k2 = slope(blurred + 1.25 * k1)
    k3 = slope(blurred + 1.25 * k2)
    k4 = slope(blurred + 2.5 * k3)
    step = k1 if order == 1 else (k1 + 2 * k2 + 2 * k3 + k4) / 6
    np.testing.assert_allclose(sharpened, blurred + 2.5 * step, rtol=1e-3, atol=1e-5)


def test_subspace_iteration_finds_the_leading_right_singular_vectors():
    rng = np.random.default_rng(0)
    A_ui = rng.normal(size=(30, 20)) * np.linspace(3, 0.1, 20)
    V_ik = right_singular_vectors(sparse.csr_matrix(A_ui.astype(np.float32)), 5, rng, iterations=50)
    true_ik = torch.from_numpy(np.linalg.svd(A_ui)[2][:5].T).float()
    overlap = torch.linalg.svdvals(V_ik.T @ true_ik)
    torch.testing.assert_close(overlap, torch.ones(5), rtol=1e-3, atol=1e-3)


def test_co_occurrence_vectors_keep_the_cosine_of_the_columns_of_interactions():
    ratings = synthetic(n_users=30, n_items=12, n_rows=200)
    x = ratings.interactions
    X_ui = np.zeros((len(ratings.users), len(ratings.items)))
    X_ui[x.user_r, x.item_r] = 1
    A_ui = X_ui / np.sqrt(X_ui.sum(1, keepdims=True))
    vector_id = co_occurrence_vectors(ratings, width=12).double().numpy()  # 11 of 12 directions
    U_uk, s_k, V_ki = np.linalg.svd(A_ui, full_matrices=False)
    expected = (U_uk[:, :11] * s_k[:11]) @ V_ki[:11]
    np.testing.assert_allclose(vector_id @ vector_id.T, expected.T @ expected, atol=1e-4)
