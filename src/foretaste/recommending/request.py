"""Who asks for what: a Request in external ids, resolved to rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories, histories_of
from foretaste.errors import UnknownIdError, UsageError, refuse_fork
from foretaste.recommending.arguments import (
    features,
    number,
    one_id,
    several,
    text,
    truth,
    whole_number,
)

K = 10  # items in a list where nobody says how many


class IgnoredIdsWarning(UserWarning):
    """Ids of a request that the data lack: they were left out of what was asked."""


class Entry(NamedTuple):
    """One entry of a history that comes with a request.

    Attributes:
        item: The item's id.
        value: Its rating or weight; None counts as liked (the top of the scale; a click).
        time: Milliseconds since 1970 UTC; times count where every entry has one.
        kind: Its kind of event where the data have kinds, and the value is an amount then; None
            for the kind that is to be predicted.

    Example:
        >>> import foretaste as ft
        >>> ft.Entry("50", 4.0, 1_700_000_000_000).value
        4.0
    """

    item: str | int
    value: float | None = None
    time: int | None = None
    kind: str | None = None


Id = str | int
History = Sequence[Id] | Sequence[str] | Sequence[Entry] | Mapping[str, float] | Mapping[int, float]


@dataclass(frozen=True, eq=False)
class Request:
    """A question for lists: whom they are for, how long they are, and what may be on them.

    Everything that makes lists builds a Request: the methods of `Recommender`, the evaluation, the
    export and the service.  It knows external ids; `resolve_user` and `resolve_candidates` turn
    them into rows.

    Attributes:
        user: A user of the training data; exactly one of user, users, history, histories is given.
        users: Several of them; the answer has a list for each.
        history: What a new user did: item ids, ids with ratings, or `Entry`s; [] for nothing.
        histories: Resolved histories of B users, for callers that hold rows.
        user_features: What else is known of a new user, by the columns of the user table.
        k: Length of the lists, at least 1.
        where: A condition on the item columns, such as ``year >= 1990``.
        exclude: Items that must not be listed.
        candidates: The only items that may be listed; None for all.
        exclude_seen: Whether items of the history are left out; None where the data decide, by
            `Dataset.exclude_seen`: films are, groceries are not.
        seen: What is left out in place of the history, for the same users: where a model is shown
            less than all that a user did.
        diversity: From 0 (the order of the scores) to 1; see `reranking.diversify`.
        explain: For how many entries of the history each listed item is explained; 0 for none.
        probe: Items of the same users whose scores are wanted too, for evaluation.

    Raises:
        UsageError: Where the fields contradict each other.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> clicks = ft.from_frame(pl.DataFrame({"user": [1, 2, 2], "item": [7, 7, 8]}))
        >>> recommender = ft.fit(ft.Popularity(), clicks)
        >>> known, new = recommender.answer(
        ...     [ft.Request(user=1), ft.Request(history=[8, 99])]
        ... )
        >>> clicks.items[known.lists.item_bk[0][:1]].to_list(), new.unknown
        ([8], {'history': [99]})
    """

    user: Id | None = None
    users: Sequence[Id] | None = None
    history: History | None = None
    histories: Histories | None = None
    user_features: Mapping[str, Any] | None = None
    k: int = K
    where: str | None = None
    exclude: Sequence[Id] = ()
    candidates: Sequence[Id] | None = None
    exclude_seen: bool | None = None
    diversity: float = 0.0
    explain: int = 0
    seen: Histories | None = None
    probe: Histories | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, or is of no use; make lists of whatever yields ids."""
        self._check_types()
        if self.user_features and self.history is None:
            raise UsageError(
                "user_features describe someone new.", fix="Give a history with them, [] for none."
            )
        given = (self.user, self.users, self.history, self.histories)
        if sum(x is not None for x in given) != 1:
            raise UsageError(
                "give exactly one of user, users and history.",
                fix="Someone new is described by a history, [] for none.",
            )
        if self.k < 1:
            raise UsageError(f"k={self.k}.", fix="Ask for at least one item.")
        if not 0 <= self.diversity <= 1:
            raise UsageError(f"diversity={self.diversity}.", fix="It goes from 0 (none) to 1.")

    def _check_types(self) -> None:
        """Refuse an argument of another type than it must have, and say what to give."""
        for name in ("users", "exclude", "candidates"):
            ids = getattr(self, name)
            if ids is not None and not (isinstance(ids, tuple) and not ids):
                object.__setattr__(self, name, several(ids, name))
        if self.user is not None:
            one_id(self.user, "user")
        if self.history is not None:
            ids = list(self.history) if isinstance(self.history, Mapping) else self.history
            ids = several(ids, "history", Entry)
            if not isinstance(self.history, Mapping):
                object.__setattr__(self, "history", ids)
        if self.user_features is not None:
            features(self.user_features, "user_features")
        if self.where is not None:
            text(self.where, "where", "year >= 1990")
        object.__setattr__(self, "k", whole_number(self.k, "k", K))
        whole_number(self.explain, "explain", 3)
        number(self.diversity, "diversity", 0.3)
        if self.exclude_seen is not None:
            truth(self.exclude_seen, "exclude_seen")


def resolve_user(request: Request, dataset: Dataset) -> tuple[Histories, list[Id]]:
    """Return the histories of whom a request is for, and unknown items of the history.

    Args:
        request: The question.
        dataset: What the model was trained on.

    Raises:
        UnknownIdError: Where a user is asked for whom the data lack.
        UsageError: Where a value is off the scale, or a user feature does not exist.
    """
    refuse_fork()
    if request.histories is not None:
        return request.histories, []
    if request.history is not None:
        return new_user(dataset, request.history, request.user_features)
    asked = [request.user] if request.users is None else several(request.users, "users")
    try:
        rows = dataset.users.rows(asked)
    except UnknownIdError as error:
        hint = "For someone new, give a history: what they have seen or rated."
        raise UnknownIdError("user", error.ids, fix=f"{error.fix} {hint}") from None
    return histories_of(dataset, rows, dataset), []


def new_user(
    dataset: Dataset, history: History, user_features: Mapping[str, Any] | None = None
) -> tuple[Histories, list[Id]]:
    """Return the history of someone new, and those of its items that the data lack.

    Args:
        dataset: What the model was trained on.
        history: Items, as in `Request`; of an item named twice the last entry counts, or both
            where the data keep repeats.
        user_features: Columns of the user table.

    Raises:
        UsageError: Where a value is off the scale of the ratings or is no finite number.
    """
    entries = _entries(dataset, history)
    target = None if dataset.kinds is None else dataset.kinds.target
    row_n = dataset.items.find([entry.item for entry in entries])
    known: dict[tuple[int, str | None, int], Entry] = {}
    for n, (row, entry) in enumerate(zip(row_n.tolist(), entries, strict=True)):
        if row >= 0:
            pair = row, entry.kind or target, n * dataset.keeps_repeats
            known.pop(pair, None)  # named twice: the last one counts, and its place
            known[pair] = entry
    timed = bool(known) and all(entry.time is not None for entry in known.values())
    time_h = np.array([entry.time for entry in known.values()], np.int64) if timed else None
    features = dataset.user_frame_of(user_features) if user_features else None
    one = Histories.of_one(
        np.array([row for row, *_ in known], np.int64),
        np.array([event_value(dataset, e.kind, e.value) for e in known.values()], np.float32),
        time_h, -1, features, event_codes(dataset, [e.kind for e in known.values()]),
    )  # fmt: skip
    unknown = [entry.item for row, entry in zip(row_n, entries, strict=True) if row < 0]
    return (one if time_h is None else one.sorted_by(time_h)), unknown


def event_value(dataset: Dataset, kind: str | None, value: float | None) -> float:
    """Return the value of one event as the data have it.

    Args:
        dataset: What the model was trained on.
        kind: The kind of the event; None for the target, or where the data have no kinds.
        value: A rating or weight, with kinds an amount; None for a like without one.

    Raises:
        UsageError: The data have no such kind.
    """
    if dataset.kinds is not None:
        return dataset.kinds.value(kind, value)
    check_kind(dataset, kind)
    return dataset.liked if value is None else float(value)


def event_codes(dataset: Dataset, kinds: Sequence[str | None]) -> np.ndarray | None:
    """Return the codes of kinds of events, (entries,) int64; None where the data have no kinds.

    Args:
        dataset: What the model was trained on.
        kinds: Names; None for the target.
    """
    if dataset.kinds is None:
        return None
    names = [dataset.kinds.target if kind is None else kind for kind in kinds]
    return np.array([dataset.kinds.code(name) for name in names], np.int64)


def check_kind(dataset: Dataset, kind: str | None) -> None:
    """Raise UsageError where the data have no such kind of event; the error names the kinds.

    Args:
        dataset: What the model was trained on.
        kind: A name; None is always right.
    """
    if kind is not None and dataset.kinds is None:
        raise UsageError(
            f"kind {kind!r}: the data have no kinds of events.", fix="Leave the kind out."
        )
    if kind is not None and dataset.kinds is not None:
        dataset.kinds.code(kind)


def check_value(dataset: Dataset, item: Id, value: object, what: str = "history") -> None:
    """Raise UsageError where a value is off the scale of the ratings, or no finite number.

    Args:
        dataset: Its scale counts where it has ratings.
        item: Whose value it is, for the error.
        value: The value.
        what: Where it came from, for the error.
    """
    low, high = dataset.scale if dataset.explicit else (-math.inf, math.inf)
    if isinstance(value, Real) and low <= float(value) <= high and math.isfinite(value):
        return
    span = f"Ratings lie in {low:g} to {high:g}."
    raise UsageError(
        f"{what}: item {item!r}: got the value {value!r}.",
        fix=span if dataset.explicit else "Weights are finite numbers.",
    )


def _entries(dataset: Dataset, history: History) -> list[Entry]:
    """Return a history as entries, its values checked."""
    if isinstance(history, Mapping):
        rated = cast("Mapping[Id, Any]", history)
        for item, value in rated.items():
            check_value(dataset, item, value)
        return [Entry(item, value) for item, value in rated.items()]
    entries = [e if isinstance(e, Entry) else Entry(e) for e in several(history, "history", Entry)]
    for entry in entries:
        check_kind(dataset, entry.kind)
        if entry.value is not None:
            check_value(dataset, entry.item, entry.value)
    return entries


def resolve_candidates(
    request: Request, dataset: Dataset, matching_i: np.ndarray | None
) -> tuple[Tensor | None, dict[str, list[Id]]]:
    """Return the items that may be listed, (items,) bool or None for all, and unknown ids by field.

    Args:
        request: The question.
        dataset: What the model was trained on.
        matching_i: The items that satisfy the request's condition, (items,) bool; None without one.
    """
    unknown: dict[str, list[Id]] = {}
    if matching_i is None and not len(request.exclude) and request.candidates is None:
        return None, unknown

    def rows(field_name: str, ids: Sequence[Id]) -> np.ndarray:
        asked = several(ids, field_name)
        found = dataset.items.find(asked)
        if (found < 0).any():
            unknown[field_name] = [asked[n] for n in np.flatnonzero(found < 0)]
        return found[found >= 0]

    allowed_i = np.ones(len(dataset.items), dtype=bool)
    if request.candidates is not None:
        allowed_i[:] = False
        allowed_i[rows("candidates", request.candidates)] = True
    if len(request.exclude):
        allowed_i[rows("exclude", request.exclude)] = False
    if matching_i is not None:
        allowed_i &= matching_i
    return torch.from_numpy(allowed_i), unknown
