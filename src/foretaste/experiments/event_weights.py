"""What each kind of event should weigh: chosen by validation users, and judged by others.

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

GRID = (0.0, 0.1, -0.1, 0.3, -0.3, 1.0, -1.0)  # beside 1 for the target; 0 first
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
        tried: One row for each set of weights: a column for each kind, and the NDCG@10 of the
            validation users.
        difference: NDCG@10 less that of the target alone, each user judging weights that other
            users chose, with its 95 % interval (paired bootstrap); NaN where nothing was chosen.
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
                f"{self.target} alone made better lists."
            )
        d = self.difference
        judged = (
            f"NDCG@{K} {d.value:+.4f} against {self.target} alone (95 % interval {d.low:+.4f} to "
            f"{d.high:+.4f}, {self.users:,} validation users, by weights that others chose)"
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

    A fifth of the events is put aside. One kind after another gets the weight of a small grid, 0
    and negative ones included, that makes the best lists for the validation users. They are also
    divided into halves, which choose in the same way: each half judges what the other one chose.
    What all users chose stays if that is better than the target alone with 95 % certainty; else
    the target alone stays.

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

    Example:
        >>> import foretaste as ft
        >>> kinds = ["view", "buy"] * 18
        >>> rows = {"user": [0, 0, 1, 1] * 9, "item": [*range(9)] * 4, "event": kinds}
        >>> shop = ft.from_frame(rows)
        >>> learned = ft.learn_event_weights(shop)
        >>> shop.with_event_weights(learned.weights).kinds.target
        'buy'
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
    halves = _halves(trials.tally(alone), seed)
    found = [_best(trials, alone, half_b) for half_b in (halves[0] | halves[1], *halves)]
    difference = Interval(np.nan, np.nan, np.nan)
    if any(weights != alone for weights in found):
        difference = _judged(trials, found[1:], halves, alone)
    stays = found[0] if difference.low > 0 else alone
    table = trials.frame(names, halves[0] | halves[1])
    return LearnedWeights(stays, found[0], target, table, difference, int(np.sum(halves)))


def _best(
    trials: _Trials, alone: Mapping[str, float], chooses_b: np.ndarray
) -> Mapping[str, float]:
    """Return the best weights for some users, from two starts: the target alone, and all equal."""
    starts = alone, dict.fromkeys(alone, 1.0)  # one alone ends where no single kind adds anything
    found = [_search(trials, start, chooses_b) for start in starts]
    return max(found, key=lambda weights: trials.value(weights, chooses_b))


def _search(
    trials: _Trials, start: Mapping[str, float], chooses_b: np.ndarray
) -> Mapping[str, float]:
    """Return the best weights for some users that changes of one kind at a time lead to."""
    best, value = start, trials.value(start, chooses_b)
    for _ in range(SWEEPS):
        before = best
        for name in start:
            for weight in GRID if name != trials.target else ():
                tried = {**best, name: weight}
                if (better := trials.value(tried, chooses_b)) > value:
                    best, value = tried, better
        if best == before:
            break
    return best


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


def _judged(
    trials: _Trials, chosen: Sequence[Mapping[str, float]], halves: Sequence[np.ndarray],
    alone: Mapping[str, float],
) -> Interval:  # fmt: skip
    """Return the gain over the target alone, each half judging what the other half chose."""
    of_alone = trials.tally(alone)
    total_b = np.where(halves[1], trials.tally(chosen[0]).total_b, trials.tally(chosen[1]).total_b)
    judges_b = halves[0] | halves[1]
    pair = _of(Tally(total_b, of_alone.weight_b), judges_b), _of(of_alone, judges_b)
    chosen_s, alone_s = resampled(pair)
    return Interval(pair[0].value - pair[1].value, *percentiles(chosen_s - alone_s))


def _written(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={weight:g}" for name, weight in weights.items())
