"""Cold start, measured: items that training never saw, and users who have said little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories, histories_of
from foretaste.data.splitting import split
from foretaste.errors import DataError, UsageError, takes_old_names
from foretaste.evaluation.evaluate import K, Served, ranking_tallies, relevant_rows
from foretaste.evaluation.statistics import Interval, Tally, intervals, percentiles, resampled
from foretaste.models.base import Model, PlacesNewItems, default_threshold
from foretaste.recommending.arguments import whole_number
from foretaste.recommending.fitting import fit
from foretaste.recommending.ranking import Scored
from foretaste.recommending.recommender import Recommender
from foretaste.recommending.request import Request
from foretaste.training.engine import Engine

Case = tuple[str, str]  # the name of a model, and what it was asked


@dataclass(frozen=True, eq=False)
class ColdStart:
    """Metrics of each model in each case; every case has the same users, so that all are paired.

    It holds sums, not models: nothing can be recommended with it.

    Attributes:
        protocol: What was held out, in words.
        users: Ids in the order of the tallies' sums.
        tallies: (model, case) to metric to the sums behind it.
    """

    protocol: str
    users: pl.Series
    tallies: Mapping[Case, Mapping[str, Tally]]

    def frame(self) -> pl.DataFrame:
        """Return model, case, metric, value, low, high: means over users, 95 % intervals.

        Returns:
            A table; value, low and high are null where nobody had anything to find.
        """
        rows = [
            (model, case, metric, found.value, found.low, found.high)
            for (model, case), tallies in self.tallies.items()
            for metric, found in intervals(tallies).items()
        ]
        words, numbers = ("model", "case", "metric"), ("value", "low", "high")
        schema = dict.fromkeys(words, pl.String) | dict.fromkeys(numbers, pl.Float64)
        return pl.DataFrame(rows, schema=schema, orient="row").fill_nan(None)

    def ratio(self, metric: str, of: Case, to: Case) -> Interval:
        """Divide a metric of one (model, case) by that of another, from the same resamples.

        Args:
            metric: For example "ndcg@10".
            of: Model and case above the line.
            to: Model and case below it.

        Returns:
            Ratio and 95 % interval; NaN where there is nothing to divide by. Resamples in which
            there is nothing to divide by are left out.

        Raises:
            UsageError: That metric or case was not measured.
        """
        pair = [self._tally(metric, case) for case in (of, to)]
        drawn_s, value = _divided(*resampled(pair)), _divided(*(np.array(t.value) for t in pair))
        return Interval(float(value), *percentiles(drawn_s))

    def _tally(self, metric: str, case: Case) -> Tally:
        if case not in self.tallies or metric not in self.tallies[case]:
            known = (
                f"{list(self.tallies)}, each with {', '.join(next(iter(self.tallies.values())))}"
            )
            raise UsageError(f"{metric} of {case} was not measured.", fix=f"There are {known}.")
        return self.tallies[case][metric]


def _divided(first_s: np.ndarray, second_s: np.ndarray) -> np.ndarray:
    """Ratios; NaN where the second is 0 or either is NaN: there is no ratio to nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(second_s > 0, first_s / second_s, np.nan)


@takes_old_names(relevant_from="relevance_threshold")
def evaluate_cold_items(
    models: Mapping[str, Model], dataset: Dataset, *, k: int = 20, test: float = 0.2,
    seed: int = Engine.seed, relevance_threshold: float | None = None,
    device: str = Engine.device,
) -> ColdStart:  # fmt: skip
    """Hold items out entirely, fit the models to the rest, and let new and known items compete.

    Cases say what must be found among which candidates: "cold" (new items among new items), "warm"
    (known among known), "cold in all" and "warm in all" (among the whole catalogue, new items
    placed by their columns where the model can, last where it cannot), "all".

    Args:
        models: Label to model.
        dataset: Interactions, with a table of items for models that read it.
        k: Length of the lists.
        test: Fraction of the items, drawn at random, that is held out, and of the other
            interactions. The history is what a user did in the rest.
        seed: Of what is held out, and of the fits.
        relevance_threshold: Lowest rating that counts as relevant; None for three quarters up the
            scale.
        device: Where to fit.

    Returns:
        The ColdStart.

    Raises:
        DataError: So little or so much is held out that nothing is left to find or to learn.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> table = pl.DataFrame({"user": [1, 1, 2, 2, 3, 3], "item": [1, 2, 1, 3, 4, 5]})
        >>> found = ft.evaluate_cold_items({"pop": ft.Popularity()}, ft.from_frame(table), k=1)
        >>> found.frame()["case"].unique(maintain_order=True).to_list()
        ['cold', 'warm', 'cold in all', 'warm in all', 'all']
    """
    k = whole_number(k, "k", 20)
    train, rest = _without_some_items(dataset, test, seed)
    new_i = (row_i := train.items.find(rest.items.values)) < 0
    n_known, n_new = len(train.items), int(new_i.sum())
    row_i = np.where(new_i, n_known + np.cumsum(new_i) - 1, row_i)
    table = rest.item_frame.filter(new_i)
    batch = histories_of(train, train.users.find(rest.users.values), train)
    border = default_threshold(train, relevance_threshold)
    wanted = _wanted(rest, train, row_i, border)
    known, new = train.items.values.to_list(), table[:, 0].to_list()
    known_i = torch.arange(n_known + n_new) < n_known
    all_i = torch.ones_like(known_i)
    cases = {
        "cold": (~known_i, new), "warm": (known_i, known), "cold in all": (~known_i, None),
        "warm in all": (known_i, None), "all": (all_i, None),
    }  # fmt: skip
    tallies = {}
    for name, model in models.items():
        fitted = fit(model, train, seed=seed, device=device, progress=False)
        grown = with_new_items(fitted, table)
        for case, (wanted_i, candidates) in cases.items():
            probe = wanted.only(wanted_i[wanted.item_h])
            asked = Request(histories=batch, k=k, candidates=candidates, probe=probe)
            tallies[name, case] = _tallies(grown, asked, probe)
    protocol = (
        f"{test:.0%} of items held out ({n_new:,} new to the models, {n_known:,} known), and "
        f"{test:.0%} of the other interactions, seed {seed}"
    )
    return ColdStart(protocol, rest.users.values, tallies)


def _without_some_items(dataset: Dataset, test: float, seed: int) -> tuple[Dataset, Dataset]:
    """What is learned from, and what is tested on: some items, and some of the interactions."""
    x, n_items = dataset.interactions, len(dataset.items)
    rng = np.random.default_rng(seed)
    held_i = np.isin(np.arange(n_items), rng.permutation(n_items)[: round(test * n_items)])
    test_r = held_i[x.item_r] | (rng.random(len(x)) < test)
    if test_r.all() or not held_i.any():
        raise DataError(
            f"holding out {test:.0%} of {n_items} items leaves nothing to learn or to find.",
            where=dataset.name, fix="Choose another fraction.",
        )  # fmt: skip
    return dataset.take(~test_r), dataset.take(test_r)


def evaluate_cold_users(
    models: Mapping[str, Model], dataset: Dataset, *, lengths: Sequence[int] = (0, 1, 3, 10),
    shown: Literal["random", "oldest"] = "random", k: int = K, test: float = 0.1,
    seed: int = Engine.seed, device: str = Engine.device,
) -> ColdStart:  # fmt: skip
    """Show the models only a few interactions of users who were not in training.

    A fifth of what each new user did is to be found, and of the rest a few are shown. The same
    items are to be found, among the same candidates, in every case: no case lists what the user
    did. What a user table says of them is known in every case.

    Args:
        models: Label to model.
        dataset: Interactions.
        lengths: How many interactions are shown: the cases "0", "1", ..., before "all". Users with
            less to show than the longest are left out.
        shown: Drawn at random, each case adding to the last one, or the oldest.
        k: Length of the lists.
        test: Fraction of the users that is held out.
        seed: Of what is held out and shown, and of the fits.
        device: Where to fit.

    Returns:
        The ColdStart.

    Raises:
        DataError: No held-out user has as many interactions as the longest length.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> pairs = [(u, i) for u in range(10) for i in range(u, u + 5)]
        >>> clicks = ft.from_frame(pl.DataFrame(pairs, schema=["user", "item"], orient="row"))
        >>> found = ft.evaluate_cold_users({"pop": ft.Popularity()}, clicks, lengths=(0, 1), k=1)
        >>> found.frame()["case"].unique(maintain_order=True).to_list()
        ['0', '1', 'all']
    """
    k = whole_number(k, "k", K)
    parts = split(dataset, "users", test=test, seed=seed)
    train = parts.train
    whole = histories_of(parts.history, parts.history.users.find(parts.test.users.values), train)
    enough_b = whole.length_b >= max(lengths)
    if not enough_b.any():
        raise DataError(
            f"no held-out user has {max(lengths)} interactions to show.",
            where=dataset.name, fix="Choose shorter lengths, or hold out more users.",
        )  # fmt: skip
    row_i, threshold = train.items.find(parts.test.items.values), default_threshold(train, None)
    wanted = _wanted(parts.test, train, row_i, threshold)
    kept = enough_b.nonzero()[:, 0]
    batch, wanted = whole.take(kept), wanted.take(kept)
    drawn = batch
    if shown == "random":
        drawn = batch.sorted_by(np.random.default_rng(seed).random(len(batch.item_h)))
    cases = {str(length): first(drawn, length) for length in lengths} | {"all": batch}
    tallies = {}
    for name, model in models.items():
        fitted = fit(model, train, seed=seed, device=device, progress=False)
        for case, histories in cases.items():
            asked = Request(histories=histories, seen=batch, k=k, probe=wanted)
            tallies[name, case] = _tallies(fitted, asked, wanted)
    users = parts.test.users.values.filter(pl.Series(enough_b.numpy()))
    return ColdStart(f"{parts.protocol}, the {shown} few of them shown", users, tallies)


def with_new_items(recommender: Recommender, table: pl.DataFrame) -> Recommender:
    """Return a Recommender that knows new items; a model that cannot place them lists them last.

    Args:
        recommender: With a fitted model.
        table: Lines of the new items, first column the id.
    """
    dataset, model = recommender.dataset.add_items(table), recommender.model
    if isinstance(model, PlacesNewItems):
        return replace(recommender, model=model.with_items(table), dataset=dataset)

    def score(histories: Histories) -> Tensor:
        score_bi = model.score(histories)
        last_b1 = score_bi.min(dim=1, keepdim=True).values - 1
        return torch.cat([score_bi, last_b1.expand(-1, len(table))], dim=1)

    return replace(recommender, model=cast(Model, Scored(score)), dataset=dataset)


def first(histories: Histories, length: int) -> Histories:
    """Return the first entries of each history, sorted by time, as those of new users.

    Args:
        histories: In the order in which entries are shown.
        length: How many entries of each, at most.
    """
    shown = histories.first(length)
    return shown if shown.time_h is None else shown.sorted_by(shown.time_h)


def _wanted(test: Dataset, train: Dataset, row_i: np.ndarray, border: float) -> Histories:
    """What each test user should find: the liked items that have a row."""
    x = test.interactions
    item_r = row_i[x.item_r]
    wanted_r = relevant_rows(test, train, border) & (item_r >= 0)
    user_p, item_p = (torch.from_numpy(r[wanted_r]).long() for r in (x.user_r, item_r))
    return Histories.from_pairs(user_p, item_p, len(test.users))


def _tallies(recommender: Recommender, asked: Request, wanted: Histories) -> dict[str, Tally]:
    (answer,) = recommender.answer([asked])
    return ranking_tallies(Served(answer.lists, wanted, wanted.length_b), (asked.k,))
