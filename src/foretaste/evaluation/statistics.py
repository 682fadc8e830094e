"""Sums per user, their bootstrap intervals, and paired contrasts with Holm's correction.

A metric over nobody is NaN here, and null in every table and JSON value made of it. This module
knows nothing of models, lists or ratings: only of what was summed for each user.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl

RESAMPLES = 1000
DRAWS_BYTES = 64 << 20  # of resampled users at a time
MIDDLE = [0.025, 0.975]  # quantiles that 95 % of the resamples lie between

LOWER_IS_BETTER = {"rmse", "mae"}
NEITHER = {"coverage90"}  # nearer to 0.9 is better
LEVEL = 0.05


def number(value: float) -> float | None:
    """Return a value as JSON and tables hold it.

    Args:
        value: A metric; NaN where nobody was measured.

    Returns:
        The value, or None in place of NaN.
    """
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True)
class Interval:
    """A metric and its 95 % bootstrap interval over users; it does not know which metric.

    Attributes:
        value: The metric over all users; NaN where nobody was measured.
        low: Lower end; NaN where no resample of the users has a value.
        high: Upper end, likewise.
    """

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether anybody was measured."""
        return not math.isnan(self.value)

    def summary(self) -> dict[str, float | None]:
        """Return value, low and high as JSON values: None where nobody was measured."""
        return {name: number(value) for name, value in vars(self).items()}


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums of each test user: a metric is total / weight over any set of users, or its root.

    It does not know who the users are: two tallies are paired where their users are the same.

    Attributes:
        total_b: (users,) sums, for example of squared errors.
        weight_b: (users,) what they are divided by; 0 where the metric does not apply to the user.
        root: Whether the metric is the square root, as RMSE is.
    """

    total_b: np.ndarray
    weight_b: np.ndarray
    root: bool = False

    def of(self, total: Any, weight: Any) -> Any:
        """Return the metric of sums over users.

        Args:
            total: Summed totals: a number or an array of any shape.
            weight: Summed weights, of the same shape.

        Returns:
            The metric in that shape; NaN where there is no weight, for a metric of nobody is not 0.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(np.asarray(weight) > 0, np.true_divide(total, weight), np.nan)
        return np.sqrt(mean) if self.root else mean

    @property
    def value(self) -> float:
        """The metric over all users; NaN where none has any weight."""
        return float(self.of(self.total_b.sum(), self.weight_b.sum()))


def intervals(tallies: Mapping[str, Tally]) -> dict[str, Interval]:
    """Return value and percentile interval of each metric, from the same resamples for all.

    Args:
        tallies: Metric to the sums of the same users in the same order.

    Returns:
        Metric to value and 95 % interval. Resamples in which nobody has any weight are left out.
    """
    drawn = resampled(tallies.values())
    return {
        name: Interval(tally.value, *percentiles(drawn_s))
        for (name, tally), drawn_s in zip(tallies.items(), drawn, strict=True)
    }


def percentiles(drawn_s: np.ndarray) -> tuple[float, float]:
    """Return what 95 % of the resamples that have a value lie between.

    Args:
        drawn_s: (resamples,) values of a metric; NaN where nobody in the resample has any weight.

    Returns:
        Low and high; NaN where no resample has a value.
    """
    known_s = drawn_s[~np.isnan(drawn_s)]
    if not len(known_s):
        return math.nan, math.nan
    low, high = np.quantile(known_s, MIDDLE)
    return float(low), float(high)


def resampled(tallies: Iterable[Tally], seed: int = 0) -> list[np.ndarray]:
    """Return each metric over RESAMPLES draws of as many users, with replacement.

    The draws depend on the seed and the number of users alone: values of two models, resample by
    resample, are paired.

    Args:
        tallies: Sums of the same users in the same order.
        seed: Of the draws.

    Returns:
        (RESAMPLES,) values for each tally; NaN where nobody in the resample has any weight.
    """
    tallies = list(tallies)
    n_users = len(tallies[0].total_b) if tallies else 0
    if not n_users:
        return [np.full(RESAMPLES, np.nan) for _ in tallies]
    column_bc = np.stack([c for t in tallies for c in (t.total_b, t.weight_b)], axis=1)
    rng = np.random.default_rng(seed)
    chunk = max(1, min(RESAMPLES, DRAWS_BYTES // (8 * n_users)))
    sums = []
    for start in range(0, RESAMPLES, chunk):
        drawn_sb = np.empty((min(chunk, RESAMPLES - start), n_users))
        for draw_b in drawn_sb:
            draw_b[:] = np.bincount(rng.integers(0, n_users, n_users), minlength=n_users)
        sums.append(drawn_sb @ column_bc)
    sum_sc = np.concatenate(sums)
    return [t.of(sum_sc[:, 2 * c], sum_sc[:, 2 * c + 1]) for c, t in enumerate(tallies)]


def contrasts(tallies: Mapping[str, Mapping[str, Tally]], metrics: Sequence[str]) -> pl.DataFrame:
    """Return every pair of models on every metric: the table of `compare`.

    Args:
        tallies: Label of a model to metric to the sums of the same users in the same order.
        metrics: Which to compare on. A model without one of them is left out of its pairs.

    Returns:
        metric, a, b, difference (a - b), low, high, p, p_holm (corrected over the pairs of a
        metric), better. A difference to or of nobody is null, its p too, and nobody is better.
    """
    schema = {
        "metric": pl.String, "a": pl.String, "b": pl.String, "difference": pl.Float64,
        "low": pl.Float64, "high": pl.Float64, "p": pl.Float64, "p_holm": pl.Float64,
        "better": pl.String,
    }  # fmt: skip
    rows = []
    for metric in metrics:
        if metric in NEITHER:
            continue
        of = {label: t[metric] for label, t in tallies.items() if metric in t}
        drawn = dict(zip(of, resampled(of.values()), strict=True))
        pairs = list(combinations(of, 2))
        gaps = [_gap(of[a].value - of[b].value, drawn[a] - drawn[b]) for a, b in pairs]
        corrected = holm([p for *_, p in gaps])
        for (a, b), (gap, low, high, p), p_holm in zip(pairs, gaps, corrected, strict=True):
            first = (gap < 0) == (metric in LOWER_IS_BETTER)
            better = (a if first else b) if p_holm < LEVEL and gap else None
            rows.append((metric, a, b, gap, low, high, p, p_holm, better))
    return pl.DataFrame(rows, schema=schema, orient="row").fill_nan(None)


def _gap(gap: float, drawn_s: np.ndarray) -> tuple[float, float, float, float]:
    """Difference, percentile interval, and p by the normal approximation.

    A share of 1,000 resamples cannot be less than 0.001, which Holm's correction of 45 pairs would
    make 0.045 at best; the bootstrap's standard error says more.
    """
    known_s = drawn_s[~np.isnan(drawn_s)]
    low, high = percentiles(known_s)
    if math.isnan(gap) or len(known_s) < 2:
        return gap, low, high, math.nan
    error = float(known_s.std(ddof=1))
    p = 2 * NormalDist().cdf(-abs(gap) / error) if error else float(gap == 0)
    return gap, low, high, p


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for as many tests, step down (Holm 1979).

    Args:
        p: One for each test; NaN for a test that could not be made, which counts as none.

    Returns:
        Corrected p-values in the same order, 1 at most; NaN stays NaN.
    """
    p_t = np.asarray(p, dtype=float)
    corrected_t = np.full(len(p_t), np.nan)
    n_made = len(p_t) - int(np.isnan(p_t).sum())
    ascending = np.argsort(p_t)[:n_made]  # NaN is sorted last
    steps = p_t[ascending] * np.arange(n_made, 0, -1)
    corrected_t[ascending] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected_t.tolist()
