"""The kept draws of a chain, in the form that folding users in reads.

Axes: as in bayesian_mf.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

SLICED = {"sik", "si", "sfk", "sk", "skk", "s", "sc", "sl"}  # axes of fields with an axis of draws


@dataclass(frozen=True, eq=False)
class Draws:
    """What fold-in needs of the kept draws: fields of BayesianMF, here without the last `_`.

    It does not know the users of training, who are folded in like everyone else.

    Args:
        mean: Mean rating of training, 0 for a probit.
        unit: Standard deviation of the ratings of training, 1 for a probit.
        n_trained: How many items training had.
        drift_seconds: Time scales of drift.
        user_noise: Degrees of freedom of each user's noise, 0 for one noise.
        item_sik: Vectors of the items, the last that of the average new item.
        item_mean_sik: Means of the conditionals that item_sik was drawn from.
        item_noise_si: Noise precisions of the items.
        item_doubt_si: Variances that not knowing an item adds to a rating of it.
        item_beta_sfk: Coefficients of item features.
        item_spread_f: Variances of implicit features over items.
        item_Lambda_skk: Prior precision of an item's vector.
        user_mu_sk: Prior mean of a user's vector.
        user_beta_sfk: Coefficients of user features.
        user_Lambda_skk: Prior precision of a user's vector.
        alpha_s: Noise precision of ratings.
        offset_s: Mean of the noise.
        tau_sc: Precision of the drift of each time scale.
        cut_sl: Cuts between the levels of a probit, or empty.
        levels_l: Levels of a probit, in the unit of the ratings, or empty.
    """

    mean: float
    unit: float
    n_trained: int
    drift_seconds: list[float]
    user_noise: float
    item_sik: Tensor
    item_mean_sik: Tensor
    item_noise_si: Tensor
    item_doubt_si: Tensor
    item_beta_sfk: Tensor
    item_spread_f: Tensor
    item_Lambda_skk: Tensor
    user_mu_sk: Tensor
    user_beta_sfk: Tensor
    user_Lambda_skk: Tensor
    alpha_s: Tensor
    offset_s: Tensor
    tau_sc: Tensor
    cut_sl: Tensor
    levels_l: Tensor

    def __len__(self) -> int:
        """Return how many draws there are."""
        return len(self.alpha_s)

    def of(self, draws: slice) -> Draws:
        """Return a range of the draws.

        Args:
            draws: The range, which may have steps.
        """
        of_draws = {
            f.name: getattr(self, f.name)[draws]
            for f in dataclasses.fields(self)
            if f.name.rpartition("_")[2] in SLICED
        }
        return dataclasses.replace(self, **of_draws)
