"""From scores to lists: the best items of each history, exactly, with ties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from foretaste.data.histories import Histories
from foretaste.models.base import ScoresByDot
from foretaste.recommending.retrieval import Best, DotProducts, ItemFactors, top_k

CHUNK_BYTES = 256 << 20  # of scores at a time, whatever the number of users
CHUNK_USERS = 8192  # whose vectors are asked for at a time


class Scorer(Protocol):
    """What can be ranked: a model, as far as this module needs one."""

    def score(self, histories: Histories, /) -> Tensor:
        """Scores of every item for every history: (B, items), ours to overwrite."""
        ...


@dataclass(frozen=True, eq=False)
class Scored:
    """A model that is nothing but its scores."""

    score: Callable[[Histories], Tensor]


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

    def of(self, users: slice) -> Lists:
        """Return the lists of a range of users; nothing was probed for them."""
        none = self.probe_h.new_empty(0)
        return Lists(self.item_bk[users], self.score_bk[users], self.tied_b[users], none)


def recommend(  # noqa: PLR0913 -- what a Request resolves to, by name
    model: Scorer, histories: Histories, k: int, *, n_items: int, exclude_seen: bool = True,
    seen: Histories | None = None, allowed_i: Tensor | None = None,
    probe: Histories | None = None, factors: ItemFactors | None = None,
) -> Lists:  # fmt: skip
    """Return the k best items for every history, over the full catalogue, in chunks of users.

    Args:
        model: Scores histories; one that `ScoresByDot` takes a faster way to the same lists.
        histories: Of B users.
        k: Length of the lists.
        n_items: Items in the catalogue.
        exclude_seen: Whether seen items are left out.
        seen: What the users have seen; their histories where None.
        allowed_i: The candidates, (items,) bool; None for all.
        probe: Items of the same users whose scores are wanted too.
        factors: What is kept of the model from list to list; of another model, it is not used.

    Raises:
        ModelError: Where a score is NaN.
    """
    k, parts = min(k, n_items), []
    dots = None
    if isinstance(model, ScoresByDot) and (allowed_i is None or allowed_i.any()):
        item_id = model.item_factors()
        if factors is None or factors.item_id is not item_id:
            factors = ItemFactors(item_id)
        dots = DotProducts(factors, allowed_i, len(histories))
    rows = CHUNK_USERS if dots else max(1, CHUNK_BYTES // (4 * max(n_items, 1)))
    for start in range(0, len(histories), rows):
        users = slice(start, start + rows)
        chunk, asked = histories[users], None if probe is None else probe[users]
        left_out = (chunk if seen is None else seen[users]) if exclude_seen else None
        if isinstance(model, ScoresByDot) and dots is not None:
            parts.extend(dots.best(model.user_factors(chunk), k, left_out, asked))
        else:
            parts.append(_best(model.score(chunk), k, left_out, asked, allowed_i))
    if not parts:
        return Lists(
            torch.empty(0, k, dtype=torch.int64), torch.empty(0, k, dtype=torch.float32),
            torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float32),
        )  # fmt: skip
    return Lists(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _best(
    score_bi: Tensor, k: int, seen: Histories | None, asked: Histories | None,
    allowed_i: Tensor | None,
) -> Best:  # fmt: skip
    """Lists from all the scores, which are overwritten: -inf for whatever must not be listed."""
    score_bi = score_bi.float().cpu()
    if seen is not None:
        score_bi[seen.user_h, seen.item_h] = -torch.inf
    if allowed_i is not None:
        score_bi[:, ~allowed_i] = -torch.inf
    probed_h = score_bi.new_empty(0) if asked is None else score_bi[asked.user_h, asked.item_h]
    return *top_k(score_bi, k), probed_h
