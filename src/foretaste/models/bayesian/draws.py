"""The kept draws of a chain, as folding users in reads them.

Axes: as in bayesian_mf.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

SLICED = {"sik", "si", "sfk", "sk", "skk", "s", "sc", "sl"}  # axes of fields with an axis of draws


@dataclass(frozen=True, eq=False)
class Draws:
    """What fold-in needs of the kept draws: the learned fields of BayesianMF, less a `_`.

    It does not know the users of training, who are folded in like everyone else.
    """

    mean: float
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
    tau_sc: Tensor
    cut_sl: Tensor
    levels_l: Tensor

    def __len__(self) -> int:
        return len(self.alpha_s)

    def of(self, draws: slice) -> Draws:
        """Return some of the draws.

        Args:
            draws: A contiguous range of them.
        """
        of_draws = {
            f.name: getattr(self, f.name)[draws]
            for f in dataclasses.fields(self)
            if f.name.rpartition("_")[2] in SLICED
        }
        return dataclasses.replace(self, **of_draws)
