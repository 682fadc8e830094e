"""Bootstrap and contrasts by their definitions, down to the constants."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from foretaste.evaluation import statistics
from foretaste.evaluation.statistics import (
    RESAMPLES,
    Interval,
    Tally,
    contrasts,
    holm,
    intervals,
    number,
    percentiles,
    resampled,
)


def tally(values: list[float], root: bool = False) -> Tally:
    return Tally(np.array(values), np.ones(len(values)), root)


def test_a_metric_is_the_total_by_the_weight_or_its_root():
    sums = np.array([3.0, 1.0]), np.array([2.0, 6.0])
    assert Tally(*sums).value == 0.5
    assert Tally(*sums, root=True).value == pytest.approx(math.sqrt(0.5))
    np.testing.assert_array_equal(Tally(*sums).of(*sums), [1.5, 1 / 6])


def test_a_weight_below_one_is_a_weight():
    assert Tally(np.array([0.25]), np.array([0.5])).value == 0.5


def test_a_number_is_itself_and_no_number_is_none():
    assert [number(value) for value in (0.0, -1.5, math.inf, math.nan)] == [
        0.0,
        -1.5,
        math.inf,
        None,
    ]
    assert Interval(0.0, math.nan, math.nan).known
    assert not Interval(math.nan, 0.0, 1.0).known


def test_percentiles_are_those_of_the_resamples_that_have_a_value():
    drawn_s = np.concatenate([np.linspace(0, 1, 1001), np.full(500, np.nan)])
    assert percentiles(drawn_s) == pytest.approx((0.025, 0.975))
    assert np.isnan(percentiles(np.full(3, np.nan))).all()


def test_resamples_are_a_thousand_draws_with_replacement_from_one_seed():
    values = [0.0, 1.0, 5.0]
    rng = np.random.default_rng(3)
    expected = [np.mean(np.array(values)[rng.integers(0, 3, 3)]) for _ in range(1000)]
    assert RESAMPLES == 1000
    np.testing.assert_allclose(resampled([tally(values)], seed=3)[0], expected)
    assert resampled([]) == []
    again = resampled([tally(values)])[0]
    np.testing.assert_array_equal(again, resampled([tally(values)], seed=0)[0])


def test_many_users_are_resampled_in_chunks_with_the_same_result(monkeypatch):
    tallies = [tally([0.0, 1.0, 5.0]), Tally(np.array([1.0, 0, 2]), np.array([1.0, 0, 1]))]
    whole = resampled(tallies)
    for users_at_a_time in (1, 7, 999, 1000, 1001):
        monkeypatch.setattr(statistics, "DRAWS_BYTES", 8 * 3 * users_at_a_time)
        for drawn, expected in zip(resampled(tallies), whole, strict=True):
            np.testing.assert_array_equal(drawn, expected)
    monkeypatch.setattr(statistics, "DRAWS_BYTES", 1)
    np.testing.assert_array_equal(resampled(tallies)[0], whole[0])


def test_memory_of_the_draws_is_bounded():
    assert statistics.DRAWS_BYTES == 64 * 2**20


def test_p_is_two_sided_and_normal_with_the_standard_error_of_the_bootstrap():
    rng = np.random.default_rng(5)
    a, b = tally(list(rng.random(40))), tally(list(rng.random(40)))
    row = contrasts({"a": {"x": a}, "b": {"x": b}}, ["x"]).row(0, named=True)
    drawn_s = resampled([a])[0] - resampled([b])[0]
    error = float(np.std(drawn_s, ddof=1))
    assert row["difference"] == pytest.approx(a.value - b.value)
    assert row["p"] == pytest.approx(2 * NormalDist().cdf(-abs(a.value - b.value) / error))
    assert row["p_holm"] == row["p"]
    assert (row["low"], row["high"]) == pytest.approx(np.quantile(drawn_s, [0.025, 0.975]))


def test_a_difference_that_every_user_has_is_sure_and_none_is_no_difference():
    base = [0.0, 1.0, 0.25, 0.5]
    tallies = {name: {"x": tally([v + lead for v in base])} for name, lead in (("a", 0), ("b", 1))}
    rows = contrasts(tallies, ["x"]).rows(named=True)
    assert rows[0]["p"] == pytest.approx(0.0, abs=1e-12)
    assert rows[0]["better"] == "b"
    constant = {"a": {"x": tally([1.0, 1.0])}, "b": {"x": tally([0.0, 0.0])}}
    assert contrasts(constant, ["x"]).row(0)[3:] == (1.0, 1.0, 1.0, 0.0, 0.0, "a")
    alike = {"a": {"x": tally([1.0, 0.0])}, "b": {"x": tally([1.0, 0.0])}}
    assert contrasts(alike, ["x"]).row(0)[3:] == (0.0, 0.0, 0.0, 1.0, 1.0, None)


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_of_errors_the_lower_is_better(metric):
    tallies = {"a": {metric: tally([1.0, 1.0])}, "b": {metric: tally([0.0, 0.0])}}
    assert contrasts(tallies, [metric])["better"].to_list() == ["b"]


def test_coverage_is_not_compared_for_neither_more_nor_less_is_better():
    tallies = {"a": {"coverage90": tally([1.0]), "x": tally([1.0])}}
    tallies["b"] = tallies["a"]
    assert contrasts(tallies, ["coverage90", "x"])["metric"].to_list() == ["x"]


def test_a_model_without_a_metric_takes_no_part_in_its_pairs():
    tallies = {"a": {"x": tally([1.0])}, "b": {}, "c": {"x": tally([0.0])}}
    assert contrasts(tallies, ["x"]).select("a", "b").rows() == [("a", "c")]


def test_nobody_is_better_at_a_corrected_p_of_5_in_100_and_more():
    rng = np.random.default_rng(0)
    user_b = rng.random(60)
    found = set()
    for lead in np.linspace(0, 0.2, 41):
        tallies = {
            "a": {"x": Tally(user_b + lead, np.ones(60))},
            "b": {"x": Tally(user_b[::-1].copy(), np.ones(60))},
        }
        row = contrasts(tallies, ["x"]).row(0, named=True)
        assert (row["better"] is not None) == (row["p_holm"] < 0.05)
        found.add(row["better"])
    assert found == {None, "a"}


def test_one_resample_with_a_value_gives_no_p():
    drawn_s = np.array([0.5, np.nan])
    assert np.isnan(statistics._gap(0.5, drawn_s)[3])
    two = statistics._gap(0.5, np.array([0.25, 0.75]))
    assert two[3] == pytest.approx(2 * NormalDist().cdf(-0.5 / math.sqrt(0.125)))


def test_holm_keeps_the_order_of_the_tests_and_stops_at_1():
    assert holm([0.6, 0.001, 0.7]) == pytest.approx([1.0, 0.003, 1.0])
    assert holm([math.nan, 0.02, 0.01])[1:] == pytest.approx([0.02, 0.02])  # NaN is no test
    assert holm([0.02, 0.01]) == pytest.approx([0.02, 0.02])


def test_all_metrics_are_of_the_same_resamples():
    one = tally([0.0, 1.0, 5.0])
    double = Tally(2 * one.total_b, one.weight_b)
    found = intervals({"one": one, "double": double})
    assert (found["double"].low, found["double"].high) == pytest.approx(
        (2 * found["one"].low, 2 * found["one"].high)
    )
