from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.models.item2vec import NOISE, SkipGrams
from foretaste.training.engine import Engine
from foretaste.training.losses import skip_gram
from tests.test_training import assert_same, dies_at, lives


def skip_grams(item_r, user_r, n_items, window=2, keep=1.0, size=1000):
    entries = (torch.tensor(item_r), torch.tensor(user_r))
    keep_i, noise_i = torch.full((n_items,), keep), torch.ones(n_items)
    return SkipGrams(*entries, size, Engine(seed=1), window, keep_i, noise_i)


def pairs_of(batches):
    return {
        (int(centre), int(context))
        for centre_b, context_bc, _ in batches
        for centre, contexts in zip(centre_b, context_bc, strict=True)
        for context in contexts
        if context >= 0
    }


def test_contexts_are_the_neighbours_within_the_window_of_the_same_history():
    item_r, user_r = [0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 1, 2]
    grams = skip_grams(item_r, user_r, 7)
    seen = set().union(*(pairs_of(grams.epoch(number)) for number in range(40)))
    near = {(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (4, 5)}
    assert seen == near | {(b, a) for a, b in near}


def test_the_reach_of_a_centre_is_drawn_evenly_from_one_to_the_window():
    n = 30_000
    grams = skip_grams(np.arange(n), np.zeros(n, dtype=np.int64), n, window=3, size=n)
    ((_, context_bc, _),) = grams.epoch(0)
    share_c = (context_bc >= 0).float().mean(dim=0)
    torch.testing.assert_close(
        share_c, torch.tensor([1, 2 / 3, 1 / 3, 1 / 3, 2 / 3, 1]), atol=0.02, rtol=0
    )


def test_thinning_out_comes_first_and_brings_the_rest_closer():
    n = 3000
    grams = skip_grams(np.arange(n), np.zeros(n, dtype=np.int64), n, window=1, keep=0.5, size=n)
    ((centre_b, context_bc, _),) = grams.epoch(0)
    assert abs(len(centre_b) - n / 2) < 100
    assert (context_bc >= 0).float().mean() > 0.99
    assert ((context_bc - centre_b[:, None]).abs() > 1).any()


def test_an_epoch_is_the_same_whenever_it_is_asked_for_and_another_one_differs():
    rng = np.random.default_rng(0)
    grams = skip_grams(rng.integers(0, 50, 400), np.sort(rng.integers(0, 9, 400)), 50, size=64)
    first, again, other = grams.epoch(3), grams.epoch(3), grams.epoch(4)
    assert len(first) == grams.per_epoch == 7
    for batch, same in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))
        assert len(batch[2]) == NOISE
    assert not torch.equal(first[0][1], other[0][1])


def test_the_loss_is_that_of_word2vec_where_noise_is_written_out():
    g = torch.Generator().manual_seed(0)
    positive_bc, noise_bn = (torch.randn(4, n, generator=g, dtype=torch.float64) for n in (3, 6))
    real_bc = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    expected = 0.0
    for b in range(4):
        for c in range(3):
            if real_bc[b, c]:
                expected -= torch.log(torch.sigmoid(positive_bc[b, c]))
                # five contexts of noise for each pair, in expectation
                expected -= 5 * torch.log(torch.sigmoid(-noise_bn[b])).mean()
    torch.testing.assert_close(skip_gram(positive_bc, real_bc, noise_bn, 5), expected / 6)


def test_the_curve_tells_the_mean_loss_and_the_rate_of_what_thinning_left(ratings):
    # contexts start at zero: every pair, real or noise, costs log 2 until the first step counts
    thinned = ft.Item2Vec(n_factors=4, epochs=1, learning_rate=1e-12, subsample=1e-3)
    curve = thinned.fit(ratings, Engine(seed=0)).curve_
    assert curve[0]["train_loss"] == pytest.approx(6 * np.log(2), rel=1e-5)
    n_liked = int((ratings.interactions.value_r >= thinned.border_).sum())
    assert curve[0]["samples_per_second"] * curve[0]["seconds"] < 0.5 * n_liked


def two_worlds(n_users: int = 200, seed: int = 0) -> ft.Dataset:
    """Half the users choose from items a0 to a9, the others from b0 to b9."""
    rng = np.random.default_rng(seed)
    rows = [
        {"user": u, "item": f"{'ab'[u % 2]}{i}", "time": t}
        for u in range(n_users)
        for t, i in enumerate(rng.permutation(10)[:6])
    ]
    return ft.from_frame(pl.DataFrame(rows))


def test_items_of_one_world_are_neighbours_and_are_recommended():
    model = ft.Item2Vec(n_factors=8, epochs=20, learning_rate=0.03, batch_size=128, subsample=None)
    recommender = ft.fit(model, two_worlds(), progress=False)
    assert recommender.similar("a3", k=9)["item"].str.starts_with("a").all()
    assert recommender.recommend(history=["b1", "b2"], k=8)["item"].str.starts_with("b").all()


def test_a_score_is_the_mean_cosine_to_what_was_liked_plus_popularity():
    worlds = two_worlds()
    fitted = ft.fit(ft.Item2Vec(n_factors=8, epochs=2, popularity=0.3), worlds, progress=False)
    model: Any = fitted.model
    w_id = (model.centre_id_ + model.context_id_).numpy()
    w_id /= np.linalg.norm(w_id, axis=1, keepdims=True)
    n_i = np.bincount(worlds.interactions.item_r, minlength=20)
    batch = histories_of(worlds, np.array([0, 1]), worlds)
    for b, score_i in enumerate(model.score(batch)):
        liked = batch[b : b + 1].item_h.numpy()
        expected = (w_id[liked] @ w_id.T).mean(axis=0) + 0.3 * np.log(n_i)
        np.testing.assert_allclose(score_i, expected, rtol=1e-4, atol=1e-5)


def test_where_training_is_too_short_to_tell_items_apart_the_popular_ones_come_first(ratings):
    parts = ft.split(ratings, "random", test=0.3, seed=0)
    found = [
        ft.evaluate(ft.fit(m, parts.train, progress=False), parts, k=5, ratings=False).metrics
        for m in (ft.Item2Vec(n_factors=16, epochs=30, batch_size=64), ft.Random())
    ]
    assert found[0]["ndcg@5"].value > 1.2 * found[1]["ndcg@5"].value


def test_what_a_new_user_did_not_like_does_not_count(ratings):
    model = ft.Item2Vec(n_factors=8, epochs=3, batch_size=64)
    recommender = ft.fit(model, ratings, progress=False)
    listed = [recommender.recommend(history=h, k=40) for h in ({"i1": 5, "i2": 1}, {"i1": 5})]
    first, second = (frame.filter(pl.col("item") != "i2")["item"].to_list() for frame in listed)
    assert first == second


@pytest.mark.parametrize("save_every", [0, 1e9])
def test_killed_at_every_step_and_resumed_the_vectors_are_the_same(ratings, tmp_path, save_every):
    model = ft.Item2Vec(n_factors=4, epochs=3, batch_size=200)
    expected = model.fit(ratings, Engine(seed=5)).state()[0]
    engine = Engine(seed=5, folder=tmp_path, save_every=save_every)
    deaths = 2 if save_every == 0 else 5  # a step further in each life, or an epoch
    n_lives = lives(
        lambda: model.fit(ratings, engine),
        lambda: register_optimizer_step_post_hook(dies_at(deaths)),
    )
    assert n_lives > 2
    assert_same(model.state()[0], expected)
