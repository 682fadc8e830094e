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
from foretaste.data.histories import histories_of
from foretaste.models.towers import Sparse, pool
from foretaste.models.two_tower import Masked, candidates, interleaved
from foretaste.training.engine import Engine
from foretaste.training.losses import sampled_softmax
from tests.test_cold_start import worlds
from tests.test_training import assert_same, dies_at, lives

SMALL = {"n_factors": 8, "hidden": 8, "epochs": 4, "batch_size": 8, "negatives": 10}


def masked(n_users=40, n_items=30, size=16, negatives=5):
    rng = np.random.default_rng(0)
    has = rng.random((n_users, n_items)) < rng.uniform(0.1, 0.4, (n_users, 1))
    has[:, :2] = True
    liked = rng.random(has.shape) < 0.6
    liked[:, :2] = True
    both = [has * kept * rng.integers(1, 9, has.shape) for kept in (liked, ~liked)]
    X_ri = interleaved(*(sparse.csr_matrix(weights, dtype=np.float32) for weights in both))
    return Masked(torch.arange(n_users), size, Engine(seed=2), X_ri, negatives)


def dense(place_h, shape):
    return torch.zeros(shape).view(-1).index_fill(0, place_h, 1).view(shape).numpy()


def test_an_epoch_shows_every_user_once_a_part_of_the_history_and_wants_the_other_likes():
    batches = masked(negatives=30)
    seen = []
    for user_b, shown_ri, wanted_t, never_n, item_c in batches.epoch(0):
        likes_bi, dislikes_bi = (batches.X_ri[2 * user_b.numpy() + row].toarray() for row in (0, 1))
        shown_bi, seen_bi = shown_ri[::2].toarray(), shown_ri[1::2].toarray()
        wanted_bi, never_bi = (dense(place_h, likes_bi.shape) for place_h in (wanted_t, never_n))
        assert (np.where(wanted_bi, likes_bi, shown_bi) == likes_bi).all()
        assert ((shown_bi > 0) + wanted_bi == (likes_bi > 0)).all()
        assert (seen_bi == np.where(seen_bi, dislikes_bi, 0)).all()
        assert 0 < np.count_nonzero(seen_bi) < np.count_nonzero(dislikes_bi)
        assert ((shown_bi + seen_bi > 0) == never_bi).all()
        assert wanted_t.tolist() == sorted(wanted_t.tolist())
        assert item_c is None
        seen += user_b.tolist()
    assert sorted(seen) == list(range(40))


def test_an_epoch_taken_up_in_the_middle_serves_the_same_batches():
    def columns(batch):
        user_b, shown_ri, wanted_t, never_n, item_c = batch
        return [*map(list, (user_b, shown_ri.indices, shown_ri.indptr, wanted_t, never_n, item_c))]

    batches = masked()
    whole = [*map(columns, batches.epoch(3))]
    assert [*map(columns, batches.epoch(3, start=1))] == whole[1:]
    assert len(whole) == batches.per_epoch == 3


def test_likes_and_dislikes_of_a_user_stand_in_rows_one_after_the_other():
    likes_ui, dislikes_ui = (
        sparse.csr_matrix(np.array(x)) for x in ([[1, 0], [0, 2]], [[0, 3], [0, 0]])
    )
    assert interleaved(likes_ui, dislikes_ui).toarray().tolist() == [[1, 0], [0, 3], [0, 2], [0, 0]]


def test_how_much_is_shown_goes_evenly_from_none_to_all():
    batches = masked(n_users=3000, size=3000, negatives=30)
    ((_, shown_ri, wanted_t, _, _),) = batches.epoch(0)
    shown_b = np.diff(shown_ri[::2].indptr)
    wanted_b = np.bincount(wanted_t // 30, minlength=3000)
    assert abs(shown_b.sum() / (shown_b + wanted_b).sum() - 0.5) < 0.02
    for untouched in (shown_b == 0, wanted_b == 0):
        assert untouched.mean() > 0.08  # 1 / (n + 1) of the histories of n


def test_the_chance_to_be_in_a_sample_is_the_one_observed():
    batches = masked(n_users=64, n_items=30, size=16, negatives=5)
    times_i, n_batches = torch.zeros(30), 0
    for number in range(600):
        for *_, item_c in batches.epoch(number):
            times_i[item_c] += 1
            n_batches += 1
    torch.testing.assert_close(batches.log_chances().exp(), times_i / n_batches, atol=0.05, rtol=0)


def test_a_sample_holds_what_its_users_have_and_the_noise():
    X_ri = sparse.csr_matrix(np.array([[0, 2, 0, 0, 0, 0], [0, 0, 0, 3, 0, 4]], dtype="f4"))
    item_c, X_rc = candidates(X_ri, np.array([4, 4]))
    assert item_c.tolist() == [1, 3, 4, 5]
    assert X_rc.toarray().tolist() == [[2, 0, 0, 0], [0, 3, 0, 4]]
    assert not masked(negatives=30).sampled
    assert masked(negatives=29).sampled


def test_places_in_a_sample_are_those_of_its_items():
    batches = masked(n_users=16, size=16)
    ((user_b, shown_rc, wanted_t, never_n, item_c),) = batches.epoch(0)
    likes_bc = batches.X_ri[2 * user_b.numpy()].toarray()[:, item_c]
    assert shown_rc.shape == (32, len(item_c))
    shown_bc, wanted_bc = shown_rc[::2].toarray(), dense(wanted_t, likes_bc.shape)
    assert (np.where(wanted_bc, likes_bc, shown_bc) == likes_bc).all()
    assert (dense(never_n, likes_bc.shape) == (shown_bc + shown_rc[1::2].toarray() > 0)).all()


NONE = torch.empty(0, dtype=torch.int64)


def test_the_corrected_sample_estimates_the_sum_over_all_items_without_bias():
    g = torch.Generator().manual_seed(0)
    item_id = torch.randn(50, 1, generator=g, dtype=torch.float64)
    one_11 = torch.ones(1, 1, dtype=torch.float64)
    chance_i = torch.rand(50, generator=g, dtype=torch.float64) * 0.8 + 0.1
    first_t = torch.zeros(1, dtype=torch.int64)
    sums = []
    for _ in range(4000):
        drawn = torch.rand(50, generator=g) < chance_i
        if drawn.any():
            item_cd, log_chance_c = item_id[drawn], chance_i[drawn].log()
            loss = sampled_softmax(one_11, item_cd, 1.0, log_chance_c, first_t, NONE)
            sums.append((loss + item_cd[0, 0]).exp())
    assert float(torch.stack(sums).mean()) == pytest.approx(float(item_id.exp().sum()), rel=0.03)


def test_the_softmax_and_its_gradient_are_those_of_cross_entropy_over_the_candidates():
    g = torch.Generator().manual_seed(1)
    user_bd, item_cd = (torch.randn(n, 5, generator=g).requires_grad_() for n in (3, 7))
    log_chance_c = torch.randn(7, generator=g)
    row_t, column_t = torch.tensor([0, 0, 2]), torch.tensor([4, 1, 6])
    row_n, column_n = torch.tensor([0, 2, 1]), torch.tensor([5, 0, 3])
    wanted_t, never_n = row_t * 7 + column_t, row_n * 7 + column_n
    hidden_bc = torch.zeros(3, 7).index_put((row_n, column_n), torch.tensor(-torch.inf))
    corrected_bc = user_bd @ item_cd.T / 0.3 - log_chance_c + hidden_bc
    expected = torch.nn.functional.cross_entropy(corrected_bc[row_t], column_t)
    expected = expected - log_chance_c[column_t].mean()
    of_both = torch.autograd.grad(expected * 2, (user_bd, item_cd))
    found = sampled_softmax(user_bd, item_cd, 0.3, log_chance_c, wanted_t, never_n)
    torch.testing.assert_close(torch.autograd.grad(found * 2, (user_bd, item_cd)), of_both)
    torch.testing.assert_close(found, expected)
    with_chance = torch.cat([user_bd, torch.full((3, 1), 0.3)], dim=1)
    of_items = torch.cat([item_cd, -log_chance_c[:, None]], dim=1)
    everything = sampled_softmax(with_chance, of_items, 0.3, None, wanted_t, never_n)
    torch.testing.assert_close(everything, found + log_chance_c[column_t].mean())


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
    user_bd, item_cd = torch.ones(2, 4, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    loss = sampled_softmax(user_bd, item_cd, 1.0, log_chance_c, NONE, torch.arange(6))
    loss.backward()
    assert loss == 0
    assert not user_bd.grad.any()
    assert not item_cd.grad.any()


def test_a_sample_of_the_items_teaches_what_all_of_them_do():
    ratings = worlds()
    both = [
        ft.fit(ft.TwoTower(**SMALL | {"epochs": 15, "learning_rate": 0.01, "negatives": n}),
               ratings, progress=False).model
        for n in (10, 60)
    ]  # fmt: skip
    batch = histories_of(ratings, np.arange(len(ratings.users)), ratings)
    own_ui = torch.from_numpy(
        ratings.users.values.to_numpy()[:, None] % 2 == ratings.items.values.to_numpy() % 2
    )
    for model in both:
        score_ui = model.score(batch)
        assert (score_ui[own_ui].mean() - score_ui[~own_ui].mean()) > 3 * score_ui[own_ui].std()


def test_what_was_seen_and_not_liked_counts_in_serving(ratings):
    model = ft.fit(ft.TwoTower(**SMALL), ratings, progress=False).model
    batch = histories_of(ratings, np.arange(20), ratings)
    disliked_h = batch.value_h < model.border_
    assert 0 < disliked_h.float().mean() < 1
    likes = batch.only(~disliked_h)
    assert not torch.equal(model.score(batch), model.score(likes))
    torch.nn.init.zeros_(model.network_.disliked)
    torch.testing.assert_close(model.score(batch), model.score(likes))


def test_a_new_item_is_offered_to_those_who_like_its_kind():
    ratings = worlds()
    model = ft.TwoTower(**SMALL | {"epochs": 15, "learning_rate": 0.01})
    model = ft.fit(model, ratings, progress=False).model
    extended = model.with_items(pl.DataFrame({"item": [1000, 1001], "kind": ["red", "blue"]}))
    batch = histories_of(ratings, np.arange(len(ratings.users)), ratings)
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
    silent = histories_of(camps.dataset, np.full(2, -1), camps.dataset)
    silent.train_row_b[:] = torch.tensor([0, 1])  # known users, nothing shown
    even_i, odd_i = camps.model.score(silent)
    red_i = torch.from_numpy(camps.dataset.items.values.to_numpy() % 2 == 0)
    assert (even_i - odd_i)[red_i].mean() > (even_i - odd_i)[~red_i].mean() + 1


def test_what_a_newcomer_says_of_themselves_counts_like_the_same_of_a_known_user(camps):
    known = histories_of(camps.dataset, np.arange(10), camps.dataset)
    new = replace(
        known, train_row_b=torch.full((10,), -1), user_features=camps.dataset.user_table[:10]
    )
    assert torch.equal(camps.model.score(new), camps.model.score(known))
    silent = replace(new, user_features=None)
    assert not torch.equal(camps.model.score(silent), camps.model.score(known))


def test_someone_who_has_done_nothing_yet_gets_what_their_kind_likes(camps, tmp_path):
    loaded = ft.load(camps.save(tmp_path / "bundle"))
    for recommender in (camps, loaded):
        for camp, kind in (("even", "red"), ("odd", "blue")):
            listed = recommender.recommend(history=[], user_features={"camp": camp}, k=5)
            assert listed["kind"].to_list() == [kind] * 5


def test_columns_of_held_out_users_are_known_from_the_start():
    dataset = camps_of(worlds())
    model = ft.TwoTower(**SMALL | {"epochs": 15, "learning_rate": 0.01})
    cold = ft.evaluate_cold_users({"towers": model}, dataset, lengths=(0,), test=0.2)
    told = cold.tallies["towers", "0"]["precision@10"].value
    cold = ft.evaluate_cold_users(
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
