"""Likes: the weight of each interaction, computed alike in training and in serving."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse

from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories, histories_of
from foretaste.errors import ModelError
from foretaste.models.base import Model, default_threshold

DAY_MS = 86_400_000


@dataclass(eq=False)
class LearnsFromLikes(Model):
    """A model to which a history is a set of weighted likes.

    With kinds of events, an entry weighs its value, the weight of its kind times its amount, and
    the entries of one user and item are summed before what is not above 0 is left out, so that a
    kind of negative weight counts against an item.  Without kinds, values are ratings or clicks.

    It does not know the order of a history beyond the age of each like.  Unless a model adds them,
    dislikes, which lie below the threshold, count as little as what the user has not met.

    Args:
        positive_threshold: The lowest rating that counts as liked; None for three quarters up the
            scale (4 of 5 stars).  Clicks of a weight above 0 all count.  With kinds it is the
            lowest sum of the values of one item.
        weighting: "uniform" for equal weights; "graded" for a rating as a share of the scale (0.8
            for 4 of 5 stars); "log" for log2(1 + value), which suits counts.  An item that a user
            has repeatedly weighs as its last entry does, with "log" by the sum of the values.  With
            kinds, "log" is the weight of the kind times log2(1 + amount), and the others are the
            value.
        half_life_days: Age in days, from the newest interaction of training, at which a like
            weighs half; None where age does not matter.
        activity_power: Exponent p of the weight (n / m)^-p that each like of a user with n likes
            has, where m is the mean of n in training; 0 weighs all likes equally, and 1 weighs all
            users equally.
        fallback: "popularity" where lists for users of few likes lean on what is popular, by
            weights that training learns from a second fit (`models/newcomers/learning.py`); "none"
            for the scores of the model alone, however short the history.
    """

    positive_threshold: float | None = field(default=None, kw_only=True)
    weighting: Literal["uniform", "graded", "log"] = field(default="uniform", kw_only=True)
    half_life_days: float | None = field(default=None, kw_only=True)
    activity_power: float = field(default=0.0, kw_only=True)
    fallback: Literal["popularity", "none"] = field(default="popularity", kw_only=True)
    border_: float = field(init=False, repr=False)
    scale_: list[float] = field(init=False, repr=False)
    newest_: int | None = field(init=False, repr=False)
    mean_likes_: float = field(init=False, repr=False)
    kind_weights_: list[float] | None = field(init=False, repr=False, default=None)

    def learn_likes(self, train: Dataset) -> Any:
        """Learn the threshold, scale, newest time and mean number of likes, and weigh the likes.

        Args:
            train: The interactions to learn from.

        Returns:
            A CSR matrix of weights, single: (users, items).

        Raises:
            ModelError: Times are needed and missing, or nothing is liked.
        """
        time_r = train.interactions.time_r
        if self.half_life_days is not None and time_r is None:
            raise ModelError("half_life_days needs times.", fix="Name the column of times.")
        self.kind_weights_ = None if train.kinds is None else [*train.kinds.weights]
        self.border_ = default_threshold(train, self.positive_threshold)
        self.scale_ = [train.scale[0] - train.step, train.scale[1]]
        self.newest_ = None if time_r is None else int(time_r.max())
        n_likes = int((train.interactions.value_r >= self.border_).sum())
        self.mean_likes_ = max(1.0, n_likes / max(1, len(train.users)))
        everyone = histories_of(train, np.arange(len(train.users)), train)
        X_ui = self.likes(everyone, len(train.items))
        if self.needs_interactions and not X_ui.nnz:
            highest = train.interactions.value_r.max(initial=-np.inf)
            raise ModelError(
                f"{self.name} learns from what is liked, and nothing is: the highest of "
                f"{len(train):,} values is {highest:g}, and what is liked begins at "
                f"{self.border_:g} (weighting={self.weighting!r}).",
                fix="Lower positive_threshold, or choose another weighting.",
            )
        rules = self.rules(X_ui)
        self.auto_ = {name: v for name, v in rules.items() if getattr(self, name) == "auto"}
        return X_ui

    def rules(self, X_ui: Any) -> dict[str, float]:
        """Return what fields come to where they are "auto", by rules of the likes.

        Args:
            X_ui: Weights of likes, CSR: (users, items).
        """
        return {}

    def auto_fields(self, train: Dataset) -> dict[str, float]:
        """Return what the fields whose value is "auto" come to on some data, by name."""
        fresh = self.unfitted()
        if "auto" not in fresh.hyperparameters().values():
            return {}
        fresh.learn_likes(train)
        return fresh.auto_

    def likes(self, histories: Histories, n_items: int) -> Any:
        """Return the weights of what each history likes; a like without a time counts as new.

        Args:
            histories: Histories of B users.
            n_items: How many items, and so columns, there are.

        Returns:
            A CSR matrix, single: (B, items).
        """
        value_h = histories.value_h.numpy()
        weight_h = self._recency(histories)
        if self.kind_weights_ is not None:
            X_bi = self._summed(histories, weight_h, n_items)
            X_bi.data[X_bi.data < self.border_] = 0.0
            X_bi.eliminate_zeros()
        else:
            if self.weighting == "graded":
                zero, top = self.scale_
                weight_h = weight_h * (value_h - np.float32(zero)) / np.float32(top - zero)
            liked_h = (value_h >= self.border_) & (weight_h > 0)
            X_bi = _entries(histories, liked_h, weight_h, n_items, summed=False)
            if self.weighting == "log":  # of the count of a repeated item, not of each repeat
                X_bi.data *= np.log2(1 + _entries(histories, liked_h, value_h, n_items).data)
        if self.activity_power:
            n_b = np.diff(X_bi.indptr)
            scale_b = (n_b.clip(min=1) / self.mean_likes_) ** -self.activity_power
            X_bi.data *= np.repeat(scale_b, n_b).astype(np.float32)
        return X_bi

    def dislikes(self, histories: Histories, n_items: int) -> Any:
        """Return the weights, by age alone, of what each history has and does not like.

        With kinds of events this is what its entries speak against in sum, and how strongly.

        Args:
            histories: Histories of B users.
            n_items: How many items, and so columns, there are.

        Returns:
            A CSR matrix, single: (B, items).
        """
        if self.kind_weights_ is not None:
            X_bi = self._summed(histories, self._recency(histories), n_items)
            X_bi.data = -X_bi.data.clip(max=0.0)
            X_bi.eliminate_zeros()
            return X_bi
        unliked_h = histories.value_h.numpy() < self.border_
        return _entries(histories, unliked_h, self._recency(histories), n_items)

    def _summed(self, histories: Histories, recency_h: np.ndarray, n_items: int) -> Any:
        """Return the sums of the values of each user and item: CSR (B, items)."""
        value_h = histories.value_h.numpy()
        if self.weighting == "log":
            one_h = np.ones(len(value_h), np.float32)
            weights = np.array(self.kind_weights_, np.float32)
            weight_h = one_h if histories.kind_h is None else weights[histories.kind_h.numpy()]
            amount_h = np.divide(value_h, weight_h, out=one_h - 1, where=weight_h != 0)
            value_h = weight_h * np.log2(1 + amount_h.clip(min=0))
        everything_h = np.ones(len(value_h), dtype=bool)
        return _entries(histories, everything_h, value_h * recency_h, n_items)

    def _recency(self, histories: Histories) -> np.ndarray:
        """Weigh each entry by age: 1 where it is new or has no time, half with every half-life."""
        if self.half_life_days is None or self.newest_ is None or histories.time_h is None:
            return np.ones(len(histories.item_h), np.float32)
        age_h = (self.newest_ - histories.time_h.numpy()).clip(min=0) / DAY_MS
        return np.exp2(-age_h / self.half_life_days).astype(np.float32)


def _entries(
    histories: Histories,
    kept_h: np.ndarray,
    weight_h: np.ndarray,
    n_items: int,
    summed: bool = True,
) -> Any:
    """Return the weights of the kept entries of histories, those of one item summed: CSR.

    Items are in the order of the history, by the last entry of each, whose weight alone counts
    where they are not summed.
    """
    kept, weight_h = histories.only(torch.from_numpy(kept_h)), weight_h[kept_h]
    pair_h = kept.user_h * n_items + kept.item_h
    ordered = pair_h.sort().values
    if (ordered[1:] == ordered[:-1]).any():
        place_h = np.argsort(pair_h.numpy(), kind="stable")
        pair_h = pair_h.numpy()[place_h]
        last_h = np.append(pair_h[1:] != pair_h[:-1], True)
        first_g = np.append(0, np.flatnonzero(last_h)[:-1] + 1)
        weight_h = weight_h.copy()
        if summed:
            weight_h[place_h[last_h]] = np.add.reduceat(weight_h[place_h], first_g)
        once_h = np.zeros(len(weight_h), dtype=bool)
        once_h[place_h[last_h]] = True
        kept, weight_h = kept.only(torch.from_numpy(once_h)), weight_h[once_h]
    parts = weight_h.astype(np.float32), kept.item_h.numpy(), kept.pointer_b.numpy()
    return sparse.csr_matrix(parts, shape=(len(histories), n_items))
