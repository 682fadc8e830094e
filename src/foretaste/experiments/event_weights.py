"""What each kind of event should weigh: chosen on half of the validation users, judged on the rest.

The module does not know where events come from; it sees a Dataset with kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.dataset import Dataset
from foretaste.data.splitting import Split, split
from foretaste.errors import UsageError
from foretaste.evaluation.evaluate import K, evaluate
from foretaste.evaluation.statistics import Interval, Tally, percentiles, resampled
from foretaste.models.base import Model
from foretaste.models.item_knn import ItemKNN
from foretaste.recommending.fitting import fit

GRID = (0.0, 0.03, -0.03, 0.1, -0.1, 0.3, -0.3, 1.0, -1.0)  # beside 1 for the target; 0 first
SWEEPS = 2  # over all kinds; a third changed nothing on the synthetic shops of the tests
VALIDATION = 0.2  # share of the events that is put aside
METRIC = f"ndcg@{K}"


@dataclass(frozen=True, eq=False)
class LearnedWeights:
    """The weights of kinds that stay, and what speaks for them; not the models behind them.

    Attributes:
        weights: What stays, by kind: the best that was found, or the target alone.
        found: The best that the search found, by kind.
        target: The kind that is predicted, whose weight is 1.
        tried: One row for each set of weights: a column for each kind, and the NDCG@10 on the
            users who chose.
        difference: NDCG@10 of what was found less that of the target alone, on the users who
            judged, with its 95 % interval (paired bootstrap); NaN where nothing was to be judged.
        users: How many users judged.
    """

    weights: Mapping[str, float]
    found: Mapping[str, float]
    target: str
    tried: pl.DataFrame
    difference: Interval
    users: int

    @property
    def sentence(self) -> str:
        """What was learned, in words."""
        found = _written(self.found)
        if not self.difference.known:
            return (
                f"Event weights: {_written(self.weights)}. Nothing that was tried beside "
                f"{self.target} alone made better lists on the users who chose."
            )
        d = self.difference
        judged = (
            f"NDCG@{K} {d.value:+.4f} against {self.target} alone (95 % interval {d.low:+.4f} to "
            f"{d.high:+.4f}, {self.users:,} validation users who did not choose)"
        )
        if self.weights == self.found:
            return f"Event weights: {found}; {judged}."
        return (
            f"Event weights: {_written(self.weights)}. The best that was tried, {found}, is not "
            f"better with certainty: {judged}."
        )

    def summary(self) -> dict[str, Any]:
        """Return the weights, the difference and the sentence as JSON values."""
        return {
            "weights": {**self.weights}, "found": {**self.found}, "target": self.target,
            "tried": self.tried.to_dicts(), "difference": self.difference.summary(),
            "users": self.users, "sentence": self.sentence,
        }  # fmt: skip


def learn_event_weights(
    dataset: Dataset, model: Model | None = None, target: str | None = None, *, seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> LearnedWeights:  # fmt: skip
    """Return what each kind of event should weigh for lists of the target kind.

    A fifth of the events is put aside. Starting from the target alone, one kind after another gets
    the weight of a small grid, 0 and negative ones included, that makes the best lists for one half
    of the validation users. What is found stays if it is better than the target alone for the
    other half with 95 % certainty; else the target alone stays.

    Args:
        dataset: What to learn from, train data alone; with kinds.
        model: What makes the lists; None for ItemKNN, which is quick to fit.
        target: The kind to be predicted; None for that of the Dataset.
        seed: Of what is put aside, of the halves and of the fits.
        progress: Called with a line for each set of weights that was tried.

    Returns:
        The weights, and the comparison behind them; `Dataset.with_event_weights` takes them.

    Raises:
        UsageError: The Dataset has no kinds, or no such target.
        DataError: No event that is put aside is of the target kind.
    """
    if dataset.kinds is None:
        raise UsageError(
            f"{dataset.name} has no kinds of events whose weights could be learned.",
            fix="Name their column with --event-column (Python: event=).",
        )
    target = dataset.kinds.target if target is None else target
    names = dataset.kinds.names
    dataset.kinds.code(target)  # an unknown one is an error
    parts = split(dataset, "random", test=VALIDATION, seed=seed)
    trials = _Trials(parts, ItemKNN() if model is None else model, target, seed, progress)
    alone = {name: float(name == target) for name in names}
    chooses_b, judges_b = _halves(trials.tally(alone), seed)
    best, best_value = alone, trials.value(alone, chooses_b)
    for _ in range(SWEEPS):
        before = best
        for name in names:
            for weight in GRID if name != target else ():
                tried = {**best, name: weight}
                if (value := trials.value(tried, chooses_b)) > best_value:
                    best, best_value = tried, value
        if best == before:
            break
    difference = Interval(np.nan, np.nan, np.nan)
    if best != alone:
        difference = _difference(trials.tally(best), trials.tally(alone), judges_b)
    stays = best if difference.low > 0 else alone
    return LearnedWeights(
        stays, best, target, trials.frame(names, chooses_b), difference, int(judges_b.sum())
    )


def reweighed(parts: Split, weights: Mapping[str, float], target: str) -> Split:
    """Return a split with other weights of kinds in all its parts.

    Args:
        parts: The split; where the weights were learned, from its train part.
        weights: The weight of every kind by its name.
        target: The kind to be predicted.
    """
    train = parts.train.with_event_weights(weights, target)
    history = train
    if parts.history is not parts.train:
        history = parts.history.with_event_weights(weights, target)
    test = parts.test.with_event_weights(weights, target)
    return replace(parts, train=train, history=history, test=test)


@dataclass(eq=False)
class _Trials:
    """Sets of weights that were tried on one split, each fitted once."""

    parts: Split
    model: Model
    target: str
    seed: int
    progress: Callable[[str], None] | None
    tallies: dict[tuple[float, ...], Tally] = field(default_factory=dict)

    def tally(self, weights: Mapping[str, float]) -> Tally:
        """Return the sums of NDCG of the validation users."""
        key = tuple(weights.values())
        if key not in self.tallies:
            parts = reweighed(self.parts, weights, self.target)
            fitted = fit(self.model, parts.train, seed=self.seed, progress=False)
            self.tallies[key] = evaluate(fitted, parts, k=K, ratings=False).tallies[METRIC]
            if self.progress is not None:
                value = self.tallies[key].value
                self.progress(f"event weights {_written(weights)}: NDCG@{K} {value:.4f}")
        return self.tallies[key]

    def value(self, weights: Mapping[str, float], of_b: np.ndarray) -> float:
        """Return the mean NDCG of some users."""
        return _of(self.tally(weights), of_b).value

    def frame(self, names: Sequence[str], of_b: np.ndarray) -> pl.DataFrame:
        """Return a row for each set of weights, with the mean NDCG of some users."""
        rows = [(*key, _of(tally, of_b).value) for key, tally in self.tallies.items()]
        return pl.DataFrame(rows, [*names, METRIC], orient="row")


def _halves(tally: Tally, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide the users with something to find into two halves, drawn at random."""
    users = np.random.default_rng(seed).permutation(np.flatnonzero(tally.weight_b > 0))
    halves = np.zeros((2, len(tally.weight_b)), dtype=bool)
    halves[0, users[: (len(users) + 1) // 2]] = True
    halves[1, users[(len(users) + 1) // 2 :]] = True
    return halves[0], halves[1]


def _of(tally: Tally, of_b: np.ndarray) -> Tally:
    return Tally(tally.total_b[of_b], tally.weight_b[of_b])


def _difference(best: Tally, alone: Tally, of_b: np.ndarray) -> Interval:
    """Return the difference of two means over some users, with its paired interval."""
    pair = _of(best, of_b), _of(alone, of_b)
    best_s, alone_s = resampled(pair)
    return Interval(pair[0].value - pair[1].value, *percentiles(best_s - alone_s))


def _written(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={weight:g}" for name, weight in weights.items())
