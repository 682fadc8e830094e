"""Arguments at the public doors: every door with every wrong value says what to give instead."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import sparse

import foretaste as ft
from foretaste.errors import UsageError
from tests.conftest import synthetic

WRONG_ARGUMENTS = {
    "k": (3.0, "3", None, True, [3], np.float32(3)),
    "diversity": ("0.3", None, [0.1], True),
    "exclude": (5, "50", b"50", [3.5], [["a"]], [None], np.zeros((2, 2)), [("a", 4.0)]),
    "candidates": (5, "50", [3.5], [["a"]], np.zeros((2, 2)), pl.DataFrame({"a": [1]})),
    "exclude_seen": ("no", 1),
    "where": (5, ["year > 3"], True),
    "users": (5, "u1", [3.5], [["u1"]], np.zeros((2, 2)), sparse.eye(2).tocsr()),
    "user": (["u1"], 3.5, ("u1",), {"u1": 1}, np.array(["u1"])),
    "history": (5, "i1", b"i1", [3.5], [("i1", 4.0)], [["i1"]], [None], np.zeros((2, 3)),
                sparse.eye(2).tocsr(), pl.DataFrame({"a": [1]}), {3.5: 4.0}),
    "user_features": ("gender=F", ["F"], 5),
    "items": (5, "i1", [3.5], np.zeros((2, 2))),
    "item": (["i1"], 3.5, None, np.array(["i1"])),
}  # fmt: skip
LIST_OPTIONS = ("k", "diversity", "exclude", "exclude_seen", "where")
DOORS = {  # name: (what is called, arguments that are right, arguments that are made wrong)
    "Request": ("request", {"user": "u1"}, (*LIST_OPTIONS, "candidates", "user")),
    "Request of users": ("request", {"users": ["u1"]}, ("users",)),
    "Request of a new user": ("request", {"history": ["i1"]}, ("history", "user_features")),
    "recommend": ("recommend", {"user": "u1"}, (*LIST_OPTIONS, "candidates", "user")),
    "recommend to several": ("recommend", {"users": ["u1"]}, ("users",)),
    "recommend to a new user": ("recommend", {"history": ["i1"]}, ("history", "user_features")),
    "export": ("export", {"path": "lists.parquet"}, LIST_OPTIONS),
    "predict": ("predict", {"users": ["u1"], "items": ["i1"]}, ("users", "items")),
    "predict for a new user": ("predict", {"history": ["i1"], "items": ["i1"]},
                               ("history", "items", "user_features")),
    "explain": ("explain", {"user": "u1", "item": "i1"}, ("user", "item")),
    "explain to a new user": ("explain", {"history": ["i1"], "item": "i1"}, ("history", "item")),
    "similar": ("similar", {"item": "i1"}, ("item", "k")),
    "evaluate": ("evaluate", {}, ("k", "diversity")),
}  # fmt: skip
CALLS = [
    pytest.param(call, right | {name: wrong}, name, id=f"{door}-{name}-{n}")
    for door, (call, right, names) in DOORS.items()
    for name in names
    for n, wrong in enumerate(WRONG_ARGUMENTS[name])
    if not (door == "evaluate" and name == "k" and isinstance(wrong, list))
]


@pytest.fixture(scope="module")
def doors():
    parts = ft.split(synthetic(), test=0.2)
    recommender = ft.fit(ft.Bias(), parts.train, progress=False)
    return {
        "request": ft.Request,
        "evaluate": lambda **given: ft.evaluate(recommender, parts, **given),
        **{name: getattr(recommender, name)
           for name in ("recommend", "export", "predict", "explain", "similar")},
    }  # fmt: skip


@pytest.mark.parametrize(("call", "arguments", "name"), CALLS)
def test_a_wrong_value_at_a_public_door_is_a_usage_error_that_says_what_to_give(
    doors, call, arguments, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        doors[call](**arguments)
    assert caught.value.what.startswith(name)
    assert caught.value.fix
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ids", [
    ["i1", "i2"], ("i1", "i2"), {"i1": 1, "i2": 2}.keys(), np.array(["i1", "i2"]),
    pl.Series(["i1", "i2"]), (i for i in ("i1", "i2")), {"i1", "i2"},
])  # fmt: skip
def test_whatever_yields_ids_is_a_list_of_them(doors, ids):
    got = doors["recommend"](user="u1", k=np.int64(3), candidates=ids, exclude_seen=False)
    assert set(got["item"]) == {"i1", "i2"}


def test_a_single_request_in_place_of_a_list_is_a_usage_error(doors):
    with pytest.raises(UsageError, match=r"answer takes a list of requests. Write answer\(\[req"):
        doors["recommend"].__self__.answer(ft.Request(user="u1"))
