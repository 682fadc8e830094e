"""What is asked, in external ids, as arrays: whose history it is, and which items may be listed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch

from foretaste.data.dataset import Dataset, id_table
from foretaste.data.histories import Histories, histories_of
from foretaste.errors import UnknownIdError, UsageError, refuse_fork
from foretaste.recommending.filters import matching

Id = str | int
History = Sequence[Id] | Sequence[str] | Mapping[str, float] | Mapping[int, float]


def batch_for(
    dataset: Dataset, user: Id | None = None, users: Sequence[Id] | None = None,
    history: History | None = None, user_features: Mapping[str, Any] | None = None,
) -> Histories:  # fmt: skip
    """The histories of one user, of several, or of someone described by one.

    user_features: what else is known of the latter, by the columns of the user table.
    """
    refuse_fork()
    if sum(x is not None for x in (user, users, history)) != 1:
        raise UsageError(
            "give exactly one of user, users and history.", fix="A stranger is a history."
        )
    if history is not None:
        told = dataset.user_frame_of(user_features) if user_features else None
        return replace(_stranger(dataset, history), user_features=told)
    if user_features:
        raise UsageError(
            "user_features is of someone new.", fix="Give a history with it, [] for none."
        )
    asked = [user] if users is None else several(users, "users")
    try:
        rows = dataset.users.rows(asked)
    except UnknownIdError as error:
        hint = "For someone new, give a history: what they have seen or rated."
        raise UnknownIdError("user", error.ids, fix=f"{error.fix} {hint}") from None
    return histories_of(dataset, rows, dataset)


def _stranger(dataset: Dataset, history: History) -> Histories:
    low, high = dataset.scale if dataset.explicit else (-math.inf, math.inf)
    if not isinstance(history, Mapping):
        liked = high if dataset.explicit else 1.0
        items = several(history, "history")
        values = [liked] * len(items)
    else:
        items, values = list(history), list(history.values())
    rated: dict[int, float] = {}
    for item, row, value in zip(items, dataset.items.rows(items), values, strict=True):
        if not (isinstance(value, Real) and low <= value <= high and math.isfinite(value)):
            span = f"Ratings lie in {low:g} to {high:g}."
            raise UsageError(
                f"history: item {item!r}: got {value!r}.",
                fix=span if dataset.explicit else "Weights are finite numbers.",
            )
        rated.pop(int(row), None)  # named twice: the last one counts, and its place
        rated[int(row)] = float(value)
    return Histories(
        torch.tensor([0, len(rated)]), torch.tensor(list(rated), dtype=torch.int64),
        torch.tensor(list(rated.values()), dtype=torch.float32), None, torch.tensor([-1]),
    )  # fmt: skip


def allowed_items(
    dataset: Dataset, where: str | None, exclude: Sequence[Id], candidates: Sequence[Id] | None
) -> torch.Tensor | None:
    """The items that may be listed: (items,) bool; None for all of them."""
    if where is None and not len(exclude) and candidates is None:
        return None
    allowed_i = np.ones(len(dataset.items), dtype=bool)
    if candidates is not None:
        allowed_i[:] = False
        allowed_i[dataset.items.rows(several(candidates, "candidates"))] = True
    if len(exclude):
        allowed_i[dataset.items.rows(several(exclude, "exclude"))] = False
    if where is not None:
        allowed_i &= matching(where, id_table(dataset.items, dataset.item_table))
    return torch.from_numpy(allowed_i)


def several(ids: Sequence[Any], what: str) -> list[Any]:
    """The ids as a list, whatever sequence they came in; one string is no list of characters."""
    if isinstance(ids, str | bytes):
        raise UsageError(f"{what}={ids!r} is one text.", fix=f"Give a list: {what}=[{ids!r}].")
    return list(ids)
