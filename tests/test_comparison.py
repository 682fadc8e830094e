"""Comparisons: brute force for the statistics, real processes and signals for the runs."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.data.splitting import folds_of
from foretaste.errors import UsageError
from foretaste.evaluation.beyond_accuracy import ceilings, head_items, segments, variety
from foretaste.evaluation.statistics import Tally, contrasts, holm
from foretaste.experiments.conclusion import conclusion
from foretaste.experiments.entrants import entrants
from tests.conftest import synthetic
from tests.processes import wait_for

FAST = {"popularity": ft.Popularity(), "als": ft.ALS(n_factors=4, iterations=2)}


@pytest.fixture(scope="module")
def parts(ratings):
    return ft.split(ratings, "random", test=0.25, seed=2)


@pytest.fixture(scope="module")
def reports(parts):
    models = (ft.EASE(), ft.Popularity(), ft.Bias(), ft.GlobalMean())
    return [ft.evaluate(ft.fit(m, parts.train, progress=False), parts, k=5) for m in models]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def comparison(parts, folder):
    lines: list[str] = []
    found = ft.compare_models(parts, FAST, k=5, seeds=2, folder=folder, say=lines.append)
    assert len(lines) == sum(len(runs) for runs in found.runs.values())
    return found


def test_a_difference_is_resampled_with_the_same_users_for_both(reports):
    frame = ft.compare(reports[:2], metrics=["ndcg@5"]).row(0, named=True)
    a, b = (r.per_user["ndcg@5"].to_numpy() for r in reports[:2])
    judged = ~np.isnan(a)
    rng = np.random.default_rng(0)  # the draws are over all test users, judged or not
    drawn = []
    for _ in range(1000):
        users = rng.integers(0, len(a), len(a))
        users = users[judged[users]]
        drawn.append(a[users].mean() - b[users].mean())
    assert frame["difference"] == pytest.approx((a - b)[judged].mean())
    np.testing.assert_allclose(
        [frame["low"], frame["high"]], np.quantile(drawn, [0.025, 0.975]), atol=1e-12
    )


def test_every_pair_is_compared_once_on_every_shared_metric(reports):
    frame = ft.compare(reports)
    names = set(frame["metric"])
    assert "ndcg@5" in names
    assert "rmse" not in names  # popularity predicts no ratings
    pairs = set(frame.filter(metric="ndcg@5").select("a", "b").iter_rows())
    assert pairs == set(itertools.combinations(["ease", "popularity", "bias", "global-mean"], 2))


def test_the_lower_error_is_the_better_one(reports):
    row = ft.compare(reports[2:], metrics=["rmse"]).row(0, named=True)
    assert row["difference"] < 0
    assert (row["a"], row["better"]) == ("bias", "bias")


def test_a_report_compared_with_itself_is_undecided(reports):
    row = ft.compare([reports[0], reports[0]]).row(0, named=True)
    assert (row["a"], row["b"]) == ("ease", "ease 2")
    assert (row["difference"], row["p_holm"], row["better"]) == (0.0, 1.0, None)


def test_reports_of_other_users_or_protocols_are_not_compared(reports, ratings):
    other = ft.split(ratings, "random", test=0.25, seed=3)
    report = ft.evaluate(ft.fit(ft.Bias(), other.train, progress=False), other, k=5)
    with pytest.raises(UsageError, match="Evaluate all of them on one split"):
        ft.compare([reports[0], report])
    with pytest.raises(UsageError) as raised:
        ft.compare(reports[:1])
    assert str(raised.value) == "there is nothing to compare. Give two reports or more."
    with pytest.raises(UsageError, match=r"not every report has rmse. All have recall@5, "):
        ft.compare(reports, metrics=["rmse"])


def test_holms_correction_equals_the_textbook():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_among_ten_equal_models_a_winner_is_declared_in_about_one_comparison_of_twenty():
    rng = np.random.default_rng(3)
    ones = np.ones(200)
    wrong = 0
    for _ in range(60):
        user_b = rng.normal(size=200)  # what the user is worth to any model
        tallies = {str(m): {"x": Tally(user_b + rng.normal(size=200), ones)} for m in range(10)}
        wrong += contrasts(tallies, ["x"])["better"].null_count() < 45
    assert wrong <= 8  # 3 expected; 9 and more in less than 1 of 200


def test_a_real_lead_is_found(reports):
    rng = np.random.default_rng(4)
    base_b = rng.random(500)
    tallies = {
        name: {"x": Tally(base_b + lead + 0.1 * rng.random(500), np.ones(500))}
        for name, lead in (("a", 0.0), ("b", 0.05))
    }
    row = contrasts(tallies, ["x"]).row(0, named=True)
    assert row["better"] == "b"
    assert row["low"] < -0.05 < row["high"]


def test_the_ceiling_is_what_an_oracle_reaches():
    frame = pl.DataFrame(
        {"user": ["a"] * 4 + ["b"] * 3, "item": [1, 2, 3, 9, 1, 3, 2],
         "rating": [5.0, 4, 5, 5, 4, 4, 5], "time": [1, 2, 90, 91, 3, 4, 92]}
    )  # fmt: skip
    parts = ft.split(ft.from_frame(frame), "time", test=3 / 7)  # 9 is in no train row
    report = ft.evaluate(ft.fit(ft.Popularity(), parts.train, progress=False), parts, k=2)
    assert report.served is not None
    best = ceilings(report.served, 2)
    assert best["recall_all@2"] == pytest.approx((1 / 2 + 1) / 2)
    assert best["hit_rate@2"] == 1.0
    assert report.metrics["recall_all@2"].value == pytest.approx(best["recall_all@2"])


def test_no_model_beats_the_ceiling(comparison):
    for metric, ceiling in comparison.ceilings.items():
        for found in comparison.values.values():
            assert found[metric].value <= ceiling + 1e-9


def test_segments_equal_a_brute_force_over_the_lists_served(parts):
    fitted = ft.fit(ft.EASE(), parts.train, progress=False)
    report = ft.evaluate(fitted, parts, k=5)
    assert report.served is not None
    found = segments(parts, report.served, 5)
    new, old, head, tail = (float(t.total_b.sum() / t.weight_b.sum()) for t in found.values())
    train, liked = parts.train.frame(), parts.test.frame().filter(pl.col("value") >= 4)
    n_seen = dict(train.group_by("user").len().iter_rows())
    wanted = dict(liked.group_by("user").agg("item").iter_rows())
    count = train.group_by("item").len().sort(["len"], descending=True)
    most = count["len"].cum_sum() - count["len"] < len(train) / 2
    top = set(count.filter(most)["item"])
    assert len(top) == head_items(parts.train).sum()
    top = set(parts.train.items.values.filter(pl.Series(head_items(parts.train))))
    recalls: dict[str, list[float]] = {"new": [], "old": [], "head": [], "tail": []}
    lengths = [n_seen.get(user, 0) for user in wanted]
    low, high = np.quantile(lengths, [0.25, 0.75])
    for user, items in wanted.items():
        served = set(fitted.recommend(user, k=5)["item"])
        for name, of in (("head", set(items) & top), ("tail", set(items) - top)):
            if of:
                recalls[name].append(len(served & of) / min(5, len(of)))
        recall = len(served & set(items)) / min(5, len(items))
        if n_seen.get(user, 0) <= low:
            recalls["new"].append(recall)
        if n_seen.get(user, 0) >= high:
            recalls["old"].append(recall)
    assert [new, old, head, tail] == pytest.approx([np.mean(r) for r in recalls.values()])
    assert [name.partition(":")[0] for name in found] == [
        "new users", "long-standing users", "head items", "tail items",
    ]  # fmt: skip


def test_variety_equals_a_brute_force_over_the_lists_served(parts):
    fitted = ft.fit(ft.EASE(), parts.train, progress=False)
    report = ft.evaluate(fitted, parts, k=5)
    assert report.served is not None
    found = variety(parts.train, report.served, 5)
    train = parts.train
    X_ui = np.zeros((len(train.users), len(train.items)))
    X_ui[train.interactions.user_r, train.interactions.item_r] = 1
    cosine_ii = (X_ui.T @ X_ui) / np.sqrt(np.outer(X_ui.sum(0), X_ui.sum(0)))
    lists = [train.items.rows(fitted.recommend(u, k=5)["item"]) for u in parts.test.users.values]
    assert found["coverage"] == len({i for row in lists for i in row}) / len(train.items)
    assert found["novelty"] == pytest.approx(-np.log2(X_ui.mean(0))[np.stack(lists)].mean())
    pairs = [1 - np.mean([cosine_ii[a, b] for a, b in itertools.combinations(r, 2)]) for r in lists]
    assert found["diversity"] == pytest.approx(np.mean(pairs))
    assert found["head_share"] == pytest.approx(head_items(train)[np.stack(lists)].mean())


def test_the_floors_always_take_part_and_the_rest_by_what_the_data_allow(ratings):
    chosen, left_out = entrants(ratings)
    assert list(chosen)[:5] == ["global-mean", "bias", "random", "popularity", "recent-popularity"]
    assert {"ease", "als", "graph-filter", "bayesian-mf"} <= set(chosen)
    assert {name.split(" (")[0] for name in left_out} == set(ft.MODELS) - set(chosen)
    clicks = ft.from_frame(synthetic(times=False).frame().drop("value"))
    assert set(entrants(clicks, ["ease"])[0]) == {"random", "popularity", "ease"}
    chosen, left_out = entrants(clicks)
    assert set(chosen) == {"random", "popularity", "item-knn", "als", "graph-filter", "ease"}
    assert "bayesian-mf (needs ratings)" in left_out


def test_a_model_that_is_too_large_for_the_data_stays_out_with_what_it_would_take():
    many = np.arange(30_000)
    clicks = ft.from_frame(pl.DataFrame({"user": many % 100, "item": many}))
    chosen, left_out = entrants(clicks)
    assert set(chosen) == {"random", "popularity", "item-knn", "als", "graph-filter"}
    assert "ease (about 4 s and 17,166 MiB to fit)" in left_out


def test_sparse_ease_takes_part_in_place_of_ease_where_items_are_many():
    rng = np.random.default_rng(0)
    pairs = pl.DataFrame({"user": rng.integers(20_000, size=60_000)})
    few, many = (pairs.with_columns(item=rng.integers(n, size=60_000)) for n in (500, 11_000))
    chosen, _ = entrants(ft.from_frame(few))
    assert "ease" in chosen
    assert "sparse-ease" not in chosen
    chosen, left_out = entrants(ft.from_frame(many))
    assert "sparse-ease" in chosen
    assert "ease (sparse-ease makes much the same lists in less time here)" in left_out


def test_a_model_with_fields_of_its_own_is_labelled_by_them(ratings):
    chosen, _ = entrants(ratings, ["ease", ft.EASE(l2=5.0), "recent-popularity"])
    assert list(chosen)[-2:] == ["ease", "ease(l2=5.0)"]
    with pytest.raises(UsageError, match="two models are called 'popularity'"):
        entrants(ratings, {"popularity": ft.Popularity(half_life_days=1.0)})
    with pytest.raises(UsageError, match="there is no model 'eas'"):
        entrants(ratings, ["eas"])


def test_a_class_that_no_process_could_find_is_refused(ratings):
    class Own(ft.Popularity):
        name = "own"

    with pytest.raises(UsageError, match="Own is not in MODELS: its process could not find it"):
        entrants(ratings, [Own()])


def test_a_comparison_finds_what_evaluate_finds(parts, comparison):
    for label, model in comparison.models.items():
        fitted = ft.fit(replace(model), parts.train, seed=0, progress=False)
        report = ft.evaluate(fitted, parts, k=5)
        run = comparison.runs[label][0]
        assert {n: t.value for n, t in run.tallies.items()} == pytest.approx(
            {n: m.value for n, m in report.metrics.items()}
        )
        assert run.random == fitted.training["random"]


def test_only_what_depends_on_its_seed_runs_with_several(comparison):
    n_seeds = {label: len(runs) for label, runs in comparison.runs.items()}
    assert n_seeds == {
        "global-mean": 1, "bias": 1, "random": 2, "popularity": 1, "recent-popularity": 1, "als": 2,
    }  # fmt: skip
    seeds = comparison.seeds()
    assert seeds.filter(model="als")["value"].n_unique() == 2
    assert seeds.filter(model="bias")["value"].n_unique() == 1
    mean = seeds.filter(model="als")["value"].mean()
    assert comparison.values["als"]["ndcg@5"].value == pytest.approx(mean)


def test_the_memory_of_a_run_is_its_own_process(comparison):
    costs = comparison.costs()
    assert costs["peak_memory_mib"].min() > 50
    assert (costs["seconds"] >= costs["fit_seconds"] + costs["score_seconds"]).all()


def test_the_tables_are_ordered_by_the_first_metric(comparison):
    order = list(comparison.values)
    value = [comparison.values[label]["ndcg@5"].value for label in order]
    assert value == sorted(value, reverse=True)
    for frame in (comparison.costs(), comparison.variety()):
        assert frame["model"].to_list() == order
    assert comparison.frame().columns == ["model", "metric", "value", "low", "high", "ceiling"]
    assert set(comparison.segments()["model"]) == set(order)


def test_a_comparison_goes_on_with_what_is_missing(parts, comparison, folder):
    kept, lost = (kept_result(folder, label) for label in ("als", "popularity"))
    spoilt = next(kept_result(folder, "bias").parent.glob("*.parquet"))
    before = kept.stat().st_mtime_ns
    lost.unlink()
    spoilt.write_bytes(b"half a fi")
    again = ft.compare_models(parts, FAST, k=5, seeds=2, folder=folder)
    assert kept.stat().st_mtime_ns == before
    assert lost.exists()
    assert again.frame().equals(comparison.frame())


def test_a_run_of_other_settings_is_not_taken_for_this_one(parts, comparison, folder, tmp_path):
    shutil.copytree(folder / "runs", tmp_path / "runs")
    found = ft.compare_models(parts, ["popularity"], k=3, seeds=1, folder=tmp_path)
    assert found.metric == "ndcg@3"
    assert "ndcg@3" in found.values["popularity"]


def test_another_table_of_items_is_measured_again_in_the_same_folder(parts, tmp_path):
    label = "metadata-similarity"
    for seed in (1, 2):
        kinds = np.random.default_rng(seed).choice(["red", "blue", "green"], len(parts.train.items))
        table = pl.DataFrame({"item": parts.train.items.values, "genres": kinds})
        train = parts.train.with_items(table)
        described = replace(parts, train=train, history=train)
        found = ft.compare_models(described, [label], k=5, seeds=1, folder=tmp_path)
        fitted = ft.fit(found.models[label], train, progress=False)
        direct = ft.evaluate(fitted, described, k=5).metrics["ndcg@5"].value
        assert found.values[label]["ndcg@5"].value == pytest.approx(direct)


def test_a_model_that_fails_is_a_line_and_not_the_end(parts, tmp_path):
    times_gone = ft.split(ft.from_frame(parts.train.frame().drop("time")), seed=1)
    models = {"recent": ft.Popularity(half_life_days=2.0)}
    lines: list[str] = []
    found = ft.compare_models(times_gone, models, k=5, seeds=1, folder=tmp_path, say=lines.append)
    assert "recent popularity needs times" in found.failed["recent"]
    assert "recent" not in found.runs
    assert lines[-1].startswith("recent: failed. recent popularity needs times")


COMMAND = """
import sys
import foretaste as ft
from tests.conftest import synthetic
parts = ft.split(synthetic(), "random", test=0.25, seed=2)
models = {"quick": ft.Popularity(), "slow": ft.ALS(n_factors=4, iterations=100_000)}
ft.compare_models(parts, models, k=5, seeds=1, folder=sys.argv[1])
"""


def test_a_killed_comparison_leaves_no_process_and_no_half_result(parts, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path)], start_new_session=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: bool(results(tmp_path, "quick")))
        quick = kept_result(tmp_path, "random")
        wait_for(lambda: len(working_on(tmp_path)) == 2)  # the one that forks, and its child
    finally:
        parent.send_signal(signal.SIGKILL)
        assert parent.wait() == -signal.SIGKILL
    wait_for(lambda: not working_on(tmp_path))
    assert not results(tmp_path, "slow")
    before = quick.stat().st_mtime_ns
    found = ft.compare_models(parts, {"quick": ft.Popularity()}, k=5, seeds=1, folder=tmp_path)
    assert quick.stat().st_mtime_ns == before
    assert "quick" in found.runs


def results(folder: Path, name: str) -> list[Path]:
    """The manifests of the results of trials of that name."""
    return list((folder / "runs").glob(f"{name}-" + 12 * "[0-9a-f]" + "/manifest.json"))


def kept_result(folder: Path, name: str) -> Path:
    """The manifest of the one result of that name."""
    (found,) = results(folder, name)
    return found


def working_on(folder):
    """Processes that run trials whose results go to the folder."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue
        if b"trial_process" in words and str(folder).encode() in words:
            found.append(int(number))
    return found


def test_the_conclusion_names_the_best_and_what_chance_could_explain(comparison):
    said = conclusion(comparison)
    best = next(iter(comparison.values))
    assert said[0].startswith(f"{best} makes the best lists: NDCG@5 0.")
    assert any("best baseline" in s or "No model beats the baseline" in s for s in said)
    assert any(s.startswith("bias predicts ratings best: RMSE 0.") for s in said)
    assert said[-2] == (
        "The split mixes past and future; compare with a time split before you rely on it."
    )


def test_cross_validation_measures_every_rating_once(ratings):
    frame = ft.cross_validate(ft.Bias(), ratings, folds=4, k=5)
    folds = frame.select(f"fold_{f}" for f in range(1, 5)).to_numpy()
    np.testing.assert_allclose(frame["mean"], folds.mean(axis=1))
    reach = 3.182446 * folds.std(axis=1, ddof=1) / 2  # t with 3 degrees of freedom
    np.testing.assert_allclose(frame["high"] - frame["mean"], reach, rtol=1e-6)
    np.testing.assert_allclose(frame["mean"] - frame["low"], reach, rtol=1e-6)
    assert {"rmse", "mae", "ndcg@5"} <= set(frame["metric"])
    from_folds = [p.test.frame() for p in folds_of(ratings, 4)]
    assert sorted(pl.concat(from_folds).iter_rows()) == sorted(ratings.frame().iter_rows())


def test_cross_validation_leaves_the_model_given_alone(ratings):
    model = ft.Bias()
    ft.cross_validate(model, ratings, folds=2, ranking=False)
    assert not hasattr(model, "item_i_")
    with pytest.raises(UsageError, match=r"folds=1\. Use 2 at least"):
        ft.cross_validate(model, ratings, folds=1)
