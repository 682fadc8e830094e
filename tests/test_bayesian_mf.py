"""Bayesian matrix factorisation: each draw against its textbook, then the whole on known data."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.errors import CheckpointError, ModelError
from foretaste.models.base import PlacesNewItems
from foretaste.models.bayesian import drift, factor_rows, fold_in, gibbs, side_information
from foretaste.training.engine import Engine

SMALL: dict[str, Any] = {
    "n_factors": 3,
    "implicit_rank": 8,
    "burn_in": 30,
    "samples": 20,
    "keep_every": 2,
}
PLAIN: dict[str, Any] = {
    **SMALL,
    "implicit_rank": 0,
    "drift_seconds": [],
    "user_noise": 0.0,
    "item_noise": 0.0,
}
NOISE = 0.5
GENRES = ["Drama", "Comedy", "War"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def known(seed: int = 0, n_users: int = 150, n_items: int = 80, share: float = 0.35):
    """Gaussian ratings of two known factors, and a table whose genre shifts an item's mean."""
    draw = np.random.default_rng(seed)
    user, item = np.nonzero(draw.random((n_users, n_items)) < share)
    genre = draw.integers(0, len(GENRES), n_items)
    taste = draw.normal(size=(n_users, 2)) @ draw.normal(size=(2, n_items)) * 0.5
    truth = 3.0 + draw.normal(size=(n_users, 1)) * 0.4 + (genre - 1) * 0.8 + taste
    frame = pl.DataFrame(
        {
            "user": [f"u{u:03}" for u in user],
            "item": [f"i{i:03}" for i in item],
            "rating": truth[user, item] + draw.normal(size=len(user)) * NOISE,
            "time": draw.integers(1_500_000_000, 1_600_000_000, len(user)),
        }
    )
    table = pl.DataFrame(
        {"item": [f"i{i:03}" for i in range(n_items)], "genre": [GENRES[g] for g in genre]}
    )
    return ft.from_frame(frame).with_items(table)


@pytest.fixture(scope="module")
def parts():
    return ft.split(known(), "random", test=0.2, seed=1)


@pytest.fixture(scope="module")
def plain(parts):
    return ft.fit(ft.BayesianMF(**PLAIN), parts.train, seed=2, progress=False)


@pytest.fixture(scope="module")
def full(parts):
    return ft.fit(ft.BayesianMF(**SMALL), parts.train, seed=2, progress=False)


def learn(train, seed: int = 1, **fields: Any) -> ft.BayesianMF:
    return ft.BayesianMF(**fields).fit(train, Engine(device="cpu", seed=seed))


def pairs(dataset, of=None):
    """The batch of everyone in `of`, and every pair of the dataset in its rows."""
    of, x = of or dataset, dataset.interactions
    batch = histories_of(of, np.arange(len(of.users)), of)
    user_p = torch.from_numpy(of.users.find(dataset.users.values)[x.user_r])
    item_p = torch.from_numpy(of.items.find(dataset.items.values)[x.item_r])
    return batch, user_p, item_p


# -- the draws


def test_a_rows_conditional_is_the_textbook_posterior_of_a_bayesian_regression():
    draw = np.random.default_rng(0)
    k, n, alpha, w = 3, 12, 2.5, 0.7
    X_ik, noise_i = draw.normal(size=(5, k)), draw.gamma(4, 0.25, size=5)
    item_n = draw.integers(0, 5, n)
    y_n, prior_k = draw.normal(size=n), draw.normal(size=k)
    A = draw.normal(size=(k, k))
    Lambda = A @ A.T + np.eye(k)
    # y ~ N([factors, 1] x, 1 / (alpha w w_i)): the partner's bias is not part of the regressors
    Z_nk = np.column_stack([X_ik[item_n, :-1], np.ones(n)])
    W = np.diag(alpha * w * noise_i[item_n])
    P = Lambda + Z_nk.T @ W @ Z_nk
    mean = np.linalg.solve(P, Lambda @ prior_k + Z_nk.T @ W @ y_n)

    row_n, t = torch.zeros(n, dtype=torch.long), torch.tensor
    blocks = factor_rows.padded_blocks(row_n, t(item_n), 1, 5)
    root_n = t(noise_i).float().sqrt()[t(item_n)]
    P_rkk = torch.empty(1, k, k)
    args = (
        blocks, factor_rows.design(t(X_ik).float(), t(noise_i).float()), t(y_n).float() * root_n,
        t([alpha * w]), t(prior_k)[None].float(), t(Lambda).float(),
    )  # fmt: skip
    X_rk, mean_rk, fit_n = factor_rows.draw_rows(*args, None, P_rkk)
    assert torch.equal(X_rk, mean_rk)
    np.testing.assert_allclose(X_rk[0].numpy(), mean, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(P_rkk[0].numpy(), P, rtol=1e-4)
    np.testing.assert_allclose((fit_n / root_n).numpy(), Z_nk @ mean, rtol=1e-3, atol=1e-4)
    draws = torch.cat([factor_rows.draw_rows(*args, g)[0] for g in [rng(1)] for _ in range(4000)])
    np.testing.assert_allclose(draws.mean(0).numpy(), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(draws.numpy().T), np.linalg.inv(P), atol=0.02)


def test_every_rating_is_in_exactly_one_block_with_its_partner():
    row_n = torch.from_numpy(np.random.default_rng(1).geometric(0.05, 500) % 40)
    partner_n = torch.randint(0, 30, (500,), generator=rng())
    seen = []
    for block in factor_rows.padded_blocks(row_n, partner_n, 40, 30):
        for row, rating_d, partner_d in zip(
            block.rows_b, block.ratings_bd, block.partners_bd, strict=True
        ):
            real_d = rating_d < 500
            assert (partner_d[~real_d] == 30).all()
            assert (row_n[rating_d[real_d]] == row).all()
            assert torch.equal(partner_n[rating_d[real_d]], partner_d[real_d])
            seen += rating_d[real_d].tolist()
    assert sorted(seen) == list(range(500))


def test_the_normal_wishart_draws_the_moments_of_many_rows():
    A = torch.tensor([[1.0, 0.0], [0.8, 0.5]])
    E_rk = torch.randn(20_000, 2, generator=rng(3)) @ A.T + torch.tensor([1.0, -2.0])
    mu_k, Lambda_kk = gibbs.normal_wishart(E_rk, rng(4))
    torch.testing.assert_close(mu_k, torch.tensor([1.0, -2.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.linalg.inv(Lambda_kk), A @ A.T, atol=0.05, rtol=0)


def test_coefficients_are_a_ridge_regression_on_average():
    F_rc = torch.randn(300, 4, generator=rng(5))
    B_rf = side_information.project(F_rc, side_information.principal_basis(F_rc, 4, rng()))
    E_rk = B_rf @ torch.randn(4, 2, generator=rng(6)) + 0.1 * torch.randn(300, 2, generator=rng(7))
    g, Lambda_kk, scale = rng(8), 100 * torch.eye(2), torch.tensor(5.0)
    draws = torch.stack(
        [side_information.coefficients(E_rk, B_rf, Lambda_kk, scale, g)[0] for _ in range(500)]
    )
    ridge = torch.linalg.solve(B_rf.T @ B_rf + 5 * torch.eye(4), B_rf.T @ E_rk)
    torch.testing.assert_close(draws.mean(0), ridge, atol=2e-3, rtol=0)


@pytest.mark.parametrize("rank", [3, 20])
def test_a_basis_is_centred_orthogonal_and_keeps_the_largest_directions(rank):
    scale_c = 0.5 ** torch.arange(20)
    F_rc = torch.randn(60, 20, generator=rng(9)) * scale_c + 1
    B_rf = side_information.project(F_rc, side_information.principal_basis(F_rc, rank, rng()))
    gram = B_rf.T @ B_rf
    centred = F_rc - F_rc.mean(0)
    top = torch.linalg.eigvalsh(centred.T @ centred).flip(0)
    torch.testing.assert_close(B_rf.mean(0), torch.zeros(B_rf.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(gram, gram.diagonal().diag(), atol=1e-2, rtol=0)
    torch.testing.assert_close(gram.diagonal(), top[: B_rf.shape[1]], rtol=1e-2, atol=1e-3)


def test_a_basis_of_very_many_columns_needs_no_square_of_them():
    place_2n = torch.stack(
        [torch.arange(400) % 20, torch.randint(0, 300_000, (400,), generator=rng())]
    )
    F_rc = torch.sparse_coo_tensor(place_2n, torch.ones(400), (20, 300_000), check_invariants=False)
    assert side_information.principal_basis(F_rc, 4, rng()).shape == (300_001, 4)  # squared: 360 GB


def test_implicit_features_are_rows_of_unit_length_and_a_count():
    F_rc = side_information.implicit_features(
        torch.tensor([0, 0, 2]), torch.tensor([1, 3, 0]), 3, 4
    )
    half, log = 2**-0.5, np.log(2) / 2
    expected = [[0, half, 0, half, log], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    torch.testing.assert_close(F_rc.to_dense(), torch.tensor(expected).float())


# -- drift against a Gaussian process with an exponential kernel, written out


def process(seconds: float, tau: float):
    """A timeline of two users, its phi, and its dense covariance."""
    user_n = torch.tensor([0, 1, 0, 0, 1, 0])
    time_n = torch.tensor([5_000, 9_000, 1_000, 5_000, 9_500, 100_000])
    line = drift.timeline(user_n, time_n)
    gap = (line.time_m[:, None] - line.time_m).abs() / 1000
    K = torch.exp(-gap / seconds) * (line.user_m[:, None] == line.user_m) / tau
    return line, line.decay(seconds), K


def test_ratings_of_one_moment_share_a_node():
    line, _, _ = process(3.0, 1.0)
    assert line.user_m.tolist() == [0, 0, 0, 1, 1]
    assert line.time_m.tolist() == [1_000, 5_000, 100_000, 9_000, 9_500]
    assert line.node_n.tolist() == [1, 3, 0, 1, 4, 2]


def test_the_mean_of_a_drift_is_gaussian_process_regression():
    _, phi_m, K = process(10.0, 4.0)
    y_m, weight_m = torch.randn(5, generator=rng(1)), torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    expected = K @ torch.linalg.solve(K + torch.diag(1 / weight_m), y_m)
    mean_m, _ = drift.draw_drift(weight_m * y_m, weight_m, phi_m, torch.tensor(4.0), None)
    torch.testing.assert_close(mean_m, expected, atol=1e-4, rtol=1e-3)


def test_between_two_ratings_a_drift_is_the_gaussian_process_bridge():
    line, _, K = process(10.0, 1.0)
    user_q = torch.tensor([0, 0, 1, 0, 7, 1, 1])
    time_q = torch.tensor([3_000, 130_000, 9_200, 500, 5_000, 8_000, 12_000])
    s_m = torch.randn(5, generator=rng(2))
    gap = (time_q[:, None] - line.time_m).abs() / 1000
    k_qm = torch.exp(-gap / 10) * (user_q[:, None] == line.user_m)
    bridge = line.bridge(10.0, user_q, time_q)
    torch.testing.assert_close(bridge.mean(s_m), k_qm @ torch.linalg.solve(K, s_m))
    assert bridge.mean(s_m)[4] == 0  # a user without ratings


def test_between_two_rated_moments_the_variance_is_that_of_a_gaussian_process():
    line, _, _ = process(1.0, 1.0)
    user_q, time_q = torch.tensor([0, 0, 1, 0, 7]), torch.tensor([3_000, 1_000, 9_200, 200_000, 0])
    seconds_c, tau_c = [3.0, 40.0], torch.tensor([2.0, 5.0])
    weight_m = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    bridges = [line.bridge(seconds, user_q, time_q) for seconds in seconds_c]
    variance_q = drift.bridged_variance(bridges, tau_c, weight_m, weight_m)

    def k(one, other):  # the kernel of the sum
        gap = (one[:, None] - other).abs() / 1000
        parts = [torch.exp(-gap / s) / tau for s, tau in zip(seconds_c, tau_c, strict=True)]
        return torch.stack(parts).sum(dim=0)

    for q, nodes in enumerate([[0, 1], [0, 1], [3, 4], [2], []]):
        t_m, W = line.time_m[nodes], torch.diag(1 / weight_m[nodes])
        k_1m = k(time_q[q : q + 1], t_m)
        known = (k_1m @ torch.linalg.solve(k(t_m, t_m) + W, k_1m.T)).sum()
        torch.testing.assert_close(variance_q[q], torch.sum(1 / tau_c) - known)


def test_drift_draws_find_the_variance_of_a_known_process():
    m, g = 4000, rng(3)
    time_n = torch.arange(m) * 1000
    line = drift.timeline(torch.zeros(m, dtype=torch.long), time_n)
    phi_m = line.decay(20.0)
    s, path = 0.0, []
    for phi in phi_m.tolist():
        s = phi * s + float(torch.randn((), generator=g)) * (1 - phi**2) ** 0.5 * 0.3
        path.append(s)
    y_m = torch.tensor(path) + 0.5 * torch.randn(m, generator=g)
    weight_m, tau = torch.full((m,), 4.0), torch.tensor(20.0)
    kept = []
    for number in range(60):
        _, tau = drift.draw_drift(weight_m * y_m, weight_m, phi_m, tau, g)
        kept += [float(tau) ** -0.5] if number >= 10 else []
    assert 0.25 < np.mean(kept) < 0.36


def test_a_long_tridiagonal_system_is_solved():
    diagonal_m = 2.5 + torch.rand(300, generator=rng(4))
    low_m = -torch.rand(300, generator=rng(5))
    low_m[0] = 0
    A = diagonal_m.diag() + low_m[1:].diag(-1) + low_m[1:].diag(1)
    right_jm = torch.randn(2, 300, generator=rng(6))
    solved = drift.tridiagonal_solve(low_m, diagonal_m, right_jm)
    torch.testing.assert_close(solved @ A, right_jm, atol=1e-4, rtol=1e-4)


def test_a_common_factor_of_noise_moves_between_its_parts_and_changes_no_rating(parts):
    g = rng(9)
    chain = ft.BayesianMF(**SMALL)._chain(parts.train, torch.device("cpu"), g)
    chain.users.noise_r = torch.full_like(chain.users.noise_r, 3.0)  # should be 1 on average
    before = chain.alpha * chain.users.noise_r
    means = []
    for _ in range(200):
        gibbs.rescale_noise(chain, chain.users, g)
        means.append(float(chain.users.noise_r.mean()))
    torch.testing.assert_close(chain.alpha * chain.users.noise_r, before)
    # precisions 1 / (freedom rows / 2): the standard deviation of the mean of so many gammas
    assert abs(np.mean(means) - 1) < 0.02
    assert 0.7 < np.std(means) / (2 / (chain.users.freedom * len(before))) ** 0.5 < 1.3


# -- the model


def test_the_sampler_finds_known_factors_to_within_a_tenth_of_the_noise(plain, parts):
    report = ft.evaluate(plain, parts, ranking=False)
    assert report.metrics["rmse"].value < 1.15 * NOISE
    baseline = ft.evaluate(ft.fit(ft.Bias(), parts.train, progress=False), parts, ranking=False)
    assert report.metrics["rmse"].value < 0.8 * baseline.metrics["rmse"].value


def test_nine_of_ten_ratings_lie_in_their_interval(plain, full, parts):
    for fitted in (plain, full):
        report = ft.evaluate(fitted, parts, ranking=False)
        assert 0.86 < report.metrics["coverage90"].value < 0.94


def test_folding_in_a_training_users_history_gives_what_the_chain_itself_predicts(parts, plain):
    model, chain_rng = ft.BayesianMF(**PLAIN), rng(11)
    chain = model._chain(parts.train, torch.device("cpu"), chain_rng)
    total_n, users, items = torch.zeros(len(parts.train)), chain.users, chain.items
    for number in range(130):
        gibbs.sweep(chain, number, chain_rng)
        if number >= 30:
            x_nk, v_nk = users.X_rk[users.row_n], items.X_rk[items.row_n]
            total_n += (x_nk * v_nk)[:, :-1].sum(1) + x_nk[:, -1] + v_nk[:, -1]
    batch, user_p, item_p = pairs(parts.train)
    folded = plain.model.predict(batch, user_p, item_p).mean_p
    direct = (model.mean_ + total_n / 100).clamp(*parts.train.scale)
    assert (folded - direct).square().mean().sqrt() < 0.2 * NOISE


def undoubting(model: Any) -> Any:
    """A copy that sees its items, for everyone, as drawn together with the users of training."""
    sure = copy.copy(model)
    sure.item_mean_sik_ = model.item_sik_
    sure.item_doubt_si_ = torch.zeros_like(model.item_doubt_si_)
    return sure


def test_a_new_user_is_served_like_a_user_with_the_same_history_but_for_doubt(full, parts):
    batch, user_p, item_p = pairs(parts.train)
    sure = undoubting(full.model)
    one = sure.predict(batch, user_p, item_p)
    batch.train_row_b[:] = -1  # no user table: nothing else is known of either
    other = sure.predict(batch, user_p, item_p)
    assert torch.equal(one.mean_p, other.mean_p)
    doubting = full.model.predict(batch, user_p, item_p)
    assert 0 < (doubting.mean_p - one.mean_p).square().mean().sqrt() < 0.1 * NOISE


def test_a_new_users_doubt_is_twice_the_variance_of_an_item_given_its_ratings():
    k, g = 3, rng(12)
    row_n, partner_n = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 3])
    items = gibbs.new_side(row_n, partner_n, 2, 4, [], 5.0, k, g)
    users = gibbs.new_side(partner_n, row_n, 4, 2, [], 5.0, k, g)
    users.X_rk, items.noise_r = torch.randn(4, k, generator=g), torch.tensor([0.5, 2.0])
    items.Lambda_kk = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]])
    alpha = torch.tensor(1.7)
    D_rk = torch.cat([users.X_rk[:, :-1], torch.ones(4, 1)], 1)
    M_kk = D_rk.T @ D_rk / 4
    covariances = [
        torch.linalg.inv(items.Lambda_kk + alpha * w * n * M_kk)
        for w, n in ((0.5, 3), (2.0, 1), (1.0, 0))
    ]
    expected = [2 * float((Sigma_kk @ M_kk).trace()) for Sigma_kk in covariances]
    torch.testing.assert_close(gibbs.doubt(items, users, alpha), torch.tensor(expected))


def test_new_users_are_rated_by_the_means_of_items_which_their_draws_scatter_about(full):
    mean_sik, drawn_sik = full.model.item_mean_sik_, full.model.item_sik_
    off_sik = (drawn_sik - mean_sik)[:, :-1]
    assert off_sik.mean(0).abs().mean() < 0.5 * off_sik.abs().mean()
    assert mean_sik[:, :-1].var(0).mean() < 0.9 * drawn_sik[:, :-1].var(0).mean()
    assert torch.equal(mean_sik[:, -1], drawn_sik[:, -1])  # the new item


def held_out(ratings: ft.Dataset, every: int = 5) -> ft.Split:
    """Some users left out of training, folded in from four fifths of their ratings."""
    halves = ft.split(ratings, "random", test=0.2, seed=3)
    out_r = halves.train.interactions.user_r % every == 0
    out = halves.train.users.values.gather_every(every)
    tested = np.isin(halves.test.interactions.user_r, halves.test.users.find(out))
    return ft.Split(
        halves.train.take(~out_r), halves.train.take(out_r), halves.test.take(tested), "held out"
    )


def test_what_items_do_not_know_is_not_taken_for_the_noise_of_a_new_user():
    parts = held_out(known(seed=7, n_users=300, n_items=200, share=0.08), every=2)
    model = learn(parts.train, **{**SMALL, "drift_seconds": []})
    batch = histories_of(parts.history, np.arange(len(parts.history.users)), parts.train)
    noise = []
    for one in (model, undoubting(model)):
        (_, fold, _), *more = one._folded(batch, torch.zeros(len(batch)).long())
        assert not more
        noise.append(float(fold.given(slice(None)).noise_sb.mean()))
    # the truth is 1: everybody is as noisy
    assert abs(noise[0] - 1) < 0.6 * abs(noise[1] - 1)


def test_a_new_users_ratings_of_items_that_training_never_saw_count_too():
    ratings = known(seed=8)
    parts = held_out(ratings)
    never = parts.train.take(parts.train.interactions.item_r % 4 == 0)
    seen = ft.Split(never, parts.history, parts.test, "items never seen")
    fitted = ft.fit(ft.BayesianMF(**SMALL), never, seed=1, progress=False)
    rmse = ft.evaluate(fitted, seen, ranking=False).metrics["rmse"].value
    known_i = never.items.find(parts.history.items.values) >= 0
    old = parts.history.take(known_i[parts.history.interactions.item_r])
    less = ft.evaluate(fitted, ft.Split(never, old, parts.test, "old"), ranking=False)
    assert rmse < 0.98 * less.metrics["rmse"].value


def test_what_a_newcomer_says_of_themselves_counts_like_the_same_of_a_known_user(parts):
    train = parts.train
    ages = pl.DataFrame({"user": train.users.values, "age": range(len(train.users))})
    train = train.with_users(ages)
    model = ft.fit(ft.BayesianMF(**SMALL), train, progress=False).model
    batch, user_p, item_p = pairs(train)
    model = undoubting(model)
    known = model.predict(batch, user_p, item_p).mean_p
    none = torch.full_like(batch.train_row_b, -1)
    new = replace(batch, train_row_b=none, user_features=train.user_table)
    torch.testing.assert_close(model.predict(new, user_p, item_p).mean_p, known)
    silent = replace(new, user_features=None)
    assert not torch.allclose(model.predict(silent, user_p, item_p).mean_p, known, atol=1e-3)


def test_scores_are_predictions_before_clipping(full, parts):
    batch, user_p, item_p = pairs(parts.train)
    score_bi = full.model.score(batch)
    rated = full.model.predict(batch, user_p, item_p)
    torch.testing.assert_close(
        score_bi[user_p, item_p].clamp(*parts.train.scale), rated.mean_p, atol=1e-4, rtol=1e-4
    )


@pytest.fixture(scope="module")
def starred(parts):
    """A probit on whole stars."""
    frame = parts.train.frame().with_columns(pl.col("value").round().clip(1, 5))
    fields: dict[str, Any] = {**SMALL, "samples": 9, "likelihood": "probit"}
    return ft.fit(ft.BayesianMF(**fields), ft.from_frame(frame), seed=2, progress=False)


@pytest.mark.parametrize("kind", ["plain", "full", "starred"])
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("new", [True, False])
def test_a_users_ratings_do_not_depend_on_who_else_is_asked_for_nor_how_much_fits_at_once(
    request, monkeypatch, parts, kind, timed, new
):
    model = request.getfixturevalue(kind).model
    batch, user_p, item_p = pairs(parts.train)
    if new:  # every other one, so that both kinds share chunks
        batch.train_row_b[::2] = -1
    time_p = torch.from_numpy(parts.train.interactions.time_r) if timed else None
    batch = batch if timed else replace(batch, time_h=None)
    item_p[::7] = -1
    score_bi = model.score(batch)
    rated = model.predict(batch, user_p, item_p, time_p=time_p)
    for floats, users in ((1 << 22, (0, 1, 7)), (1, (0, 1)), (40_000, (2,))):
        monkeypatch.setattr(fold_in, "FLOATS_AT_ONCE", floats)
        for b in users:
            one, p = batch[b : b + 1], user_p == b
            torch.testing.assert_close(model.score(one)[0], score_bi[b], atol=1e-4, rtol=1e-4)
            time_q = None if time_p is None else time_p[p]
            alone = model.predict(one, user_p[p] - b, item_p[p], time_p=time_q)
            torch.testing.assert_close(alone.mean_p, rated.mean_p[p], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(alone.std_p, rated.std_p[p], atol=1e-4, rtol=1e-4)


def test_one_list_takes_a_few_passes_over_all_draws_not_one_for_each(full, parts, monkeypatch):
    passes, cholesky = [], torch.linalg.cholesky

    def counted(P_sbkk, *args):
        passes.append(len(P_sbkk))
        return cholesky(P_sbkk, *args)

    monkeypatch.setattr(torch.linalg, "cholesky", counted)
    draws = len(full.model.alpha_s_)
    assert draws > sum(fold_in.ROUNDS)
    full.model.score(histories_of(parts.train, np.arange(1), parts.train))
    assert len(passes) == sum(fold_in.ROUNDS)
    assert sorted(set(passes)) == [fold_in.START, draws]


def test_the_regressors_of_a_chunk_are_bounded_whatever_the_batch(full, parts, monkeypatch):
    floats, partners = [], fold_in.Posterior._partners

    def measured(given):
        D = partners(given)
        floats.append(sum(D_sbdk.numel() for D_sbdk in D))
        return D

    monkeypatch.setattr(fold_in.Posterior, "_partners", measured)
    monkeypatch.setattr(fold_in, "FLOATS_AT_ONCE", 1 << 15)
    batch, user_p, item_p = pairs(parts.train)
    full.model.score(batch)
    full.model.predict(batch, user_p, item_p)
    assert 1 << 13 < max(floats) <= factor_rows.PADDING * (1 << 15)


def test_each_user_of_a_table_is_folded_in_once(full, parts, monkeypatch):
    users, init = [], fold_in.FoldIn.__init__

    def counted(self, draws, histories, B_bf):
        users.extend(histories.train_row_b.tolist())
        init(self, draws, histories, B_bf)

    monkeypatch.setattr(fold_in.FoldIn, "__init__", counted)
    full.model.predict(*pairs(parts.train))
    assert sorted(users) == list(range(len(parts.train.users)))


def test_what_starts_from_the_average_of_a_few_draws_ends_where_more_rounds_end(
    full, parts, monkeypatch
):
    batch, user_p, item_p = pairs(parts.train)
    found = full.model.predict(batch, user_p, item_p)
    monkeypatch.setattr(fold_in, "ROUNDS", (40, 20))
    settled = full.model.predict(batch, user_p, item_p)
    assert (found.mean_p - settled.mean_p).square().mean().sqrt() < 0.02 * NOISE
    assert (found.std_p - settled.std_p).square().mean().sqrt() < 0.02 * NOISE


def test_a_new_item_gets_the_prior_mean_of_its_features(full):
    assert issubclass(ft.BayesianMF, PlacesNewItems)
    table = pl.DataFrame({"item": ["new", "newer"], "genre": ["War", None]})
    grown = full.model.with_items(table)
    n, old = full.model.n_trained_, full.model.item_sik_.shape[1]
    assert grown.item_sik_.shape[1] == old + 2
    assert full.model.item_sik_.shape[1] == old
    marks = torch.tensor([[float(g == "War") for g in sorted(GENRES)], [0.0, 0.0, 0.0]])
    T_if = side_information.project(marks, full.model.item_table_cf_)
    B_if = torch.cat([full.model.item_average_f_.expand(2, -1), T_if], 1)
    for s in range(3):
        prior = full.model.item_mu_sk_[s] + B_if @ full.model.item_beta_sfk_[s]
        torch.testing.assert_close(grown.item_sik_[s, n : n + 2], prior)


def test_new_items_are_rated_by_genre_and_with_less_certainty(full, parts):
    table = pl.DataFrame({"item": ["a", "b"], "genre": ["Drama", "War"]})
    batch, n = histories_of(parts.train, np.arange(20), parts.train), full.model.n_trained_
    user_p = torch.arange(20).repeat(4)
    item_p = torch.tensor([n, n + 1, 0, -1]).repeat_interleave(20)
    rated = full.model.with_items(table).predict(batch, user_p, item_p)
    drama, war, _, unknown = rated.mean_p.view(4, 20).mean(1)
    assert war - drama > 0.8  # the truth is 1.6, less shrinkage and clipping
    assert drama < unknown < war
    new, _, old, _ = rated.std_p.view(4, 20).mean(1)
    assert new > 1.2 * old


def test_evaluation_shows_the_model_the_columns_of_items_that_train_never_saw():
    ratings = known(seed=4)
    cold_r = ratings.interactions.item_r % 8 == 0
    parts = ft.Split(
        ratings.take(~cold_r), ratings.take(~cold_r), ratings.take(cold_r), "cold items"
    )
    errors = {}
    for features in (True, False):
        model = ft.BayesianMF(**{**PLAIN, "features": features})
        fitted = ft.fit(model, parts.train, seed=1, progress=False)
        errors[features] = ft.evaluate(fitted, parts, ranking=False).metrics["rmse"].value
    assert errors[True] < 0.9 * errors[False]


def sessions(n_users: int = 120, n_items: int = 60, seed: int = 5):
    """Ratings in sessions of six, five seconds apart, each session with a mood of its own."""
    draw = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        item = draw.permutation(n_items)[:30]
        mood = draw.normal(size=5) * 0.7
        for place, i in enumerate(item):
            value = 3 + mood[place // 6] + 0.3 * (i % 3) + draw.normal() * 0.4
            time = 1_500_000_000 + place // 6 * 6_000_000 + 5 * (place % 6)
            rows.append((f"u{user}", f"i{i}", value, time))
    return ft.from_frame(
        pl.DataFrame(rows, schema=["user", "item", "rating", "time"], orient="row")
    )


def test_drift_follows_moods_and_only_where_the_time_is_known():
    parts = ft.split(sessions(), "random", test=0.2, seed=3)
    model = learn(parts.train, **{**PLAIN, "drift_seconds": [100.0]})
    batch, user_p, item_p = pairs(parts.test, of=parts.train)
    x = parts.test.interactions
    rated = {
        "timed": model.predict(batch, user_p, item_p, time_p=torch.from_numpy(x.time_r)),
        "untimed": model.predict(batch, user_p, item_p),
    }
    rmse = {
        name: float((r.mean_p - torch.from_numpy(x.value_r)).square().mean().sqrt())
        for name, r in rated.items()
    }
    assert rmse["timed"] < 0.75 * rmse["untimed"]
    (timed_p, untimed_p) = (r.std_p for r in rated.values())
    assert timed_p is not None
    assert untimed_p is not None
    assert timed_p.mean() < untimed_p.mean()
    off_p = (rated["untimed"].mean_p - torch.from_numpy(x.value_r)).abs()
    assert 0.85 < float((off_p <= 1.645 * untimed_p).float().mean()) < 0.96
    still = histories_of(parts.train, np.arange(len(parts.train.users)), parts.train)
    object.__setattr__(still, "time_h", None)  # histories without times, as from a web form
    assert torch.isfinite(model.predict(still, user_p, item_p).mean_p).all()


def test_a_user_who_rates_at_random_has_a_wider_interval():
    ratings = known(seed=6)
    x = ratings.interactions
    wild_r = x.user_r < 15
    x.value_r[wild_r] += np.random.default_rng(0).normal(size=wild_r.sum()) * 2
    rated = learn(ratings, **{**SMALL, "drift_seconds": []}).predict(*pairs(ratings))
    assert rated.std_p is not None
    std_p = rated.std_p.numpy()
    assert std_p[wild_r].mean() > 2 * std_p[~wild_r].mean()


def test_ratings_without_times_are_no_obstacle(parts):
    timeless = ft.from_frame(parts.train.frame().drop("time"))
    model = learn(timeless, **SMALL)
    assert model.tau_sc_.shape[1] == 0
    batch, user_p, item_p = pairs(parts.train)  # histories with times, all the same
    assert torch.isfinite(model.predict(batch, user_p, item_p).mean_p).all()


def interrupted(model, train, engine, at, monkeypatch):
    """Fit until Ctrl-C in sweep `at`, then to the end."""
    sweep = gibbs.sweep

    def until(chain, number, generator):
        if number == at:
            raise KeyboardInterrupt
        return sweep(chain, number, generator)

    with monkeypatch.context() as patch:
        patch.setattr(gibbs, "sweep", until)
        with pytest.raises(ModelError, match=f"interrupted in sweep {at + 1} of 20"):
            model.fit(train, engine)
    return model.fit(train, engine)


@pytest.mark.parametrize("at", [2, 13])
def test_a_chain_cut_in_any_sweep_goes_on_to_the_last_bit(parts, tmp_path, monkeypatch, at):
    fields = {**SMALL, "burn_in": 8, "samples": 6}
    whole = learn(parts.train, seed=4, **fields)
    engine = Engine(device="cpu", seed=4, folder=tmp_path, save_every=0)
    again = interrupted(ft.BayesianMF(**fields), parts.train, engine, at, monkeypatch)
    (tensors, values), (others, other_values) = whole.state(), again.state()
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert values == other_values
    with pytest.raises(CheckpointError, match="of another run"):
        ft.BayesianMF(**{**fields, "n_factors": 4}).fit(parts.train, engine)


def test_the_state_is_tensors_and_json_and_comes_back_whole(full, parts):
    tensors, values = full.model.state()
    again = ft.BayesianMF(**full.model.hyperparameters())
    again.restore(tensors, json.loads(json.dumps(values, allow_nan=False)))
    batch, user_p, item_p = pairs(parts.train)
    one, other = (m.predict(batch, user_p, item_p) for m in (full.model, again))
    assert torch.equal(one.mean_p, other.mean_p)
    torch.testing.assert_close(one.std_p, other.std_p, rtol=0, atol=0)
    assert again.mixing_.keys() == {"median", "nine_in_ten", "noise", "error"}


@pytest.mark.parametrize(
    "part", [{"implicit_rank": 0}, {"features": False}, {"user_noise": 0.0}, {"item_noise": 0.0}]
)
def test_each_part_can_be_left_out(parts, part):
    model = learn(parts.train, **{**SMALL, "burn_in": 5, "samples": 3, **part})
    rated = model.predict(*pairs(parts.train))
    assert rated.std_p is not None
    assert torch.isfinite(rated.std_p).all()


def skewed(seed=0):
    """Ratings of users with five each: biases, and noise with a long lower tail."""
    draw = np.random.default_rng(seed)
    user = np.repeat(np.arange(500), 5)
    item = np.concatenate([draw.choice(120, 5, replace=False) for _ in range(500)])
    value = draw.normal(size=500)[user] * 0.3 + draw.normal(size=120)[item] * 0.3
    value += draw.normal(size=2500) * 0.5 - (draw.random(2500) < 0.12) * 3
    frame = pl.DataFrame({"user": user, "item": item, "rating": (4.4 + value).round().clip(1, 5)})
    return ft.split(ft.from_frame(frame), "random", test=0.25, seed=seed)


def test_factors_that_do_not_beat_the_biases_are_left_out_and_the_mean_stays_right():
    parts = skewed()
    small: dict[str, Any] = {"n_factors": 8, "implicit_rank": 8, "burn_in": 20, "samples": 20}
    fitted = ft.fit(ft.BayesianMF(**small), parts.train, progress=False)
    alone = {"n_factors": 0, "user_noise": 0.0, "item_noise": 0.0}
    assert fitted.model.auto_fields(parts.train) == alone
    assert ft.BayesianMF(**small).auto_fields(parts.train) == alone
    assert isinstance(fitted.model, ft.BayesianMF)
    assert (fitted.model.item_noise_si_ == 1).all()
    always = ft.BayesianMF(**small, keep_factors="always")
    assert always.auto_fields(parts.train) == {}
    bias = ft.fit(ft.Bias(), parts.train, progress=False)
    rmse, of_biases = (ft.evaluate(m, parts, ranking=False).metrics["rmse"] for m in (fitted, bias))
    assert rmse.value < 1.005 * of_biases.value
    x = parts.test.interactions
    users, items = (parts.test.users[x.user_r].to_list(), parts.test.items[x.item_r].to_list())
    rated = fitted.predict(users=users, items=items, unknown="fallback")["rating"].to_numpy()
    assert abs(float((rated - x.value_r).mean())) < 0.05
    assert fitted.similar(items[0], k=3)["score"].is_finite().all()


def test_factors_that_beat_the_biases_are_kept(parts):
    assert ft.BayesianMF(n_factors=4).auto_fields(parts.train) == {"n_factors": 4}
