"""The whole comparison: trials of every entrant, and the tables made of their results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from foretaste.data.splitting import Split
from foretaste.errors import UsageError
from foretaste.evaluation.cold_start import Case, ColdStart
from foretaste.evaluation.evaluate import K
from foretaste.evaluation.statistics import Interval, Tally, contrasts, intervals
from foretaste.experiments.entrants import baselines, cold_entrants, entrants
from foretaste.experiments.results import Result
from foretaste.experiments.trials import CASES, Say, Trial, TrialRunner
from foretaste.models.base import Model
from foretaste.training.engine import Engine

SEEDS = 3


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several models on one split: the tables of it. It does not know how they are shown.

    Values of a model with several seeds are means over them. A metric over nobody is null.

    Attributes:
        parts: The split.
        k: Length of the lists.
        models: Label to model, the baselines included.
        runs: Label to results, one for each seed.
        failed: Label to why a model has none.
        left_out: Models that did not take part, and why.
        cold: "users" and "items" to the cold starts, where they were measured.
        not_cold: "users" and "items" to who stayed out of them, and why.
    """

    parts: Split
    k: int
    models: Mapping[str, Model]
    runs: Mapping[str, Sequence[Result]]
    failed: Mapping[str, str]
    left_out: Sequence[str]
    cold: Mapping[str, ColdStart] = field(default_factory=dict)
    not_cold: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The metric that models are ordered by."""
        return f"ndcg@{self.k}"

    @cached_property
    def tallies(self) -> dict[str, dict[str, Tally]]:
        """Label to metric to the sums behind it, mean over seeds; the best model first."""
        found = {label: _mean([run.tallies or {} for run in r]) for label, r in self.runs.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1][self.metric].value))

    @cached_property
    def values(self) -> dict[str, dict[str, Interval]]:
        """Label to metric to value and interval; the best model first."""
        return {label: intervals(tallies) for label, tallies in self.tallies.items()}

    @cached_property
    def ceilings(self) -> dict[str, float]:
        """The best value of each ranking metric that the data allow."""
        return dict(next(iter(self.runs.values()))[0].ceilings or {})

    @property
    def baselines(self) -> list[str]:
        """Labels of the models that any other has to beat."""
        return [label for label in baselines(self.parts.train) if label in self.runs]

    def frame(self) -> pl.DataFrame:
        """Model, metric, value, low, high, ceiling (null for rating errors)."""
        rows = [
            (label, name, m.value, m.low, m.high, self.ceilings.get(name))
            for label, found in self.values.items()
            for name, m in found.items()
        ]
        return _frame(rows, ["model", "metric", "value", "low", "high", "ceiling"], texts=2)

    @cached_property
    def pairs(self) -> pl.DataFrame:
        """Every pair of models on the first metric, and on RMSE where ratings are predicted."""
        return contrasts(self.tallies, [self.metric, "rmse"])

    def segments(self) -> pl.DataFrame:
        """Model, segment, recall at k of it, low, high."""
        rows = []
        for label in self.tallies:
            found = _mean([run.segments or {} for run in self.runs[label]])
            rows += [(label, s, m.value, m.low, m.high) for s, m in intervals(found).items()]
        return _frame(rows, ["model", "segment", "recall", "low", "high"], texts=2)

    def variety(self) -> pl.DataFrame:
        """Model, coverage, novelty, diversity, head_share."""
        names = ["coverage", "novelty", "diversity", "head_share"]
        rows = [
            (label, *(self._over_seeds(label, lambda r, n=name: (r.variety or {})[n])
                      for name in names))
            for label in self.tallies
        ]  # fmt: skip
        return _frame(rows, ["model", *names], texts=1)

    def costs(self) -> pl.DataFrame:
        """Model, fit_seconds, score_seconds, seconds of the process, its peak memory in MiB, seeds.

        Seconds are means over seeds, the peak is the highest.
        """
        rows = [
            (
                label,
                self._over_seeds(label, lambda r: r.fit_seconds),
                self._over_seeds(label, lambda r: r.score_seconds),
                self._over_seeds(label, lambda r: r.seconds),
                max(run.peak_memory_bytes for run in self.runs[label]) / 2**20,
                float(len(self.runs[label])),
            )
            for label in self.tallies
        ]
        names = ["fit_seconds", "score_seconds", "seconds", "peak_memory_mib", "seeds"]
        return _frame(rows, ["model", *names], texts=1)

    def seeds(self) -> pl.DataFrame:
        """Model, seed, value of the first metric and the model's rank among all with that seed.

        A model that no seed changes takes part in every ranking with its one value.
        """
        n_seeds = max(len(runs) for runs in self.runs.values())
        rows = []
        for seed in range(n_seeds):
            of = {
                label: (runs[min(seed, len(runs) - 1)].tallies or {})[self.metric].value
                for label, runs in self.runs.items()
            }
            ranked = sorted(of, key=lambda label: -of[label])
            rows += [(m, seed, of[m], ranked.index(m) + 1) for m in self.tallies]
        schema = {"model": pl.String, "seed": pl.Int64, "value": pl.Float64, "rank": pl.Int64}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _over_seeds(self, label: str, of: Callable[[Result], float]) -> float:
        return float(np.mean([of(run) for run in self.runs[label]]))


def compare_models(  # noqa: PLR0913  a public door, by keyword
    split: Split, models: Sequence[str | Model] | Mapping[str, Model] | None = None, *,
    cold_start: bool | Literal["all"] = False, k: int = K, seeds: int = SEEDS,
    relevance_threshold: float | None = None, device: str = Engine.device,
    folder: str | Path | None = None, say: Say | None = None,
) -> Comparison:  # fmt: skip
    """Fit and evaluate models beside the baselines, each in a process of its own.

    Args:
        split: What is learned from and tested on.
        models: Names, models with fields of their own, or labels of such; None for the usual ones
            that data and time allow.
        cold_start: Whether new users and new items are measured too, a fifth of them held out of
            `split.train`: True with the models that are quick to fit, "all" with slow ones too.
        k: Length of the lists.
        seeds: Runs of a model that is trained by gradients, or whose seed matters and that fits in
            a few seconds. Cold starts are measured once.
        relevance_threshold: Lowest test rating that counts as relevant; None for three quarters up
            the scale.
        device: Where to fit: "auto", "cpu" or "cuda".
        folder: Keeps every finished trial, so that the same call goes on with what is missing after
            it was killed; None keeps nothing.
        say: Takes a line of progress for each trial.

    Returns:
        The Comparison; models that failed are named in it.

    Raises:
        UsageError: k or seeds is below 1, a name is unknown, or no model could be measured.
        TrialError: The process that starts the trials does not stay alive.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> ratings = ft.from_frame(pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 3]}))
        >>> found = ft.compare_models(ft.split(ratings, test=0.25), ["popularity"], k=1, seeds=1)
        >>> sorted(found.values)
        ['popularity', 'random']
    """
    if k < 1 or seeds < 1:
        raise UsageError(f"k={k}, seeds={seeds}.", fix="Both are at least 1.")
    chosen, left_out = entrants(split.train, models)
    trials = {
        label: Trial(
            model.name, model.hyperparameters(), split, k=k,
            relevance_threshold=relevance_threshold, device=device,
        )
        for label, model in chosen.items()
    }  # fmt: skip
    with TrialRunner(folder) as runner:
        runs, failed = _with_seeds(runner, trials, seeds, say)
        found = Comparison(split, k, chosen, runs, failed, left_out)
        return _cold_started(found, runner, cold_start, device, say) if cold_start else found


def _with_seeds(
    runner: TrialRunner, trials: Mapping[str, Trial], seeds: int, say: Say | None
) -> tuple[dict[str, list[Result]], dict[str, str]]:
    """The results of each model, one for each seed, and why a model has none."""
    first = runner.run(trials, say)
    further = {
        label: {f"{label}, seed {s}": replace(trials[label], seed=s) for s in range(1, seeds)}
        for label, result in first.items()
        if result.worth_repeating
    }
    again = runner.run({name: t for of in further.values() for name, t in of.items()}, say)
    runs = {m: [first[m], *(again[name] for name in further.get(m, ()))] for m in trials}
    failed = {m: r.error for m, results in runs.items() for r in results if r.error}
    if len(failed) == len(trials):
        raise UsageError(
            f"no model could be measured: {next(iter(failed.values()))}",
            fix="Mend that, or name other models.",
        )
    return {label: results for label, results in runs.items() if label not in failed}, failed


def _cold_started(
    comparison: Comparison, runner: TrialRunner, which: bool | str, device: str, say: Say | None
) -> Comparison:
    """The comparison with its models measured on new users and new items."""
    cold, not_cold, train = {}, {}, comparison.parts.train
    for kind in CASES:
        models = {label: comparison.models[label] for label in comparison.runs}
        chosen, notes = cold_entrants(train, models, kind, slow=which == "all")
        trials = {
            label: Trial(
                model.name, model.hyperparameters(), comparison.parts, measure=kind,
                k=comparison.k, device=device,
            )
            for label, model in chosen.items()
        }  # fmt: skip
        found = runner.run({f"{label}, new {kind}": t for label, t in trials.items()}, say)
        results = dict(zip(trials, found.values(), strict=True))
        notes += [f"{label} failed: {r.error}" for label, r in results.items() if r.error]
        not_cold[kind] = notes
        if done := {label: r for label, r in results.items() if not r.error}:
            cold[kind] = _as_cold_start(done)
    return replace(comparison, cold=cold, not_cold=not_cold)


def _as_cold_start(results: Mapping[str, Result]) -> ColdStart:
    """Results of the same cold start, by model, as if one call had measured them."""
    first = next(iter(results.values()))
    assert first.users is not None
    tallies: dict[Case, dict[str, Tally]] = {}
    for label, result in results.items():
        for name, tally in (result.tallies or {}).items():
            metric, _, case = name.partition(" ")
            tallies.setdefault((label, case), {})[metric] = tally
    return ColdStart(first.protocol, first.users, tallies)


def run_comparison(parts: Split, models: Any = None, **options: Any) -> Comparison:
    """Call `compare_models` by its name of foretaste 0.1.

    Args:
        parts: The split.
        models: As for `compare_models`.
        options: The other arguments of `compare_models`.
    """
    _warn("run_comparison", "compare_models(split, models)")
    return compare_models(parts, models, **options)


def add_cold_starts(
    comparison: Comparison, *, every: bool = False, device: str = Engine.device,
    folder: str | Path | None = None, say: Say | None = None,
) -> Comparison:  # fmt: skip
    """Measure cold starts of a comparison, as foretaste 0.1 did in a second step.

    Args:
        comparison: What `compare_models` gave.
        every: Slow models too.
        device: Where to fit.
        folder: As for `compare_models`.
        say: As for `compare_models`.

    Returns:
        The same comparison with cold starts.
    """
    _warn("add_cold_starts", "compare_models(split, models, cold_start=True)")
    with TrialRunner(folder) as runner:
        return _cold_started(comparison, runner, "all" if every else True, device, say)


def _warn(old: str, new: str) -> None:
    words = f"{old} goes with foretaste 0.3. Use {new}."
    warnings.warn(words, DeprecationWarning, stacklevel=3)


def _mean(tallies: Sequence[Mapping[str, Tally]]) -> dict[str, Tally]:
    """The mean of the sums of several runs on the same users."""
    return {
        name: Tally(np.mean([t[name].total_b for t in tallies], axis=0), first.weight_b, first.root)
        for name, first in tallies[0].items()
    }


def _frame(rows: Sequence[tuple[Any, ...]], names: Sequence[str], texts: int) -> pl.DataFrame:
    schema = {n: pl.String if i < texts else pl.Float64 for i, n in enumerate(names)}
    return pl.DataFrame(rows, schema=schema, orient="row").fill_nan(None)
