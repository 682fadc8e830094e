"""Paired comparison of reports: the same resamples for both, Holm's correction over pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import NormalDist

import numpy as np
import polars as pl

from foretaste.errors import UsageError
from foretaste.evaluation import Report, Tally, resampled

LOWER_IS_BETTER = {"rmse", "mae"}
NEITHER = {"coverage90"}  # nearer to 0.9 is better
LEVEL = 0.05


def compare(
    reports: Sequence[Report] | Mapping[str, Report], metrics: Sequence[str] | None = None
) -> pl.DataFrame:
    """Every pair of reports on every metric that all of them have (or the `metrics` named).

    Returns metric, a, b, difference (a - b), low, high (95 %, paired bootstrap over users), p (two
    sided), p_holm (corrected over the pairs of a metric), better (null: undecided at 5 %).
    Raises UsageError where the reports are of other users or another protocol.
    """
    named = reports if isinstance(reports, Mapping) else _labelled(reports)
    if len(named) < 2:
        raise UsageError("there is nothing to compare.", fix="Give two reports or more.")
    first = next(iter(named.values()))
    for label, report in named.items():
        if report.protocol != first.protocol or not report.per_user["user"].equals(
            first.per_user["user"]
        ):
            raise UsageError(
                f"{label} was measured by {report.protocol!r} on {len(report.per_user):,} users, "
                f"not by {first.protocol!r} on the same {len(first.per_user):,}.",
                fix="Evaluate all of them on one split.",
            )
    shared = [name for name in first.tallies if all(name in r.tallies for r in named.values())]
    unknown = set(metrics or ()) - set(shared)
    if unknown:
        raise UsageError(
            f"not every report has {', '.join(sorted(unknown))}.",
            fix=f"All have {', '.join(shared)}.",
        )
    return contrasts({label: report.tallies for label, report in named.items()}, metrics or shared)


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


def _labelled(reports: Sequence[Report]) -> dict[str, Report]:
    """Reports by the name of their model, numbered where two have the same."""
    labelled: dict[str, Report] = {}
    for report in reports:
        number, label = 1, report.model
        while label in labelled:
            number += 1
            label = f"{report.model} {number}"
        labelled[label] = report
    return labelled
