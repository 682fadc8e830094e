"""Evaluation: what a Recommender would have served, judged per user, with bootstrap intervals."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories, histories_of
from foretaste.data.splitting import Split
from foretaste.data.values import liked_note
from foretaste.errors import DataError, UsageError, takes_old_names
from foretaste.evaluation import metrics
from foretaste.evaluation.statistics import Interval, Tally, contrasts, intervals
from foretaste.models.base import PlacesNewItems, PredictsRatings, default_threshold
from foretaste.recommending.arguments import whole_number
from foretaste.recommending.ranking import Lists
from foretaste.recommending.rating import rate
from foretaste.recommending.recommender import Recommender
from foretaste.recommending.request import K, Request
from foretaste.recommending.reranking import by_place


@dataclass(frozen=True, eq=False)
class Served:
    """What B test users were shown, and what they should have found; not who they are.

    Attributes:
        lists: As long as the longest cut, with the scores of the probe.
        probe: Relevant items of each user that training knows.
        relevant_b: (B,) number of relevant items of each user, unknown ones included.
    """

    lists: Lists
    probe: Histories
    relevant_b: torch.Tensor


@dataclass(frozen=True, eq=False)
class Report:
    """What was measured, on whom and how. It does not hold the model.

    Attributes:
        model: Name of the model.
        protocol: How the data were split, in words.
        metrics: Metric to value and 95 % interval over users; NaN where nobody was measured.
        per_user: One line per test user, a column per metric (null where it does not apply).
        fit_seconds: Wall clock of the fit.
        score_seconds: Wall clock of scoring, ranking and metrics.
        peak_memory_bytes: Of the process so far; 0 where it cannot be told.
        notes: What a reader of the numbers should know.
        tallies: Metric to the sums of each user behind it.
        served: The lists and what should have been found; None where lists were not measured.
    """

    model: str
    protocol: str
    metrics: dict[str, Interval]
    per_user: pl.DataFrame
    fit_seconds: float
    score_seconds: float
    peak_memory_bytes: int
    notes: tuple[str, ...] = ()
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    served: Served | None = None

    def frame(self) -> pl.DataFrame:
        """Return metric, value, low, high as a table; null where nobody was measured."""
        rows = [(name, m.value, m.low, m.high) for name, m in self.metrics.items()]
        columns = dict.fromkeys(("value", "low", "high"), pl.Float64)
        schema = {"metric": pl.String, **columns}
        return pl.DataFrame(rows, schema=schema, orient="row").fill_nan(None)

    def summary(self) -> dict[str, Any]:
        """Return the same as JSON values, without the per-user table; None in place of NaN."""
        return {
            "model": self.model,
            "protocol": self.protocol,
            "metrics": {name: m.summary() for name, m in self.metrics.items()},
            "users": len(self.per_user),
            "fit_seconds": self.fit_seconds,
            "score_seconds": self.score_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "notes": list(self.notes),
        }


@takes_old_names(relevant_from="relevance_threshold")
def evaluate(
    recommender: Recommender, parts: Split, *, k: int | tuple[int, ...] = K,
    relevance_threshold: float | None = None, ratings: bool = True, ranking: bool = True,
    diversity: float = 0.0,
) -> Report:  # fmt: skip
    """Measure a Recommender on the test part of the split it was trained for.

    Rating errors where the model predicts ratings; ranking metrics over the full catalogue, items
    of the history removed. Ties count by their expectation.

    Args:
        recommender: What was fitted to `parts.train`.
        parts: The split.
        k: Length of the lists, or several.
        relevance_threshold: Lowest test rating that counts as relevant; None for three quarters up
            the scale (4 of 5 stars). Everything counts where there are no ratings, and with kinds
            of events those of the target kind.
        ratings: Whether rating errors are measured.
        ranking: Whether lists are measured.
        diversity: 0 to 1: lists are re-ranked as `recommend` does.

    Returns:
        The Report: per-user values, means over users and 95 % bootstrap intervals.

    Raises:
        UsageError: The Recommender was trained on other data, or k is below 1.
        DataError: No test rating counts as relevant.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> ratings = ft.from_frame(pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 3]}))
        >>> split = ft.split(ratings, test=0.25)
        >>> report = ft.evaluate(ft.fit(ft.Popularity(), split.train), split, k=1)
        >>> report.frame().columns
        ['metric', 'value', 'low', 'high']
    """
    train = recommender.dataset
    if train is not parts.train and train.fingerprint != parts.train.fingerprint:
        raise UsageError(
            "this recommender was not trained on parts.train: its numbers would mean nothing.",
            fix="Fit it to parts.train first.",
        )
    several = isinstance(k, tuple | list)
    cuts = tuple(whole_number(one, "k", K) for one in (k if several else (k,)))
    if not cuts or min(cuts) < 1:
        raise UsageError(f"k={k}.", fix="Lists have at least one item.")
    started = time.monotonic()
    rows = parts.history.users.find(parts.test.users.values)
    batch = histories_of(train if parts.history is parts.train else parts.history, rows, train)
    tallies, served, notes = dict[str, Tally](), None, list[str]()
    if ratings and parts.test.explicit and isinstance(recommender.model, PredictsRatings):
        tallies |= _rating_tallies(recommender, batch, parts, rows)
    if ranking:
        relevant = _relevant(parts, relevance_threshold)
        border = default_threshold(parts.train, relevance_threshold)
        note = liked_note(parts.train, border, "relevance_threshold")
        notes += [note] if note else []
        served = _serve(recommender, batch, relevant, parts.test, max(cuts), diversity)
        tallies |= ranking_tallies(served, cuts)
    return Report(
        recommender.model.name, parts.protocol, intervals(tallies), _per_user(parts, tallies),
        recommender.training.get("seconds", 0.0), time.monotonic() - started, peak_memory(),
        (*_unseen(parts), *notes, *recommender.training.get("notes", ())), tallies, served,
    )  # fmt: skip


def _per_user(split: Split, tallies: Mapping[str, Tally]) -> pl.DataFrame:
    """Each metric of each test user; null where it does not apply to the user."""
    return pl.DataFrame({"user": split.test.users.values}).with_columns(
        pl.Series(name, t.of(t.total_b, t.weight_b), nan_to_null=True)
        for name, t in tallies.items()
    )


def _unseen(split: Split) -> tuple[str, ...]:
    """Test users and items that training never saw; they stay in the test."""
    users = int((split.history.users.find(split.test.users.values) < 0).sum())
    items = int((split.train.items.find(split.test.items.values) < 0).sum())
    notes = []
    if users:
        notes.append(f"{users:,} test users have no history: they are served as new users")
    if items:
        notes.append(f"{items:,} test items are not in train: they count as misses in rankings")
    return tuple(notes)


def _rating_tallies(
    recommender: Recommender, batch: Histories, split: Split, rows: np.ndarray
) -> dict[str, Tally]:
    model, known, x = recommender.model, recommender.dataset, split.test.interactions
    new = _new_items(split)
    if isinstance(model, PlacesNewItems) and new is not None:
        model, known = model.with_items(new), known.add_items(new)
        if split.history is not split.train:  # ratings of those items count there too
            batch = histories_of(split.history, rows, known)
    assert isinstance(model, PredictsRatings)
    user_p = torch.from_numpy(x.user_r).long()
    item_p = torch.from_numpy(known.items.find(split.test.items.values)[x.item_r])
    time_p = None if x.time_r is None else torch.from_numpy(x.time_r)
    rated = rate(model, batch, user_p, item_p, time_p)
    error_p = rated.mean_p.double() - torch.from_numpy(x.value_r)
    n_b = torch.bincount(user_p, minlength=len(batch)).numpy().astype(float)
    squared_b = metrics.squared_errors(error_p, user_p, len(batch)).numpy()
    absolute_b = metrics.absolute_errors(error_p, user_p, len(batch)).numpy()
    tallies = {"rmse": Tally(squared_b, n_b, root=True), "mae": Tally(absolute_b, n_b)}
    if rated.std_p is not None:
        covered_b = metrics.covered(error_p, rated.std_p, user_p, len(batch)).numpy()
        density_b = metrics.log_densities(error_p, rated.std_p, user_p, len(batch)).numpy()
        tallies |= {"coverage90": Tally(covered_b, n_b), "log_density": Tally(density_b, n_b)}
    return tallies


def _new_items(split: Split) -> pl.DataFrame | None:
    """Lines of the items that train never saw, in histories and the test; None: nothing to know."""
    seen = [split.test] if split.history is split.train else [split.history, split.test]
    tables = [d.item_table for d in seen if d.item_table is not None]
    if not tables:
        return None
    table = pl.concat(tables, how="diagonal_relaxed")
    table = table.unique(table.columns[0], keep="first", maintain_order=True)
    return table.filter(split.train.items.find(table[:, 0]) < 0)


def _relevant(parts: Split, relevance_threshold: float | None) -> np.ndarray:
    """Marks of the test interactions that count as relevant."""
    test, kinds = parts.test, parts.train.kinds
    # the test's own scale may be narrower
    border = default_threshold(parts.train, relevance_threshold)
    relevant_r = relevant_rows(test, parts.train, border)
    if not relevant_r.any() and kinds is not None:
        raise DataError(
            f"no test event is of the kind {kinds.target!r}: nothing is relevant.",
            where=test.name, fix="Name another kind with --target-event, or hold out more.",
        )  # fmt: skip
    if not relevant_r.any():
        low, high = parts.train.scale
        raise DataError(
            f"no test rating reaches {border:g}: nothing is relevant.",
            where=test.name, fix=f"Choose relevance_threshold within {low:g} to {high:g}.",
        )  # fmt: skip
    return relevant_r


def relevant_rows(test: Dataset, train: Dataset, border: float) -> np.ndarray:
    """Return the interactions that a list should have found, (interactions,) bool.

    Args:
        test: What was held out.
        train: What was learned from. With kinds of events, those of its target are relevant.
        border: Without kinds, the lowest value that is relevant.
    """
    x = test.interactions
    if train.kinds is None or test.kinds is None or x.kind_r is None:
        return x.value_r >= border
    return x.kind_r == test.kinds.code(train.kinds.target)


def _serve(
    recommender: Recommender, batch: Histories, relevant_r: np.ndarray, test: Dataset, k: int,
    diversity: float,
) -> Served:  # fmt: skip
    train = recommender.dataset
    x = test.interactions.take(relevant_r)
    relevant_b = torch.bincount(torch.from_numpy(x.user_r), minlength=len(batch))
    item_p = train.items.find(test.items.values)[x.item_r]
    known = item_p >= 0
    user_p, item_p = (torch.from_numpy(r[known]).long() for r in (x.user_r, item_p))
    probe = Histories.from_pairs(user_p, item_p, len(batch))
    asked = Request(histories=batch, k=k, diversity=diversity, probe=probe)
    lists = recommender.answer([asked])[0].lists
    if diversity:
        lists = by_place(lists, probe.user_h, probe.item_h)
    return Served(lists, probe, relevant_b)


def ranking_tallies(served: Served, cuts: tuple[int, ...]) -> dict[str, Tally]:
    """Return the sums behind every ranking metric at every cut.

    Args:
        served: Lists and what should have been found.
        cuts: Lengths of the lists; none is longer than those served.

    Returns:
        "METRIC@k" to its Tally; users with nothing to find have no weight.
    """
    ranks = metrics.ranks(served.lists, served.probe, served.relevant_b)
    weight_b = (served.relevant_b > 0).numpy().astype(float)
    return {
        f"{name}@{k}": Tally(metric(ranks, k).numpy() * weight_b, weight_b)
        for k in cuts
        for name, metric in metrics.RANKING.items()
    }


def peak_memory() -> int:
    """Return the highest resident memory of this process so far, in bytes; 0 where none tells."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        # getrusage also counts the parent's memory at the moment it started this process
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    try:
        resource = importlib.import_module("resource")
    except ModuleNotFoundError:  # Windows has none
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def compare(
    reports: Sequence[Report] | Mapping[str, Report], metrics: Sequence[str] | None = None
) -> pl.DataFrame:
    """Compare every pair of reports, user by user.

    Args:
        reports: Of the same split; by label, or labelled by the names of their models.
        metrics: Which to compare on; None for all that every report has.

    Returns:
        metric, a, b, difference (a - b), low, high (95 %, paired bootstrap over users), p (two
        sided), p_holm (corrected over the pairs of a metric), better (null: undecided at 5 %).

    Raises:
        UsageError: There are fewer than two reports, they are of other users or protocols, or one
            lacks a metric.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> ratings = ft.from_frame(pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 3]}))
        >>> split = ft.split(ratings, test=0.25)
        >>> models = ft.Popularity(), ft.Random()
        >>> reports = [ft.evaluate(ft.fit(m, split.train), split, k=1) for m in models]
        >>> ft.compare(reports, ["ndcg@1"])["b"].to_list()
        ['random']
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
