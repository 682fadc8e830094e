# pyright: reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportOptionalOperand=false
# pyright: reportOptionalMemberAccess=false
from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse
from torch.optim.optimizer import register_optimizer_step_post_hook

import foretaste as ft
from foretaste.models.base import batch_of
from foretaste.models.two_tower import Masked, Sparse, candidates, pool
from foretaste.training.engine import Engine
from foretaste.training.losses import sampled_softmax
from tests.test_cold_start import worlds
from tests.test_training import assert_same, dies_at, lives

SMALL = {"n_factors": 8, "hidden": 8, "epochs": 4, "batch_size": 8, "negatives": 10}


def masked(n_users=40, n_items=30, size=16, negatives=5):
    rng = np.random.default_rng(0)
    likes = rng.random((n_users, n_items)) < rng.uniform(0.1, 0.4, (n_users, 1))
    likes[:, :2] = True
    X_ui = sparse.csr_matrix(likes * rng.integers(1, 9, likes.shape), dtype=np.float32)
    return Masked((torch.arange(n_users),), size, Engine(seed=2), X_ui, negatives)


def test_an_epoch_serves_every_user_once_with_the_whole_history():
    batches = masked()
    seen = []
    for user_b, shown_bi, wanted_bi, noise_n in batches.epoch(0):
        assert (shown_bi + wanted_bi != batches.X_ui[user_b.numpy()]).nnz == 0
        assert shown_bi.multiply(wanted_bi).nnz == 0
        assert len(noise_n) == 5
        seen += user_b.tolist()
    assert sorted(seen) == list(range(40))


def test_how_much_is_shown_goes_evenly_from_none_to_all():
    ((_, shown_bi, wanted_bi, _),) = masked(n_users=3000, size=3000).epoch(0)
    shown_b, wanted_b = (np.diff(X_bi.indptr) for X_bi in (shown_bi, wanted_bi))
    assert abs(shown_b.sum() / (shown_b + wanted_b).sum() - 0.5) < 0.02
    for untouched in (shown_b == 0, wanted_b == 0):
        assert untouched.mean() > 0.08  # 1 / (n + 1) of the histories of n


def test_the_chance_to_be_in_a_sample_is_the_one_observed():
    batches = masked(n_users=64, n_items=30, size=16, negatives=5)
    times_i, n_batches = torch.zeros(30), 0
    for number in range(600):
        for _, shown_bi, wanted_bi, noise_n in batches.epoch(number):
            times_i[candidates(noise_n, shown_bi, wanted_bi)[0]] += 1
            n_batches += 1
    torch.testing.assert_close(batches.log_chances().exp(), times_i / n_batches, atol=0.05, rtol=0)


def test_a_sample_holds_what_its_users_like_and_the_noise():
    likes = sparse.csr_matrix(np.array([[0, 2, 0, 0, 0, 0], [0, 0, 0, 3, 0, 4]], dtype="f4"))
    item_c, (likes_bc,) = candidates(np.array([4, 4]), likes)
    assert item_c.tolist() == [1, 3, 4, 5]
    assert likes_bc.toarray().tolist() == [[2, 0, 0, 0], [0, 3, 0, 4]]
    assert not masked(negatives=30).sampled
    assert masked(negatives=29).sampled


NONE = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)


def test_the_corrected_sample_estimates_the_sum_over_all_items_without_bias():
    g = torch.Generator().manual_seed(0)
    score_1i = torch.randn(1, 50, generator=g, dtype=torch.float64)
    chance_i = torch.rand(50, generator=g, dtype=torch.float64) * 0.8 + 0.1
    target = torch.zeros(1, dtype=torch.int64)
    sums = []
    for _ in range(4000):
        drawn = torch.rand(50, generator=g) < chance_i
        if drawn.any():
            score_1c = score_1i[:, drawn]
            loss = sampled_softmax(score_1c.clone(), chance_i[drawn].log(), (target, target), NONE)
            sums.append((loss + score_1c[0, 0]).exp())
    assert float(torch.stack(sums).mean()) == pytest.approx(float(score_1i.exp().sum()), rel=0.03)


def test_the_softmax_and_its_gradient_are_those_of_cross_entropy_over_the_candidates():
    g = torch.Generator().manual_seed(1)
    score_bc = torch.randn(3, 7, generator=g).requires_grad_()
    log_chance_c = torch.randn(7, generator=g)
    wanted = torch.tensor([0, 0, 2]), torch.tensor([4, 1, 6])
    never = torch.tensor([0, 2, 1]), torch.tensor([5, 0, 3])
    hidden_bc = torch.zeros(3, 7).index_put(never, torch.tensor(-torch.inf))
    corrected_bc = score_bc - log_chance_c + hidden_bc
    expected = torch.nn.functional.cross_entropy(corrected_bc[wanted[0]], wanted[1])
    expected = expected - log_chance_c[wanted[1]].mean()
    expected.backward()
    expected_bc, score_bc.grad = score_bc.grad, None
    (sampled_softmax(score_bc * 1, log_chance_c, wanted, never) * 2).backward()
    torch.testing.assert_close(score_bc.grad, expected_bc * 2)
    found = sampled_softmax(score_bc.detach().clone(), log_chance_c, wanted, never)
    torch.testing.assert_close(found, expected.detach())
    everything = sampled_softmax(score_bc.detach() - log_chance_c, None, wanted, never)
    torch.testing.assert_close(everything, found + log_chance_c[wanted[1]].mean())


def test_a_sparse_product_and_its_gradient_are_those_of_the_dense_one():
    A_rf = sparse.csr_matrix(np.array([[1, 0, 5], [0, 1, 0]], dtype="f4"))
    x_fd = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for value_r in (None, torch.tensor([0.0, 2.0])):
        expected_rf = torch.from_numpy(A_rf.toarray())
        features = Sparse.of(A_rf, torch.device("cpu"))
        if value_r is not None:
            expected_rf[[0, 1], [0, 1]] = value_r
            features = features.with_first(value_r)
        product_rd, x_fd.grad = features @ x_fd, None
        product_rd.backward(torch.arange(8.0).view(2, 4))
        torch.testing.assert_close(product_rd, expected_rf @ x_fd)
        torch.testing.assert_close(x_fd.grad, expected_rf.T @ torch.arange(8.0).view(2, 4))
    assert A_rf.toarray().tolist() == [[1, 0, 5], [0, 1, 0]]


def test_hiding_ids_in_training_leaves_what_is_learned_of_them(ratings):
    model = ft.TwoTower(**SMALL | {"id_dropout": 0.9, "negatives": 100})
    model = ft.fit(model, ratings, progress=False).model
    torch.testing.assert_close(model.history_id_, model.network_.as_history)  # no columns
    torch.testing.assert_close(model.candidate_id_, model.network_.as_candidate)


def test_a_history_is_pooled_as_the_weighted_sum_over_the_root_of_its_weight():
    row_id = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = np.zeros((3, 6), np.float32)
    weights[0, [4, 0]], weights[2, 5] = [1, 2], 3
    pooled_bd = pool(sparse.csr_matrix(weights), row_id)
    torch.testing.assert_close(pooled_bd[0], (row_id[4] + 2 * row_id[0]) / 3**0.5)
    torch.testing.assert_close(pooled_bd[1], torch.zeros(3))
    torch.testing.assert_close(pooled_bd[2], 3 * row_id[5] / 3**0.5)
    pooled_bd[0].sum().backward()
    rate_i = torch.tensor([2.0, 0, 0, 0, 1, 0]) / 3**0.5
    torch.testing.assert_close(row_id.grad, rate_i[:, None].expand(-1, 3))


@pytest.mark.parametrize("log_chance_c", [None, torch.zeros(3)])
def test_a_batch_without_a_target_is_no_error_and_teaches_nothing(log_chance_c):
    score_bc = torch.zeros(2, 3, requires_grad=True)
    everything = torch.arange(2).repeat_interleave(3), torch.arange(3).repeat(2)
    loss = sampled_softmax(score_bc * 1, log_chance_c, NONE, everything)
    loss.backward()
    assert loss == 0
    assert not score_bc.grad.any()


def test_a_sample_of_the_items_teaches_what_all_of_them_do():
    ratings = worlds()
    both = [
        ft.fit(ft.TwoTower(**SMALL | {"epochs": 15, "learning_rate": 0.01, "negatives": n}),
               ratings, progress=False).model
        for n in (10, 60)
    ]  # fmt: skip
    batch = batch_of(ratings, np.arange(len(ratings.users)), ratings)
    own_ui = torch.from_numpy(
        ratings.users.values.to_numpy()[:, None] % 2 == ratings.items.values.to_numpy() % 2
    )
    for model in both:
        score_ui = model.score(batch)
        assert (score_ui[own_ui].mean() - score_ui[~own_ui].mean()) > 3 * score_ui[own_ui].std()


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
