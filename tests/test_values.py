"""What values mean: counts are clicks, marks for "not rated" are left out, scales stay scales."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.data.checking import check
from foretaste.data.values import liked_note
from foretaste.errors import UsageError

N = 4000


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def stars(scale, weights=None, n=N, seed=1):
    return draw(seed).choice(np.asarray(scale, float), n, p=weights)


def tabled(value, column="rating", values="auto"):
    pair = draw(7).permutation(200 * 150)[: len(value)]
    frame = pl.DataFrame({"user": pair // 150, "item": pair % 150, column: value})
    return ft.from_frame(frame, value=column, values=values)


def outlier(value, far):
    return np.append(value[:-1], far)


COUNTS = {
    "plays": ("plays", np.floor(draw().pareto(1.0, N)) + 1),
    "plays with zeros": ("n", draw().negative_binomial(1, 0.05, N).astype(float)),
    "quantities of a few": ("quantity", draw().geometric(0.7, N).astype(float)),
    "quantities without a name": ("x", draw().geometric(0.35, N).astype(float)),
    "ones and a few more": ("rating", outlier(np.ones(N), 40.0)),
    "hours": ("hours", np.round(draw().lognormal(1.0, 1.3, N), 1)),
    "hours without a name": ("x", np.round(draw().lognormal(1.0, 1.3, N), 1)),
    "hours with an outlier": ("x", outlier(np.round(draw().random(N) * 20, 2), 11_754.0)),
    "seconds": ("dwell_time", np.floor(draw().exponential(90, N))),
    "revenue": ("amount", np.round(draw().lognormal(3.0, 1.0, N), 2)),
}
SCALES = {
    "five stars": stars(range(1, 6)),
    "kind stars": stars(range(1, 6), [0.02, 0.03, 0.05, 0.2, 0.7]),
    "grim stars": stars(range(1, 6), [0.7, 0.2, 0.05, 0.03, 0.02]),
    "half stars": stars(np.arange(0.5, 5.1, 0.5)),
    "ten": stars(range(1, 11)),
    "a slip": outlier(stars(range(1, 6)), 55.0),
    "jester": np.round(np.clip(draw().normal(1, 5, N), -10, 10), 2),
    "one to a hundred": np.round(np.clip(draw().normal(55, 25, N), 1, 100)),
    "yahoo": stars([0, 30, 50, 70, 90, 100], [0.3, 0.05, 0.15, 0.1, 0.2, 0.2]),
    "a hundred with zeros": stars([0, 1, *range(10, 101, 10)], [0.3, 0.002, *[0.0698] * 10]),
    "percent": np.round(draw().random(N) * 100, 1),
    "thumbs": stars([0, 1]),
    "signs": stars([-1, 1]),
    "three levels": stars([-1, 0, 1]),
    "zero to ten": stars(range(11)),
    "zero to five, mostly low": stars(range(6), [0.3, 0.25, 0.2, 0.1, 0.1, 0.05]),
}
BOOKS = [0.62, 0.002, 0.003, 0.005, 0.008, 0.045, 0.033, 0.066, 0.092, 0.06, 0.066]
MARKED = {
    "Book-Crossing": (stars(range(11), BOOKS), 0.0, "0"),
    "books of the good": (stars([0, *range(5, 11)], [0.58, *[0.07] * 6]), 0.0, "0"),
    "Jester": (np.where(draw().random(N) < 0.4, 99, SCALES["jester"]), 99.0, "99"),
    "anime": (stars([-1, *range(1, 11)], [0.2, *[0.08] * 10]), -1.0, "-1"),
    "stars": (np.where(draw().random(N) < 0.1, 99, SCALES["five stars"]), 99.0, "99"),
    "surveys": (np.where(draw().random(N) < 0.1, -999, SCALES["ten"]), -999.0, "-999"),
}


@pytest.mark.parametrize(("column", "value"), COUNTS.values(), ids=list(COUNTS))
def test_counts_are_clicks_of_such_weights_and_the_report_says_so(column, value):
    clicks = tabled(value, column)
    assert not clicks.explicit
    assert clicks.scale == (np.float32(value.min()), np.float32(value.max()))
    assert clicks.report.notes[-1] == (
        f"the values of {column!r} are counts without an upper end, so rows are clicks of such "
        "weights (weighting=log uses them; --values ratings takes them as ratings)"
    )
    assert not [f for f in check(clicks).findings if f.code == "values-like-counts"]


@pytest.mark.parametrize(("column", "value"), COUNTS.values(), ids=list(COUNTS))
def test_whoever_says_that_counts_are_ratings_gets_ratings_and_a_warning(column, value):
    ratings = tabled(value, column, values="ratings")
    assert ratings.explicit
    found = [f for f in check(ratings).findings if f.code == "values-like-counts"]
    assert found[0].fix == "Read them as clicks of such weights: --values clicks."


@pytest.mark.parametrize("value", SCALES.values(), ids=list(SCALES))
def test_values_on_a_scale_stay_ratings(value):
    ratings = tabled(value)
    assert ratings.explicit
    assert len(ratings) == len(value)
    assert ratings.report.unrated == 0


@pytest.mark.parametrize(("value", "mark", "shown"), MARKED.values(), ids=list(MARKED))
def test_marks_for_not_rated_are_left_out_and_counted(value, mark, shown):
    ratings, n = tabled(value), int((value == mark).sum())
    assert ratings.explicit
    assert len(ratings) == len(value) - n
    assert ratings.report.unrated == n
    assert mark not in ratings.levels
    assert ratings.report.notes[-1] == (
        f"{n:,} rows of value {shown}, a mark for 'not rated', are left out (--values clicks takes "
        "every row as a click, --values ratings the mark as a rating)"
    )
    assert len(tabled(value, values="ratings")) == len(value)
    clicks = tabled(value, values="clicks")
    assert (clicks.explicit, len(clicks), clicks.scale) == (False, len(value), (1.0, 1.0))


def test_counts_that_are_ratings_are_so_without_their_marks():
    value = outlier(COUNTS["plays"][1], -1.0)
    ratings = tabled(value, "plays", values="rated")
    assert ratings.explicit
    assert (len(ratings), ratings.scale[0]) == (N - 1, 1.0)


def test_a_choice_that_there_is_not_is_refused():
    with pytest.raises(
        UsageError, match=r"values='stars'\. Use one of auto, ratings, rated, clicks"
    ):
        tabled(SCALES["ten"], values="stars")


def test_something_is_liked_wherever_values_are_counts():
    for column, value in COUNTS.values():
        fitted = ft.fit(ft.ItemKNN(), tabled(value, column), progress=False)
        assert fitted.model.score is not None
        assert (fitted.recommend(user=0, k=5)["score"] > 0).any()


@pytest.mark.parametrize("name", ["thumbs", "liked", "thumbs_up", "is_recommended"])
def test_a_column_of_true_and_false_is_ratings_of_two_levels(name, tmp_path):
    liked = draw().random(N) < 0.6
    pair = draw(7).permutation(200 * 150)[:N]
    frame = pl.DataFrame({"user": pair // 150, "item": pair % 150, name: liked})
    file = tmp_path / "likes.csv"
    frame.write_csv(file)
    for ratings in (ft.from_frame(frame), ft.read(file)):
        assert ratings.explicit
        assert ratings.levels.tolist() == [0.0, 1.0]
        assert ratings.report.columns["value"] == name


def test_stars_come_before_likes():
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 1], "rating": [4, 5], "liked": [True, False]})
    assert ft.from_frame(frame).report.columns["value"] == "rating"


SKEWED = stars(range(1, 11), [0.5, 0.3, 0.1, 0.05, 0.02, 0.01, 0.01, 0.005, 0.003, 0.002])
KIND = stars(range(1, 6), [0.01, 0.01, 0.01, 0.07, 0.9])


@pytest.mark.parametrize(
    ("value", "share", "better", "by"), [(SKEWED, "0.", "2", "50%"), (KIND, "97", "5", "90%")]
)
def test_a_threshold_that_nearly_all_or_no_ratings_reach_is_a_warning(value, share, better, by):
    ratings = tabled(value, values="ratings")
    (found,) = [f for f in check(ratings).findings if f.code == "liked-share"]
    assert found.severity == "warning"
    assert found.what.startswith(share)
    assert f"positive_threshold={better} would be reached by " in found.what
    fitted = ft.fit(ft.ItemKNN(), ratings, progress=False)
    assert [n for n in fitted.training["notes"] if "positive_threshold" in n]
    mended = ft.fit(ft.ItemKNN(positive_threshold=float(better)), ratings, progress=False)
    assert "notes" not in mended.training or not [
        n for n in mended.training["notes"] if "positive_threshold" in n
    ]


def test_a_usual_threshold_is_not_mentioned():
    ratings = tabled(SCALES["five stars"])
    assert liked_note(ratings, 4.0) == ""
    assert liked_note(ratings, 1.0).startswith("100.0% of the ratings reach 1, from where")


def test_an_evaluation_says_that_its_threshold_finds_nearly_nothing():
    parts = ft.split(tabled(SKEWED, values="ratings"), "random", test=0.3, seed=0)
    fitted = ft.fit(ft.Popularity(), parts.train, progress=False)
    notes = ft.evaluate(fitted, parts, ratings=False).notes
    assert [n for n in notes if "relevance_threshold=2 would be reached by" in n]
    notes = ft.evaluate(fitted, parts, ratings=False, relevance_threshold=2.0).notes
    assert not [n for n in notes if "relevance_threshold" in n]
