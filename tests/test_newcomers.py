"""What users of little history get: what is popular, from every model that learns from likes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.data.histories import Histories, histories_of
from foretaste.models import MODELS
from foretaste.models.base import ScoresByDot, configure
from foretaste.models.likes import LearnsFromLikes
from foretaste.models.newcomers.learning import learn_prior, ndcg_of, newcomers, shown_and_wanted
from foretaste.models.newcomers.prior import Prior, with_prior
from tests.conftest import synthetic
from tests.test_models_contract import SMALL, films

START, DAY = 1_000_000_000, 86_400  # seconds
OF_LIKES = [name for name, model in MODELS.items() if issubclass(model, LearnsFromLikes)]


@pytest.fixture(scope="module")
def ratings():
    return synthetic().with_items(films(40))


@pytest.fixture(scope="module", params=OF_LIKES)
def fitted(request, ratings):
    model = configure(MODELS[request.param], SMALL.get(request.param, {}))
    return ft.fit(model, ratings, seed=3, progress=False)


def weighing(fitted, *weights):
    """The same Recommender with weights that a small data set is too small to learn."""
    prior = fitted.training["prior"] | {"likes": [1, 3][: len(weights)], "weights": [*weights]}
    return replace(fitted, training=fitted.training | {"prior": prior})


def counts_of(ratings, listed):
    """How many ratings the listed items have, in the order of the list."""
    of_item = dict(ratings.frame().group_by("item").len().iter_rows())
    return [of_item.get(item, 0) for item in listed["item"]]


def test_a_user_without_a_history_gets_items_in_order_of_popularity(fitted, ratings):
    counts = counts_of(ratings, fitted.recommend(history=[], k=40))
    assert counts == sorted(counts, reverse=True)


def test_a_user_who_likes_nothing_gets_what_is_popular_and_not_seen(fitted):
    best = fitted.recommend(history=[], k=40)["item"].to_list()
    listed = fitted.recommend(history={best[0]: 1.0}, k=40)["item"].to_list()
    assert listed == best[1:]


def test_a_history_of_few_likes_leans_on_popularity_and_a_long_one_does_not(fitted, ratings):
    leaning = weighing(fitted, 1e4, 0.0)
    popular = fitted.recommend(history=[], k=40)["item"].to_list()
    one, many = {popular[5]: 5.0}, dict.fromkeys(popular[:8], 5.0)
    counts = counts_of(ratings, leaning.recommend(history=one, k=40))
    assert counts == sorted(counts, reverse=True)
    assert leaning.recommend(history=many, k=8)["item"].equals(
        fitted.recommend(history=many, k=8)["item"]
    )


def test_a_bundle_keeps_the_prior_and_an_older_one_without_it_loads(fitted, tmp_path):
    leaning = weighing(fitted, 2.0, 1.0)
    leaning.save(tmp_path / "new")
    history = {"i1": 5.0}
    loaded = ft.load(tmp_path / "new")
    assert loaded.training["prior"] == leaning.training["prior"]
    assert loaded.recommend(history=history).equals(leaning.recommend(history=history))
    without = {name: value for name, value in fitted.training.items() if name != "prior"}
    replace(fitted, training=without).save(tmp_path / "old")
    plain = ft.load(tmp_path / "old")
    batch = Histories.from_pairs(torch.tensor([0]), torch.tensor([1]), 1, torch.tensor([5.0]))
    (answer,) = plain.answer([ft.Request(histories=batch, k=40, exclude_seen=False)])
    score_i = fitted.model.score(batch)[0]
    assert torch.allclose(
        answer.lists.score_bk[0], score_i[answer.lists.item_bk[0]], rtol=1e-4, atol=1e-5
    )


def test_an_answer_says_how_much_of_it_is_popularity(fitted):
    leaning = weighing(fitted, 3.0)
    asked = [ft.Request(history=[]), ft.Request(history={"i1": 5.0})]
    assert [answer.fallback_b for answer in leaning.answer(asked)] == [[1.0], [0.75]]


def test_mixed_scores_by_dot_products_are_those_of_all_items(fitted, ratings):
    """A model with vectors stays one: popularity is one more factor of its items."""
    prior = Prior((1, 3), (2.0, 1.0), None, fitted.model.border_)
    mixed = with_prior(fitted.model, prior, ratings)
    assert isinstance(mixed, ScoresByDot) == isinstance(fitted.model, ScoresByDot)
    batch = histories_of(ratings, np.arange(20), ratings).first(4)
    score_bi, weight_b = fitted.model.score(batch), prior.weight(prior.n_likes(batch))
    spread_b1 = score_bi.std(dim=1, correction=0, keepdim=True)
    expected_bi = score_bi + weight_b[:, None] * spread_b1 * prior.popularity(ratings)
    liking_b = prior.n_likes(batch) > 0
    torch.testing.assert_close(
        mixed.score(batch)[liking_b], expected_bi[liking_b], rtol=1e-3, atol=1e-4
    )


def test_a_model_that_falls_back_on_nothing_scores_alone(ratings):
    alone = ft.fit(ft.EASE(fallback="none"), ratings, progress=False)
    assert "prior" not in alone.training
    (answer,) = alone.answer([ft.Request(history=[], k=3)])
    assert answer.lists.score_bk.tolist() == [[0.0, 0.0, 0.0]]
    assert answer.fallback_b == ()


def shop(n_users=600, seed=0):
    """Clicks of popular items that nothing but popularity predicts, with times."""
    rng = np.random.default_rng(seed)
    chance_i = 1.0 / np.arange(1, 61)
    rows = [
        (u, int(i), START + DAY * (10 * u + n))
        for u in range(n_users)
        for n, i in enumerate(rng.choice(60, 6, replace=False, p=chance_i / chance_i.sum()))
    ]
    return ft.from_frame(
        pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"), time="time"
    )


def test_weights_are_learned_where_there_are_users_enough_and_never_grow_with_the_history():
    prior = ft.fit(ft.EASE(), shop(), progress=False).training["prior"]
    assert prior["likes"] == [1, 3]  # nobody has ten
    assert prior["weights"][0] > 0
    assert prior["weights"] == sorted(prior["weights"], reverse=True)


def test_a_deterministic_model_has_the_same_prior_whatever_the_seed():
    one, other = (ft.fit(ft.EASE(), shop(), seed=s, progress=False).training for s in (1, 2))
    assert one["prior"] == other["prior"]
    assert not one["random"]


def test_where_there_are_times_the_newest_users_are_held_out():
    data = shop()
    found = newcomers(data, 1e-9, np.random.default_rng(0))
    assert found is not None
    rest, held = found
    newest, oldest = rest.interactions.time_r, held.interactions.time_r
    assert newest is not None
    assert oldest is not None
    assert newest.max() < oldest.min()
    assert not set(rest.users.values) & set(held.users.values)


def test_recent_popularity_is_taken_where_tastes_move():
    rng = np.random.default_rng(0)
    rows = [
        (u, int(i), START + DAY * u)
        for u in range(600)
        for i in (u // 12 + rng.permutation(12)[:5]) % 60
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    prior = ft.fit(ft.EASE(), ft.from_frame(frame, time="time"), progress=False).training["prior"]
    assert prior["half_life_days"] == 30.0


def test_a_model_below_popularity_says_so_in_its_notes():
    fitted = ft.fit(ft.ItemKNN(neighbours=1), shop(2000), progress=False)
    (note,) = fitted.training["notes"]
    assert note.startswith("item-knn made worse lists than popularity for 200 users held out")


def test_the_ndcg_of_the_second_fit_is_that_of_the_evaluation():
    data = shop(200)
    parts = ft.split(data, "users", test=0.2)
    fitted = ft.fit(ft.EASE(fallback="none"), parts.train, progress=False)
    report = ft.evaluate(fitted, parts, k=10)
    rows = parts.history.users.find(parts.test.users.values)
    shown = histories_of(parts.history, rows, parts.train)
    wanted = histories_of(parts.test, np.arange(len(parts.test.users)), parts.train)
    found_b = ndcg_of(fitted.model.score(shown), shown, wanted)
    assert np.isclose(found_b.mean(), report.metrics["ndcg@10"].value)


def test_what_is_shown_comes_before_what_is_wanted():
    likes = Histories.from_pairs(torch.tensor([0, 0, 0, 1]), torch.tensor([4, 2, 3, 1]), 2)
    shown, wanted = shown_and_wanted(likes, 1)
    assert len(shown) == 1  # the second user has nothing more
    assert shown.item_h.tolist() == [4]
    assert wanted.item_h.tolist() == [2, 3]


def test_data_without_interactions_have_no_prior():
    model = ft.EASE().fit(shop(100), ft.Engine())
    assert learn_prior(model, shop(100).take(np.zeros(600, dtype=bool)), ft.Engine()) is None
