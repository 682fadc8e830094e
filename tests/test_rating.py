"""Expected ratings of pairs: the same in chunks and in one pass, in any order, each on its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foretaste as ft
from foretaste.data.histories import Histories, histories_of
from foretaste.errors import UnknownIdError
from foretaste.models import MODELS
from foretaste.models.base import PredictsRatings, RatingPrediction
from foretaste.recommending import rating
from foretaste.recommending.rating import rate
from tests.conftest import synthetic
from tests.test_models_contract import films, small

RATERS = [name for name, model in MODELS.items() if hasattr(model, "predict")]
DAY = 86_400_000


@pytest.fixture(scope="module", params=RATERS)
def model(request, ratings):
    return ft.fit(small(request.param), ratings, seed=3, progress=False).model


@pytest.fixture(scope="module")
def ratings():
    return synthetic(n_users=30, n_items=25, n_rows=300).with_items(films(25))


@pytest.fixture(scope="module")
def histories(ratings):
    """Of 9 users of training and someone new."""
    known = histories_of(ratings, np.arange(9), ratings)
    new = known[2:3].first(4).as_new_users()
    return Histories.concat([known, new])


@pytest.fixture(scope="module")
def pairs():
    """Users, items and times of 60 pairs: some repeated, some of unknown items, user 5 has none."""
    rng = np.random.default_rng(5)
    user_p = rng.choice([0, 1, 2, 3, 4, 6, 7, 8, 9], 60)
    item_p = rng.integers(-1, 25, 60)
    user_p[50:], item_p[50:] = user_p[:10], item_p[:10]
    time_p = rng.integers(1_500_000_000, 1_600_000_000, 60) * 1000
    time_p[50:] = time_p[:10]
    return torch.from_numpy(user_p), torch.from_numpy(item_p), torch.from_numpy(time_p)


def agree(found: RatingPrediction, expected: RatingPrediction) -> None:
    torch.testing.assert_close(found.mean_p, expected.mean_p, rtol=1e-4, atol=1e-4)
    assert (found.std_p is None) == (expected.std_p is None)
    if found.std_p is not None:
        torch.testing.assert_close(found.std_p, expected.std_p, rtol=1e-3, atol=1e-3)


def of(rated: RatingPrediction, p: torch.Tensor) -> RatingPrediction:
    return RatingPrediction(rated.mean_p[p], None if rated.std_p is None else rated.std_p[p])


@pytest.mark.parametrize("timed", [True, False])
def test_ratings_are_the_same_in_chunks_of_users_and_in_one_pass(
    model, histories, pairs, timed, monkeypatch
):
    user_p, item_p, time_p = pairs
    time_p = time_p if timed else None
    whole = model.predict(histories, user_p, item_p, time_p=time_p)
    for at_once in (1, 4, 10):
        monkeypatch.setattr(rating, "USERS_AT_ONCE", at_once)
        agree(rate(model, histories, user_p, item_p, time_p), whole)


def test_ratings_follow_their_pairs_in_any_order(model, histories, pairs, monkeypatch):
    monkeypatch.setattr(rating, "USERS_AT_ONCE", 4)
    whole = rate(model, histories, *pairs)
    order_p = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    agree(rate(model, histories, *(column_p[order_p] for column_p in pairs)), of(whole, order_p))


def test_a_pair_asked_for_twice_gets_the_same_rating_twice(model, histories, pairs):
    rated = rate(model, histories, *pairs)
    agree(of(rated, torch.arange(50, 60)), of(rated, torch.arange(10)))


def test_the_rating_of_a_pair_does_not_depend_on_the_other_pairs(model, histories, pairs):
    whole = rate(model, histories, *pairs)
    for user in (1, 9):
        own_p = (pairs[0] == user).nonzero()[:, 0]
        assert len(own_p)
        agree(rate(model, histories, *(column_p[own_p] for column_p in pairs)), of(whole, own_p))


def beside_others_and_alone(model, ratings, histories) -> tuple[RatingPrediction, ...]:
    """Ratings of every item for someone without a history, in company and not."""
    nobody = histories_of(ratings, np.array([-1]), ratings)
    item_p = torch.arange(25)
    together = rate(
        model, Histories.concat([histories, nobody]), torch.full((25,), len(histories)), item_p
    )
    return together, rate(model, nobody, torch.zeros(25, dtype=torch.int64), item_p)


def test_someone_without_a_history_is_rated_for_as_if_alone(model, ratings, histories):
    together, alone = beside_others_and_alone(model, ratings, histories)
    torch.testing.assert_close(together.mean_p, alone.mean_p, rtol=1e-4, atol=1e-4)


def test_the_spread_for_someone_without_a_history_does_not_depend_on_others(
    model, ratings, histories, request
):
    together, alone = beside_others_and_alone(model, ratings, histories)
    if model.name == "bayesian-mf":
        reason = "FoldIn takes drift for noise where no entry of a chunk has a time: 0.7 per cent"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    agree(together, alone)


def test_no_pairs_get_no_ratings(model, histories, monkeypatch):
    none = torch.empty(0, dtype=torch.int64)
    for at_once in (4, 100):
        monkeypatch.setattr(rating, "USERS_AT_ONCE", at_once)
        assert rate(model, histories, none, none).mean_p.shape == (0,)


@dataclass
class Ledger:
    """Rates by a formula of user, item and time; keeps how many users came with each pair."""

    std: bool
    users: list[int]

    def predict(self, histories, user_p, item_p, *, time_p=None):
        self.users.append(len(histories))
        mean_p = histories.value_h[histories.pointer_b[:-1]][user_p] + item_p / 8
        mean_p += 0 if time_p is None else time_p / DAY
        return RatingPrediction(mean_p.float(), item_p.float() if self.std else None)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 10), st.booleans(), st.booleans(),
    st.lists(st.tuples(st.integers(0, 8), st.integers(-1, 5), st.integers(0, 3)), max_size=20),
)  # fmt: skip
def test_every_pair_meets_its_own_user_and_time_and_each_user_is_folded_in_once(
    n_users, at_once, std, timed, drawn
):
    drawn = [(user % n_users, item, DAY * day) for user, item, day in drawn]
    user_p, item_p, time_p = torch.tensor(drawn, dtype=torch.int64).view(-1, 3).T
    value_b = torch.arange(n_users) * 100.0
    owners = Histories.from_pairs(torch.arange(n_users), torch.arange(n_users), n_users, value_b)
    ledger = Ledger(std, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rating, "USERS_AT_ONCE", at_once)
        rated = rate(ledger, owners, user_p, item_p, time_p if timed else None)
    assert rated.mean_p.tolist() == [
        100 * user + item / 8 + (time / DAY if timed else 0) for user, item, time in drawn
    ]
    assert (rated.std_p.tolist() if rated.std_p is not None else None) == (
        [item for _, item, _ in drawn] if std else None
    )
    assert sum(ledger.users) == n_users
    assert max(ledger.users) <= at_once


@pytest.mark.parametrize("unknown", [None, "fallback", "error"])
@pytest.mark.parametrize(
    ("users", "items", "refused"),
    [
        (["u1"], ["new"], "item"),  # a single pair is an error by default
        (["nobody"], ["i1"], "user"),
        (["nobody"], ["i1", "i2"], "user"),  # one user for all items, too
        (["u1"], ["i1", "new"], None),
        (["u1", "nobody"], ["new", "i2"], None),
    ],
)
def test_what_is_unknown_is_an_error_or_falls_back_as_asked(
    ratings, bias, unknown, users, items, refused
):
    pairs = list(zip(users * (len(items) // len(users)), items, strict=True))
    if unknown == "error" or (unknown is None and refused):
        kind = refused or ("user" if "nobody" in users else "item")
        with pytest.raises(UnknownIdError, match=f"unknown {kind} '(new|nobody)'"):
            bias.predict(users, items, unknown=unknown)
        return
    table = bias.predict(users, items, unknown=unknown)
    assert table.select("user", "item").rows() == pairs
    assert table["fallback"].to_list() == [u == "nobody" or i == "new" for u, i in pairs]
    assert table["std"].to_list() == [None] * len(pairs)


@pytest.fixture(scope="module")
def bias(ratings):
    return ft.fit(ft.Bias(), ratings, progress=False)


def test_ids_of_a_table_keep_their_type_unless_one_of_them_is_text_of_something_unknown():
    rows = {"user": [1, 1, 2], "item": [10, 20, 10], "rating": [1.0, 5.0, 3.0]}
    bias = ft.fit(ft.Bias(), ft.from_frame(pl.DataFrame(rows)), progress=False)
    known = bias.predict([2, 1], ["10", "20"])
    assert known.schema["user"] == known.schema["item"] == pl.Int64
    assert known["item"].to_list() == [10, 20]
    assert known["fallback"].to_list() == [False, False]
    new_item = bias.predict([2, 1], [10, 30])
    assert (new_item.schema["user"], new_item.schema["item"]) == (pl.Int64, pl.String)
    new_user = bias.predict([2, "3"], [10, 20])
    assert (new_user.schema["user"], new_user.schema["item"]) == (pl.String, pl.Int64)
    assert new_user["user"].to_list() == ["2", "3"]


def test_a_model_with_spreads_fills_the_column_of_standard_deviations():
    class Spread(ft.Bias):
        def predict(self, histories, user_p, item_p, *, time_p=None):
            return RatingPrediction(item_p.float(), item_p.float() / 2)

    spread = ft.fit(Spread(), synthetic(n_users=9, n_rows=80), progress=False)
    items = spread.dataset.items.values[:3].to_list()
    assert spread.predict(["u1"], items)["std"].to_list() == [0.0, 0.5, 1.0]


SCALES = {"hundredths": (0.01, 0.0), "twenties": (20.0, 0.0), "ten thousands": (1e4, 0.0),
          "shifted": (1.0, 500.0), "percent": (25.0, -25.0)}  # fmt: skip


@pytest.mark.parametrize(("times", "plus"), SCALES.values(), ids=list(SCALES))
@pytest.mark.parametrize("name", RATERS)
def test_ratings_times_c_give_predictions_times_c(name, times, plus, ratings):
    x = ratings.interactions
    value_r = (x.value_r * np.float32(times) + np.float32(plus)).astype(np.float32)
    scaled = replace(ratings, interactions=replace(x, value_r=value_r))
    rows = np.append(np.arange(9), -1)
    rated = []
    for data in (ratings, scaled):
        model = ft.fit(small(name), data, seed=3, progress=False).model
        assert isinstance(model, PredictsRatings)
        user_p, item_p = torch.arange(10).repeat_interleave(26), torch.arange(-1, 25).repeat(10)
        rated.append(rate(model, histories_of(data, rows, data), user_p, item_p))
    plain, other = rated
    apart = (other.mean_p - plus) / times - plain.mean_p
    assert float(apart.abs().max()) < 0.02  # stars
    assert (plain.std_p is None) == (other.std_p is None)
    if plain.std_p is not None:
        assert float((other.std_p / times - plain.std_p).abs().max()) < 0.02
