"""A metric over nobody is null, not zero: in every frame, in JSON, on the page and in sentences."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.cli import main
from foretaste.data.splitting import Split
from foretaste.evaluation.beyond_accuracy import variety
from foretaste.evaluation.statistics import Interval, Tally, contrasts, holm, intervals, resampled
from foretaste.experiments.conclusion import conclusion
from foretaste.experiments.report.page import html, markdown, summary
from foretaste.experiments.report.pictures import cold_start_curve
from foretaste.experiments.report.sections import sections

N_USERS, N_ITEMS, IN_TRAIN, IN_TEST = 40, 30, 18, 3
NOBODY = Tally(np.zeros(5), np.zeros(5))
SOMEBODY = Tally(np.array([1.0, 0, 1, 1, 0]), np.ones(5))


def unloved(ratings: ft.Dataset) -> ft.Dataset:
    """The same ratings, one star for every item and user that a cold start would hold out."""
    n_items = len(ratings.items)
    drawn = np.random.default_rng(0).permutation(n_items)[: round(0.2 * n_items)]
    held = ratings.items.values.gather(drawn).to_list()
    new = ft.split(ratings, "users", test=0.2, seed=0).test.users.values.to_list()
    nothing = pl.col("item").is_in(held) | pl.col("user").is_in(new)
    frame = ratings.frame().with_columns(value=pl.when(nothing).then(1.0).otherwise("value"))
    colours = ratings.item_frame.with_columns(kind=pl.col("item") % 2)
    return ft.from_frame(frame.drop("time"), value="value").with_items(colours)


@pytest.fixture(scope="module")
def parts() -> Split:
    """Every history is as long as the others, and in a cold start nobody has a thing to find."""
    rng = np.random.default_rng(1)
    rows = [
        {"user": u, "item": int(i), "value": float(rng.integers(3, 6)), "time": place}
        for u in range(N_USERS)
        for place, i in enumerate(rng.permutation(N_ITEMS)[: IN_TRAIN + IN_TEST])
    ]
    frame = pl.DataFrame(rows)
    train = unloved(ft.from_frame(frame.filter(pl.col("time") < IN_TRAIN), value="value"))
    test = ft.from_frame(frame.filter(pl.col("time") >= IN_TRAIN).drop("time"), value="value")
    return Split(train, train, test, "random by hand")


@pytest.fixture(scope="module")
def comparison(parts):
    models = {"aligned-als": ft.AlignedALS(n_factors=2)}
    return ft.compare_models(parts, models, cold_start=True, k=5, seeds=1)


def test_the_metric_of_no_weight_is_no_number():
    assert math.isnan(NOBODY.value)
    assert math.isnan(Tally(np.zeros(5), np.zeros(5), root=True).value)
    assert math.isnan(Tally(np.zeros(0), np.zeros(0)).value)
    assert all(np.isnan(drawn).all() for drawn in resampled([Tally(np.zeros(0), np.zeros(0))]))
    found = intervals({"x": NOBODY})["x"]
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.summary() == {"value": None, "low": None, "high": None}
    assert Interval(0.5, 0.25, 1.0).summary() == {"value": 0.5, "low": 0.25, "high": 1.0}


def test_a_resample_without_weight_has_no_say_in_the_interval():
    one = Tally(np.array([0.5, 0, 0, 0, 0]), np.array([1.0, 0, 0, 0, 0]))
    drawn = resampled([one])[0]
    assert 0.2 < np.isnan(drawn).mean() < 0.5  # (4 / 5)^5 of them
    assert intervals({"x": one})["x"] == Interval(0.5, 0.5, 0.5)


def test_nobody_wins_where_nobody_was_measured():
    tallies = {"a": {"x": NOBODY}, "b": {"x": NOBODY}, "c": {"x": SOMEBODY}}
    frame = contrasts(tallies, ["x"])
    assert (
        frame.select("difference", "low", "high", "p", "p_holm", "better").null_count().row(0)
        == (3,) * 6
    )
    assert not any(frame.select(pl.col(pl.Float64).is_nan().any()).row(0))


def test_a_test_that_was_not_made_does_not_count_in_holms_correction():
    found = holm([0.01, math.nan, 0.04])
    assert found[0::2] == pytest.approx([0.02, 0.04])
    assert math.isnan(found[1])


def test_the_difference_is_of_the_resamples_that_have_both():
    rng = np.random.default_rng(2)
    few_b = np.array([1.0, 1, 0, 0, 0, 0])
    tallies = {name: {"x": Tally(few_b * rng.random(6), few_b)} for name in "ab"}
    row = contrasts(tallies, ["x"]).row(0, named=True)
    assert None not in (row["low"], row["high"], row["p"])
    assert row["low"] <= row["difference"] <= row["high"]


def test_a_split_of_nobody_is_one(comparison):
    """The premise of the tests below."""
    users, items = comparison.cold["users"], comparison.cold["items"]
    assert all(t["ndcg@5"].weight_b.sum() == 0 for t in users.tallies.values())
    empty = {case for (_, case), t in items.tallies.items() if not t["recall@5"].weight_b.sum()}
    assert empty == {"cold", "cold in all"}
    last = comparison.runs["aligned-als"][0].segments
    assert [t.weight_b.sum() == 0 for t in last.values()] == [False, True, False, False]


def test_every_frame_has_null(comparison):
    for frame in (
        comparison.frame(), comparison.pairs, comparison.segments(), comparison.variety(),
        comparison.costs(), comparison.seeds(), *(c.frame() for c in comparison.cold.values()),
    ):  # fmt: skip
        for column in frame.select(pl.col(pl.Float64)).iter_columns():
            assert not column.is_nan().any(), column.name
    users = comparison.cold["users"].frame()
    assert users.schema["value"] == pl.Float64
    assert users.select("value", "low", "high").null_count().row(0) == (len(users),) * 3
    items = comparison.cold["items"].frame()
    assert set(items.filter(pl.col("value").is_null())["case"]) == {"cold", "cold in all"}
    lost = comparison.segments().filter(pl.col("segment").str.starts_with("long-standing"))
    assert lost["recall"].null_count() == len(lost) > 0


def test_a_ratio_to_or_of_nobody_is_no_number(comparison):
    users, items = comparison.cold["users"], comparison.cold["items"]
    names = "aligned-als", "popularity"
    for found in (
        users.ratio("ndcg@5", (names[0], "3"), (names[0], "all")),
        items.ratio("recall@5", (names[0], "cold"), (names[1], "cold")),
        items.ratio("recall@5", (names[0], "warm"), (names[1], "cold")),
        items.ratio("recall@5", (names[0], "cold"), (names[1], "warm")),
    ):
        assert np.isnan([found.value, found.low, found.high]).all()


def test_json_has_null(comparison):
    said = json.loads(json.dumps(summary(comparison), allow_nan=False, default=str))
    rows = said["cold"]["new users"]["rows"]
    assert {row["value"] for row in rows} == {None}
    lost = [row for row in said["segments"] if row["segment"].startswith("long-standing")]
    assert {row["recall"] for row in lost} == {None}


def test_the_page_and_the_markdown_have_a_dash(comparison):
    found = sections(comparison)
    users, items, served = (
        next(s for s in found if s.title.startswith(title))
        for title in ("New users", "New items", "Who is served")
    )
    assert {cell for row in users.rows for cell in row[1:]} == {"–"}
    assert {row[1] for row in items.rows} == {row[3] for row in items.rows} == {"–"}
    assert all(isinstance(row[2], tuple) for row in items.rows)
    assert {row[2] for row in served.rows} == {"–"}
    assert users.picture == ""
    for text in (html(found), markdown(found)):
        assert "nan" not in text.lower().replace("finance", "")


def test_the_conclusion_says_that_nobody_was_there(comparison):
    said = conclusion(comparison)
    assert "New users: none of those held out had anything to find: nothing is known." in said
    assert "New items: nobody was to find any of those held out: nothing is known." in said
    assert not any("nan" in sentence for sentence in said)


def test_lists_of_nothing_have_no_variety(parts):
    report = ft.evaluate(ft.fit(ft.Popularity(), parts.train, progress=False), parts, k=5)
    assert report.served is not None
    report.served.lists.item_bk.fill_(-1)
    found = variety(parts.train, report.served, 5)
    assert found["coverage"] == 0.0
    assert all(math.isnan(found[name]) for name in ("novelty", "diversity", "head_share"))


def test_a_report_of_nobody_is_null_in_its_frame_and_its_summary(parts):
    report = ft.evaluate(ft.fit(ft.Popularity(), parts.train, progress=False), parts, k=5)
    report.metrics["ndcg@5"] = intervals({"x": NOBODY})["x"]
    row = report.frame().filter(metric="ndcg@5")
    assert row.select("value", "low", "high").row(0) == (None, None, None)
    said = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert said["metrics"]["ndcg@5"] == {"value": None, "low": None, "high": None}


def test_users_who_have_nothing_to_find_are_null_per_user(parts):
    report = ft.evaluate(ft.fit(ft.Popularity(), parts.train, progress=False), parts, k=5)
    liked = set(parts.test.frame().filter(pl.col("value") >= 4)["user"])
    without = report.per_user.filter(~pl.col("user").is_in(list(liked)))
    assert without["ndcg@5"].null_count() == len(without) > 0


def test_the_command_and_its_picture_have_nothing_where_there_is_nobody(
    comparison, tmp_path, monkeypatch, capfd
):
    train = comparison.parts.train
    train.frame().rename({"value": "rating"}).write_csv(tmp_path / "ratings.csv")
    train.item_frame.write_csv(tmp_path / "items.csv")
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> str:
        monkeypatch.setattr("sys.argv", ["foretaste", *line.split()])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code, capfd.readouterr().err
        return capfd.readouterr().out

    line = "cold-start ratings.csv --items items.csv --model popularity --k 5"
    said = run(f"{line} --picture cold")
    cold = [words for words in map(str.split, said.splitlines()) if words[1:2] == ["cold"]]
    assert cold
    assert all(words[-3:] == ["–", "–", "–"] for words in cold)
    assert (tmp_path / "cold.svg").is_file()
    rows = json.loads(run(f"{line} --json"))["rows"]
    assert {row["value"] for row in rows if row["case"] == "cold"} == {None}
    assert cold_start_curve(
        comparison.cold["users"].frame(), "ndcg@5", tmp_path / "users", title="nobody"
    )
