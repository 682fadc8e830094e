# pyright: reportAttributeAccessIssue=false
# pyright: reportArgumentType=false
from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import foretaste as ft
from foretaste.models.base import batch_of
from foretaste.models.two_tower import Masked, pool
from foretaste.training.engine import Engine
from foretaste.training.losses import sampled_softmax
from tests.test_cold_start import worlds
from tests.test_training import assert_same, dies_at, lives

SMALL = {"n_factors": 8, "hidden": 8, "epochs": 4, "batch_size": 8, "negatives": 10}


def masked(n_users=40, n_items=30, size=16, negatives=5):
    rng = np.random.default_rng(0)
    length_u = torch.from_numpy(rng.integers(2, 12, n_users))
    pointer_u = torch.nn.functional.pad(length_u.cumsum(0), (1, 0))
    item_h = torch.from_numpy(np.concatenate([rng.permutation(n_items)[:n] for n in length_u]))
    weight_h = torch.arange(len(item_h)).float()
    users = torch.arange(n_users)
    return Masked((users,), size, Engine(seed=2), pointer_u, item_h, weight_h, n_items, negatives)


def test_an_epoch_serves_every_user_once_with_the_whole_history():
    batches = masked()
    seen = []
    for user_b, length_b, item_h, weight_h, shown_h, noise_n in batches.epoch(0):
        starts = [0, *length_b.cumsum(0).tolist()]
        for place, user in enumerate(user_b.tolist()):
            low, high = batches.pointer_u[user], batches.pointer_u[user + 1]
            here = slice(starts[place], starts[place + 1])
            assert torch.equal(item_h[here], batches.item_h[low:high])
            assert torch.equal(weight_h[here], batches.weight_h[low:high])
            seen.append(user)
        assert len(shown_h) == len(item_h)
        assert len(noise_n) == 5
    assert sorted(seen) == list(range(40))


def test_how_much_is_shown_goes_evenly_from_none_to_all():
    batches = masked(n_users=3000, size=3000)
    ((_, length_b, _, _, shown_h, _),) = batches.epoch(0)
    assert abs(shown_h.float().mean() - 0.5) < 0.02
    owner_h = torch.repeat_interleave(torch.arange(3000), length_b)
    shown_b = torch.zeros(3000).index_add_(0, owner_h, shown_h.float())
    for untouched in (shown_b == 0, shown_b == length_b):
        assert untouched.float().mean() > 0.08  # 1 / (n + 1) of the histories of n


def test_the_chance_to_be_in_a_batch_is_the_one_observed():
    batches = masked(n_users=64, n_items=30, size=16, negatives=5)
    times_i, n_batches = torch.zeros(30), 0
    for number in range(300):
        for _, _, item_h, _, _, noise_n in batches.epoch(number):
            times_i[torch.cat([item_h, noise_n]).unique()] += 1
            n_batches += 1
    torch.testing.assert_close(batches.log_chances().exp(), times_i / n_batches, atol=0.04, rtol=0)


def test_the_corrected_sample_estimates_the_sum_over_all_items_without_bias():
    g = torch.Generator().manual_seed(0)
    score_1i = torch.randn(1, 50, generator=g, dtype=torch.float64)
    chance_i = torch.rand(50, generator=g, dtype=torch.float64) * 0.8 + 0.1
    target = torch.zeros(1, dtype=torch.int64)
    sums = []
    for _ in range(4000):
        drawn = torch.rand(50, generator=g) < chance_i
        if drawn.any():
            loss = sampled_softmax(score_1i[:, drawn], chance_i[drawn].log(), target, target)
            sums.append((loss + score_1i[0, drawn][0]).exp())
    assert float(torch.stack(sums).mean()) == pytest.approx(float(score_1i.exp().sum()), rel=0.03)


def test_the_softmax_over_everything_is_cross_entropy():
    score_bc = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    user_t, item_t = torch.tensor([0, 0, 2]), torch.tensor([4, 1, 6])
    expected = torch.nn.functional.cross_entropy(score_bc[user_t], item_t)
    torch.testing.assert_close(sampled_softmax(score_bc, torch.zeros(7), user_t, item_t), expected)


def test_a_history_is_pooled_as_the_weighted_sum_over_the_root_of_its_weight():
    row_id = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    weight_h = torch.tensor([1.0, 2.0, 3.0])
    pooled_bd = pool(row_id, torch.tensor([4, 0, 5]), weight_h, torch.tensor([2, 0, 1]))
    torch.testing.assert_close(pooled_bd[0], (row_id[4] + 2 * row_id[0]) / 3**0.5)
    torch.testing.assert_close(pooled_bd[1], torch.zeros(3))
    torch.testing.assert_close(pooled_bd[2], 3 * row_id[5] / 3**0.5)


def test_a_batch_without_a_target_is_no_error():
    nothing = torch.empty(0, dtype=torch.int64)
    assert sampled_softmax(torch.zeros(2, 3), torch.zeros(3), nothing, nothing) == 0


def test_a_new_item_is_offered_to_those_who_like_its_kind():
    ratings = worlds()
    model = ft.TwoTower(**SMALL | {"epochs": 15, "learning_rate": 0.01})
    model = ft.fit(model, ratings, progress=False).model
    extended = model.with_items(pl.DataFrame({"item": [1000, 1001], "kind": ["red", "blue"]}))
    batch = batch_of(ratings, np.arange(len(ratings.users)), ratings)
    red_b, blue_b = extended.score(batch)[:, -2:].T
    likes_red_b = torch.from_numpy(ratings.users.values.to_numpy() % 2 == 0)
    assert ((red_b > blue_b) == likes_red_b).float().mean() > 0.95
    assert torch.equal(extended.score(batch)[:, :-2], model.score(batch))


def camps_of(ratings):
    """Which world a user lives in, as a column."""
    return ratings.with_users(pl.DataFrame({"user": range(120), "camp": ["even", "odd"] * 60}))


@pytest.fixture(scope="module")
def camps():
    model = ft.TwoTower(**SMALL | {"epochs": 15, "learning_rate": 0.01})
    return ft.fit(model, camps_of(worlds()), progress=False)


def test_what_is_known_of_a_user_tells_where_the_history_is_silent(camps):
    silent = batch_of(camps.dataset, np.full(2, -1), camps.dataset)
    silent.train_row_b[:] = torch.tensor([0, 1])  # known users, nothing shown
    even_i, odd_i = camps.model.score(silent)
    red_i = torch.from_numpy(camps.dataset.items.values.to_numpy() % 2 == 0)
    assert (even_i - odd_i)[red_i].mean() > (even_i - odd_i)[~red_i].mean() + 1


def test_what_a_newcomer_says_of_themselves_counts_like_the_same_of_a_known_user(camps):
    known = batch_of(camps.dataset, np.arange(10), camps.dataset)
    new = replace(known, train_row_b=torch.full((10,), -1), about=camps.dataset.user_table[:10])
    assert torch.equal(camps.model.score(new), camps.model.score(known))
    silent = replace(new, about=None)
    assert not torch.equal(camps.model.score(silent), camps.model.score(known))


def test_someone_who_has_done_nothing_yet_gets_what_their_kind_likes(camps, tmp_path):
    loaded = ft.load(camps.save(tmp_path / "bundle"))
    for recommender in (camps, loaded):
        for camp, kind in (("even", "red"), ("odd", "blue")):
            listed = recommender.recommend(history=[], about={"camp": camp}, k=5)
            assert listed["kind"].to_list() == [kind] * 5


def test_columns_of_held_out_users_are_known_from_the_start():
    dataset = camps_of(worlds())
    model = ft.TwoTower(**SMALL | {"epochs": 15, "learning_rate": 0.01})
    cold = ft.cold_users({"towers": model}, dataset, lengths=(0,), test=0.2)
    told = cold.tallies["towers", "0"]["precision@10"].value
    cold = ft.cold_users(
        {"towers": model}, replace(dataset, user_table=None), lengths=(0,), test=0.2
    )
    assert told > 1.5 * cold.tallies["towers", "0"]["precision@10"].value


@pytest.mark.parametrize("deaths", [2, 40])
def test_killed_and_resumed_the_weights_are_the_same_bit_for_bit(ratings, tmp_path, deaths):
    model = ft.TwoTower(**SMALL)
    expected = model.fit(ratings, Engine(seed=5)).state()[0]
    engine = Engine(seed=5, folder=tmp_path, save_every=0 if deaths == 2 else 1e9)
    n_lives = lives(
        lambda: model.fit(ratings, engine),
        lambda: register_optimizer_step_post_hook(dies_at(deaths if deaths == 2 else 10)),
    )
    assert n_lives > 2
    assert_same(model.state()[0], expected)
