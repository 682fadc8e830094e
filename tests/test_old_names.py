"""What was written for 0.1.0 works for one release more, with a warning that names the new name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import foretaste as ft
from foretaste.errors import UsageError
from foretaste.models import MODELS
from foretaste.models.base import configure
from tests.conftest import synthetic

BUNDLES = Path(__file__).parent / "bundles_0_1_0"  # written by 0.1.0, with the lists it served
OLD = [
    ("ease", {"positive_from": 4.0, "weigh": "alike"},
     {"positive_threshold": 4.0, "weighting": "uniform"}),
    ("item2vec", {"weigh": "graded"}, {"weighting": "graded"}),
    ("bayesian-mf", {"factors": 8}, {"n_factors": 8}),
    ("biased-mf", {"factors": 8}, {"n_factors": 8}),
    ("graph-filter", {"rounds": 3}, {"iterations": 3}),
    ("bias", {"sweeps": 3}, {"iterations": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new"), OLD)
@pytest.mark.parametrize("make", [lambda model, fields: model(**fields), configure])
def test_old_names_of_fields_are_understood_and_warned_of(make, name, old, new):
    with pytest.warns(DeprecationWarning, match="the old name goes with") as warned:
        model = make(MODELS[name], old)
    assert len(warned) == len(old)
    for said, (before, value), (after, meant) in zip(warned, old.items(), new.items(), strict=True):
        assert str(said.message) == (
            f"{name}: {before}={value!r} is now {after}={meant!r}; the old name goes with the next "
            "release."
        )
    assert model.hyperparameters() == MODELS[name](**new).hyperparameters()


@pytest.mark.parametrize("name", MODELS)
def test_new_names_are_no_occasion_for_a_warning(name):
    with warnings.catch_warnings(action="error"):
        configure(MODELS[name], MODELS[name]().hyperparameters())


def test_a_field_under_both_names_and_one_that_never_was_are_errors():
    both = {"positive_from": 4.0, "positive_threshold": 3.0}
    with pytest.raises(UsageError) as caught:
        configure(MODELS["ease"], both)
    assert str(caught.value) == (
        "ease: 'positive_from' is the old name of 'positive_threshold', and both are given. Leave "
        "'positive_from' out."
    )
    with pytest.raises(UsageError, match="ease has no field 'rounds'"):
        configure(MODELS["ease"], {"rounds": 3})


@pytest.mark.parametrize("name", ["ease", "bayesian-mf", "graph-filter", "bias"])
def test_a_bundle_of_0_1_0_serves_the_lists_it_served(name):
    with pytest.warns(DeprecationWarning, match="is now"):
        fitted = ft.load(BUNDLES / name)
    expected = json.loads((BUNDLES / "lists.json").read_text())[name]
    listed = fitted.recommend("u1", k=4, exclude_seen=False)
    assert listed["item"].to_list() == expected["item"]
    # BayesianMF folds users in through all draws at once now, which settles a little elsewhere
    near = 1e-3 if name == "bayesian-mf" else 1e-5
    assert listed["score"].to_list() == pytest.approx(expected["score"], rel=near)


def test_arguments_keep_their_names_of_0_1_0_with_a_warning_that_names_the_new_one():
    ratings = synthetic()
    ages = pl.DataFrame({"user": ratings.users.values, "age": range(len(ratings.users))})
    parts = ft.split(ratings.with_users(ages), "random", test=0.2, seed=1)
    fitted = ft.fit(ft.Bias(), parts.train, progress=False)
    about: dict[str, Any] = {"about": {"age": 3}}
    for ask in (
        lambda **named: fitted.recommend(history=["i1"], k=3, **named),
        lambda **named: fitted.predict(items=["i2"], history=["i1"], **named),
        lambda **named: fitted.explain(item="i2", history=["i1"], **named),
    ):
        with pytest.warns(DeprecationWarning, match="about= is now user_features="):
            old = ask(**about)
        assert old.equals(ask(user_features={"age": 3}))
    with pytest.warns(DeprecationWarning, match="relevant_from= is now relevance_threshold="):
        old = ft.evaluate(fitted, parts, **{"relevant_from": 5})  # type: ignore[arg-type]
    assert old.metrics == ft.evaluate(fitted, parts, relevance_threshold=5).metrics
