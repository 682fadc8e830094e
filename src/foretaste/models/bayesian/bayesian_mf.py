"""Bayesian matrix factorisation with side information, session drift and individual noise.

The equations and their draws are in gibbs.py.  This module makes the features and the chain, keeps
its draws, and predicts for users that fold_in.py folds in given those draws.
Axes: as in gibbs.py, with u users, i items, s kept draws, h history entries, q pairs to predict,
c columns of raw features, f of their principal directions.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import polars as pl
import torch
from torch import Generator, Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.features import Column, encode, learn_columns
from foretaste.data.histories import Histories
from foretaste.errors import ModelError
from foretaste.models import penalties
from foretaste.models.base import RatingPrediction, Shape, searched
from foretaste.models.bayesian import gibbs, probit, sampling, side_information
from foretaste.models.bayesian.draws import Draws
from foretaste.models.bayesian.fold_in import FoldIn, chunks
from foretaste.models.bayesian.gibbs import Chain, Side
from foretaste.models.bayesian.sampling import Schedule
from foretaste.models.learning_ratings import LearnsFromRatings
from foretaste.training.engine import Engine

MAX_LEVELS = 32  # of a discrete scale
TRIED_FACTORS = 16  # on held-out ratings, to learn whether factors are worth having
FEWEST_RATINGS = 2  # the precision of a single rating is not positive definite


@dataclass(eq=False)
class BayesianMF(LearnsFromRatings):
    """Predict ratings and standard deviations by averages over draws of a block Gibbs sampler.

    It does not know why items were rated: a missing rating carries no evidence of its value, so
    that lists are by expected rating alone, and popularity counts no more than it moves a prior
    mean.  Tastes and items are the same at all times but for a user's drift, which is interpolated
    between ratings and forecasts nothing.  Standard deviations are those of the model: kept draws
    of one chain, noise that is Gaussian (or a probit's), and a user's vector given the means of its
    drift and noise.

    Args:
        n_factors: Factors of a user and of an item.
        implicit_rank: Principal directions kept of who rated what, 0 for none.
        features: Whether the columns of the item and user tables shift the prior means.
        drift_seconds: Time scales of a user's drift, [] for none; a rating is then interpolated
            from the user's ratings before and after it.
        user_noise: Degrees of freedom of each user's noise, 0 for one noise.
        item_noise: Degrees of freedom of each item's noise, 0 for one noise.
        burn_in: Sweeps before the first draw is kept.
        samples: Draws kept where the chain does not settle sooner.
        keep_every: Sweeps from one kept draw to the next.
        tolerance: Monte Carlo error of posterior means, in standard deviations of the noise, below
            which the chain stops; 0 never stops it.
        likelihood: "gaussian", or "probit" for the levels of a discrete scale.
        keep_factors: "auto" to leave all factors out, and the noise of users and items, where no
            factors beat the biases by two standard errors on a held-out tenth of the ratings
            (`penalties.best_l2`), or "always".

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> ratings = pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": [5, 2]})
        >>> model = ft.BayesianMF(n_factors=2, burn_in=2, samples=2, keep_every=1)
        >>> recommender = ft.fit(model, ft.from_frame(ratings))
        >>> 2 <= recommender.predict(users=["a"], items=["y"])["rating"].item() <= 5
        True
    """

    name: ClassVar[str] = "bayesian-mf"
    reads_users: ClassVar[bool] = True

    n_factors: int = searched(32, 8, 128, log=True)
    implicit_rank: int = searched(128, 32, 512, log=True)
    features: bool = True
    drift_seconds: list[float] = field(default_factory=lambda: [3.0, 100.0, 3000.0])
    user_noise: float = searched(10.0, 1.0, 100.0, log=True)
    item_noise: float = searched(20.0, 1.0, 100.0, log=True)
    burn_in: int = 50
    samples: int = 100
    keep_every: int = 3
    tolerance: float = 0.08
    likelihood: Literal["gaussian", "probit"] = searched("gaussian", choices=["gaussian", "probit"])
    keep_factors: Literal["auto", "always"] = "auto"
    mixing_: dict[str, float] = field(init=False, repr=False)  # split R-hat
    notes_: list[str] = field(init=False, repr=False)
    n_trained_: int = field(init=False, repr=False)  # items; later rows are at their prior means
    item_columns_: list[Column] = field(init=False, repr=False)
    item_table_cf_: Tensor = field(init=False, repr=False)
    item_average_f_: Tensor = field(init=False, repr=False)  # implicit features of a new item,
    item_spread_f_: Tensor = field(init=False, repr=False)  # and their variances
    item_beta_sfk_: Tensor = field(init=False, repr=False)
    item_mu_sk_: Tensor = field(init=False, repr=False)
    item_Lambda_skk_: Tensor = field(init=False, repr=False)
    item_sik_: Tensor = field(init=False, repr=False)  # the last row is the average new item
    item_noise_si_: Tensor = field(init=False, repr=False)
    item_mean_sik_: Tensor = field(init=False, repr=False)  # of what item_sik_ was drawn from
    item_doubt_si_: Tensor = field(init=False, repr=False)  # variance of a rating about that mean
    user_implicit_cf_: Tensor = field(init=False, repr=False)
    user_average_f_: Tensor = field(init=False, repr=False)
    user_columns_: list[Column] = field(init=False, repr=False)
    user_table_cf_: Tensor = field(init=False, repr=False)
    user_table_uf_: Tensor = field(init=False, repr=False)
    user_beta_sfk_: Tensor = field(init=False, repr=False)
    user_mu_sk_: Tensor = field(init=False, repr=False)
    user_Lambda_skk_: Tensor = field(init=False, repr=False)
    alpha_s_: Tensor = field(init=False, repr=False)
    offset_s_: Tensor = field(init=False, repr=False)  # mean of the noise, where it is skewed
    tau_sc_: Tensor = field(init=False, repr=False)
    cut_sl_: Tensor = field(init=False, repr=False)  # of a probit, whose levels are:
    levels_l_: Tensor = field(init=False, repr=False)

    # -- fitting

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Run the chain from its last checkpoint, if there is one, and keep draws of it."""
        _refuse_double()
        if len(train) < FEWEST_RATINGS:
            raise ModelError(
                f"{self.name} learns from {FEWEST_RATINGS} ratings or more, and {train.name} has "
                f"{len(train)}.", fix="Give more ratings, or train bias.",
            )  # fmt: skip
        rng = Generator(engine.torch_device)
        rng.manual_seed(engine.generator("gibbs").initial_seed())
        chain = self._chain(train, engine.torch_device, rng)
        # Random numbers depend on the kind of device, and so do the draws.
        identity = json.dumps([self.identity(train, engine), engine.torch_device.type])
        schedule = Schedule(self.burn_in, self.samples, self.keep_every, self.tolerance)
        kept = sampling.run(chain, schedule, rng, engine, identity)
        self.mixing_ = sampling.mixing(kept.pop("trace"), kept["alpha_s_"])
        self.notes_ = sampling.mixing_notes(self.mixing_)
        for name, draws in kept.items():
            setattr(self, name, draws.cpu())
        average_1f = torch.zeros(1, self.item_table_cf_.shape[1])
        for name in ("item_sik_", "item_mean_sik_"):
            setattr(self, name, torch.cat([getattr(self, name), self._prior_means(average_1f)], 1))
        self.item_noise_si_ = torch.cat([self.item_noise_si_, self._new_noise(1)], 1)
        return self

    def _chain(self, train: Dataset, device: torch.device, rng: Generator) -> Chain:
        """Make the chain before its first sweep, and keep the bases of both sides' features."""
        x, n_users, n_items = train.interactions, len(train.users), len(train.items)
        self.n_trained_, k = n_items, self._chosen_factors(train) + 1
        y_n, n_levels = self._observed(train), len(self.levels_l_)
        user_n, item_n = (torch.from_numpy(r).long().to(device) for r in (x.user_r, x.item_r))
        time_n = None if x.time_r is None else torch.from_numpy(x.time_r).to(device)
        sides: list[Side] = []
        for row_n, partner_n, sizes, table, freedom in (
            (user_n, item_n, (n_users, n_items), train.user_table, self._noise(k)[0]),
            (item_n, user_n, (n_items, n_users), train.item_table, self._noise(k)[1]),
        ):
            F_rc = side_information.implicit_features(row_n, partner_n, *sizes)
            implicit_cf = side_information.principal_basis(F_rc, self.implicit_rank, rng)
            B_rf = side_information.project(F_rc, implicit_cf)
            share_r = torch.bincount(row_n) / len(row_n)
            average_f = share_r @ B_rf
            columns = learn_columns(table) if self.features else []
            T_rc = torch.from_numpy(encode(table, columns, sizes[0])).to(device)
            table_cf = side_information.principal_basis(T_rc, T_rc.shape[1], rng)
            T_rf = side_information.project(T_rc, table_cf)
            sides.append(gibbs.new_side(row_n, partner_n, *sizes, [B_rf, T_rf], freedom, k, rng))
            if row_n is user_n:
                self.user_implicit_cf_, self.user_average_f_ = implicit_cf.cpu(), average_f.cpu()
                self.user_columns_, self.user_table_cf_ = columns, table_cf.cpu()
                self.user_table_uf_ = T_rf.cpu()
            else:
                self.item_columns_, self.item_average_f_ = columns, average_f.cpu()
                self.item_spread_f_ = (share_r @ (B_rf - average_f).square()).cpu()
                self.item_table_cf_ = table_cf.cpu()
        y_n = y_n.to(device)
        return gibbs.new_chain(y_n, sides[0], sides[1], time_n, self.drift_seconds, n_levels)

    def auto_fields(self, train: Dataset) -> dict[str, float]:
        """Return how many factors there are, none and one noise where they beat no biases."""
        if self.keep_factors == "always":
            return {}
        fitted = hasattr(self, "item_sik_")
        k = self.item_sik_.shape[-1] if fitted else self.unfitted()._chosen_factors(train) + 1
        if k > self.n_factors:
            return {"n_factors": self.n_factors}
        return {"n_factors": 0, "user_noise": 0.0, "item_noise": 0.0}

    def _noise(self, k: int) -> tuple[float, float]:
        """Return degrees of freedom of the noise of users and of items, 0 for one noise.

        Where the ratings say nothing of factors, they say too little of noise that is a user's own:
        one noise had the lower RMSE and the higher density on three sets of three.
        """
        left_out = k <= self.n_factors
        return (0.0, 0.0) if left_out else (self.user_noise, self.item_noise)

    def _chosen_factors(self, train: Dataset) -> int:
        """Return the number of factors, 0 where the ratings say that none are worth having.

        Where users have few ratings, and those are skewed, products of factors fit the tails of the
        noise: on Amazon's instruments (by time) 32 factors had an RMSE of 0.918, biases of 0.904.
        """
        if self.keep_factors == "always" or not self.n_factors:
            return self.n_factors
        l2 = penalties.best_l2(penalties.ratings_of(train, self.learn_unit(train)), TRIED_FACTORS)
        return 0 if l2 == penalties.NO_FACTORS else self.n_factors

    def _observed(self, train: Dataset) -> Tensor:
        """Return standardised ratings, or levels for a probit, which are kept.

        A scale of too many levels is a ModelError.
        """
        y_n, self.levels_l_ = self.learn_unit(train), torch.zeros(0)
        if self.likelihood == "gaussian":
            return y_n
        value_n = torch.from_numpy(train.interactions.value_r)
        self.mean_, self.unit_, self.levels_l_ = 0.0, 1.0, value_n.unique()
        if len(self.levels_l_) > MAX_LEVELS:
            raise ModelError(
                f"likelihood='probit' is for scales of at most {MAX_LEVELS} levels; these ratings "
                f"have {len(self.levels_l_):,}.", fix="Use likelihood='gaussian'.",
            )  # fmt: skip
        return probit.level_of(value_n, self.levels_l_)

    # -- new items

    def with_items(self, table: pl.DataFrame) -> Self:
        """Return a copy that also scores new items, at their prior means given their columns."""
        T_ic = torch.from_numpy(encode(table, self.item_columns_, len(table)))
        T_if = side_information.project(T_ic, self.item_table_cf_)
        new_sik, new_si = self._prior_means(T_if), self._new_noise(len(table))
        new = {"item_sik_": new_sik, "item_mean_sik_": new_sik, "item_noise_si_": new_si}
        new["item_doubt_si_"] = self.item_doubt_si_[:, -1:].expand_as(new_si)
        grown = copy.copy(self)
        for name, draws in new.items():
            old = getattr(self, name)
            setattr(grown, name, torch.cat([old[:, :-1], draws, old[:, -1:]], 1))
        return grown

    def _prior_means(self, T_if: Tensor) -> Tensor:
        """Return the prior means of new items, from the features of their columns: (s, i, k)."""
        B_if = torch.cat([self.item_average_f_.expand(len(T_if), -1), T_if], 1)
        return self.item_mu_sk_[:, None] + B_if @ self.item_beta_sfk_

    def _new_noise(self, items: int) -> Tensor:
        """Return noise precisions of new items, 1 over the expected variance: (s, i)."""
        nu = self._noise(self.item_mu_sk_.shape[1])[1]
        return torch.full((len(self.alpha_s_), items), 1 - 2 / nu if nu > 2 else 1.0)

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """Put back what `state` returned; noise has no mean in bundles of 0.1.0."""
        super().restore(tensors, values)
        if "offset_s_" not in tensors:
            self.offset_s_ = torch.zeros_like(self.alpha_s_)
        return self

    # -- users folded in from their histories

    def score(self, histories: Histories) -> Tensor:
        """Return expected ratings without drift, before clipping: (B, items).

        A user's scores do not depend on the others; the memory beside them is bounded.

        Args:
            histories: Histories of B users, who need not have been in training.
        """
        _refuse_double()
        score_bi = torch.empty(len(histories), self.item_sik_.shape[1] - 1)
        for users_b, fold, draws in self._folded(histories, torch.zeros(len(histories)).long()):
            score_bi[users_b] = fold.scores(draws)
        return score_bi.mul_(self.unit_).add_(self.mean_)

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Return posterior means, clipped to the scale, and predictive standard deviations.

        Each user is folded in once, however many ratings are asked for.

        Args:
            histories: Histories of B users.
            user_p: Positions of the users among the histories: (P,), int64.
            item_p: Rows of the items: (P,), int64; -1, an unknown item, is the average new one.
            time_p: When the ratings are given: (P,), in milliseconds; a user's drift is then
                interpolated from the ratings before and after.  With None, drift contributes its
                variance alone.
        """
        _refuse_double()
        mean_p, std_p = torch.empty(len(item_p)), torch.empty(len(item_p))
        order_p = torch.argsort(user_p, stable=True)
        pairs_b = torch.bincount(user_p, minlength=len(histories))
        sorted_b = order_p.split(pairs_b.tolist())  # the pairs of each user
        for users_b, fold, draws in self._folded(histories, pairs_b):
            p = torch.cat([sorted_b[b] for b in users_b.tolist()])
            user_q = torch.repeat_interleave(torch.arange(len(users_b)), pairs_b[users_b])
            time_q = None if time_p is None else time_p[p]
            mean_p[p], std_p[p] = fold.predict(draws, user_q, item_p[p], time_q)
        return RatingPrediction(self.clipped(mean_p), std_p.mul_(self.unit_))

    def _folded(
        self, histories: Histories, pairs_b: Tensor
    ) -> Iterator[tuple[Tensor, FoldIn, int]]:
        """Yield chunks of users folded in, and how many draws to take at once for each."""
        names = [f.name for f in dataclasses.fields(Draws)]
        values = {n: getattr(self, n if hasattr(self, n) else f"{n}_") for n in names}
        values["user_noise"] = self._noise(self.item_sik_.shape[-1])[0]
        draws = Draws(**values)
        for users_b, at_once in chunks(histories, pairs_b, self.item_sik_.shape[-1]):
            part = histories.take(users_b)
            yield users_b, FoldIn(draws, part, self.user_features(part)), at_once

    def user_features(self, histories: Histories) -> Tensor:
        """Return features of users, of what they rated and of their columns: (B, f).

        Args:
            histories: Histories of B users; one who is new and without columns is average.
        """
        known_h = histories.item_h < self.n_trained_
        user_h, item_h = histories.user_h[known_h], histories.item_h[known_h]
        F_bc = side_information.implicit_features(user_h, item_h, len(histories), self.n_trained_)
        B_bf = side_information.project(F_bc, self.user_implicit_cf_)
        B_bf[torch.bincount(user_h, minlength=len(histories)) == 0] = self.user_average_f_
        T_bf = histories.features(self.user_table_uf_, self._table_features)
        return torch.cat([B_bf, T_bf], 1)

    def _table_features(self, about: pl.DataFrame) -> Tensor:
        """Return features of lines of a user table, in the basis of training: (B, f)."""
        T_bc = torch.from_numpy(encode(about, self.user_columns_, len(about)))
        return side_information.project(T_bc, self.user_table_cf_)

    def cost(self, shape: Shape) -> Cost:
        """Estimate outer products of padded ratings, then a Cholesky factor for each row.

        The seconds are those of all sweeps, in proportion to how many `tolerance` lets the default
        take on average.
        """
        n, rows, k = shape.interactions, shape.users + shape.items, self.n_factors + 1
        sweeps = (self.burn_in + self.samples * self.keep_every) / 350  # 1 at the defaults
        of_rating = 0.7 * (k / 33) ** 2 + 0.1 * len(self.drift_seconds)
        of_row = 0.7 * (k / 33) ** 3 + 0.3 * self.implicit_rank / 128 * k / 33
        return Cost(
            seconds=2 + sweeps * (4.5e-5 * n * of_rating + 1e-3 * rows * of_row),
            memory_bytes=600 * n + 120 * rows * self.samples * k / 33,
        )


def _refuse_double() -> None:
    """Raise a ModelError where torch makes tensors in double precision by default."""
    if torch.get_default_dtype() != torch.float32:
        raise ModelError(
            "bayesian-mf computes in single precision, and torch's default is "
            f"{torch.get_default_dtype()}.",
            fix="Call torch.set_default_dtype(torch.float32) first.",
        )  # fmt: skip
