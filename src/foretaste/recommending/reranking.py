"""Lists that repeat themselves less: maximal marginal relevance over item vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foretaste.recommending.ranking import Lists

CHUNK_BYTES = 64 << 20  # of item vectors at a time
POOL = 5  # candidates for each place
LEAST_POOL = 100


def pool_size(k: int, n_items: int) -> int:
    """How many of the best items compete for k places."""
    return min(n_items, max(LEAST_POOL, POOL * k))


def diversify(pool: Lists, vector_id: Tensor, k: int, diversity: float) -> Lists:
    """The k items of each pool that are good and unlike each other (Carbonell, Goldstein 1998).

    Each place goes to the item with the highest (1 - diversity) relevance - diversity * cosine to
    the nearest item listed above.  Relevance: the score, 0 to 1 over the pool.  diversity: 0
    leaves the order as it is, 1 looks at relevance for the first place only.
    """
    unit_id = normalize(vector_id.float(), dim=1)
    rows = max(1, CHUNK_BYTES // (4 * max(pool.item_bk[:1].numel() * unit_id.shape[1], 1)))
    chosen_bk = torch.cat(
        [
            _marginal(item_bp, score_bp, unit_id, min(k, pool.item_bk.shape[1]), diversity)
            for item_bp, score_bp in zip(
                pool.item_bk.split(rows), pool.score_bk.split(rows), strict=True
            )
        ]
    )
    item_bk, score_bk = pool.item_bk.gather(1, chosen_bk), pool.score_bk.gather(1, chosen_bk)
    return Lists(item_bk, score_bk, torch.ones(len(item_bk), dtype=torch.int64), pool.probe_h)


def _marginal(
    item_bp: Tensor, score_bp: Tensor, unit_id: Tensor, k: int, diversity: float
) -> Tensor:
    """Positions in the pool, in the order of the list: (B, k)."""
    there_bp = item_bp >= 0
    high_b1 = score_bp[:, :1]
    low_b1 = torch.where(there_bp, score_bp, torch.inf).min(dim=1, keepdim=True).values
    relevance_bp = (score_bp - low_b1) / (high_b1 - low_b1).clamp(min=1e-12)
    unit_bpd = unit_id[item_bp.clamp(min=0)]
    user_b = torch.arange(len(item_bp))
    value_bp, nearest_bp = relevance_bp, torch.full_like(score_bp, -1.0)
    left_bp = torch.ones_like(there_bp)
    chosen = []
    for _ in range(k):
        value_bp = torch.where(there_bp, value_bp, -2.0)  # empty places come last
        best_b = value_bp.masked_fill(~left_bp, -torch.inf).argmax(dim=1)
        chosen.append(best_b)
        left_bp[user_b, best_b] = False
        cosine_bp = torch.einsum("bpd,bd->bp", unit_bpd, unit_bpd[user_b, best_b])
        nearest_bp = torch.maximum(nearest_bp, cosine_bp)
        value_bp = (1 - diversity) * relevance_bp.clamp(min=0) - diversity * nearest_bp
    return torch.stack(chosen, dim=1)


def by_place(lists: Lists, probe_user_h: Tensor, probe_item_h: Tensor) -> Lists:
    """The lists with places for scores, so that metrics see the order that was served.

    Scores: k for the first place down to 1.  A probed item that is not listed scores -inf.
    """
    k = lists.item_bk.shape[1]
    score_bk = torch.arange(k, 0, -1, dtype=torch.float32).expand(len(lists.item_bk), k)
    score_bk = score_bk.masked_fill(lists.item_bk < 0, -torch.inf)
    listed_hk = lists.item_bk[probe_user_h] == probe_item_h[:, None]
    probe_h = torch.where(listed_hk, score_bk[probe_user_h], -torch.inf).amax(dim=1)
    return Lists(lists.item_bk, score_bk, lists.tied_b, probe_h)
