"""What every model owes: a model added to MODELS is tested here before it gets tests of its own."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.errors import ModelError
from foretaste.models import MODELS
from foretaste.models.base import (
    Model,
    PlacesNewItems,
    PredictsRatings,
    ScoresByDot,
    Shape,
    configure,
)
from foretaste.training.engine import Engine
from tests.conftest import synthetic

# fields that make a model small enough for a test; none for models that are fast anyway
SMALL = {
    "bayesian-mf": {
        "n_factors": 4,
        "implicit_rank": 8,
        "burn_in": 20,
        "samples": 8,
        "keep_every": 2,
    },
    "embedding-net": {"n_factors": 8, "epochs": 4, "batch_size": 64, "hidden": [16]},
    "hybrid": {"rater": "biased-mf"},
    "item2vec": {"n_factors": 8, "epochs": 4, "batch_size": 64},
    "sasrec": {"n_factors": 8, "n_blocks": 1, "epochs": 4, "batch_size": 64},
    "two-tower": {"n_factors": 8, "hidden": 8, "epochs": 4, "batch_size": 8, "negatives": 10},
}


def small(name: str):
    return configure(MODELS[name], SMALL.get(name, {}))


GENRES = ["War", "War|Drama", "Love", "Drama|Love", "Love|War"]
PLOTS = ["a knight burns the city", "two lovers on a ship", "the knight sails a ship to war"]


def films(n_items: int, first: int = 0) -> pl.DataFrame:
    """What is known of items i{first}, ..., so that models of content have something to read."""
    number = range(first, first + n_items)
    return pl.DataFrame(
        {
            "item": [f"i{i}" for i in number],
            "title": [f"Film {i}" for i in number],
            "year": [1980 + i % 30 for i in number],
            "genres": [GENRES[i % 5] for i in number],
            "overview": [f"{PLOTS[i % 3]} in the year of the {i % 7}th moon" for i in number],
            "vote_count": [(7 * i) % 50 for i in number],
            "vote_average": [1 + (3 * i) % 9 for i in number],
        }
    )


@pytest.fixture(scope="module")
def ratings():
    return synthetic().with_items(films(40))


@pytest.fixture(scope="module", params=MODELS)
def fitted(request, ratings):
    return ft.fit(small(request.param), ratings, seed=3, progress=False)


def everyone(fitted, new=False):
    rows = np.arange(len(fitted.dataset.users))
    batch = histories_of(fitted.dataset, rows, fitted.dataset)
    if new:
        batch.train_row_b[:] = -1
    return batch


def test_scores_are_one_finite_number_for_every_user_and_item(fitted):
    score_ui = fitted.model.score(everyone(fitted))
    assert score_ui.shape == (len(fitted.dataset.users), len(fitted.dataset.items))
    assert torch.isfinite(score_ui).all()
    assert score_ui.dtype == torch.float32


def test_scores_are_the_callers_to_overwrite(fitted):
    score_ui = fitted.model.score(everyone(fitted))
    before = score_ui.clone()
    score_ui[:] = 0.0
    assert torch.equal(fitted.model.score(everyone(fitted)), before)


def test_a_users_scores_do_not_depend_on_who_else_is_in_the_batch(fitted):
    batch = everyone(fitted, new=True)
    alone = torch.cat([fitted.model.score(batch[b : b + 1]) for b in range(5)])
    torch.testing.assert_close(alone, fitted.model.score(batch)[:5], rtol=1e-4, atol=1e-4)


def test_someone_without_a_history_gets_scores_too(fitted):
    nobody = histories_of(fitted.dataset, np.array([-1]), fitted.dataset)
    assert torch.isfinite(fitted.model.score(nobody)).all()
    assert len(fitted.recommend(history=[], k=5)) == 5


def test_a_new_user_with_a_users_history_is_served_much_like_the_user(fitted):
    known, new_user = (fitted.model.score(everyone(fitted, s)) for s in (False, True))
    assert (known - new_user).abs().mean() < 0.35


def test_lists_hold_only_unseen_items(fitted):
    seen = fitted.dataset.frame().filter(user="u7")["item"].to_list()
    listed = fitted.recommend("u7", k=100)["item"].to_list()
    assert not set(listed) & set(seen)
    assert len(listed) + len(seen) == len(fitted.dataset.items)


def test_the_same_seed_gives_the_same_model_and_leaves_global_randomness_alone(fitted, ratings):
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    again = ft.fit(small(fitted.model.name), ratings, seed=3, progress=False)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state(legacy=False)["state"]["key"] == before[1]).all()
    assert torch.equal(again.model.score(everyone(again)), fitted.model.score(everyone(fitted)))


def test_a_bundle_serves_what_the_model_served(fitted, tmp_path):
    fitted.save(tmp_path / "bundle")
    loaded = ft.load(tmp_path / "bundle")
    assert loaded.model.hyperparameters() == fitted.model.hyperparameters()
    assert loaded.dataset.fingerprint == fitted.dataset.fingerprint
    assert loaded.recommend(users=["u1", "u2"]).equals(fitted.recommend(users=["u1", "u2"]))
    history = {"i1": 5.0, "i2": 1.0}
    assert loaded.recommend(history=history).equals(fitted.recommend(history=history))


def test_learned_tensors_are_contiguous_after_fit_restore_and_with_items(fitted, tmp_path):
    models = {"fit": fitted.model, "restore": ft.load(fitted.save(tmp_path / "bundle")).model}
    if isinstance(fitted.model, PlacesNewItems):
        models["with_items"] = fitted.with_items(films(2, first=100)).model
    strided = [
        f"{came}: {name} {tuple(tensor.shape)} with strides {tensor.stride()}"
        for came, model in models.items()
        for name, tensor in model.state()[0].items()
        if not tensor.is_contiguous()
    ]
    assert strided == []


def test_what_is_derived_is_neither_saved_copied_nor_kept_when_a_field_is_set(fitted):
    model, batch = cast(Model, fitted.model), everyone(fitted)
    names = {field.name for field in dataclasses.fields(model)}
    scores = model.score(batch)
    assert vars(copy.copy(model)).keys() <= names
    assert vars(copy.deepcopy(model)).keys() <= names
    assert {name.partition(".")[0] for name in model.state()[0]} <= names
    again = configure(type(model), model.hyperparameters())
    again.restore(*model.state())
    assert torch.equal(again.score(batch), scores)


def test_a_model_fitted_again_forgets_what_it_derived(fitted, ratings):
    model = configure(MODELS[fitted.model.name], SMALL.get(fitted.model.name, {}))
    half = ft.split(ratings, "random", test=0.5, seed=1).train
    for train in (half, ratings):
        model.fit(train, Engine(seed=3))
        model.score(histories_of(train, np.arange(5), train))
    assert torch.equal(model.score(everyone(fitted)), fitted.model.score(everyone(fitted)))


def test_predicted_ratings_stay_on_the_scale_and_beat_the_mean(fitted, ratings):
    if not isinstance(fitted.model, PredictsRatings):
        with pytest.raises(ModelError, match="is no model that predicts ratings"):
            fitted.predict(["u1"], ["i1"])
        return
    x = ratings.interactions
    rated = fitted.model.predict(
        everyone(fitted), torch.from_numpy(x.user_r).long(), torch.from_numpy(x.item_r).long()
    )
    low, high = ratings.scale
    assert rated.mean_p.min() >= low
    assert rated.mean_p.max() <= high
    error = float((rated.mean_p - torch.from_numpy(x.value_r)).square().mean().sqrt())
    assert error <= float(x.value_r.std()) + 1e-6


def test_an_item_that_training_never_saw_gets_a_rating(fitted):
    if isinstance(fitted.model, PredictsRatings):
        rated = fitted.model.predict(everyone(fitted), torch.tensor([0, 1]), torch.tensor([-1, -1]))
        assert torch.isfinite(rated.mean_p).all()


def test_every_item_has_a_vector_and_neighbours_other_than_itself(fitted):
    assert len(fitted.item_vectors) == len(fitted.dataset.items)
    assert torch.isfinite(fitted.item_vectors).all()
    near = fitted.similar("i3", k=4)
    assert len(near) == 4
    assert "i3" not in near["item"]


def test_new_items_are_listed_scored_and_have_neighbours_without_training(fitted, tmp_path):
    new = films(2, first=100)
    if not isinstance(fitted.model, PlacesNewItems):
        with pytest.raises(ModelError, match="is no model that places new items"):
            fitted.with_items(new)
        return
    grown, model = fitted.with_items(new), cast(Model, fitted.model)
    known = model.score(everyone(fitted))
    score_ui = grown.model.score(everyone(grown))
    assert score_ui.shape == (known.shape[0], known.shape[1] + 2)
    assert torch.isfinite(score_ui).all()
    unmoved_ui = (score_ui[:, :-2] - known).abs() < 0.05  # but where a list of candidates is full
    assert unmoved_ui.float().mean() > 0.9
    listed = grown.recommend("u1", k=2, candidates=["i100", "i101"])
    assert set(listed["title"]) == {"Film 100", "Film 101"}
    assert "i100" not in grown.similar("i100", k=3)["item"]
    grown.save(tmp_path / "grown")
    assert ft.load(tmp_path / "grown").recommend("u1", k=50).equals(grown.recommend("u1", k=50))
    assert len(fitted.dataset.items) == 40


def test_a_model_that_scores_by_dot_products_does(fitted):
    if isinstance(fitted.model, ScoresByDot):
        batch = everyone(fitted)
        model: Any = fitted.model
        product_ui = model.user_factors(batch) @ model.item_factors().T
        torch.testing.assert_close(product_ui, model.score(batch))


def test_the_cost_is_a_positive_estimate(fitted):
    cost = fitted.model.cost(Shape(users=1000, items=500, interactions=20_000))
    assert cost.seconds > 0
    assert cost.memory_bytes > 0


DRIVING = {
    "n_factors", "hidden", "iterations", "steps", "epochs", "samples", "burn_in", "keep_every",
    "implicit_rank", "drift_seconds", "neighbours", "refit", "window", "negatives",
}  # fmt: skip
FREE = {
    ("item2vec", "negatives")
}  # stand for drawn noise that a batch shares: a factor of the loss


@pytest.mark.parametrize(
    ("name", "drives"),
    [
        (name, field.name)
        for name, model in MODELS.items()
        for field in dataclasses.fields(model)
        if field.init and field.name in DRIVING and (name, field.name) not in FREE
    ],
)
def test_the_cost_grows_with_a_field_that_means_more_work(name, drives):
    shape = Shape(users=60_000, items=50_000, interactions=1_000_000)
    usual = MODELS[name]()
    value = 64 if getattr(usual, drives) == "auto" else getattr(usual, drives)
    less, more = (False, True) if drives == "refit" else (value, value * 2)
    costs = [configure(MODELS[name], {drives: v}).cost(shape) for v in (less, more)]
    assert costs[1].seconds >= costs[0].seconds
    assert costs[1].memory_bytes >= costs[0].memory_bytes
    assert costs[1] != costs[0]


def test_a_large_als_costs_more_than_the_usual_one():
    shape = Shape(users=6040, items=3706, interactions=1_000_209)
    large = ft.ALS(n_factors=512, iterations=100).cost(shape)
    assert large.seconds == pytest.approx(80 * ft.ALS(n_factors=64).cost(shape).seconds)


def test_a_hybrid_costs_what_its_two_models_cost():
    shape = Shape(users=6040, items=3706, interactions=1_000_209)
    hybrid = ft.Hybrid(rater="biased-mf", rater_fields={"iterations": 90})
    parts = [ft.MetadataSimilarity().cost(shape), ft.BiasedMF(iterations=90).cost(shape)]
    assert hybrid.cost(shape).seconds == pytest.approx(sum(part.seconds for part in parts))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_needs_ratings_refuses_clicks(name, ratings):
    clicks = ft.from_frame(ratings.frame().drop("value")).with_items(ratings.item_table)
    if MODELS[name].needs_ratings:
        with pytest.raises(ModelError, match="needs ratings, and frame has none"):
            ft.fit(small(name), clicks, progress=False)
    else:
        assert len(ft.fit(small(name), clicks, progress=False).recommend("u1", k=3)) == 3


@pytest.mark.parametrize("name", MODELS)
def test_fields_survive_the_way_through_a_manifest(name):
    model = configure(MODELS[name], SMALL.get(name, {}))
    again = configure(MODELS[name], model.hyperparameters())
    assert again.hyperparameters() == model.hyperparameters()


def test_engines_of_one_seed_agree_and_keys_differ():
    a, b = Engine(seed=1), Engine(seed=1)
    draws = [torch.rand(3, generator=g) for g in map(Engine.generator, (a, b, a), "xxy")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
