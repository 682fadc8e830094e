"""Fields that the data decide: rules of their figures, kept in bundles and printed by `check`."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from bench.shapes import synthetic as of_shape

import foretaste as ft
from foretaste.cli.data import checked
from foretaste.models import MODELS
from foretaste.models.base import configure
from tests.conftest import synthetic

OF_LIKES = ["ease", "sparse-ease", "aligned-ease", "als", "aligned-als"]


@pytest.fixture(scope="module")
def ratings():
    table = pl.DataFrame({"item": [f"i{i}" for i in range(40)], "year": range(1980, 2020)})
    return synthetic().with_items(table)


@pytest.mark.parametrize("name", OF_LIKES)
def test_a_bundle_keeps_what_the_data_decided(name, ratings, tmp_path):
    fitted = ft.fit(MODELS[name](), ratings, progress=False)
    decided = fitted.model.auto_
    asked = {f for f, v in fitted.model.hyperparameters().items() if v == "auto"}
    assert set(decided) == asked
    assert decided == MODELS[name]().auto_fields(ratings)
    fitted.save(tmp_path / "bundle")
    loaded = ft.load(tmp_path / "bundle")
    assert loaded.model.auto_ == decided
    assert loaded.recommend("u1").equals(fitted.recommend("u1"))


@pytest.mark.parametrize("name", OF_LIKES)
def test_a_field_that_is_given_is_not_decided(name, ratings):
    model = configure(MODELS[name], {"l2": 0.5})
    assert "l2" not in model.auto_fields(ratings)
    assert model.decided("l2") == 0.5


def test_check_tells_what_the_data_decide(ratings):
    told = checked(ratings).defaults
    assert told["als"] == ft.ALS().auto_fields(ratings)
    assert set(told) >= set(OF_LIKES)
    assert "popularity" not in told


def clicks(n_users, n_items, n):
    rng = np.random.default_rng(0)
    pairs = rng.choice(n_users * n_items, n, replace=False)
    return ft.from_frame(pl.DataFrame({"user": pairs // n_items, "item": pairs % n_items}))


def test_the_weight_of_unseen_pairs_follows_the_density():
    dense, sparse = (ft.ALS().auto_fields(clicks(300, 200, n)) for n in (12_000, 6_000))
    assert dense["unseen"] == pytest.approx(2 * sparse["unseen"], rel=0.01)
    assert dense["l2"] == pytest.approx(sparse["l2"] / 2**0.5, rel=0.01)


def test_the_penalty_of_als_follows_the_weight_of_unseen_pairs_that_was_given():
    data = clicks(300, 200, 6_000)
    density = len(data) / (len(data.users) * len(data.items))
    assert ft.ALS(unseen=9 * density).auto_fields(data)["l2"] == pytest.approx(
        0.1 * 1.25 / (6_000 / 60_000**0.5) ** 0.5
    )


def test_factors_grow_with_the_catalogue_and_never_beyond_it():
    factors = [
        ft.ALS().auto_fields(clicks(n, n, 5 * n))["n_factors"] for n in (40, 400, 1_600, 6_000)
    ]
    assert factors == pytest.approx([40, 80, 160, 256], abs=1)


def test_the_penalty_of_ease_follows_how_often_items_are_liked_and_the_scale_of_likes():
    few, many = (ft.EASE().auto_fields(clicks(n, 50, 10 * n))["l2"] for n in (100, 400))
    assert many == pytest.approx(2 * few, rel=0.05)
    frame = clicks(100, 50, 1_000).frame().with_columns(value=pl.lit(3.0))
    logs = ft.from_frame(frame.select("user", "item", "value"), value="value")
    assert ft.EASE(weighting="log").auto_fields(logs)["l2"] == pytest.approx(4 * few, rel=1e-5)


@pytest.mark.parametrize(
    ("users", "items", "mean"), [(300, 80, 15.0), (600, 600, 8.0), (1_500, 1_500, 5.0)]
)
def test_als_beats_popularity_on_data_of_any_density(users, items, mean):
    parts = ft.split(of_shape(users, items, mean), "random", test=0.2)
    als, popularity = (
        ft.evaluate(ft.fit(m, parts.train, progress=False), parts, k=10).metrics["ndcg@10"].value
        for m in (ft.ALS(fallback="none"), ft.Popularity())
    )
    assert als > 1.3 * popularity
