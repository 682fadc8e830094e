"""What the averages hide: what the data allow, who is served well, and how varied lists are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from scipy import sparse

from foretaste.data.dataset import Dataset
from foretaste.data.splitting import Split
from foretaste.evaluation import metrics
from foretaste.evaluation.evaluate import Served, ranking_tallies
from foretaste.evaluation.statistics import Tally

LISTS = 2000  # whose diversity is worked out at a time


def ceilings(served: Served, k: int) -> dict[str, float]:
    """Return each ranking metric of the best lists that are possible.

    Everything findable comes first in them; a relevant item that training never saw cannot be
    listed, whoever makes the list.

    Args:
        served: Any model's lists: what should have been found, and what of it could be.
        k: Length of the lists.

    Returns:
        "METRIC@k" to its mean over the users who have something to find; NaN where nobody has.
    """
    findable = served.lists.probe_h > -torch.inf
    user_r = served.probe.user_h[findable]
    count_b = torch.bincount(user_r, minlength=len(served.relevant_b))
    above_r = torch.arange(len(user_r)) - (count_b.cumsum(0) - count_b)[user_r]
    best = metrics.Ranks(user_r, above_r, torch.ones_like(above_r), served.relevant_b, k)
    has_b = served.relevant_b > 0  # nobody: the mean of nothing is NaN
    return {
        f"{name}@{k}": float(metric(best, k)[has_b].mean())
        for name, metric in metrics.RANKING.items()
    }


def head_items(train: Dataset) -> np.ndarray:
    """Mark the fewest items that make up half of all interactions.

    Args:
        train: The interactions.

    Returns:
        (items,) bool.
    """
    count_i = np.bincount(train.interactions.item_r, minlength=len(train.items))
    ranked = np.argsort(-count_i, kind="stable")
    before = np.cumsum(count_i[ranked]) - count_i[ranked]
    head_i = np.zeros(len(count_i), dtype=bool)
    head_i[ranked[before < count_i.sum() / 2]] = True
    return head_i


def segments(parts: Split, served: Served, k: int) -> dict[str, Tally]:
    """Divide recall@k into new and long-standing users, and into head and tail items.

    New users have a history in the lowest quarter by length, long-standing ones in the highest.

    Args:
        parts: The split.
        served: Lists of the test users, and what they should have found.
        k: Length of the lists.

    Returns:
        Words that name the group to its Tally over all test users.
    """
    name = f"recall@{k}"
    rows = parts.history.users.find(parts.test.users.values)
    length_b = np.where(rows < 0, 0, np.diff(parts.history.pointers)[rows])
    everyone = ranking_tallies(served, (k,))[name]
    judged_b = everyone.weight_b > 0
    low, high = np.quantile(length_b[judged_b], [0.25, 0.75])
    found = {}
    for words, mark_b in (
        (f"new users: up to {low:.0f} in their history", length_b <= low),
        (f"long-standing users: {high:.0f} and more", (length_b >= high) & (length_b > low)),
    ):
        found[words] = Tally(everyone.total_b * mark_b, everyone.weight_b * mark_b)
    head_i = torch.from_numpy(head_items(parts.train))
    in_head = head_i[served.probe.item_h]
    head = _only(served, in_head)
    tail = _only(served, ~in_head)
    unknown_b = served.relevant_b - served.probe.length_b
    tail = replace(tail, relevant_b=tail.relevant_b + unknown_b)
    n_head = int(head_i.sum())
    words = f"head items: the {n_head:,} that make up half of all interactions"
    found[words] = ranking_tallies(head, (k,))[name]
    found[f"tail items: the {len(head_i) - n_head:,} others"] = ranking_tallies(tail, (k,))[name]
    return found


def _only(served: Served, keep_h: torch.Tensor) -> Served:
    """The same lists, asked for some of the relevant items only."""
    probe = served.probe.only(keep_h)
    lists = replace(served.lists, probe_h=served.lists.probe_h[keep_h])
    return Served(lists, probe, probe.length_b)


def variety(train: Dataset, served: Served, k: int) -> dict[str, float]:
    """Measure how varied lists are.

    Args:
        train: What the items are known by.
        served: Lists of the test users.
        k: Length of the lists.

    Returns:
        coverage: share of the catalogue that is in someone's list. novelty: mean of -log2(share of
        users who have the item), in bits. diversity: 1 less the mean cosine of two items of a list
        as columns of the user-item matrix. head_share: of listed items, how many are among the few
        that make up half of all interactions. All but coverage are NaN where nothing is listed.
    """
    item_bk = served.lists.item_bk[:, :k].numpy()
    listed_bk = item_bk >= 0
    user_r, item_r = np.nonzero(listed_bk)[0], item_bk[listed_bk]
    x, n_users, n_items = train.interactions, len(train.users), len(train.items)
    count_i = np.bincount(x.item_r, minlength=n_items)
    X_iu = sparse.csr_array(
        (1 / np.sqrt(count_i[x.item_r]), (x.item_r, x.user_r)), shape=(n_items, n_users)
    )
    list_bi = sparse.csr_array(
        (np.ones(len(item_r)), (user_r, item_r)), shape=(len(item_bk), n_items)
    )
    # |sum of unit vectors|^2 = how many they are + twice the sum of the cosines of all pairs
    squared_b = np.concatenate(
        [
            np.asarray((list_bi[start : start + LISTS] @ X_iu).power(2).sum(axis=1)).ravel()
            for start in range(0, len(item_bk), LISTS)
        ]
    )
    n_b = listed_bk.sum(axis=1)
    paired_b = n_b > 1
    cosine_b = (squared_b - n_b)[paired_b] / (n_b * (n_b - 1))[paired_b]
    return {
        "coverage": len(np.unique(item_r)) / n_items,
        "novelty": _mean(-np.log2(count_i[item_r] / n_users)),
        "diversity": 1 - _mean(cosine_b),
        "head_share": _mean(head_items(train)[item_r]),
    }


def _mean(values: np.ndarray) -> float:
    """The mean; NaN where there is nothing to take it of."""
    return float(values.mean()) if len(values) else math.nan
