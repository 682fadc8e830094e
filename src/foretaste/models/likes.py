"""What was liked, and how much: one weight an interaction, the same in training and in serving."""

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
    """A model that sees histories as weighted likes, and nothing else of them.

    positive_threshold: the lowest rating that counts as liked; None for three quarters up the scale (4
    of 5 stars).  Clicks all count.  weighting: "uniform"; "graded", a rating as a share of the scale (4
    of 5 stars: 0.8); "log", log2(1 + value), for counts.  half_life_days: what is this much older
    than the newest interaction of the training weighs half; None: age does not matter.
    activity_power: a user of n likes, where training's mean is m, weighs each (n / m)^-power as
    much; 0: users who like much say as much more, 1: they say no more in all than others.
    """

    positive_threshold: float | None = field(default=None, kw_only=True)
    weighting: Literal["uniform", "graded", "log"] = field(default="uniform", kw_only=True)
    half_life_days: float | None = field(default=None, kw_only=True)
    activity_power: float = field(default=0.0, kw_only=True)
    border_: float = field(init=False, repr=False)
    scale_: list[float] = field(init=False, repr=False)
    newest_: int | None = field(init=False, repr=False)
    mean_likes_: float = field(init=False, repr=False)

    def learn_likes(self, train: Dataset) -> Any:
        """Find border, scale, newest time and mean likes; returns CSR weights (users, items)."""
        time_r = train.interactions.time_r
        if self.half_life_days is not None and time_r is None:
            raise ModelError("half_life_days needs times.", fix="Name the column of times.")
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
        return X_ui

    def likes(self, histories: Histories, n_items: int) -> Any:
        """Weights of what each history likes: CSR (B, items), single; a time unknown is recent."""
        value_h = histories.value_h.numpy()
        weight_h = self._recency(histories)
        if self.weighting == "graded":
            zero, top = self.scale_
            weight_h = weight_h * (value_h - np.float32(zero)) / np.float32(top - zero)
        elif self.weighting == "log":
            weight_h = weight_h * np.log2(1 + value_h.clip(min=0))
        X_bi = _entries(histories, (value_h >= self.border_) & (weight_h > 0), weight_h, n_items)
        if self.activity_power:
            n_b = np.diff(X_bi.indptr)
            scale_b = (n_b.clip(min=1) / self.mean_likes_) ** -self.activity_power
            X_bi.data *= np.repeat(scale_b, n_b).astype(np.float32)
        return X_bi

    def dislikes(self, histories: Histories, n_items: int) -> Any:
        """Weights of what each history has and does not like, by age alone: CSR (B, items)."""
        unliked_h = histories.value_h.numpy() < self.border_
        return _entries(histories, unliked_h, self._recency(histories), n_items)

    def _recency(self, histories: Histories) -> np.ndarray:
        """1 for what is new or without a time, half of it with every half-life: one an entry."""
        if self.half_life_days is None or self.newest_ is None or histories.time_h is None:
            return np.ones(len(histories.item_h), np.float32)
        age_h = (self.newest_ - histories.time_h.numpy()).clip(min=0) / DAY_MS
        return np.exp2(-age_h / self.half_life_days).astype(np.float32)


def _entries(histories: Histories, kept_h: np.ndarray, weight_h: np.ndarray, n_items: int) -> Any:
    """The marked entries of histories, by weight: CSR (B, items)."""
    kept = histories.only(torch.from_numpy(kept_h))
    parts = weight_h[kept_h], kept.item_h.numpy(), kept.pointer_b.numpy()
    return sparse.csr_matrix(parts, shape=(len(histories), n_items))
