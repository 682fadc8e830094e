"""Reasons for any model: what a score loses when one interaction is left out of the history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foretaste.data.histories import Histories

CHUNK_BYTES = 64 << 20  # of scores at a time, however long the history


@dataclass(frozen=True)
class Place:
    """Where an item stands among the candidates, and why it is not listed, in one sentence.

    rank: 1 is the best, ties share the mean rank; None where the item is no candidate.
    """

    score: float
    rank: float | None
    candidates: int
    why: str


def reasons(
    score: Callable[[Histories], Tensor], histories: Histories, item_k: Tensor, n_items: int
) -> Tensor:
    """What each of L interactions of one history adds to the scores of K items: (L, K).

    The score with the whole history minus the score without that interaction (Yao et al. 2022
    call it the leave-one-out influence).  Negative: the item was listed in spite of it.
    """
    length = len(histories.item_h)
    if length == 0:
        return torch.zeros(0, len(item_k), dtype=torch.float32)
    rows = max(1, CHUNK_BYTES // (4 * max(n_items, 1)))
    # without the row in training: all scores come from the history alone, and can be compared
    whole_k = score(_without(histories, torch.tensor([length])))[0, item_k]
    parts = [
        whole_k - score(_without(histories, left_out))[:, item_k]
        for left_out in torch.arange(length).split(rows)
    ]
    return torch.cat(parts)


def shares(weight_hk: Tensor) -> Tensor:
    """Each interaction's part of all that speaks for an item; 0 for what speaks against: (L, K)."""
    for_hk = weight_hk.clamp(min=0)
    return for_hk / for_hk.sum(dim=0).clamp(min=torch.finfo(torch.float32).tiny)


def _without(histories: Histories, left_out_b: Tensor) -> Histories:
    """The history B times, each time without entry left_out_b; an entry past the end leaves all."""
    entry_h = torch.arange(len(histories.item_h))
    kept_bh = entry_h[None] != left_out_b[:, None]
    copies = histories.take(torch.zeros(len(left_out_b), dtype=torch.int64))
    return copies.only(kept_bh.flatten()).as_new_users()


def place(score_i: Tensor, item: int, seen_h: Tensor, allowed_i: Tensor | None = None) -> Place:
    """The place of an item row by one user's scores: (items,).

    seen_h: item rows of the history.  allowed_i: (items,) bool, None for all.
    """
    candidate_i = torch.ones_like(score_i, dtype=torch.bool) if allowed_i is None else allowed_i
    excluded = not candidate_i[item]
    candidate_i = candidate_i.index_fill(0, seen_h, False)
    score, count = float(score_i[item]), int(candidate_i.sum())
    if item in seen_h:
        return Place(score, None, count, "It is in the history: lists leave out what was seen.")
    if excluded:
        return Place(score, None, count, "The filter leaves it out.")
    above = int((score_i[candidate_i] > score).sum())
    tied = int((score_i[candidate_i] == score).sum()) - 1
    rank = 1 + above + tied / 2
    return Place(score, rank, count, f"It is number {rank:,g} of {count:,} candidates.")
