"""Expected ratings of pairs, in chunks of bounded memory; the evaluation comes here too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories, histories_of
from foretaste.errors import UsageError
from foretaste.models.base import PredictsRatings, RatingPrediction
from foretaste.recommending.arguments import several
from foretaste.recommending.request import History, Id, Request, resolve_user

USERS_AT_ONCE = 8192  # whose histories are folded in together: bounds memory


def rate(
    model: PredictsRatings, histories: Histories, user_p: Tensor, item_p: Tensor,
    time_p: Tensor | None = None,
) -> RatingPrediction:  # fmt: skip
    """Return expected ratings of P pairs; each user is folded in once, for all their pairs.

    Args:
        model: A fitted model.
        histories: Of B users.
        user_p: User b of each pair, (P,) int64.
        item_p: Item row of each pair, (P,) int64; -1 for an item that training never saw.
        time_p: When the ratings are given, (P,) milliseconds; None where that is unknown.
    """
    if len(histories) <= USERS_AT_ONCE:
        return model.predict(histories, user_p, item_p, time_p=time_p)
    mean_p = torch.empty(len(item_p), dtype=torch.float32)
    std_p = None
    for start in range(0, len(histories), USERS_AT_ONCE):
        p = ((user_p >= start) & (user_p < start + USERS_AT_ONCE)).nonzero()[:, 0]
        rated = model.predict(
            histories[start : start + USERS_AT_ONCE], user_p[p] - start, item_p[p],
            time_p=None if time_p is None else time_p[p],
        )  # fmt: skip
        mean_p[p] = rated.mean_p
        if rated.std_p is not None:
            std_p = torch.empty_like(mean_p) if std_p is None else std_p
            std_p[p] = rated.std_p
    return RatingPrediction(mean_p, std_p)


def rate_table(
    model: PredictsRatings, dataset: Dataset, users: Sequence[Id] | None, items: Sequence[Id],
    history: History | None, user_features: Mapping[str, Any] | None,
    unknown: Literal["fallback", "error"] | None,
) -> pl.DataFrame:  # fmt: skip
    """Return the table of `Recommender.predict`, whose arguments these are."""
    if unknown not in (None, "fallback", "error"):
        raise UsageError(f"unknown={unknown!r}.", fix="Use 'fallback' or 'error'.")
    asked = several(items, "items")
    if history is not None or user_features:
        request = Request(None, None, history, None, user_features)
        if users is not None:
            raise UsageError("give either users or a history.", fix="A new user is a history.")
        histories, _ = resolve_user(request, dataset)
        named: list[Id | None] = [None] * len(asked)
        user_p, new_p = np.zeros(len(asked), np.int64), np.zeros(len(asked), bool)
    else:
        named, histories, user_p, new_p = _paired(dataset, users, len(asked), unknown)
    strict = unknown == "error" or (unknown is None and len(asked) == 1)
    item_p = dataset.items.rows(asked) if strict else dataset.items.find(asked)
    rated = rate(model, histories, torch.from_numpy(user_p), torch.from_numpy(item_p))
    nothing = pl.Series([None] * len(asked), dtype=pl.Float32)
    return pl.DataFrame(
        {
            "user": pl.Series(named, dtype=dataset.users.values.dtype, strict=False)
            if not new_p.any()
            else pl.Series([None if u is None else str(u) for u in named], dtype=pl.String),
            "item": pl.Series(list(map(str, asked)), dtype=pl.String).cast(
                dataset.items.values.dtype if (item_p >= 0).all() else pl.String
            ),
            "rating": rated.mean_p.numpy(),
            "std": nothing if rated.std_p is None else rated.std_p.numpy(),
            "fallback": new_p | (item_p < 0),
        }
    )


def _paired(
    dataset: Dataset, users: Sequence[Id] | None, n_items: int, unknown: str | None
) -> tuple[list[Any], Histories, np.ndarray, np.ndarray]:
    """Return users by name, the histories of each once, whose each pair is, and who is unknown."""
    if users is None:
        raise UsageError("give either users or a history.", fix="A new user is a history.")
    named = several(users, "users")
    if len(named) == 1:
        named *= n_items
    if len(named) != n_items:
        raise UsageError(
            f"{len(named)} users and {n_items} items.", fix="Give one user for each item."
        )
    if unknown == "error" or (unknown is None and (len(users) == 1 or n_items == 1)):
        asked = Request(users=list(dict.fromkeys(named)))
        resolve_user(asked, dataset)  # names those that are unknown
    row_p = dataset.users.find(named)
    rows, user_p = np.unique(row_p, return_inverse=True)
    return named, histories_of(dataset, rows, dataset), user_p, row_p < 0
