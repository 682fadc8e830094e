"""LinearNextItem: the sums over prefixes, the order of a history, and what an empty one gets."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.errors import ModelError
from foretaste.models.sequential.linear_next_item import LinearNextItem
from foretaste.models.sequential.prefixes import Prefixes


def histories(seed: int = 0, users: int = 12, items: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    length_u = rng.integers(1, 9, users)
    return rng.integers(0, items, length_u.sum()), np.append(0, length_u.cumsum())


def written_down(item_r, pointers, n_items, decays):
    """Every prefix as a row, by the definition."""
    rows, targets = [], []
    for start, stop in itertools.pairwise(pointers):
        for t in range(start, stop):
            row = np.zeros((len(decays), n_items))
            for s in range(start, t):
                row[:, item_r[s]] += [float(c) ** (t - 1 - s) for c in decays]
            rows.append(np.append(row.ravel(), 1.0))
            targets.append(item_r[t])
    F = np.array(rows)
    return F, np.eye(n_items)[targets]


@pytest.mark.parametrize("decays", [(0.0,), (0.5,), (0.0, 0.5, 0.9)])
def test_sums_over_pairs_are_those_over_the_prefixes_written_down(decays):
    item_r, pointers = histories()
    A_ff, B_fi = Prefixes(item_r, pointers, 7, decays).matrices(lambda: None)
    F, Y = written_down(item_r, pointers, 7, decays)
    np.testing.assert_allclose(A_ff, F.T @ F, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(B_fi, F.T @ Y, rtol=1e-3, atol=1e-3)


def plays(seed: int = 0) -> pl.DataFrame:
    """After item n comes item n + 1, nine times in ten."""
    rng = np.random.default_rng(seed)
    user, item = [], []
    for u in range(60):
        at = int(rng.integers(0, 10))
        for _ in range(8):
            user.append(f"u{u}")
            item.append(f"i{at}")
            at = (at + 1) % 10 if rng.random() < 0.9 else int(rng.integers(0, 10))
    return pl.DataFrame({"user": user, "item": item, "time": range(len(item))})


def test_the_item_that_follows_is_first_and_another_order_gives_another_list():
    data = ft.from_frame(plays(), duplicates="keep")
    recommender = ft.fit(LinearNextItem(l2=1.0), data, progress=False)
    assert recommender.recommend(history=["i1", "i2"], k=1)["item"].item() == "i3"
    assert (
        recommender.recommend(history=["i2", "i1"], k=1, exclude_seen=False)["item"].item() == "i2"
    )


def test_scores_are_the_solution_of_the_regression_and_sum_to_about_one():
    data = ft.from_frame(plays(1), duplicates="keep")
    model = ft.fit(LinearNextItem(decays=(0.0, 0.5), l2=2.0), data, progress=False).model
    item_r, pointers = data.interactions.item_r, data.pointers
    F, Y = written_down(item_r, pointers, len(data.items), (0.0, 0.5))
    penalty = np.append(np.tile(2.0 * np.bincount(item_r) ** 0.5, 2), 1e-3)
    W = np.linalg.solve(F.T @ F + np.diag(penalty), F.T @ Y)
    batch = histories_of(data, np.arange(5), data)
    f_b = []
    for b in range(5):
        row = np.zeros((2, len(data.items)))
        for k, item in enumerate(reversed(batch[b : b + 1].item_h.tolist())):
            row[:, item] += [0.0**k, 0.5**k]
        f_b.append(np.append(row.ravel(), 1.0))
    np.testing.assert_allclose(model.score(batch), np.array(f_b) @ W, rtol=2e-3, atol=2e-3)
    assert model.score(batch).sum(1) == pytest.approx(np.ones(5), abs=0.1)


def test_an_empty_history_gets_what_histories_begin_with():
    first = pl.DataFrame({"user": ["a", "a", "b", "b", "c", "c"], "item": list("xyxzxy")})
    recommender = ft.fit(LinearNextItem(l2=1.0), ft.from_frame(first), progress=False)
    assert recommender.recommend(history=[], k=1)["item"].item() == "x"


def test_a_large_catalogue_keeps_fewer_decays_and_a_larger_one_is_refused(monkeypatch):
    from foretaste.models.sequential import linear_next_item as module

    data = ft.from_frame(plays(), duplicates="keep")
    monkeypatch.setattr(module, "MOST_UNKNOWNS", 25)
    model = ft.fit(LinearNextItem(), data, progress=False).model
    assert isinstance(model, LinearNextItem)
    assert model.decays_ == [0.0, 0.8]
    monkeypatch.setattr(module, "MOST_UNKNOWNS", 10)
    with pytest.raises(ModelError, match="solves for all 10 items at once; the limit is 9"):
        ft.fit(LinearNextItem(), data, progress=False)


def test_a_decay_of_one_is_refused():
    with pytest.raises(ModelError, match=r"decays=\[1.0\]"):
        ft.fit(LinearNextItem(decays=(1.0,)), ft.from_frame(plays()), progress=False)


def test_scores_do_not_depend_on_entries_that_are_forgotten():
    data = ft.from_frame(plays(), duplicates="keep")
    model = ft.fit(LinearNextItem(decays=(0.0,)), data, progress=False).model
    long, short = (ft.Histories.of_one(np.array(x), np.ones(len(x))) for x in ([3, 1, 2], [2]))
    assert torch.equal(model.score(long), model.score(short))
