"""Models in a process that set torch up otherwise: another default dtype, a fork."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.models import MODELS
from foretaste.models.base import PlacesNewItems, PredictsRatings, configure
from tests.conftest import synthetic
from tests.test_models_contract import SMALL, films


@pytest.fixture(scope="module")
def ratings():
    return synthetic(n_users=30, n_items=20, n_rows=250).with_items(films(20))


def answers(name, ratings, folder):
    """Scores, ratings, a list and neighbours, of a model and of its bundle."""
    fitted = ft.fit(configure(MODELS[name], SMALL.get(name, {})), ratings, seed=3, progress=False)
    found = {}
    for came, served in (("fitted", fitted), ("loaded", ft.load(fitted.save(folder)))):
        histories = histories_of(ratings, np.arange(-1, 9), ratings)
        found[f"{came}: scores"] = served.model.score(histories)
        histories.train_row_b[:] = -1
        found[f"{came}: scores of new users"] = served.model.score(histories)
        if isinstance(served.model, PredictsRatings):
            pair_p = torch.arange(4)
            found[f"{came}: ratings"] = served.model.predict(histories, pair_p, pair_p).mean_p
        if isinstance(served.model, PlacesNewItems):
            grown = served.with_items(films(2, first=100)).recommend("u1", k=22)
            found[f"{came}: with new items"] = torch.tensor(grown["score"].to_list())
        listed = served.recommend("u1", k=9), served.similar("i3", k=4)
        for what, table in zip(("list", "neighbours"), listed, strict=True):
            found[f"{came}: {what}"] = torch.from_numpy(table["score"].to_numpy().copy())
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_default_dtype_of_torch_changes_no_bit(name, ratings, tmp_path):
    if name == "bayesian-mf":
        pytest.xfail("the sampler makes tensors of the default dtype")
    expected = answers(name, ratings, tmp_path / "single")
    torch.set_default_dtype(torch.float64)
    try:
        found = answers(name, ratings, tmp_path / "double")
    finally:
        torch.set_default_dtype(torch.float32)
    for what, tensor in expected.items():
        if what.endswith("new items"):
            found[what] = found[what].float()
        assert found[what].dtype == torch.float32, what
        assert torch.equal(found[what], tensor), what
