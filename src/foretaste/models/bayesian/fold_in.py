"""Users folded in from their histories, given kept draws of the items: all draws at once.

The memory and time of a user are in proportion to entries, pairs and draws.  Users come in chunks,
and the draws of a chunk in slices, so that a chunk and a slice hold FLOATS_AT_ONCE numbers, or one
user and one draw: one user takes a few passes over all draws, and thousands of users take one pass
for each draw.  Every draw starts from the average of a few.  What a user gets does not depend on
which users are folded in together.
Axes: as in bayesian_mf.py, with b users of a chunk, d padded entries of a block, m nodes of drift.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from foretaste.data.histories import Histories
from foretaste.models.bayesian import drift, factor_rows, probit
from foretaste.models.bayesian.draws import Draws
from foretaste.models.bayesian.drift import Bridge

START = 4  # draws, spread over the chain, from whose average every draw starts
ROUNDS = 5, 2  # rounds of fold-in at those draws, and then at every draw
VARIANCE_EVERY = 4  # draws between new variances, which change little from draw to draw
FLOATS_AT_ONCE = 1 << 22  # numbers in a chunk of users and a slice of draws, to bound memory
USERS_AT_ONCE = 8192  # users in a chunk at the highest, however short their histories


def chunks(histories: Histories, pairs_b: Tensor, k: int) -> Iterator[tuple[Tensor, int]]:
    """Yield chunks of users, the shortest histories first, and how many draws to take at once.

    Args:
        histories: Histories of all B users.
        pairs_b: How many ratings of each user are to be predicted: (B,), int64.
        k: Numbers in the vector of a user.

    Yields:
        Positions of the users of a chunk (b,), and the number of draws of a slice.
    """
    order_b = torch.argsort(histories.length_b, stable=True)
    floats_b = (k * (histories.length_b + pairs_b + k))[order_b]  # of one draw
    last_b = floats_b.cumsum(0)
    first = 0
    while first < len(order_b):
        before = int(last_b[first] - floats_b[first])
        limit = before + FLOATS_AT_ONCE // START
        last = int(torch.searchsorted(last_b, limit, right=True))
        last = min(max(last, first + 1), first + USERS_AT_ONCE)
        yield order_b[first:last], max(1, FLOATS_AT_ONCE // (int(last_b[last - 1]) - before))
        first = last


class FoldIn:
    """A chunk of users, laid out for any draws, with the average that every draw starts from.

    It knows the history and the features of a user, and nothing of the vector that the chain drew
    for a user of training.
    """

    def __init__(self, draws: Draws, histories: Histories, B_bf: Tensor) -> None:
        """Lay out the histories, and take the rounds from which every draw starts.

        Args:
            draws: The kept draws.
            histories: Histories of b users.
            B_bf: Features of the users: (b, f).
        """
        self.draws, self.B_bf, self.users = draws, B_bf, len(histories)
        self.user_h, self.count_b = histories.user_h, histories.length_b
        rows, self.k = draws.item_sik.shape[1:]
        self.item_h = histories.item_h.remainder(rows)  # -1 is the last row, the average new item
        self.new_h = (histories.train_row_b < 0)[self.user_h]
        self.y_h = (histories.value_h - draws.mean) / draws.unit
        self.level_h = None
        if len(draws.levels_l):
            self.level_h = probit.level_of(histories.value_h, draws.levels_l)
        self.time, self.phi_cm = None, []
        if histories.time_h is not None and len(self.item_h) and draws.tau_sc.shape[1]:
            self.time = drift.timeline(self.user_h, histories.time_h)
            self.phi_cm = [self.time.decay(seconds) for seconds in draws.drift_seconds]
        self.blocks = factor_rows.padded_blocks(self.user_h, self.item_h, self.users, rows)
        exact = self.time is None and not draws.user_noise and self.level_h is None
        self.rounds, self.start = (1 if exact else ROUNDS[1]), None
        if not exact:
            self.start = Posterior(self, slice(None, None, -(-len(draws) // START)))
            self.start.move(ROUNDS[0])

    def given(self, draws: slice, noise: bool = True) -> Posterior:
        """Return the posterior given each draw of a range.

        Args:
            draws: The range of draws, whose length bounds the memory.
            noise: Whether noise and drift are wanted too, given the last vectors.
        """
        found = Posterior(self, draws)
        found.move(self.rounds, noise)
        return found

    def _slices(self, width: int) -> Iterator[slice]:
        """Return ranges of at most `width` draws that together make all draws."""
        return (slice(s, s + width) for s in range(0, len(self.draws), width))

    def scores(self, width: int) -> Tensor:
        """Return expected standardised ratings without drift: (b, items).

        Args:
            width: How many draws to take at once.
        """
        draws, n_items = self.draws, self.draws.item_sik.shape[1] - 1
        V_sik = draws.item_mean_sik if self.level_h is None else draws.item_sik
        total_bi = torch.zeros(self.users, n_items)
        for s in self._slices(width):
            given, V_ski = self.given(s, noise=self.level_h is not None), V_sik[s, :-1].mT
            bias_sb1 = given.X_sbk[..., -1:]
            x_sbk = _regressors(given.X_sbk)
            if self.level_h is None:
                total_bi = total_bi.addbmm_(x_sbk, V_ski)
                total_bi += bias_sb1.sum(0) + given.of.offset_s.sum()
                continue
            at_once = max(1, FLOATS_AT_ONCE // (total_bi.numel() * len(draws.levels_l)))
            for t in torch.arange(len(x_sbk)).split(at_once):
                fit_sbi = x_sbk[t] @ V_ski[t] + bias_sb1[t]
                noise_sb1 = (given.alpha_s1 * given.noise_sb)[t][..., None]
                deviation_sbi = (noise_sb1 * given.of.item_noise_si[t, None, :-1]).rsqrt()
                total_bi += self._stars(fit_sbi, deviation_sbi, given.of.cut_sl[t])[0].sum(0)
        return total_bi / len(draws)

    def _stars(
        self, fit_sbi: Tensor, deviation_sbi: Tensor, cut_sl: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return means and variances of a probit's ratings; any axes may follow that of draws."""
        cut_sbil = cut_sl.view(len(cut_sl), *[1] * (fit_sbi.ndim - 1), -1)
        return probit.rating_moments(fit_sbi, deviation_sbi, cut_sbil, self.draws.levels_l)

    def predict(
        self, width: int, user_q: Tensor, item_q: Tensor, time_q: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return means, less the mean rating, and standard deviations of pairs: (q,) each.

        Args:
            width: How many draws to take at once.
            user_q: Positions of the users in the chunk: (q,).
            item_q: Rows of the items: (q,); -1 is an item of which nothing is known.
            time_q: Times in milliseconds: (q,), or None where drift is not to be interpolated.
        """
        bridges, draws = [], self.draws
        if self.time is not None and time_q is not None:
            bridges = [self.time.bridge(x, user_q, time_q) for x in draws.drift_seconds]
        item_q = item_q.remainder(draws.item_sik.shape[1])
        # Means take the means of items, about which their draws scatter; spreads take the draws.
        total_q, drawn_q, square_q = torch.zeros(3, len(item_q))
        variance_vq = torch.zeros(1, len(item_q))
        for s in self._slices(width):
            given = self.given(s)
            drift_sq = torch.zeros(len(given.of), len(item_q))
            for bridge, s_sm in zip(bridges, given.s_csm, strict=False):
                drift_sq += bridge.mean(s_sm)
            x_sqk = given.X_sbk[:, user_q]
            mean_sq, rated_sq = (
                drift_sq + factor_rows.dot(x_sqk, V_sik.index_select(1, item_q))
                for V_sik in (given.of.item_mean_sik, given.of.item_sik)
            )
            fresh_s = torch.arange(s.start, s.start + len(given.of)) % VARIANCE_EVERY == 0
            fresh_vq = given.variance(fresh_s.nonzero()[:, 0], user_q, item_q, bridges)
            variance_sq = torch.cat([variance_vq[-1:], fresh_vq])[fresh_s.cumsum(0)]
            variance_vq, spread_sq = variance_sq, variance_sq
            if self.level_h is not None:
                mean_sq, spread_sq = self._stars(rated_sq, variance_sq.sqrt(), given.of.cut_sl)
                rated_sq = mean_sq
            else:
                mean_sq = mean_sq + given.of.offset_s[:, None]
            total_q += mean_sq.sum(0)
            drawn_q += rated_sq.sum(0)
            square_q += (rated_sq.square() + spread_sq).sum(0)
        S = len(draws)
        return total_q / S, (square_q / S - (drawn_q / S).square()).clamp(min=1e-6).sqrt()


class Posterior:
    """The mean-field posterior of users given each of s draws: vectors, drift and noise, in turn.

    Given noise and drift, the conditional of the vectors is the sampler's own.  The items have not
    learned from a new user, so that for such a user their uncertainty counts as noise.
    """

    def __init__(self, users: FoldIn, draws: slice) -> None:
        """Start from the average of a few draws, or from no drift and noise precisions of 1.

        Args:
            users: A chunk of users.
            draws: A range of the draws.
        """
        self.users, self.of = users, users.draws.of(draws)
        S, k, of = len(self.of), users.k, self.of
        self.alpha_s1 = of.alpha_s[:, None]
        if users.time is None:  # without times, drift cannot be separated from noise
            self.alpha_s1 = 1 / (1 / self.alpha_s1 + (1 / of.tau_sc).sum(1, keepdim=True))
        self.D = self._partners()
        self.G_sbkk = torch.empty(S, users.users, k, k)
        for block, D_sbdk in zip(users.blocks, self.D, strict=True):
            self.G_sbkk[:, block.rows_b] = D_sbdk.mT @ D_sbdk
        prior_sbk = of.user_mu_sk[:, None] + users.B_bf @ of.user_beta_sfk
        self.h_sbk = prior_sbk @ of.user_Lambda_skk
        start, self.tau_cs1 = users.start, of.tau_sc.T[..., None]
        self.y_sh, self.latent_sh = users.y_h.expand(S, -1), torch.zeros(S, len(users.y_h))
        if start is None:
            self.noise_sb, self.fit_sh = torch.ones(S, users.users), torch.zeros_like(self.y_sh)
            nodes = len(users.phi_cm[0]) if users.phi_cm else 0
            self.s_csm = torch.zeros(len(users.phi_cm), S, nodes)
        else:
            means = (x.mean(0, keepdim=True) for x in (start.noise_sb, start.fit_sh))
            self.noise_sb, self.fit_sh = (x.expand(S, -1) for x in means)
            self.s_csm = start.s_csm.mean(1, keepdim=True).repeat(1, S, 1)

    def _partners(self) -> list[Tensor]:
        """Return the items of each block as regressors, and keep their noise and their biases.

        The regressors are zero where padded: (s, b, d, k) for each block.
        """
        users, of, new_h = self.users, self.of, self.users.new_h
        item_h, mean_sik, drawn_sik = users.item_h, of.item_mean_sik, of.item_sik
        noise_sh, doubt_sh = (x[:, item_h] for x in (of.item_noise_si, of.item_doubt_si))
        # Items that have not learned from the user are more uncertain.
        self.item_noise_sh = noise_sh / (1 + self.alpha_s1 * noise_sh * doubt_sh * new_h)
        self.root_sh = self.item_noise_sh.sqrt()
        # Users of training meet items as they were drawn together, and new users their means.
        drawn_sh, mean_sh = drawn_sik[..., -1][:, item_h], mean_sik[..., -1][:, item_h]
        self.bias_sh = torch.where(new_h, mean_sh, drawn_sh)
        root_sh, item_h = nn.functional.pad(self.root_sh, (0, 1)), nn.functional.pad(item_h, (0, 1))
        new_h, D = nn.functional.pad(new_h, (0, 1)), []
        for ratings_bd in (block.ratings_bd for block in users.blocks):
            new_n, item_n = new_h[ratings_bd].flatten(), item_h[ratings_bd].flatten()
            some_new = bool(new_n.any())
            V_snk = (mean_sik if some_new else drawn_sik).index_select(1, item_n)
            if some_new and not new_n.all():
                known_n = (~new_n).nonzero()[:, 0]
                V_snk[:, known_n] = drawn_sik.index_select(1, item_n[known_n])
            V_snk[..., -1] = 1
            V_sbdk = V_snk.view(len(of), *ratings_bd.shape, users.k)
            D.append(V_sbdk.mul_(root_sh[:, ratings_bd, None]))
        return D

    def move(self, rounds: int, noise: bool = True) -> None:
        """Take rounds of vectors given the rest, and the rest given the vectors.

        Args:
            rounds: How many rounds to take.
            noise: Whether the last round, too, ends with the rest.
        """
        for left in range(rounds)[::-1]:
            self._move_latent()
            self._move_vectors()
            if left or noise:
                self._move_rest()

    def _move_latent(self) -> None:
        """Set the latent means and variances of a probit given the fit."""
        users = self.users
        if users.level_h is None:
            return
        root_sh = (self.alpha_s1 * self.noise_sb[:, users.user_h] * self.item_noise_sh).sqrt()
        self.y_sh, self.latent_sh = probit.latent_moments(
            self.fit_sh, self.of.cut_sl, users.level_h, root_sh
        )

    def _move_vectors(self) -> None:
        """Set means and Cholesky factors of the precisions of the vectors, given the rest."""
        users = self.users
        weight_sb = self.alpha_s1 * self.noise_sb
        P_sbkk = weight_sb[..., None, None] * self.G_sbkk + self.of.user_Lambda_skk[:, None]
        self.L_sbkk = torch.linalg.cholesky(P_sbkk)
        z_sh = nn.functional.pad(
            (self.y_sh - self.bias_sh - self._drift_sh()) * self.root_sh, (0, 1)
        )
        h_sbk = torch.empty_like(self.h_sbk)
        for block, D_sbdk in zip(users.blocks, self.D, strict=True):
            z_sbd = z_sh[:, block.ratings_bd]
            h_sbk[:, block.rows_b] = (z_sbd[..., None, :] @ D_sbdk)[..., 0, :]
        h_sbk = self.h_sbk + weight_sb[..., None] * h_sbk
        self.X_sbk = torch.cholesky_solve(h_sbk[..., None], self.L_sbkk)[..., 0]

    def _drift_sh(self) -> Tensor:
        """Return the drift of each entry of the histories: (s, h)."""
        time = self.users.time
        return torch.zeros_like(self.bias_sh) if time is None else self.s_csm.sum(0)[:, time.node_n]

    def _move_rest(self) -> None:
        """Set drift and noise given the vectors."""
        users = self.users
        fit_sh = self.bias_sh.new_empty(len(self.of), len(users.y_h) + 1)
        for block, D_sbdk in zip(users.blocks, self.D, strict=True):
            fit_sh[:, block.ratings_bd] = (D_sbdk @ self.X_sbk[:, block.rows_b, :, None])[..., 0]
        rest_sh = self.y_sh - self.bias_sh - fit_sh[:, :-1] / self.root_sh
        variance_sh = self._smooth(rest_sh) + self.latent_sh
        drift_sh = self._drift_sh()
        self.fit_sh = self.y_sh - rest_sh + drift_sh
        if users.draws.user_noise:
            self._weigh(((rest_sh - drift_sh).square() + variance_sh) * self.item_noise_sh)

    def _smooth(self, rest_sh: Tensor) -> Tensor:
        """Set drift means given the rest, and return about what variance they leave each entry."""
        users, time = self.users, self.users.time
        if time is None:
            return torch.zeros_like(rest_sh)
        weight_sh = self.alpha_s1 * self.noise_sb[:, users.user_h] * self.item_noise_sh
        weight_sm, h_sm = time.sums(weight_sh), time.sums(weight_sh * rest_sh)
        drift.draw_drifts(self.s_csm, self.tau_cs1.clone(), users.phi_cm, h_sm, weight_sm, None)
        # An approximation: beside its own ratings, a node learns from its two neighbours alone.
        variance_s1 = (1 / self.tau_cs1).sum(0)
        ties = (phi_m / tau for phi_m, tau in zip(users.phi_cm, self.tau_cs1, strict=True))
        tie_sm = (sum(ties, torch.zeros_like(weight_sm)) / variance_s1) ** 2
        pad = nn.functional.pad
        self.before_sm = weight_sm + tie_sm * pad(weight_sm[:, :-1], (1, 0))
        self.after_sm = weight_sm + pad(tie_sm[:, 1:] * weight_sm[:, 1:], (0, 1))
        known_sm = 1 / variance_s1 + self.before_sm + self.after_sm - weight_sm
        return (1 / known_sm)[:, time.node_n]

    def _weigh(self, square_sh: Tensor) -> None:
        """Set noise precisions of users from expected squared residuals over the items' noise."""
        users, nu = self.users, self.users.draws.user_noise
        energy_sb = torch.zeros_like(self.noise_sb).index_add_(1, users.user_h, square_sh)
        # The vector's own variance is the trace of Sigma D^T D, where weight D^T D = P - Lambda.
        Sigma_sbkk = torch.cholesky_inverse(self.L_sbkk)
        trace_sb = users.k - (Sigma_sbkk * self.of.user_Lambda_skk[:, None]).sum((2, 3))
        energy_sb = self.alpha_s1 * energy_sb + trace_sb / self.noise_sb
        self.noise_sb = (nu + users.count_b) / (nu + energy_sb)

    def variance(
        self, at_v: Tensor, user_q: Tensor, item_q: Tensor, bridges: list[Bridge]
    ) -> Tensor:
        """Return variances of ratings by noise, the user's vector, new items' and drift: (v, q).

        Args:
            at_v: Positions of some of the s draws: (v,).
            user_q: Positions of the users in the chunk: (q,).
            item_q: Rows of the items: (q,).
            bridges: Nodes before and after, by time scale; [] where drift is not interpolated.
        """
        users, of, k = self.users, self.of, self.users.k
        noise_vq = self.noise_sb[at_v][:, user_q] * of.item_noise_si[at_v][:, item_q]
        variance_vq = 1 / (self.alpha_s1[at_v] * noise_vq)
        if not len(at_v):
            return variance_vq
        Sigma_vbkk = torch.cholesky_inverse(self.L_sbkk[at_v])
        at_once = max(1, FLOATS_AT_ONCE // (len(at_v) * k * k))
        for q in torch.arange(len(item_q)).split(at_once):
            x_vqk = _regressors(of.item_sik[at_v[:, None], item_q[q]])
            Sx_vqk = (Sigma_vbkk[:, user_q[q]] @ x_vqk[..., None])[..., 0]
            variance_vq[:, q] += (Sx_vqk * x_vqk).sum(-1)
        new_q = (item_q >= of.n_trained).nonzero()[:, 0]
        if len(new_q):
            x_vqk = _regressors(self.X_sbk[at_v[:, None], user_q[new_q]])
            beta_vfk = of.item_beta_sfk[at_v, : len(of.item_spread_f)]
            Sigma_vkk = torch.linalg.inv(of.item_Lambda_skk[at_v])
            Sigma_vkk = Sigma_vkk + beta_vfk.mT * of.item_spread_f @ beta_vfk
            variance_vq[:, new_q] += (x_vqk @ Sigma_vkk * x_vqk).sum(-1)
        if users.time is not None:
            variance_vq += drift.bridged_variance(
                bridges, self.tau_cs1[:, at_v], self.before_sm[at_v], self.after_sm[at_v]
            )
        return variance_vq


def _regressors(X_sqk: Tensor) -> Tensor:
    """Return vectors with a one in place of the bias."""
    return torch.cat([X_sqk[..., :-1], torch.ones_like(X_sqk[..., :1])], -1)
