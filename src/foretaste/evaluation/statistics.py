"""Sums per user, their bootstrap intervals, and paired contrasts with Holm's correction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl

RESAMPLES = 1000
DRAWS_BYTES = 64 << 20  # of resampled users at a time


LOWER_IS_BETTER = {"rmse", "mae"}
NEITHER = {"coverage90"}  # nearer to 0.9 is better
LEVEL = 0.05


@dataclass(frozen=True)
class Interval:
    """A metric and its 95 % bootstrap interval over users."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums of each test user: a metric is total / weight over any set of users, or its root."""

    total_b: np.ndarray
    weight_b: np.ndarray
    root: bool = False

    def of(self, total: Any, weight: Any) -> Any:
        """The metric of summed totals and weights; 0 where there is no weight."""
        mean = total / np.maximum(weight, 1e-300)
        return np.sqrt(mean) if self.root else mean

    @property
    def value(self) -> float:
        """The metric over all users."""
        return float(self.of(self.total_b.sum(), self.weight_b.sum()))


def intervals(tallies: Mapping[str, Tally]) -> dict[str, Interval]:
    """Value and percentile interval of each metric, from the same resamples of users for all."""
    found = {}
    for (name, tally), spread in zip(tallies.items(), resampled(tallies.values()), strict=True):
        low, high = np.quantile(spread, [0.025, 0.975])
        found[name] = Interval(tally.value, float(low), float(high))
    return found


def resampled(tallies: Iterable[Tally], seed: int = 0) -> list[np.ndarray]:
    """Each metric over RESAMPLES draws of as many users, with replacement: (RESAMPLES,) each.

    The draws depend on the seed and the number of users alone: values of two models, resample by
    resample, are paired.
    """
    tallies = list(tallies)
    if not tallies:
        return []
    n_users = len(tallies[0].total_b)
    column_bc = np.stack([c for t in tallies for c in (t.total_b, t.weight_b)], axis=1)
    rng = np.random.default_rng(seed)
    chunk = max(1, min(RESAMPLES, DRAWS_BYTES // (8 * max(n_users, 1))))
    sums = []
    for start in range(0, RESAMPLES, chunk):
        drawn_sb = np.empty((min(chunk, RESAMPLES - start), n_users))
        for draw_b in drawn_sb:
            draw_b[:] = np.bincount(rng.integers(0, n_users, n_users), minlength=n_users)
        sums.append(drawn_sb @ column_bc)
    sum_sc = np.concatenate(sums)
    return [t.of(sum_sc[:, 2 * c], sum_sc[:, 2 * c + 1]) for c, t in enumerate(tallies)]


def contrasts(tallies: Mapping[str, Mapping[str, Tally]], metrics: Sequence[str]) -> pl.DataFrame:
    """The table of `compare`, from the sums of each model: label to metric to Tally."""
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
    return pl.DataFrame(rows, schema=schema, orient="row")


def _gap(gap: float, drawn_s: np.ndarray) -> tuple[float, float, float, float]:
    """Difference, percentile interval, and p by the normal approximation.

    A share of 1,000 resamples cannot be less than 0.001, which Holm's correction of 45 pairs would
    make 0.045 at best; the bootstrap's standard error says more.
    """
    low, high = np.quantile(drawn_s, [0.025, 0.975])
    error = float(drawn_s.std(ddof=1))
    if error == 0:
        return gap, float(low), float(high), float(gap == 0)
    return gap, float(low), float(high), 2 * NormalDist().cdf(-abs(gap) / error)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for as many tests, step down (Holm 1979)."""
    ascending = np.argsort(p)
    corrected = np.empty(len(p))
    steps = np.asarray(p, dtype=float)[ascending] * np.arange(len(p), 0, -1)
    corrected[ascending] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
