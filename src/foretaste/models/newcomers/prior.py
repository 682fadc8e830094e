"""The prior of newcomers: with little history, lists of every model lean on what is popular."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.models.base import Model, ScoresByDot
from foretaste.models.baselines import Popularity
from foretaste.training.engine import Engine

FADED = 3.0  # times the longest history that a weight was learned at: there it has faded to 0


@dataclass(frozen=True)
class Prior:
    """How much popularity weighs beside a model, by how many likes a history has.

    Without a like, popularity alone decides.  With n likes, w(n) standard deviations of the scores
    of the user are added for each standard deviation of popularity; w is linear in log n between
    the lengths at which it was learned, and fades to 0 after the longest.  It does not know which
    items a user liked: the model does.

    Args:
        likes: The lengths of history at which weights were learned, ascending.
        weights: The weight at each of those.
        half_life_days: Of recent popularity; None where all interactions count equally.
        threshold: The lowest value that counts as liked.
        columns: Whether the model scores users without a like too, where their columns are known.
    """

    likes: Sequence[int] = ()
    weights: Sequence[float] = ()
    half_life_days: float | None = None
    threshold: float = 0.0
    columns: bool = False

    @classmethod
    def of(cls, training: Mapping[str, Any]) -> Self | None:
        """Return the prior that `training` of a bundle records; None for older bundles.

        Args:
            training: What `Recommender.training` holds.
        """
        recorded = training.get("prior")
        return None if recorded is None else cls(**recorded)

    def record(self) -> dict[str, Any]:
        """Return the prior as JSON values."""
        return asdict(self) | {"likes": [*self.likes], "weights": [*self.weights]}

    def weight(self, n_b: Tensor) -> Tensor:
        """Return the weights of histories, which mean nothing without a like: (B,), float32.

        Args:
            n_b: How many likes each history has: (B,).
        """
        if not self.likes:
            return torch.zeros(len(n_b), dtype=torch.float32)
        knots = np.log([*self.likes, FADED * self.likes[-1]])
        at_b = np.log(n_b.numpy().clip(min=1))
        return torch.from_numpy(np.interp(at_b, knots, [*self.weights, 0.0])).float()

    def n_likes(self, histories: Histories) -> Tensor:
        """Return how many likes each history has: (B,), int64.

        Args:
            histories: Histories of B users.
        """
        liked_h = histories.value_h >= self.threshold
        return torch.bincount(histories.user_h[liked_h], minlength=len(histories))

    def mixed(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Return of whom the model knows something, and what popularity weighs: (B,) each.

        Args:
            histories: Histories of B users.
        """
        n_b = self.n_likes(histories)
        known_b = n_b > 0
        if self.columns:
            known_b |= histories.train_row_b >= 0
            if histories.user_features is not None:
                filled = pl.any_horizontal(pl.all().is_not_null())
                known_b |= torch.tensor(
                    histories.user_features.select(filled).to_series().to_list()
                )
        return known_b, self.weight(n_b)

    def share(self, histories: Histories) -> Tensor:
        """Return the share of popularity in the spread of the scores: (B,), 1 for the unknown.

        Args:
            histories: Histories of B users.
        """
        known_b, weight_b = self.mixed(histories)
        return torch.where(known_b, weight_b / (1 + weight_b), 1.0)

    def popularity(self, train: Dataset) -> Tensor:
        """Return the popularity of items with mean 0 and standard deviation 1: (items,).

        Args:
            train: The interactions that are counted.
        """
        model = Popularity(half_life_days=self.half_life_days)
        return standard(model.fit(train, Engine(device="cpu")).count_i_)


def standard(count_i: Tensor) -> Tensor:
    """Return numbers with mean 0 and standard deviation 1; zeros where all are equal: (items,).

    Args:
        count_i: The numbers: (items,).
    """
    rest_i = count_i - count_i.mean()
    return rest_i / rest_i.square().mean().sqrt().clamp(min=1e-12)


class WithPrior:
    """The scores of a model, mixed with popularity; every list comes from here."""

    def __init__(self, model: Model, prior: Prior, popularity_i: Tensor) -> None:
        """Keep the parts.

        Args:
            model: A fitted model.
            prior: How much popularity weighs.
            popularity_i: Popularity with mean 0 and standard deviation 1: (items,).
        """
        self.model, self.prior, self.popularity_i = model, prior, popularity_i

    def score(self, histories: Histories) -> Tensor:
        """Return the mixed scores: (B, items).

        Args:
            histories: Histories of B users.
        """
        score_bi = self.model.score(histories)
        known_b, weight_b = self.prior.mixed(histories)
        mixed_b = ((weight_b > 0) | ~known_b).nonzero()[:, 0]
        if len(mixed_b):
            score_ci, known_c = score_bi[mixed_b].float(), known_b[mixed_b]
            spread_c = score_ci.std(dim=1, correction=0) * weight_b[mixed_b]
            score_ci[~known_c], spread_c[~known_c] = 0.0, 1.0
            score_bi[mixed_b] = score_ci.addcmul_(spread_c[:, None], self.popularity_i)
        return score_bi


class DotsWithPrior(WithPrior):
    """The same for a model that scores by dot products: popularity is one more factor."""

    model: Any

    def score(self, histories: Histories) -> Tensor:
        """Return the mixed scores: (B, items).

        Args:
            histories: Histories of B users.
        """
        return self.user_factors(histories) @ self.item_factors().T

    def user_factors(self, histories: Histories) -> Tensor:
        """Return the factors of histories, then what popularity weighs: (B, d + 1).

        Args:
            histories: Histories of B users.
        """
        user_bd = self.model.user_factors(histories)
        known_b, weight_b = self.prior.mixed(histories)
        spread_b = ((user_bd @ self._covariance_dd) * user_bd).sum(dim=1).clamp(min=0).sqrt()
        last_b = torch.where(known_b, spread_b * weight_b, 1.0)
        return torch.cat([user_bd * known_b[:, None], last_b[:, None]], dim=1)

    def item_factors(self) -> Tensor:
        """Return the factors of the items, then their popularity: (items, d + 1)."""
        return self._item_id

    @cached_property
    def _item_id(self) -> Tensor:
        return torch.cat([self.model.item_factors(), self.popularity_i[:, None]], dim=1)

    @cached_property
    def _covariance_dd(self) -> Tensor:
        """Return the covariance of the items' factors, which gives the spread of scores: (d, d)."""
        item_id = self.model.item_factors()
        rest_id = item_id - item_id.mean(dim=0)
        return rest_id.T @ rest_id / len(item_id)


def with_prior(model: Model, prior: Prior | None, train: Dataset) -> Any:
    """Return what ranks: the model itself without a prior, else its scores mixed with popularity.

    Args:
        model: A fitted model.
        prior: What training learned; None for nothing.
        train: The Dataset whose items are ranked.
    """
    if prior is None:
        return model
    kind = DotsWithPrior if isinstance(model, ScoresByDot) else WithPrior
    return kind(model, prior, prior.popularity(train))
