"""From Requests to Answers: the one way to a list, whoever asks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from foretaste.data.dataset import Dataset, id_table
from foretaste.data.histories import Histories
from foretaste.errors import UsageError
from foretaste.models.base import Model, ScoresByDot
from foretaste.models.newcomers.prior import Prior, with_prior
from foretaste.recommending.explaining import reasons
from foretaste.recommending.filters import matching
from foretaste.recommending.ranking import Lists
from foretaste.recommending.ranking import recommend as rank
from foretaste.recommending.request import Id, Request, resolve_candidates, resolve_user
from foretaste.recommending.reranking import diversify, pool_size
from foretaste.recommending.retrieval import ItemFactors

CONDITION_BYTES = 32 << 20  # of marks of items that satisfy a condition, remembered by its text


@dataclass(frozen=True, eq=False)
class Answer:
    """The lists of one Request, in item rows.

    Attributes:
        histories: The histories that were scored, of B users.
        lists: The best items of each, with scores and ties.
        unknown: Ids of the request that the data lack, by field ("history", "exclude",
            "candidates"); they were ignored.
        weight_bhk: For each user, what each entry of the history adds to the score of each listed
            item, (entries, k); empty where no reasons were asked for.
        fallback_b: The share of popularity in the scores of each user, (B,): 1 where nothing is
            liked, 0 for a long history; empty where the model decides alone.
    """

    histories: Histories
    lists: Lists
    unknown: Mapping[str, Sequence[Id]] = field(default_factory=dict)
    weight_bhk: Sequence[Tensor] = ()
    fallback_b: Sequence[float] = ()


class Conditions:
    """Which items satisfy conditions on their columns; the newest conditions are remembered."""

    def __init__(self, dataset: Dataset) -> None:
        """Remember whose items they are.

        Args:
            dataset: Its item table has the columns.
        """
        self._table = id_table(dataset.items, dataset.item_table)
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()

    def matching(self, where: str) -> np.ndarray:
        """Return the items that satisfy a condition, (items,) bool.

        Args:
            where: A condition such as ``year >= 1990``.

        Raises:
            UsageError: Where the condition cannot be read or names a column that is not there.
        """
        if where not in self._known:
            found = matching(where, self._table)
            while len(self._known) >= max(1, CONDITION_BYTES // max(1, len(found))):
                self._known.popitem(last=False)
            self._known[where] = found
        return self._known[where]


@dataclass(frozen=True, eq=False)
class Answerer:
    """Answers requests: a model, the Dataset it learned from, and what lists need beside them.

    Attributes:
        model: The fitted model.
        dataset: What it learned from.
        conditions: Of the items of the dataset.
        item_vectors: Makes vectors of the items, (items, d), for diversity.
        prior: How much popularity weighs for newcomers; None where the model decides alone.
    """

    model: Model
    dataset: Dataset
    conditions: Conditions
    item_vectors: Callable[[], Tensor]
    prior: Prior | None = None

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers to requests, in their order; see `Recommender.answer`.

        Args:
            requests: Those that differ only in whom they are for are scored together.
        """
        if isinstance(requests, Request):
            raise UsageError("answer takes a list of requests.", fix="Write answer([request]).")
        resolved = [resolve_user(request, self.dataset) for request in requests]
        alike: dict[Any, list[int]] = {}
        for n, (request, (histories, _)) in enumerate(zip(requests, resolved, strict=True)):
            # histories with and without times are not mixed: one would take them from the other
            none = not len(histories.item_h)
            timed = none or histories.time_h is not None, none or histories.kind_h is not None
            alone = n if request.probe is not None or request.seen is not None else None
            candidates = None if request.candidates is None else tuple(request.candidates)
            key = (request.k, request.where, request.exclude_seen, request.diversity)
            alike.setdefault((key, tuple(request.exclude), candidates, timed, alone), []).append(n)
        answers: dict[int, Answer] = {}
        for members in alike.values():
            found = self._together([requests[n] for n in members], [resolved[n] for n in members])
            answers.update(zip(members, found, strict=True))
        return [answers[n] for n in range(len(requests))]

    def candidates(self, request: Request) -> tuple[Tensor | None, dict[str, list[Id]]]:
        """Return the items that a request may list, and unknown ids; see `resolve_candidates`."""
        matched = None if request.where is None else self.conditions.matching(request.where)
        return resolve_candidates(request, self.dataset, matched)

    @cached_property
    def ranker(self) -> Any:
        """What orders the items: the scores of the model, with popularity as the prior says."""
        return with_prior(self.model, self.prior, self.dataset)

    @cached_property
    def _factors(self) -> ItemFactors | None:
        """What lists of a model that scores by dot products need of its items, worked out once."""
        model = self.ranker
        return ItemFactors(model.item_factors()) if isinstance(model, ScoresByDot) else None

    def _together(
        self, requests: Sequence[Request], resolved: Sequence[tuple[Histories, list[Id]]]
    ) -> list[Answer]:
        """Return the answers to requests with one length and one set of filters."""
        allowed_i, unknown = self.candidates(requests[0])
        lists = self._ranked(requests[0], Histories.concat([h for h, _ in resolved]), allowed_i)
        answers, start = [], 0
        for request, (histories, ignored) in zip(requests, resolved, strict=True):
            users = slice(start, start + len(histories))
            start = users.stop
            own = lists if len(requests) == 1 else lists.of(users)
            named = {**({"history": ignored} if ignored else {}), **unknown}
            weights = self._weights(histories, own) if request.explain else ()
            shares = () if self.prior is None else self.prior.share(histories).tolist()
            answers.append(Answer(histories, own, named, weights, shares))
        return answers

    def _ranked(self, asked: Request, histories: Histories, allowed_i: Tensor | None) -> Lists:
        n_items = len(self.dataset.items)
        seen = histories if asked.seen is None else asked.seen
        exclude_seen = asked.exclude_seen
        exclude_seen = self.dataset.exclude_seen if exclude_seen is None else exclude_seen
        best = rank(
            self.ranker, histories, pool_size(asked.k, n_items) if asked.diversity else asked.k,
            n_items=n_items, exclude_seen=exclude_seen, allowed_i=allowed_i,
            seen=seen.seen(self.dataset.target_kind), probe=asked.probe, factors=self._factors,
        )  # fmt: skip
        if not asked.diversity:
            return best
        return diversify(best, self.item_vectors(), asked.k, asked.diversity)

    def _weights(self, histories: Histories, lists: Lists) -> list[Tensor]:
        """Return what each entry adds to the score of each listed item, user by user."""
        n_items = len(self.dataset.items)
        return [
            reasons(self.model.score, histories[b : b + 1], item_k[item_k >= 0], n_items)
            for b, item_k in enumerate(lists.item_bk)
        ]
