"""Fitting leaves what it was given alone, and names what it learned from."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.errors import CheckpointError, UsageError
from foretaste.models import MODELS
from foretaste.models.base import Model
from foretaste.training.engine import Engine
from tests.conftest import synthetic
from tests.test_models_contract import films, small


def learned(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state()[0].items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", MODELS)
def test_a_second_fit_leaves_the_first_recommender_and_every_input_as_they_were(name):
    few = synthetic(seed=1).with_items(films(40))
    many = synthetic(n_users=90, n_rows=1500, seed=2).with_items(films(40))
    model = small(name)
    fields, arrays = copy.deepcopy(model.hyperparameters()), copy.deepcopy(vars(few.interactions))
    tables = few.item_frame.clone()
    first = ft.fit(model, few, progress=False)
    before, listed = learned(first.model), first.recommend("u1", k=5)
    second = ft.fit(model, many, progress=False)
    assert first.model is not second.model
    assert same(learned(first.model), before)
    assert first.recommend("u1", k=5).equals(listed)
    assert model.hyperparameters() == fields
    assert not [name for name in vars(model) if name.endswith("_")]
    assert few.item_frame.equals(tables)
    for key, array in vars(few.interactions).items():
        np.testing.assert_array_equal(array, arrays[key])


def test_lists_among_the_fields_of_a_model_are_not_shared_with_its_copy():
    model = ft.EmbeddingModel(hidden=[16])
    copied = model.unfitted()
    copied.hidden.append(8)
    assert model.hidden == [16]


def test_an_engine_may_be_handed_in_and_says_all_there_is_to_say():
    ratings = synthetic()
    mine = ft.fit(ft.ALS(n_factors=4), ratings, engine=Engine(seed=7))
    plain = ft.fit(ft.ALS(n_factors=4), ratings, seed=7, progress=False)
    assert mine.training["seed"] == 7
    assert torch.equal(mine.model.item_id_, plain.model.item_id_)  # type: ignore[attr-defined]
    with pytest.raises(UsageError) as error:
        ft.fit(ft.ALS(), ratings, engine=Engine(), seed=3)
    assert str(error.value) == (
        "an engine and what it says itself were both given. "
        "Make it so: Engine(seed=..., device=..., folder=...)."
    )


def changed_in_every_way() -> dict[str, ft.Dataset]:
    """The same data with one thing changed that could change a result."""
    base = synthetic().with_items(films(40))
    users = pl.DataFrame({"user": base.users.values, "age": np.arange(len(base.users))})
    x = base.interactions
    values = copy.copy(x.value_r)
    values[0] = 6 - values[0]
    times = None if x.time_r is None else x.time_r + 1000

    return {
        "as it is": base,
        "another genre": base.with_items(films(40).with_columns(genres=pl.lit("War"))),
        "another type of column": base.with_items(
            films(40).with_columns(year=pl.col("year").cast(pl.Float64))
        ),
        "another name of a column": base.with_items(films(40).rename({"genres": "kinds"})),
        "an empty cell": base.with_items(
            films(40).with_columns(year=pl.when(pl.col("year") > 1981).then("year"))
        ),
        "no table of items": replace(base, item_table=None),
        "a table of users": base.with_users(users),
        "other users": base.with_users(users.with_columns(age=pl.col("age") + 1)),
        "clicks": replace(base, explicit=False),
        "a rating": replace(base, interactions=replace(x, value_r=values)),
        "other times": replace(base, interactions=replace(x, time_r=times)),
        "no times": replace(base, interactions=replace(x, time_r=None)),
    }


def test_whatever_could_change_a_result_changes_the_fingerprint():
    found = {name: data.fingerprint for name, data in changed_in_every_way().items()}
    assert len(set(found.values())) == len(found), found


def test_equal_data_have_one_fingerprint_wherever_they_come_from(tmp_path):
    for data in changed_in_every_way().values():
        ft.fit(ft.Popularity(), data, progress=False).save(tmp_path / "bundle")
        assert ft.load(tmp_path / "bundle").dataset.fingerprint == data.fingerprint
        everyone = np.ones(len(data), bool)
        assert data.take(everyone).fingerprint == data.fingerprint
        assert replace(data, name="another name").fingerprint == data.fingerprint


def test_a_checkpoint_of_other_features_is_refused_by_name(tmp_path):
    data = changed_in_every_way()
    fields: dict[str, Any] = {"n_factors": 4, "hidden": 4, "epochs": 2, "batch_size": 8}
    ft.fit(ft.TwoTower(**fields), data["as it is"], folder=tmp_path, progress=False)
    for other in ("another genre", "no table of items", "clicks"):
        with pytest.raises(CheckpointError, match="the checkpoint is of another run"):
            ft.fit(ft.TwoTower(**fields), data[other], folder=tmp_path, progress=False)


def test_the_version_is_part_of_what_a_checkpoint_must_agree_on(monkeypatch):
    ratings, model = synthetic(), ft.ALS()
    now = model.identity(ratings, Engine())
    monkeypatch.setattr("foretaste.models.base.__version__", "9.9.9")
    assert model.identity(ratings, Engine()) != now


def test_the_same_split_judges_a_recommender_whose_items_have_another_table_as_another():
    parts = ft.split(synthetic().with_items(films(40)), "random", test=0.2, seed=1)
    other = parts.train.with_items(films(40).with_columns(genres=pl.lit("War")))
    with pytest.raises(UsageError, match=r"was not trained on parts\.train"):
        ft.evaluate(ft.fit(ft.Popularity(), other, progress=False), parts)
