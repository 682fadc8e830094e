"""The ranges worth searching that fields carry: a tuner reads them, and nothing else does."""

from __future__ import annotations

import dataclasses
import math

import pytest

import foretaste as ft
from foretaste.models import MODELS
from foretaste.models.base import configure

SPACES = [
    pytest.param(model, field, id=f"{name}-{field.name}")
    for name, model in MODELS.items()
    for field in dataclasses.fields(model)
    if "search" in field.metadata
]


@pytest.mark.parametrize(("model", "field"), SPACES)
def test_every_default_lies_within_what_is_worth_searching(model, field):
    space, default = field.metadata["search"], getattr(model(), field.name)
    if "choices" in space:
        assert default in space["choices"]
        tried = space["choices"]
    else:
        assert default == "auto" or space["low"] <= default <= space["high"]
        assert space["low"] < space["high"]
        assert math.isfinite(space["high"])
        assert not space["log"] or space["low"] > 0
        tried = [space["low"], space["high"]]
    for value in tried:  # all that is worth searching is accepted, as a plain value
        shown = configure(model, {field.name: value}).hyperparameters()[field.name]
        assert default == "auto" or type(shown) is type(default)
        assert shown == value


@pytest.mark.parametrize(
    "name",
    ["ease", "als", "item-knn", "graph-filter", "two-tower", "embedding-net", "bayesian-mf",
     "item2vec"],
)  # fmt: skip
def test_the_main_models_say_what_is_worth_searching(name):
    assert any("search" in field.metadata for field in dataclasses.fields(MODELS[name]))


def test_values_outside_of_what_is_worth_searching_are_allowed():
    assert configure(ft.EASE, {"l2": 1e9}).hyperparameters()["l2"] == 1e9
    assert repr(ft.EASE(l2=2.0)).startswith("EASE(")
