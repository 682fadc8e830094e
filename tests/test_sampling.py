"""When a Gibbs chain stops, and what it says of its mixing."""

from __future__ import annotations

import pytest
import torch

import foretaste as ft
from foretaste.models.bayesian import sampling
from foretaste.models.bayesian.sampling import Schedule
from foretaste.training.engine import Engine

SMALL = {"n_factors": 2, "implicit_rank": 4, "drift_seconds": [], "burn_in": 10, "keep_every": 1}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def climbing(draws: int) -> torch.Tensor:
    return normal(draws, 3) + torch.linspace(0, 5, draws)[:, None]


def test_rhat_is_one_for_a_mixed_chain_and_large_for_a_climbing_one():
    assert (sampling.split_rhat(normal(400, 3)) < 1.03).all()
    assert (sampling.split_rhat(climbing(400)) > 1.5).all()


def test_the_monte_carlo_error_of_independent_draws_is_their_deviation_over_root_n():
    assert sampling.monte_carlo_error(2 * normal(100, 5000)) == pytest.approx(0.2, rel=0.05)


def test_a_chain_whose_halves_differ_is_warned_of_and_a_mixed_one_is_not():
    alpha_s = 1 + 0.1 * normal(40).abs()
    assert sampling.mixing_notes(sampling.mixing(normal(40, 3), alpha_s)) == []
    found = sampling.mixing(climbing(40), alpha_s)
    assert sampling.mixing_notes(found) == [
        "the chain has not mixed: of ten predictions watched, one has a split R-hat above "
        f"{found['nine_in_ten']:.2f} (1.2 is the limit). Raise burn_in and samples."
    ]
    assert sampling.mixing(climbing(11), alpha_s[:11]) == {}  # too few to tell


def test_a_chain_stops_once_its_means_settle_and_never_at_tolerance_zero(ratings):
    loose, strict = Schedule(5, 50, 1, 0.5), Schedule(5, 50, 1, 0.0)
    assert loose.settled(0.1 * normal(20, 50), alpha=1.0)
    assert not loose.settled(0.1 * normal(11, 50), alpha=1.0)
    assert not loose.settled(climbing(20), alpha=1.0)
    assert not strict.settled(torch.zeros(20, 50), alpha=1.0)
    draws = {
        tolerance: len(ft.BayesianMF(**SMALL, samples=30, tolerance=tolerance)
                       .fit(ratings, Engine(device="cpu")).alpha_s_)
        for tolerance in (0.0, 10.0)
    }  # fmt: skip
    assert draws == {0.0: 30, 10.0: sampling.FEWEST}


def test_a_recommender_keeps_the_warning(ratings, monkeypatch):
    monkeypatch.setattr(sampling, "MIXED", 0.5)
    model = ft.BayesianMF(**SMALL, samples=12)
    fitted = ft.fit(model, ratings, progress=False)
    assert len(fitted.training["notes"]) == 1
    assert fitted.training["notes"][0].startswith("the chain has not mixed")
    parts = ft.Split(ratings, ratings, ratings, "itself")
    assert fitted.training["notes"][0] in ft.evaluate(fitted, parts, ranking=False).notes
