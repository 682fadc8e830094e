"""The only way from scores to lists: evaluation, the batch command and services all come here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foretaste.errors import ModelError
from foretaste.models.base import UserBatch

CHUNK_BYTES = 256 << 20  # of scores at a time, whatever the number of users


@dataclass(frozen=True, eq=False)
class Lists:
    """The best k items of B users, best first; ties in the order of item rows.

    item_bk: item rows, -1 where a user has fewer than k candidates.  score_bk: -inf there.
    tied_b: candidates whose score equals the last one listed, listed or not.
    probe_h: score of each probed entry (-inf if it was no candidate), empty without a probe.
    """

    item_bk: Tensor
    score_bk: Tensor
    tied_b: Tensor
    probe_h: Tensor


def recommend(
    score: Callable[[UserBatch], Tensor], batch: UserBatch, k: int, *, n_items: int,
    exclude_seen: bool = True, allowed_i: Tensor | None = None, probe: UserBatch | None = None,
) -> Lists:  # fmt: skip
    """The k best items for every history, over the full catalogue, in chunks of users.

    score: UserBatch to (B, items).  exclude_seen: leave out what the history holds.  allowed_i:
    (items,) bool, the candidates; None for all.  probe: for the same users, items whose scores are
    wanted too. Raises ModelError where a score is NaN.
    """
    rows = max(1, CHUNK_BYTES // (4 * max(n_items, 1)))
    parts = []
    for start in range(0, len(batch), rows):
        users = slice(start, start + rows)
        chunk = batch[users]
        score_bi = _candidates(score(chunk), chunk, exclude_seen, allowed_i)
        item_bk, score_bk, tied_b = top_k(score_bi, min(k, n_items))
        probed = score_bi.new_empty(0)
        if probe is not None:
            asked = probe[users]
            probed = score_bi[asked.user_h, asked.item_h]
        parts.append((item_bk, score_bk, tied_b, probed))
    if not parts:
        return Lists(
            torch.empty(0, k, dtype=torch.int64), torch.empty(0, k),
            torch.empty(0, dtype=torch.int64), torch.empty(0),
        )  # fmt: skip
    item_bk, score_bk, tied_b, probe_h = (torch.cat(column) for column in zip(*parts, strict=True))
    return Lists(item_bk, score_bk, tied_b, probe_h)


def _candidates(
    score_bi: Tensor, chunk: UserBatch, exclude_seen: bool, allowed_i: Tensor | None
) -> Tensor:
    """Scores with -inf for whatever must not be listed, in place: scores are ours to overwrite."""
    score_bi = score_bi.float().cpu()
    if exclude_seen:
        score_bi[chunk.user_h, chunk.item_h] = -torch.inf
    if allowed_i is not None:
        score_bi[:, ~allowed_i] = -torch.inf
    return score_bi


def top_k(score_bi: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k highest scores of each row; equal scores in the order of the columns, always.

    Returns items (B, k), scores (B, k), and how many columns of the row equal the last one listed.
    Columns of -inf are no candidates: item -1.  Raises ModelError where a score is NaN.
    """
    next_bn, item_bn = torch.topk(score_bi, min(k + 1, score_bi.shape[1]), dim=1)
    if torch.isnan(next_bn[:, 0]).any():  # topk puts NaN above every number
        raise ModelError(
            "the model scored NaN: no ranking can be made of it.",
            fix="Train again with a lower learning rate, or report this with the model's fields.",
        )
    last_b1 = next_bn[:, k - 1 : k]
    tied_b = (next_bn[:, :k] == last_b1).sum(dim=1)
    cut_b = (next_bn[:, k:] == last_b1).any(dim=1) & (last_b1[:, 0] > -torch.inf)
    if cut_b.any():  # topk chose among equals: choose again
        score_ci, last_c1 = score_bi[cut_b], last_b1[cut_b]
        equal_ci = score_ci == last_c1
        tied_b[cut_b] = equal_ci.sum(dim=1)
        room_c1 = k - (score_ci > last_c1).sum(dim=1, keepdim=True)
        surplus_ci = equal_ci & (equal_ci.cumsum(dim=1) > room_c1)
        chosen_ck = torch.topk(score_ci.masked_fill(surplus_ci, -torch.inf), k, dim=1).indices
        item_bn[cut_b, :k] = chosen_ck
    item_bk = item_bn[:, :k].sort(dim=1).values
    score_bk, order_bk = score_bi.gather(1, item_bk).sort(dim=1, descending=True, stable=True)
    item_bk = item_bk.gather(1, order_bk)
    return item_bk.masked_fill(score_bk == -torch.inf, -1), score_bk, tied_b
