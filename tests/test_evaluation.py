"""Evaluation against brute force over what the public object predicts and lists."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.errors import DataError, UsageError
from foretaste.evaluation import evaluate as evaluation
from foretaste.evaluation.evaluate import evaluate
from foretaste.evaluation.metrics import RANKING
from foretaste.evaluation.statistics import Interval
from tests.conftest import synthetic
from tests.test_metrics import brute


@pytest.fixture(scope="module")
def parts(ratings):
    return ft.split(ratings, "random", test=0.25, seed=2)


@pytest.fixture(scope="module")
def fitted(parts):
    """A model whose scores are all different: no two items have the same bias."""
    model = ft.Bias()
    recommender = ft.fit(model, parts.train, progress=False)
    bias: Any = recommender.model
    assert len(bias.item_i_.unique()) == len(parts.train.items)
    return recommender


@pytest.fixture(scope="module")
def report(fitted, parts):
    return evaluate(fitted, parts, k=(1, 5, 10))


def errors_of(recommender, parts):
    """Error of every test rating, asked pair by pair through the public door."""
    test = parts.test.frame()
    rated = recommender.predict(test["user"].to_list(), test["item"].to_list())
    return test.select("user", error=pl.Series(rated["rating"]).cast(pl.Float64) - pl.col("value"))


def relevant_items(parts, border):
    liked = parts.test.frame().filter(pl.col("value") >= border)
    return {user: set(items) for user, items in liked.group_by("user").agg("item").iter_rows()}


def test_rating_errors_equal_a_brute_force_over_predicted_pairs(fitted, parts, report):
    error = errors_of(fitted, parts)
    assert report.metrics["rmse"].value == pytest.approx(
        math.sqrt(error.select(pl.col("error").pow(2).mean()).item()), abs=1e-9
    )
    assert report.metrics["mae"].value == pytest.approx(
        error.select(pl.col("error").abs().mean()).item(), abs=1e-9
    )
    each = error.group_by("user").agg(
        rmse_=pl.col("error").pow(2).mean().sqrt(), mae_=pl.col("error").abs().mean()
    )
    both = report.per_user.join(each, on="user", how="left", maintain_order="left")
    np.testing.assert_allclose(both["rmse"], both["rmse_"])
    np.testing.assert_allclose(both["mae"], both["mae_"])


@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("name", RANKING)
def test_ranking_metrics_equal_a_brute_force_over_the_lists_served(fitted, parts, report, name, k):
    relevant = relevant_items(parts, 4.0)
    expected = {}
    for user, items in relevant.items():
        served = fitted.recommend(user, k=k)["item"].to_list()
        expected[user] = brute(name, served, items, len(items), k)
    column = report.per_user.select("user", f"{name}@{k}")
    found = {user: value for user, value in column.iter_rows() if value is not None}
    assert found == pytest.approx(expected, abs=1e-12)
    mean = float(np.mean(list(expected.values())))
    assert report.metrics[f"{name}@{k}"].value == pytest.approx(mean)


def test_the_table_of_users_adds_up_to_the_totals(parts, report):
    assert report.per_user["user"].to_list() == parts.test.users.values.to_list()
    n_b = np.bincount(parts.test.interactions.user_r)
    squared_b = report.per_user["rmse"].to_numpy() ** 2
    total = math.sqrt(np.average(squared_b, weights=n_b))
    assert report.metrics["rmse"].value == pytest.approx(total)
    for name, interval in report.metrics.items():
        if "@" in name:
            assert interval.value == pytest.approx(report.per_user[name].mean())
        assert interval.low <= interval.value <= interval.high


def test_users_with_nothing_to_find_do_not_count_in_rankings(fitted, parts, report):
    relevant = relevant_items(parts, 4.0)
    idle = [user for user in parts.test.users.values if user not in relevant]
    assert idle
    unranked = report.per_user.filter(pl.col("ndcg@10").is_null())
    assert unranked["user"].to_list() == idle
    assert unranked["rmse"].is_not_null().all()


def test_the_border_of_relevance_is_a_choice_and_three_quarters_up_the_scale_by_default(
    fitted, parts, report
):
    same = evaluate(fitted, parts, k=10, relevance_threshold=4.0)
    assert same.metrics["ndcg@10"] == report.metrics["ndcg@10"]
    everything = evaluate(fitted, parts, k=10, relevance_threshold=1.0)
    assert everything.per_user["ndcg@10"].null_count() == 0
    only_five = evaluate(fitted, parts, k=10, relevance_threshold=5.0)
    relevant = relevant_items(parts, 5.0)
    hits = [
        bool(set(fitted.recommend(user, k=10)["item"]) & items) for user, items in relevant.items()
    ]
    assert only_five.metrics["hit_rate@10"].value == pytest.approx(np.mean(hits))
    with pytest.raises(DataError) as error:
        evaluate(fitted, parts, relevance_threshold=6)
    assert str(error.value) == (
        "frame: no test rating reaches 6: nothing is relevant. "
        "Choose relevance_threshold within 1 to 5."
    )


def test_the_scale_is_the_one_of_training_not_of_the_few_ratings_tested():
    frame = pl.DataFrame(
        {"user": [1, 1, 1, 2, 2], "item": [1, 2, 3, 1, 3], "rating": [1.0, 5, 4, 3, 5]}
    )
    parts = ft.split(ft.from_frame(frame), "leave-last")  # tests a 4 and a 5
    report = evaluate(ft.fit(ft.Popularity(), parts.train, progress=False), parts)
    assert report.per_user["hit_rate@10"].to_list() == [0.0, 0.0]


def test_clicks_are_all_relevant_and_have_no_rating_errors(ratings):
    clicks = ft.from_frame(ratings.frame().drop("value"))
    parts = ft.split(clicks, "leave-last")
    report = evaluate(ft.fit(ft.Popularity(), parts.train, progress=False), parts, k=3)
    assert set(report.metrics) == {f"{name}@3" for name in RANKING}
    assert report.per_user["hit_rate@3"].null_count() == 0


@pytest.mark.parametrize("k", [0, (), (5, 0), -1])
def test_lists_of_no_length_cannot_be_measured(fitted, parts, k):
    with pytest.raises(UsageError) as error:
        evaluate(fitted, parts, k=k)
    assert str(error.value) == f"k={k}. Lists have at least one item."


def test_parts_of_the_evaluation_can_be_left_out(fitted, parts):
    assert set(evaluate(fitted, parts, ranking=False).metrics) == {"rmse", "mae"}
    assert set(evaluate(fitted, parts, ratings=False).metrics) == {f"{n}@10" for n in RANKING}
    nothing = evaluate(fitted, parts, ratings=False, ranking=False)
    assert nothing.metrics == {}
    assert len(nothing.per_user) == len(parts.test.users)


@pytest.fixture(scope="module")
def newcomers():
    """Train has users a and b, items 1 to 3; in the test come user z and item 9, never seen."""
    frame = pl.DataFrame(
        {
            "user": ["a", "a", "b", "b", "a", "a", "z"],
            "item": [1, 2, 2, 3, 9, 3, 2],
            "rating": [5.0, 3, 4, 1, 5, 5, 4],
            "time": [1, 2, 3, 4, 90, 91, 92],
        }
    )
    return ft.split(ft.from_frame(frame), "time", test=3 / 7)


def test_a_test_item_that_train_never_saw_is_a_miss_and_its_rating_falls_back(newcomers):
    fitted = ft.fit(ft.GlobalMean(), newcomers.train, progress=False)
    report = evaluate(fitted, newcomers, k=3)
    a = report.per_user.row(by_predicate=pl.col("user") == "a", named=True)
    assert a["recall_all@3"] == 0.5  # finds 3, the only candidate; 9 cannot be listed
    assert a["rmse"] == pytest.approx(1.75)  # |3.25 - 5| twice
    assert "1 test items are not in train: they count as misses in rankings" in report.notes


def test_a_test_user_without_history_is_served_as_a_new_user(newcomers):
    fitted = ft.fit(ft.Popularity(), newcomers.train, progress=False)
    report = evaluate(fitted, newcomers, k=1)
    z = report.per_user.row(by_predicate=pl.col("user") == "z", named=True)
    assert fitted.recommend(history=[], k=1)["item"].to_list() == [2]
    assert z["hit_rate@1"] == 1.0
    assert "1 test users have no history: they are served as new users" in report.notes


def test_held_out_users_are_judged_by_their_folded_in_histories(ratings):
    parts = ft.split(ratings, "users", test=0.3, seed=4, hidden=0.3)
    fitted = ft.fit(ft.Bias(), parts.train, progress=False)
    report = evaluate(fitted, parts, k=5, relevance_threshold=1.0)
    shown = {user: {} for user in parts.history.users.values}
    known = set(parts.train.items.values)
    for user, item, value in parts.history.frame().select("user", "item", "value").iter_rows():
        if item in known:
            shown[user][item] = value
    relevant = relevant_items(parts, 1.0)
    for user, recall, rmse in report.per_user.select("user", "recall@5", "rmse").iter_rows():
        assert user not in set(parts.train.users.values)
        served = fitted.recommend(history=shown[user], k=5)["item"].to_list()
        assert recall == pytest.approx(
            brute("recall", served, relevant[user], len(relevant[user]), 5)
        )
        asked = parts.test.frame().filter(user=user)
        rated = fitted.predict(items=asked["item"].to_list(), history=shown[user])["rating"]
        error = rated.to_numpy().astype(float) - asked["value"].to_numpy()
        assert rmse == pytest.approx(math.sqrt(np.mean(error**2)))
    assert not any("no history" in note for note in report.notes)


def test_a_recommender_trained_on_other_data_is_refused(ratings, parts):
    for other in (ratings, ft.split(ratings, "random", test=0.25, seed=3).train):
        cheat = ft.fit(ft.Bias(), other, progress=False)
        with pytest.raises(UsageError) as error:
            evaluate(cheat, parts)
        assert str(error.value) == (
            "this recommender was not trained on parts.train: its numbers would mean nothing. "
            "Fit it to parts.train first."
        )


def test_a_loaded_recommender_is_measured_like_the_one_that_was_saved(
    fitted, parts, report, tmp_path
):
    fitted.save(tmp_path / "bundle")
    again = evaluate(ft.load(tmp_path / "bundle"), parts, k=(1, 5, 10))
    assert again.metrics == report.metrics
    assert again.per_user.equals(report.per_user)


def test_the_same_question_has_the_same_answer_to_the_last_bit(fitted, parts, report):
    assert evaluate(fitted, parts, k=(1, 5, 10)).metrics == report.metrics


def test_cuts_do_not_influence_each_other(fitted, parts, report):
    for k in (1, 5, 10):
        alone = evaluate(fitted, parts, k=k)
        for name in RANKING:
            assert alone.metrics[f"{name}@{k}"] == report.metrics[f"{name}@{k}"]


def test_lists_longer_than_the_catalogue_find_everything(fitted, parts):
    report = evaluate(fitted, parts, k=500)
    known = set(parts.train.items.values)
    if relevant_items(parts, 4.0).keys() and set(parts.test.items.values) <= known:
        assert report.metrics["recall@500"].value == pytest.approx(1.0)


def test_the_frame_and_the_summary_say_the_same_and_the_summary_is_json(report, parts):
    frame = report.frame()
    assert frame.columns == ["metric", "value", "low", "high"]
    summary = json.loads(json.dumps(report.summary(), allow_nan=False))
    for metric, value, low, high in frame.iter_rows():
        assert summary["metrics"][metric] == {"value": value, "low": low, "high": high}
    assert summary["users"] == len(parts.test.users)
    assert summary["model"] == "bias"
    assert summary["protocol"] == "random 75%/25% of interactions, seed 2"
    assert summary["peak_memory_bytes"] > 1e7
    assert 0 <= summary["score_seconds"] < 60


def intervals_of(totals_sb, weights_sb, root=False):
    tallies = {
        str(s): evaluation.Tally(total_b, weight_b, root)
        for s, (total_b, weight_b) in enumerate(zip(totals_sb, weights_sb, strict=True))
    }
    return list(evaluation.intervals(tallies).values())


def test_the_interval_of_a_mean_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(7)
    users_sb = rng.exponential(1.0, size=(1000, 150))  # skewed, as recalls are; the truth is 1
    found = intervals_of(users_sb, np.ones_like(users_sb))
    covered = np.mean([i.low <= 1.0 <= i.high for i in found])
    assert 0.925 < covered < 0.965
    width = np.mean([i.high - i.low for i in found])
    assert width == pytest.approx(2 * 1.96 / math.sqrt(150), rel=0.05)


def test_the_interval_of_an_rmse_resamples_users_not_ratings():
    rng = np.random.default_rng(8)
    counts_sb = rng.integers(1, 40, size=(1000, 200))
    own_sb = rng.gamma(2.0, 0.5, size=(1000, 200))  # mean squared error of a user; the mean is 1
    found = intervals_of(own_sb * counts_sb, counts_sb.astype(float), root=True)
    covered = np.mean([i.low <= 1.0 <= i.high for i in found])
    assert 0.92 < covered < 0.97


def test_one_test_user_gives_an_interval_of_no_width():
    frame = pl.DataFrame(
        {"user": [1, 1, 2], "item": [1, 2, 1], "rating": [4.0, 2, 5], "time": [1, 9, 2]}
    )
    parts = ft.split(ft.from_frame(frame), "leave-last")
    report = evaluate(
        ft.fit(ft.GlobalMean(), parts.train, progress=False), parts, relevance_threshold=1
    )
    assert report.metrics["mae"] == Interval(2.5, 2.5, 2.5)


def test_a_constant_scorer_is_worth_what_chance_is_worth():
    """Ties count by expectation: with 40 items each unseen one is as likely to be listed."""
    parts = ft.split(synthetic(n_rows=600, seed=5), "random", seed=0)
    fitted = ft.fit(ft.GlobalMean(), parts.train, progress=False)
    report = evaluate(fitted, parts, k=5, relevance_threshold=1.0)
    known = set(parts.train.items.values)
    seen = dict(parts.train.frame().group_by("user").len().iter_rows())
    for user, items in relevant_items(parts, 1.0).items():
        chance = 5 / (len(known) - seen.get(user, 0))
        expected = chance * len(items & known) / 5
        got = report.per_user.filter(user=user)["precision@5"].item()
        assert got == pytest.approx(expected)


def test_a_random_order_is_worth_what_chance_is_worth_and_is_the_same_for_the_same_history():
    parts = ft.split(synthetic(n_users=2000, n_rows=40_000, seed=6), "random", seed=0)
    constant, drawn = (ft.fit(m(), parts.train, progress=False) for m in (ft.GlobalMean, ft.Random))
    chance, luck = (
        evaluate(r, parts, ratings=False).metrics["recall@10"] for r in (constant, drawn)
    )
    assert luck.low < chance.value < luck.high
    assert drawn.recommend(history=["i1", "i5"]).equals(drawn.recommend(history=["i5", "i1"]))
    other = ft.fit(ft.Random(), parts.train, seed=1, progress=False)
    assert not other.recommend("u7").equals(drawn.recommend("u7"))


def test_training_says_whether_another_seed_would_give_another_model(parts):
    said = {
        m.name: ft.fit(m, parts.train, progress=False).training["random"]
        for m in (ft.Random(), ft.Popularity(), ft.EASE(), ft.ALS(n_factors=2, iterations=1))
    }
    assert said == {"random": True, "popularity": False, "ease": False, "als": True}
