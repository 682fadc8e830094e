"""Ratings in a unit of their own: what every model that fits ratings starts from.

Axes: r ratings, h history entries, p pairs to predict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from foretaste.data.dataset import Dataset
from foretaste.models.base import Model


@dataclass(eq=False)
class LearnsFromRatings(Model):
    """A model that fits ratings less their mean, in units of their standard deviation.

    Its hyperparameters therefore mean the same on a scale of 5 and on one of 100, and ratings times
    c, or plus c, give predictions times c, or plus c.  It does not know the scale beyond its lowest
    and highest value, to which predictions are clipped.
    """

    needs_ratings: ClassVar[bool] = True

    # The defaults are those of bundles of 0.1.0, which lack a unit: their ratings were not divided.
    mean_: float = field(init=False, repr=False, default=0.0)
    unit_: float = field(init=False, repr=False, default=1.0)
    scale_: list[float] = field(init=False, repr=False)

    def learn_unit(self, train: Dataset) -> Tensor:
        """Learn mean, standard deviation and scale of the ratings, and return them standardised.

        Args:
            train: The ratings to learn from.

        Returns:
            Standardised ratings in the order of the interactions: (r,), single.
        """
        value_r = train.interactions.value_r
        self.scale_ = list(train.scale)
        self.mean_ = float(value_r.mean(dtype="float64"))
        spread = float(value_r.std(dtype="float64"))
        # Ratings that are all equal have a spread of rounding errors alone.
        self.unit_ = spread if spread > 1e-6 * abs(self.mean_) else 1.0
        return self.standardised(torch.from_numpy(value_r))

    def standardised(self, value_h: Tensor) -> Tensor:
        """Return ratings less the mean of training, in units of its standard deviation.

        Args:
            value_h: Ratings, of any axes.
        """
        return (value_h - self.mean_) / self.unit_

    def in_ratings(self, standardised_p: Tensor) -> Tensor:
        """Return standardised ratings in the unit of the ratings, not clipped.

        Args:
            standardised_p: Standardised ratings, of any axes.
        """
        return standardised_p * self.unit_ + self.mean_

    def clipped(self, standardised_p: Tensor) -> Tensor:
        """Return standardised ratings in the unit of the ratings, clipped to their scale.

        Args:
            standardised_p: Standardised ratings, of any axes.
        """
        return self.in_ratings(standardised_p).clamp(*self.scale_)
