"""Models in a process that set torch up otherwise: another default dtype, a fork."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.errors import ModelError
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


@pytest.mark.parametrize("name", [name for name in MODELS if name != "bayesian-mf"])
def test_the_default_dtype_of_torch_changes_no_bit(name, ratings, tmp_path):
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


FORKED = """
import os, sys
import foretaste as ft
from tests.conftest import synthetic

def read():
    return synthetic(n_users=9, n_items=9, n_rows=40)

def fit(ratings=None):
    return ft.fit(ft.EASE(), ratings or read(), progress=False)

before = {"imported": lambda: None, "read": read, "fitted": fit}[sys.argv[1]]()
if os.fork() == 0:
    try:
        before.recommend("u1") if sys.argv[1] == "fitted" else fit(before)
        print("served", flush=True)
    except ft.ForetasteError as error:
        print(error, flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
REFUSED = (
    "this process was forked off one that had already used foretaste, whose threads did not come "
    "along: it would hang. Start processes by multiprocessing.get_context('spawn'), or fork before "
    "any data is read."
)


@pytest.mark.parametrize(
    ("did", "answer"), [("imported", "served"), ("read", REFUSED), ("fitted", REFUSED)]
)
def test_a_forked_process_serves_or_says_that_it_cannot_but_never_hangs(did, answer):
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, did],
        capture_output=True, check=False, text=True, timeout=60,
    )  # fmt: skip
    assert child.stdout.strip() == answer, child.stderr


def test_bayesian_mf_refuses_double_precision_with_the_fix(ratings):
    fitted = ft.fit(configure(MODELS["bayesian-mf"], SMALL["bayesian-mf"]), ratings, progress=False)
    torch.set_default_dtype(torch.float64)
    try:
        for ask in (
            lambda: ft.fit(
                configure(MODELS["bayesian-mf"], SMALL["bayesian-mf"]), ratings, progress=False
            ),
            lambda: fitted.recommend("u1"),
            lambda: fitted.predict(["u1"], ["i1"]),
        ):
            with pytest.raises(ModelError) as error:
                ask()
            assert str(error.value) == (
                "bayesian-mf computes in single precision, and torch's default is torch.float64. "
                "Call torch.set_default_dtype(torch.float32) first."
            )
    finally:
        torch.set_default_dtype(torch.float32)
