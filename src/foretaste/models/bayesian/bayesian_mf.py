"""Bayesian matrix factorisation with side information, session drift and individual noise.

The model and its draws are in gibbs.py.  Here: what features rows have, the chain from its first
sweep to the draws that are kept, and users folded in from their histories given those draws.
Axes: as in gibbs.py, with u users, i items, s kept draws, h history entries, q pairs to predict,
c columns of raw features, f of their principal directions.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import polars as pl
import torch
from torch import Generator, Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.features import Column, encode, learn_columns
from foretaste.data.histories import Histories
from foretaste.errors import ModelError
from foretaste.models.base import Model, RatingPrediction, Shape
from foretaste.models.bayesian import drift, gibbs, probit, sampling
from foretaste.models.bayesian.drift import Bridge
from foretaste.models.bayesian.gibbs import Chain, Side
from foretaste.models.bayesian.sampling import Schedule
from foretaste.training.engine import Engine

ROUNDS = 5, 2  # of fold-in at the first draw, and at each later one, which starts from the last
VARIANCE_EVERY = 4  # draws between new variances, which change little from one to the next
USERS_AT_ONCE = 8192  # folded in together: bounds memory
MOST_LEVELS = 32  # of a discrete scale
PAIRS_AT_ONCE = 1 << 15  # whose covariances are gathered together


@dataclass(eq=False)
class BayesianMF(Model):
    """Posterior mean of ratings over draws of a block Gibbs sampler, with a standard deviation.

    implicit_rank: principal directions kept of who rated what, 0 for none.  features: whether the
    columns of the item and user tables shift the prior means.  drift_seconds: time scales of a
    user's drift, [] for none; a rating is then interpolated from the user's ratings before and
    after it.  user_noise, item_noise: degrees of freedom of individual noise, 0 for one noise.
    After burn_in sweeps every keep_every-th draw is kept, until the Monte Carlo error of the
    posterior means is below `tolerance` standard deviations of the noise, or there are `samples`.
    """

    name: ClassVar[str] = "bayesian-mf"
    reads_users: ClassVar[bool] = True
    needs_ratings: ClassVar[bool] = True

    n_factors: int = 32
    implicit_rank: int = 128
    features: bool = True
    drift_seconds: list[float] = field(default_factory=lambda: [3.0, 100.0, 3000.0])
    user_noise: float = 10.0
    item_noise: float = 20.0
    burn_in: int = 50
    samples: int = 100
    keep_every: int = 3
    tolerance: float = 0.08
    likelihood: Literal["gaussian", "probit"] = "gaussian"
    mean_: float = field(init=False, repr=False)
    scale_: list[float] = field(init=False, repr=False)
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
    tau_sc_: Tensor = field(init=False, repr=False)
    cut_sl_: Tensor = field(init=False, repr=False)  # of a probit, whose levels are:
    levels_l_: Tensor = field(init=False, repr=False)

    # -- fitting

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Run the chain, and keep draws of it."""
        rng = Generator(engine.torch_device)
        rng.manual_seed(engine.generator("gibbs").initial_seed())
        chain = self._chain(train, engine.torch_device, rng)
        run = {"model": self.name, "fields": self.hyperparameters(), "data": train.fingerprint}
        run |= {"seed": engine.seed, "device": engine.torch_device.type}  # its random numbers
        identity = json.dumps(run, sort_keys=True)
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
        """The chain before its first sweep; the bases of both sides' features go to the fields."""
        x, n_users, n_items = train.interactions, len(train.users), len(train.items)
        self.scale_, self.n_trained_ = list(train.scale), n_items
        y_n, n_levels = self._observed(torch.from_numpy(x.value_r)), len(self.levels_l_)
        user_n, item_n = (torch.from_numpy(r).long().to(device) for r in (x.user_r, x.item_r))
        time_n = None if x.time_r is None else torch.from_numpy(x.time_r).to(device)
        sides: list[Side] = []
        k = self.n_factors + 1
        for row_n, partner_n, sizes, table, freedom in (
            (user_n, item_n, (n_users, n_items), train.user_table, self.user_noise),
            (item_n, user_n, (n_items, n_users), train.item_table, self.item_noise),
        ):
            F_rc = gibbs.implicit_features(row_n, partner_n, *sizes)
            implicit_cf = gibbs.principal_basis(F_rc, self.implicit_rank, rng)
            B_rf = gibbs.project(F_rc, implicit_cf)
            share_r = torch.bincount(row_n) / len(row_n)
            average_f = share_r @ B_rf
            columns = learn_columns(table) if self.features else []
            T_rc = torch.from_numpy(encode(table, columns, sizes[0])).to(device)
            table_cf = gibbs.principal_basis(T_rc, T_rc.shape[1], rng)
            T_rf = gibbs.project(T_rc, table_cf)
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

    def _observed(self, value_n: Tensor) -> Tensor:
        """Ratings less their mean, or their levels for a probit; mean and levels to the fields."""
        self.mean_, self.levels_l_ = float(value_n.mean(dtype=torch.double)), torch.zeros(0)
        if self.likelihood == "gaussian":
            return value_n - self.mean_
        self.mean_, self.levels_l_ = 0.0, value_n.unique()
        if len(self.levels_l_) > MOST_LEVELS:
            raise ModelError(
                f"likelihood='probit' is for scales of at most {MOST_LEVELS} levels; these ratings "
                f"have {len(self.levels_l_):,}.", fix="Use likelihood='gaussian'.",
            )  # fmt: skip
        return probit.level_of(value_n, self.levels_l_)

    # -- new items

    def with_items(self, table: pl.DataFrame) -> Self:
        """A copy that also knows the lines of an item table, as rows after those it has.

        They are at their prior means given the columns: nobody has rated them yet.
        """
        T_ic = torch.from_numpy(encode(table, self.item_columns_, len(table)))
        T_if = gibbs.project(T_ic, self.item_table_cf_)
        new_sik, new_si = self._prior_means(T_if), self._new_noise(len(table))
        new = {"item_sik_": new_sik, "item_mean_sik_": new_sik, "item_noise_si_": new_si}
        new["item_doubt_si_"] = self.item_doubt_si_[:, -1:].expand_as(new_si)
        grown = copy.copy(self)
        for name, draws in new.items():
            old = getattr(self, name)
            setattr(grown, name, torch.cat([old[:, :-1], draws, old[:, -1:]], 1))
        return grown

    def _prior_means(self, T_if: Tensor) -> Tensor:
        """Prior means of items that nobody has rated, from their table features: (s, i, k)."""
        B_if = torch.cat([self.item_average_f_.expand(len(T_if), -1), T_if], 1)
        return self.item_mu_sk_[:, None] + B_if @ self.item_beta_sfk_

    def _new_noise(self, items: int) -> Tensor:
        """Noise precisions of items that nobody has rated, 1 over the expected variance: (s, i)."""
        nu = self.item_noise
        return torch.full((len(self.alpha_s_), items), 1 - 2 / nu if nu > 2 else 1.0)

    # -- users folded in from their histories

    def score(self, histories: Histories) -> Tensor:
        """Expected ratings without drift, before clipping: (B, items)."""
        total_bi = torch.zeros(len(histories), self.item_sik_.shape[1] - 1)
        fold = FoldIn(self, histories)
        for s in range(len(self.alpha_s_)):
            fold.step(s)
            V_ik = (self.item_sik_ if fold.probit else self.item_mean_sik_)[s, :-1]
            x_bk = torch.cat([fold.X_bk[:, :-1], torch.ones(len(histories), 1)], 1)
            fit_bi = x_bk @ V_ik.T + fold.X_bk[:, -1:]
            if self.likelihood == "probit":
                noise_bi = fold.alpha * fold.noise_b[:, None] * self.item_noise_si_[s, :-1]
                fit_bi = probit.rating_moments(
                    fit_bi, noise_bi.rsqrt(), self.cut_sl_[s], self.levels_l_
                )[0]
            total_bi += fit_bi
        return self.mean_ + total_bi / len(self.alpha_s_)

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Posterior means, predictive standard deviations; an unknown item is the average new one.

        Where the moments time_p of the ratings are given, the users' drift is interpolated from
        their ratings before and after; without them it contributes its variance alone.
        """
        mean_p, std_p = torch.empty(len(item_p)), torch.empty(len(item_p))
        for first in range(0, len(histories), USERS_AT_ONCE):
            p = ((user_p >= first) & (user_p < first + USERS_AT_ONCE)).nonzero()[:, 0]
            time_q = None if time_p is None else time_p[p]
            fold = FoldIn(self, histories[first : first + USERS_AT_ONCE])
            mean_p[p], std_p[p] = fold.predict(user_p[p] - first, item_p[p], time_q)
        return RatingPrediction((self.mean_ + mean_p).clamp(*self.scale_), std_p)

    def user_features(self, histories: Histories) -> Tensor:
        """Implicit features of the histories, and what the user table says: (B, f)."""
        known_h = histories.item_h < self.n_trained_
        user_h, item_h = histories.user_h[known_h], histories.item_h[known_h]
        F_bc = gibbs.implicit_features(user_h, item_h, len(histories), self.n_trained_)
        B_bf = gibbs.project(F_bc, self.user_implicit_cf_)
        B_bf[torch.bincount(user_h, minlength=len(histories)) == 0] = self.user_average_f_
        T_bf = histories.features(self.user_table_uf_, self._table_features)  # unknown: average
        return torch.cat([B_bf, T_bf], 1)

    def _table_features(self, about: pl.DataFrame) -> Tensor:
        """What lines of a user table say, in the basis of training: (B, f)."""
        T_bc = torch.from_numpy(encode(about, self.user_columns_, len(about)))
        return gibbs.project(T_bc, self.user_table_cf_)

    def cost(self, shape: Shape) -> Cost:
        """Outer products of padded ratings, a Cholesky factor for each row; kept draws."""
        n, rows, k = shape.interactions, shape.users + shape.items, self.n_factors + 1
        of_rating = 1.3e-7 * n * (0.7 * (k / 33) ** 2 + 0.1 * len(self.drift_seconds))
        of_row = 2.9e-6 * rows * (0.7 * (k / 33) ** 3 + 0.3 * self.implicit_rank / 128 * k / 33)
        seconds = 2 + (self.burn_in + self.samples * self.keep_every) * (of_rating + of_row)
        return Cost(seconds, memory_bytes=600 * n + 120 * rows * self.samples * k / 33)


class FoldIn:
    """Mean-field posterior of users given item draws: vector, drift and noise, in turn.

    Given noise and drift, the vector's conditional is the sampler's own; for a stranger, of whom
    the items have not learned, their uncertainty is noise.  Rounds go on from one draw to the next,
    since drift and noise hardly differ between draws.
    """

    def __init__(self, model: BayesianMF, histories: Histories) -> None:
        self.model, self.B_bf = model, model.user_features(histories)
        self.item_h, self.user_h = histories.item_h, histories.user_h
        self.probit = model.likelihood == "probit"
        self.y_h, self.fit_h = histories.value_h - model.mean_, torch.zeros_like(histories.value_h)
        self.level_h = probit.level_of(histories.value_h, model.levels_l_) if self.probit else None
        self.time, self.phi_cm = None, []
        if histories.time_h is not None and len(self.item_h) and model.tau_sc_.shape[1]:
            self.time = drift.timeline(self.user_h, histories.time_h)
            self.phi_cm = [self.time.decay(seconds) for seconds in model.drift_seconds]
        self.s_cm = torch.zeros(len(self.phi_cm), len(self.phi_cm[0]) if self.phi_cm else 0)
        self.noise_b = torch.ones(len(histories))
        self.count_b = histories.length_b
        n_items, k = model.item_sik_.shape[1:]
        # each item twice: as drawn together with the users of training, and as strangers know it
        self.partner_h = self.item_h + n_items * (histories.train_row_b < 0)[self.user_h]
        self.blocks = gibbs.padded_blocks(self.user_h, self.partner_h, len(histories), 2 * n_items)
        self.P_bkk = torch.empty(len(histories), k, k)

    def step(self, s: int) -> None:
        """Moves the posterior to draw number s."""
        model, rounds = self.model, ROUNDS[min(s, 1)]
        if self.time is None and not model.user_noise and not self.probit:
            rounds = 1  # exact
        self.alpha, tau_c = model.alpha_s_[s], model.tau_sc_[s]
        if self.time is None:  # a drift that nothing resolves is noise
            self.alpha = 1 / (1 / self.alpha + (1 / tau_c).sum())
        V_ik, noise_i = model.item_sik_[s], model.item_noise_si_[s]
        unseen_i = noise_i / (1 + self.alpha * noise_i * model.item_doubt_si_[s])
        noise_i, V_ik = torch.cat([noise_i, unseen_i]), torch.cat([V_ik, model.item_mean_sik_[s]])
        D_ik, Lambda_kk = gibbs.design(V_ik, noise_i), model.user_Lambda_skk_[s]
        prior_bk = model.user_mu_sk_[s] + self.B_bf @ model.user_beta_sfk_[s]
        noise_h, bias_h = noise_i[self.partner_h], V_ik[:, -1][self.partner_h]
        for _ in range(rounds):
            latent_h = self.latent(s, noise_h)
            y_h = self.y_h - bias_h - self.drift_h()
            self.X_bk, _, fit_h = gibbs.draw_rows(
                self.blocks, D_ik, y_h * noise_h.sqrt(), self.alpha * self.noise_b, prior_bk,
                Lambda_kk, None, self.P_bkk,
            )  # fmt: skip
            rest_h = self.y_h - bias_h - fit_h / noise_h.sqrt()
            variance_h = self.smooth(rest_h, noise_h, tau_c) + latent_h
            self.fit_h = self.y_h - rest_h + self.drift_h()
            if model.user_noise:
                self.weigh(((rest_h - self.drift_h()).square() + variance_h) * noise_h, Lambda_kk)

    def latent(self, s: int, noise_h: Tensor) -> Tensor:
        """Latent means of a probit given the fit; returns their variances, 0 where Gaussian."""
        if self.level_h is None:
            return torch.zeros_like(self.y_h)
        root_h = (self.alpha * self.noise_b[self.user_h] * noise_h).sqrt()
        cut_l = self.model.cut_sl_[s]
        self.y_h, spread_h = probit.latent_moments(self.fit_h, cut_l, self.level_h, root_h)
        return spread_h

    def drift_h(self) -> Tensor:
        """The drift of each history entry."""
        if self.time is None:
            return torch.zeros_like(self.y_h)
        return self.s_cm.sum(0)[self.time.node_n]

    def smooth(self, rest_h: Tensor, noise_h: Tensor, tau_c: Tensor) -> Tensor:
        """Drift means given the rest; returns about the variance that they leave each entry."""
        if self.time is None:
            return torch.zeros_like(rest_h)
        weight_h = self.alpha * self.noise_b[self.user_h] * noise_h
        weight_m, h_m = self.time.sums(weight_h), self.time.sums(weight_h * rest_h)
        drift.draw_drifts(self.s_cm, tau_c.clone(), self.phi_cm, h_m, weight_m, None)
        # as if only the nodes either side informed it beside its own ratings
        variance = (1 / tau_c).sum()
        ties = (phi_m / tau for phi_m, tau in zip(self.phi_cm, tau_c, strict=True))
        tie_m = (sum(ties, torch.zeros_like(weight_m)) / variance) ** 2
        zero_1 = weight_m.new_zeros(1)
        self.before_m = weight_m + tie_m * torch.cat([zero_1, weight_m[:-1]])
        self.after_m = weight_m + torch.cat([tie_m[1:] * weight_m[1:], zero_1])
        known_m = 1 / variance + self.before_m + self.after_m - weight_m
        return (1 / known_m)[self.time.node_n]

    def weigh(self, square_h: Tensor, Lambda_kk: Tensor) -> None:
        """The users' noise precisions, from expected squared residuals over the items' noise."""
        energy_b = torch.zeros_like(self.noise_b).index_add_(0, self.user_h, square_h)
        # the vector's own variance: the trace of Sigma D^T D, where weight D^T D = P - Lambda
        Sigma_bkk = torch.cholesky_inverse(torch.linalg.cholesky(self.P_bkk))
        trace_b = len(Lambda_kk) - (Sigma_bkk * Lambda_kk).sum((1, 2))
        energy_b, nu = self.alpha * energy_b + trace_b / self.noise_b, self.model.user_noise
        self.noise_b = (nu + self.count_b) / (nu + energy_b)

    def predict(
        self, user_q: Tensor, item_q: Tensor, time_q: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Means (less the mean rating) and standard deviations of pairs over all draws."""
        bridges, S = [], len(self.model.alpha_s_)
        if self.time is not None and time_q is not None:
            seconds_c = self.model.drift_seconds
            bridges = [self.time.bridge(seconds, user_q, time_q) for seconds in seconds_c]
        # means by the items' means, which draws scatter about; spreads by the draws
        total_q, drawn_q, square_q, variance_q = torch.zeros(4, len(item_q))
        for s in range(S):
            self.step(s)
            drift_q = torch.zeros_like(total_q)
            for bridge, s_m in zip(bridges, self.s_cm, strict=False):
                drift_q += bridge.mean(s_m)
            mean_q, rated_q = (
                drift_q + gibbs.dot(V_sik[s][item_q], self.X_bk[user_q])
                for V_sik in (self.model.item_mean_sik_, self.model.item_sik_)
            )
            if s % VARIANCE_EVERY == 0:
                variance_q = self.variance(s, user_q, item_q, bridges)
            spread_q = variance_q
            if self.probit:
                cut_l, levels_l = self.model.cut_sl_[s], self.model.levels_l_
                rated_q, spread_q = probit.rating_moments(
                    rated_q, variance_q.sqrt(), cut_l, levels_l
                )
                mean_q = rated_q
            total_q += mean_q
            drawn_q += rated_q
            square_q += rated_q.square() + spread_q
        return total_q / S, (square_q / S - (drawn_q / S).square()).clamp(min=1e-6).sqrt()

    def variance(self, s: int, user_q: Tensor, item_q: Tensor, bridges: list[Bridge]) -> Tensor:
        """Variance of ratings given draw s: noise, the user's vector, a new item's, drift."""
        model = self.model
        noise_q = self.noise_b[user_q] * model.item_noise_si_[s][item_q]
        variance_q = 1 / (self.alpha * noise_q)
        Sigma_bkk = torch.cholesky_inverse(torch.linalg.cholesky(self.P_bkk))
        D_ik = gibbs.design(model.item_sik_[s], torch.ones_like(model.item_noise_si_[s]))[:-1]
        for q in torch.arange(len(item_q)).split(PAIRS_AT_ONCE):
            x_qk = D_ik[item_q[q]]
            variance_q[q] += ((Sigma_bkk[user_q[q]] @ x_qk[..., None])[..., 0] * x_qk).sum(1)
        new_q = ((item_q < 0) | (item_q >= model.n_trained_)).nonzero()[:, 0]
        if len(new_q):
            x_qk = gibbs.design(self.X_bk, torch.ones(len(self.X_bk)))[user_q[new_q]]
            beta_fk = model.item_beta_sfk_[s, : len(model.item_spread_f_)]
            Sigma_kk = torch.linalg.inv(model.item_Lambda_skk_[s])
            Sigma_kk = Sigma_kk + beta_fk.T * model.item_spread_f_ @ beta_fk
            variance_q[new_q] += (x_qk @ Sigma_kk * x_qk).sum(1)
        if self.time is not None:
            variance_q += drift.bridged_variance(
                bridges, model.tau_sc_[s], self.before_m, self.after_m
            )
        return variance_q
