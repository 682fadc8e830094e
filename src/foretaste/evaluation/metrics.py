"""Metrics: pure functions from ranks or errors to one value per user.

A ranking metric is the expectation over the orders of tied items. A constant scorer therefore gets
what a random one gets, and no metric depends on how ties happen to be broken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from foretaste.data.histories import Histories
from foretaste.recommending.ranking import Lists


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the relevant items of B users stand, as far as the lists reach; not which items.

    Attributes:
        user_r: (R,) user of each relevant item that made the list's scores.
        above_r: (R,) candidates with a higher score.
        tied_r: (R,) candidates with the same score, itself included: the rank is uniform over
            above_r + 1 ... above_r + tied_r.
        relevant_b: (B,) relevant items of each user, found or not.
        depth: Ranks beyond it are not known, and count as misses.
    """

    user_r: Tensor
    above_r: Tensor
    tied_r: Tensor
    relevant_b: Tensor
    depth: int

    def expected(self, gain_r: Tensor) -> Tensor:
        """Return the sum of a gain over each user's relevant items.

        Args:
            gain_r: (R,) gain of each relevant item.

        Returns:
            (B,) double.
        """
        total_b = torch.zeros(len(self.relevant_b), dtype=torch.float64)
        return total_b.index_add_(0, self.user_r, gain_r.double())

    def within(self, k: int) -> Tensor:
        """Return the probability that each relevant item is among the first k.

        Args:
            k: Length of the list.

        Returns:
            (R,) double.
        """
        return ((k - self.above_r).double() / self.tied_r).clamp(0, 1)


def ranks(lists: Lists, probe: Histories, relevant_b: Tensor) -> Ranks:
    """Return the ranks of the probed items, from the lists and the scores that came with them.

    Args:
        lists: Lists of B users, with the scores of the probe.
        probe: Relevant items of each user that training knows.
        relevant_b: (B,) how many items count as relevant for each user, those unknown to training
            included.

    Returns:
        The Ranks, as far as the lists reach.
    """
    user_h, score_h = probe.user_h, lists.probe_h
    # The list ends at score_bk[-1]: an item that scores as much may be on it, one below cannot.
    last_h = lists.score_bk[user_h, -1]
    reached_h = (score_h >= last_h) & (score_h > -torch.inf)
    user_r, score_r = user_h[reached_h], score_h[reached_h]
    listed_rk = lists.score_bk[user_r]
    above_r = (listed_rk > score_r[:, None]).sum(dim=1)
    tied_r = (listed_rk == score_r[:, None]).sum(dim=1)
    # A group of ties at the end of the list goes on beyond it; tied_b counts all of it.
    tied_r = torch.where(score_r == last_h[reached_h], lists.tied_b[user_r], tied_r)
    return Ranks(user_r, above_r, tied_r, relevant_b, lists.score_bk.shape[1])


def recall(ranks: Ranks, k: int) -> Tensor:
    """Return the relevant items found in k places, divided by min(k, relevant).

    Args:
        ranks: Where the relevant items stand.
        k: Length of the list.

    Returns:
        (B,) double; of no meaning for a user without relevant items.
    """
    return ranks.expected(ranks.within(k)) / ranks.relevant_b.clamp(1, k)


def recall_all(ranks: Ranks, k: int) -> Tensor:
    """Return the relevant items found in k places, divided by all (as the LightGCN papers do).

    Args:
        ranks: Where the relevant items stand.
        k: Length of the list.

    Returns:
        (B,) double; of no meaning for a user without relevant items.
    """
    return ranks.expected(ranks.within(k)) / ranks.relevant_b.clamp(min=1)


def precision(ranks: Ranks, k: int) -> Tensor:
    """Return the share of the k places that hold a relevant item.

    Args:
        ranks: Where the relevant items stand.
        k: Length of the list.

    Returns:
        (B,) double; of no meaning for a user without relevant items.
    """
    return ranks.expected(ranks.within(k)) / k


def ndcg(ranks: Ranks, k: int) -> Tensor:
    """Return the normalised discounted cumulative gain, relevance binary, the ideal cut at k.

    Järvelin and Kekäläinen 2002; the discount of rank r is 1 / log2(r + 1).

    Args:
        ranks: Where the relevant items stand.
        k: Length of the list.

    Returns:
        (B,) double; of no meaning for a user without relevant items.
    """
    discount = 1 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
    cumulated = torch.cat([torch.zeros(1, dtype=torch.float64), discount.cumsum(0)])
    # The expected gain of one of m tied places is the mean of the discounts over these places,
    # those beyond k counting nothing.
    low_r, high_r = ranks.above_r.clamp(max=k), (ranks.above_r + ranks.tied_r).clamp(max=k)
    gain_r = (cumulated[high_r] - cumulated[low_r]) / ranks.tied_r
    return ranks.expected(gain_r) / cumulated[ranks.relevant_b.clamp(1, k)]


def hit_rate(ranks: Ranks, k: int) -> Tensor:
    """Return the probability that at least one relevant item is in the first k places.

    Args:
        ranks: Where the relevant items stand.
        k: Length of the list.

    Returns:
        (B,) double; of no meaning for a user without relevant items.
    """
    return _first_place(ranks, k).sum(dim=1)


def mrr(ranks: Ranks, k: int) -> Tensor:
    """Return the reciprocal rank of the first relevant item, 0 beyond k.

    Args:
        ranks: Where the relevant items stand.
        k: Length of the list.

    Returns:
        (B,) double; of no meaning for a user without relevant items.
    """
    place_k = torch.arange(1, k + 1, dtype=torch.float64)
    return (_first_place(ranks, k) / place_k).sum(dim=1)


def _first_place(ranks: Ranks, k: int) -> Tensor:
    """Probability that the first relevant item stands at each of k places: (B, k), double.

    Only the best group of ties matters: r relevant among m tied items, a of them better. The chance
    that the first j places of the group hold none is C(m - j, r) / C(m, r), built up factor by
    factor.
    """
    n_users = len(ranks.relevant_b)
    # Users without a hit keep the largest integer, which no place reaches.
    far = torch.iinfo(torch.int64).max
    above_b = torch.full((n_users,), far).scatter_reduce(0, ranks.user_r, ranks.above_r, "amin")
    best_r = ranks.above_r == above_b[ranks.user_r]
    tied_b = torch.ones(n_users, dtype=torch.int64)
    tied_b[ranks.user_r[best_r]] = ranks.tied_r[best_r]
    among_b = torch.zeros(n_users, dtype=torch.int64).index_add_(
        0, ranks.user_r[best_r], torch.ones_like(ranks.user_r[best_r])
    )
    place_k = torch.arange(k)
    drawn_bk = (place_k - above_b[:, None]).double()  # places of the group already seen
    in_group_bk = (drawn_bk >= 0) & (drawn_bk < tied_b[:, None])
    # Drawing without replacement: among those left, the chance that the next place holds a relevant
    # one given that none did before.
    left_bk = (tied_b[:, None] - drawn_bk).clamp(min=1)
    found_bk = torch.where(in_group_bk, (among_b[:, None] / left_bk).clamp(max=1), 0.0)
    none_before_bk = torch.cat(
        [torch.ones(n_users, 1, dtype=torch.float64), (1 - found_bk).cumprod(dim=1)[:, :-1]], dim=1
    )
    return found_bk * none_before_bk


RANKING = {
    "recall": recall,
    "recall_all": recall_all,
    "precision": precision,
    "ndcg": ndcg,
    "hit_rate": hit_rate,
    "mrr": mrr,
}


def squared_errors(error_p: Tensor, user_p: Tensor, n_users: int) -> Tensor:
    """Return the sum of squared errors of each user.

    Args:
        error_p: (P,) predicted less true rating.
        user_p: (P,) user of each rating.
        n_users: B.

    Returns:
        (B,) double.
    """
    return torch.zeros(n_users, dtype=torch.float64).index_add_(
        0, user_p, error_p.double().square()
    )


def absolute_errors(error_p: Tensor, user_p: Tensor, n_users: int) -> Tensor:
    """Return the sum of absolute errors of each user.

    Args:
        error_p: (P,) predicted less true rating.
        user_p: (P,) user of each rating.
        n_users: B.

    Returns:
        (B,) double.
    """
    return torch.zeros(n_users, dtype=torch.float64).index_add_(0, user_p, error_p.double().abs())


def covered(
    error_p: Tensor, std_p: Tensor, user_p: Tensor, n_users: int, share: float = 0.9
) -> Tensor:
    """Return how many ratings lie in the central Gaussian interval of a probability.

    Args:
        error_p: (P,) predicted less true rating.
        std_p: (P,) predictive standard deviation.
        user_p: (P,) user of each rating.
        n_users: B.
        share: The probability.

    Returns:
        (B,) double.
    """
    reach = NormalDist().inv_cdf((1 + share) / 2)
    inside_p = error_p.double().abs() <= reach * std_p.double()
    return torch.zeros(n_users, dtype=torch.float64).index_add_(0, user_p, inside_p.double())


def log_densities(error_p: Tensor, std_p: Tensor, user_p: Tensor, n_users: int) -> Tensor:
    """Return the sum of log predictive densities N(rating; mean, std) of each user.

    Args:
        error_p: (P,) predicted less true rating.
        std_p: (P,) predictive standard deviation.
        user_p: (P,) user of each rating.
        n_users: B.

    Returns:
        (B,) double.
    """
    std_p = std_p.double()
    log_p = -(error_p.double() / std_p).square() / 2 - std_p.log() - math.log(2 * math.pi) / 2
    return torch.zeros(n_users, dtype=torch.float64).index_add_(0, user_p, log_p)
