"""The ordered probit against truncated normals of scipy, and as the likelihood of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.errors import ModelError
from foretaste.models.bayesian import gibbs, probit
from foretaste.training.engine import Engine

CUTS = torch.tensor([-1.0, 0.2, 1.5])
SMALL: dict[str, Any] = {
    "n_factors": 3, "implicit_rank": 4, "drift_seconds": [], "burn_in": 30, "samples": 20,
    "keep_every": 2, "likelihood": "probit",
}  # fmt: skip


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def intervals():
    """Every level from means near and as far as thirty deviations away."""
    fit_n = torch.tensor([-30.0, -3.0, 0.0, 0.7, 4.0, 30.0]).repeat_interleave(4)
    return fit_n, CUTS, torch.arange(4).repeat(6), torch.full((24,), 1.25)


def test_latent_moments_are_those_of_truncated_normals():
    fit_n, cut_l, level_n, root_n = intervals()
    near = fit_n.abs() < 10  # scipy loses the variance of the far tails
    a_n, b_n = (x.numpy()[near] for x in probit.bounds(fit_n, cut_l, level_n, root_n))
    mean_n, variance_n = probit.latent_moments(fit_n, cut_l, level_n, root_n)
    truth = stats.truncnorm(a_n, b_n, loc=fit_n.numpy()[near], scale=1 / 1.25)
    np.testing.assert_allclose(mean_n[near], truth.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance_n[near], truth.var(), rtol=1e-3, atol=1e-5)


def test_latent_values_lie_between_the_cuts_however_far_the_mean():
    fit_n, cut_l, level_n, root_n = intervals()
    edges = torch.cat([torch.tensor([-torch.inf]), cut_l, torch.tensor([torch.inf])])
    draws = [
        probit.draw_latent(fit_n, cut_l, level_n, root_n, g) for g in [rng(1)] for _ in range(3000)
    ]
    for z_n in [*draws[:50], probit.latent_moments(fit_n, cut_l, level_n, root_n)[0]]:
        assert (z_n >= edges[level_n] - 1e-4).all()
        assert (z_n <= edges[level_n + 1] + 1e-4).all()
    mean_n, variance_n = probit.latent_moments(fit_n, cut_l, level_n, root_n)
    torch.testing.assert_close(torch.stack(draws).mean(0), mean_n, atol=0.06, rtol=0)
    assert (variance_n >= 0).all()


def test_the_gradient_and_hessian_of_the_cuts_are_those_of_the_likelihood():
    g = rng(2)
    fit_n, level_n = torch.randn(200, generator=g), torch.randint(0, 4, (200,), generator=g)
    root_n, step = 1 + torch.rand(200, generator=g), 1e-3
    cut_l = CUTS.double()
    value, gradient_l, H_ll = probit.log_likelihood(fit_n, cut_l, level_n, root_n)
    for place in range(3):
        moved_l = cut_l.clone()
        moved_l[place] += step
        after, after_l, _ = probit.log_likelihood(fit_n, moved_l, level_n, root_n)
        assert (after - value) / step == pytest.approx(float(gradient_l[place]), abs=0.1)
        torch.testing.assert_close((gradient_l - after_l) / step, H_ll[place], atol=0.2, rtol=0.01)


def test_cuts_are_found_from_ratings_of_known_means():
    g = rng(3)
    fit_n, one_n = torch.randn(5000, generator=g), torch.ones(5000)
    level_n = torch.bucketize(fit_n + torch.randn(5000, generator=g), CUTS)
    cut_l, kept = probit.initial_cuts(level_n, 4), []
    for _ in range(60):
        cut_l = probit.draw_cuts(fit_n, cut_l, level_n, one_n, g)
        kept.append(cut_l)
    found_sl = torch.stack(kept[10:])
    torch.testing.assert_close(found_sl.mean(0), CUTS, atol=0.08, rtol=0)
    assert (found_sl.std(0) > 0.005).all()  # it accepts


def test_rating_moments_are_sums_over_levels_and_never_negative():
    levels_l = torch.tensor([1.0, 2.0, 3.0, 5.0])
    fit_n, deviation_n = torch.tensor([0.3, 500.0]), torch.tensor([1.2, 0.1])
    mean_n, variance_n = probit.rating_moments(fit_n, deviation_n, CUTS, levels_l)
    P_l = np.diff(stats.norm(0.3, 1.2).cdf([-np.inf, *CUTS.tolist(), np.inf]))
    mean = P_l @ levels_l.numpy()
    assert mean_n[0] == pytest.approx(mean, rel=1e-5)
    assert variance_n[0] == pytest.approx(P_l @ (levels_l.numpy() - mean) ** 2, rel=1e-5)
    assert mean_n[1] == 5.0
    assert variance_n[1] == 0.0


def stars(seed: int = 0):
    """Whole stars cut from two known factors and noise, most of them high."""
    draw = np.random.default_rng(seed)
    user, item = np.nonzero(draw.random((150, 80)) < 0.35)
    taste = draw.normal(size=(150, 2)) @ draw.normal(size=(2, 80)) * 0.7
    latent = (draw.normal(size=(150, 1)) * 0.5 + taste)[user, item] + draw.normal(size=len(user))
    rating = 1.0 + np.searchsorted([-2.0, -1.2, -0.5, 0.3], latent)
    columns = {"user": [f"u{u}" for u in user], "item": [f"i{i}" for i in item], "rating": rating}
    return ft.from_frame(pl.DataFrame(columns))


@pytest.fixture(scope="module")
def parts():
    return ft.split(stars(), "random", test=0.2, seed=1)


@pytest.fixture(scope="module")
def fitted(parts):
    return ft.fit(ft.BayesianMF(**SMALL), parts.train, seed=2, progress=False)


def test_a_probit_predicts_stars_better_than_biases_with_intervals_that_hold(fitted, parts):
    found = ft.evaluate(fitted, parts, ranking=False).metrics
    baseline = ft.evaluate(ft.fit(ft.Bias(), parts.train, progress=False), parts, ranking=False)
    assert found["rmse"].value < 0.92 * baseline.metrics["rmse"].value
    assert 0.86 < found["coverage90"].value < 0.96


def test_the_scores_of_a_probit_are_expected_stars(fitted, parts):
    batch = histories_of(parts.train, np.arange(30), parts.train)
    score_bi = fitted.model.score(batch)
    assert score_bi.min() > 1
    assert score_bi.max() < 5
    user_p, item_p = torch.arange(30), torch.arange(30)
    rated = fitted.model.predict(batch, user_p, item_p)
    assert (score_bi[user_p, item_p] - rated.mean_p).abs().mean() < 0.05


def test_a_probit_refuses_a_continuous_scale(parts):
    frame = parts.train.frame().with_columns(pl.col("value") + pl.int_range(pl.len()) / 1e5)
    with pytest.raises(ModelError, match=r"likelihood='probit' is for scales of at most 32 levels"):
        ft.fit(ft.BayesianMF(**SMALL), ft.from_frame(frame), progress=False)


def test_a_chain_of_latent_values_goes_on_to_the_last_bit(parts, tmp_path, monkeypatch):
    fields = {**SMALL, "burn_in": 4, "samples": 3}
    engine, sweep = Engine(device="cpu", seed=4, folder=tmp_path, save_every=0), gibbs.sweep

    def cut(chain, number, generator):
        if number == 6:
            raise KeyboardInterrupt
        return sweep(chain, number, generator)

    with monkeypatch.context() as patch:
        patch.setattr(gibbs, "sweep", cut)
        with pytest.raises(ModelError, match="interrupted in sweep 7 of 10"):
            ft.BayesianMF(**fields).fit(parts.train, engine)
    again = ft.BayesianMF(**fields).fit(parts.train, engine).state()[0]
    whole = ft.BayesianMF(**fields).fit(parts.train, Engine(device="cpu", seed=4)).state()[0]
    assert all(torch.equal(whole[name], again[name]) for name in whole)
