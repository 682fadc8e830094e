from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.models import item_knn


def weighted(seed: int = 0) -> tuple[np.ndarray, ft.Dataset]:
    """Counts of 1 to 4 as a matrix, and the same as a Dataset."""
    rng = np.random.default_rng(seed)
    X_ui = (rng.random((40, 12)) < 0.3) * rng.integers(1, 5, (40, 12)).astype(float)
    X_ui[:, 0] = X_ui[0] = 1
    user, item = np.nonzero(X_ui)
    frame = pl.DataFrame({"user": user, "item": item, "count": X_ui[user, item]})
    return X_ui, ft.from_frame(frame, user="user", item="item", value="count")


def everyone(dataset: ft.Dataset):
    return histories_of(dataset, np.arange(len(dataset.users)), dataset)


def by_definition(W_ui: np.ndarray, neighbours: int, shrinkage: float) -> np.ndarray:
    """S_ij of each item i with its nearest j, one pair at a time."""
    n_items = W_ui.shape[1]
    S_ij = np.zeros((n_items, n_items))
    for i in range(n_items):
        for j in set(range(n_items)) - {i}:
            norms = np.linalg.norm(W_ui[:, i]) * np.linalg.norm(W_ui[:, j])
            S_ij[i, j] = W_ui[:, i] @ W_ui[:, j] / (norms + shrinkage)
        S_ij[i, np.argsort(-S_ij[i])[neighbours:]] = 0
    return S_ij


@pytest.mark.parametrize(("neighbours", "shrinkage"), [(3, 0.0), (5, 10.0), (50, 2.0)])
def test_cosine_scores_are_the_definition_written_out(neighbours, shrinkage, monkeypatch):
    monkeypatch.setattr(item_knn, "CHUNK_BYTES", 4 * 12 * 5)  # blocks of five items
    X_ui, dataset = weighted()
    model = ft.ItemKNN(
        similarity="cosine", neighbours=neighbours, shrinkage=shrinkage, positive_threshold=0.0,
        weighting="log",
    )  # fmt: skip
    model = ft.fit(model, dataset, progress=False).model
    W_ui = np.log2(1 + X_ui)
    expected = W_ui @ by_definition(W_ui, neighbours, shrinkage).T
    np.testing.assert_allclose(model.score(everyone(dataset)).numpy(), expected, rtol=1e-4)


def test_bm25_scores_are_the_definition_written_out():
    X_ui, dataset = weighted(1)
    X_ui = (X_ui > 0).astype(float)
    model = ft.ItemKNN(similarity="bm25", neighbours=4, k1=1.5, b=0.4, positive_threshold=0.0)
    model = ft.fit(model, dataset, progress=False).model
    n_users, n_items = X_ui.shape
    length_i = X_ui.sum(axis=0)
    W_ui = np.zeros_like(X_ui)
    for u in range(n_users):
        n = X_ui[u].sum()
        idf = np.log((n_items - n + 0.5) / (n + 0.5) + 1)
        for i in np.flatnonzero(X_ui[u]):
            norm = 1.5 * (1 - 0.4 + 0.4 * length_i[i] / length_i.mean())
            W_ui[u, i] = idf * (1.5 + 1) / (1 + norm)
    expected = X_ui @ by_definition(W_ui, 4, 0.0).T
    np.testing.assert_allclose(model.score(everyone(dataset)).numpy(), expected, rtol=1e-4)


def test_more_neighbours_than_items_is_no_error(ratings):
    fitted = ft.fit(ft.ItemKNN(neighbours=1000), ratings, progress=False)
    assert len(fitted.recommend("u1", k=5)) == 5
