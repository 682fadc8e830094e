"""The best of many vectors: exactly, from coarse products and a bound, or by a vector index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretaste.data.histories import Histories
from foretaste.errors import ModelError, UsageError

CHUNK_BYTES = 64 << 20  # of coarse scores at a time
CHUNK_USERS = 256  # at most: their scores stay near the cores
WORTH_ROUNDING = 64  # users, from which on it pays to round all items
INDEXED_FROM = 200_000  # items; one exact search of fewer takes milliseconds
BLOCK = 64  # items that share a maximum: most blocks hold none of the best
FAST = {"amx_bf16", "avx512_bf16"}  # processors that multiply bfloat16 faster than float32
CPU = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.9 does not tell
COARSE = torch.bfloat16 if any(CPU.get(name) for name in FAST) else torch.float32
Best = tuple[Tensor, Tensor, Tensor, Tensor]  # item_bk, score_bk, tied_b, probe_h of ranking.Lists


class ItemFactors:
    """What a model multiplies users with, and what lists need to know of it: kept for many lists.

    Of a million items of 64 factors, the norms take as long as the products with a user.  It knows
    no users and no conditions; it does not notice where the factors are changed in place.
    """

    def __init__(self, item_id: Tensor) -> None:
        """Keep the factors as they are.

        Args:
            item_id: Factors of the items: (items, d), float32, not copied.
        """
        self.item_id = item_id

    def of(self, row_c: Tensor) -> ItemFactors:
        """Copy the factors of some items.

        Args:
            row_c: Rows of the items: (C,), int64.

        Returns:
            Their factors, in that order.
        """
        return ItemFactors(self.item_id[row_c])

    @cached_property
    def length(self) -> Tensor:
        """The largest norm, a scalar.  Raises ModelError where it is not finite."""
        length = self.item_id.norm(dim=1).max()
        refuse_nan(not bool(length.isfinite()))
        return length

    @cached_property
    def rounded(self) -> tuple[Tensor, Tensor]:
        """The factors as COARSE, and the largest norm of what was lost: (items, d) and a scalar."""
        if self.item_id.dtype == COARSE:
            return self.item_id, self.length.new_zeros(())
        coarse_id = self.item_id.to(COARSE)
        return coarse_id, (self.item_id - coarse_id.float()).norm(dim=1).max()


class DotProducts:
    """The candidates of a model that scores by dot products, and the exact lists of its users.

    A product x'.y' of vectors rounded to bfloat16 is within a bound of x.y (Cauchy-Schwarz on
    (x - x').y + x'.(y - y'), and what float32 accumulation adds).  Items that the bound keeps below
    the k-th best are out; the few others are scored in float32, each on its own, so that neither
    scores nor ties depend on who is asked for together.
    """

    def __init__(
        self, factors: ItemFactors, allowed_i: Tensor | None = None, n_users: int = 1
    ) -> None:
        """Round the vectors of the allowed items, where the users pay for it.

        Args:
            factors: Of all items.
            allowed_i: Which items are candidates, one at least: (items,), bool; None for all.
            n_users: How many lists will be asked for.
        """
        self.row_c = None if allowed_i is None else allowed_i.nonzero()[:, 0]
        self.n_items = len(factors.item_id)
        factors = factors if self.row_c is None else factors.of(self.row_c)
        self.item_cd, self.length = factors.item_id, factors.length
        self.coarse_cd, self.error = self.item_cd, torch.zeros((), dtype=torch.float32)
        if n_users > WORTH_ROUNDING:
            self.coarse_cd, self.error = factors.rounded

    def best(
        self, user_bd: Tensor, k: int, seen: Histories | None = None, probe: Histories | None = None
    ) -> Iterator[Best]:
        """Items, scores, ties, probed scores as in `ranking.Lists`, a chunk of users at a time."""
        refuse_nan(not bool(user_bd.isfinite().all()))
        # Whole blocks: the maximum of a block is taken by one reduction over a reshaped row.
        width = -(-len(self.coarse_cd) // BLOCK) * BLOCK
        rows = max(1, min(CHUNK_USERS, CHUNK_BYTES // (4 * width)))
        buffer_bc = torch.empty(min(rows, len(user_bd)), width, dtype=self.coarse_cd.dtype)
        for start in range(0, len(user_bd), rows):
            users = slice(start, start + rows)
            some_bd = user_bd[users]
            coarse_bc = buffer_bc[: len(some_bd)]
            bound_b = self._coarse_scores(some_bd, coarse_bc)
            if seen is not None:
                # What was seen is struck out of the coarse scores, so that no exact score is spent
                # on it.
                user_h, place_h = self._places(seen[users])
                flat_h = (user_h * width + place_h)[place_h >= 0]
                coarse_bc.view(-1).index_fill_(0, flat_h, -torch.inf)
            probe_h = some_bd.new_empty(0)
            if probe is not None:
                user_h, place_h = self._places(probe[users])
                in_h = (place_h >= 0) & (coarse_bc[user_h, place_h] > -torch.inf)
                probe_h = torch.full((len(place_h),), -torch.inf, dtype=torch.float32)
                probe_h[in_h] = _dot(some_bd, self.item_cd, user_h[in_h], place_h[in_h])
            yield *self._exact(some_bd, coarse_bc, bound_b, k), probe_h

    def _places(self, batch: Histories) -> tuple[Tensor, Tensor]:
        """User and candidate of each entry; -1 for an item that is none."""
        if self.row_c is None:
            return batch.user_h, batch.item_h
        place_i = torch.full((self.n_items,), -1)
        place_i[self.row_c] = torch.arange(len(self.row_c))
        return batch.user_h, place_i[batch.item_h]

    def _coarse_scores(self, user_bd: Tensor, coarse_bc: Tensor) -> Tensor:
        """Fill in the coarse products, -inf behind the last; how far off they may be: (B,)."""
        n, d = self.item_cd.shape
        rounded_bd = user_bd.to(coarse_bc.dtype)
        torch.mm(rounded_bd, self.coarse_cd.T, out=coarse_bc[:, :n])
        coarse_bc[:, n:] = -torch.inf
        # Three things lie between the coarse product and x.y: what rounding took from the user,
        # what it took from the item, and the additions in float32, which lose 2^-24 each at most.
        lost_b = (user_bd - rounded_bd.float()).norm(dim=1)
        added = self.error + 2.0**-23 * d * (self.length + self.error)
        bound_b = lost_b * self.length + rounded_bd.float().norm(dim=1) * added
        # An infinite bound lets every candidate through, to be scored exactly.
        return (bound_b * (1 + 1e-5) + 1e-30).nan_to_num(nan=torch.inf)

    def _exact(
        self, user_bd: Tensor, coarse_bc: Tensor, bound_b: Tensor, k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The k best of each row: items, scores, ties."""
        key_bc = coarse_bc.view(torch.int16 if coarse_bc.dtype == torch.bfloat16 else torch.int32)
        sure_b = torch.zeros(len(user_bd), dtype=torch.bool)
        item_bk = torch.full((len(user_bd), k), -1)
        score_bk = torch.full((len(user_bd), k), -torch.inf, dtype=torch.float32)
        tied_b = torch.zeros(len(user_bd), dtype=torch.int64)
        if key_bc.shape[1] >= k * BLOCK:
            # the k best blocks hold k items; the bits of positive numbers are in order as they are
            max_bn = key_bc.unflatten(1, (-1, BLOCK)).amax(dim=2)
            kth_b = max_bn.topk(k, dim=1).values[:, -1].contiguous()
            cut_b = _cut(kth_b.view(coarse_bc.dtype), bound_b)
            sure_b = (kth_b > 0) & (cut_b > 0)
            cut_b.masked_fill_(~sure_b, torch.iinfo(cut_b.dtype).max)
            row_n, place_n = _survivors(key_bc, max_bn, cut_b)
            item_bk, score_bk, tied_b = self._best_of(user_bd, row_n, place_n, k)
        # Rows whose k-th best may be negative, or that have too few items for k blocks, take the
        # careful way: their bits are put in order first, sixteen rows at a time, as that copies
        # them.
        for rows in filter(len, (~sure_b).nonzero()[:, 0].split(16)):
            some_bc = _in_order(key_bc[rows])
            kth_b = _in_order(
                some_bc.topk(min(k, some_bc.shape[1]), dim=1).values[:, -1].contiguous()
            )
            cut_b = _cut(kth_b.view(coarse_bc.dtype), bound_b[rows])
            max_bn = some_bc.unflatten(1, (-1, BLOCK)).amax(dim=2)
            row_n, place_n = _survivors(some_bc, max_bn, cut_b)
            kept_n = coarse_bc[rows[row_n], place_n] > -torch.inf
            found = self._best_of(user_bd[rows], row_n[kept_n], place_n[kept_n], k)
            item_bk[rows], score_bk[rows], tied_b[rows] = found
        return item_bk, score_bk, tied_b

    def _best_of(
        self, user_bd: Tensor, row_n: Tensor, place_n: Tensor, k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The k best of some candidates of each row; row_n ascending, place_n within a row too."""
        # The candidates of a row are laid side by side, so that one call of top_k serves all rows.
        count_b = torch.bincount(row_n, minlength=len(user_bd))
        column_n = torch.arange(len(row_n)) - (count_b.cumsum(0) - count_b)[row_n]
        shape = len(user_bd), max(k, int(count_b.max()))
        score_bm = torch.full(shape, -torch.inf, dtype=torch.float32)
        place_bm = torch.zeros(shape, dtype=torch.int64)
        score_bm[row_n, column_n] = _dot(user_bd, self.item_cd, row_n, place_n)
        place_bm[row_n, column_n] = place_n
        column_bk, score_bk, tied_b = top_k(score_bm, k)
        place_bk = place_bm.gather(1, column_bk.clamp(min=0))
        item_bk = place_bk if self.row_c is None else self.row_c[place_bk]
        return item_bk.masked_fill_(column_bk < 0, -1), score_bk, tied_b


class VectorIndex:
    """The items of highest cosine: of all, or of those that a graph leads to.

    The graph (usearch's HNSW, Malkov and Yashunin 2018) takes long to build and misses a few items;
    those it finds get the cosines and the order of the exact search.
    """

    def __init__(self, vector_id: Tensor, graph: bool = False) -> None:
        """Normalise the vectors; build the graph where asked.  UsageError without usearch."""
        self.unit_id = torch.nn.functional.normalize(vector_id.float(), dim=1)
        refuse_nan(not bool(self.unit_id.isfinite().all()))
        self.graph = _graph(self.unit_id) if graph else None

    def nearest(self, vector_bd: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Items (B, k), -1 where no more are found, and cosines (B, k); equal ones by item row."""
        k = min(k, len(self.unit_id))
        unit_bd = torch.nn.functional.normalize(vector_bd.float(), dim=1)
        chunks = unit_bd.split(max(1, CHUNK_BYTES // (4 * len(self.unit_id))))
        exact = self.graph is None
        found = [self._compared(some, k) if exact else self._led_to(some, k) for some in chunks]
        item, cosine = zip(*found, strict=True)
        return torch.cat(item), torch.cat(cosine)

    def _compared(self, unit_bd: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return top_k(unit_bd @ self.unit_id.T, k)[:2]

    def _led_to(self, unit_bd: Tensor, k: int) -> tuple[Tensor, Tensor]:
        assert self.graph is not None
        found_bk = np.full((len(unit_bd), k), -1)
        for row, unit_d in enumerate(unit_bd.numpy()):
            keys = self.graph.search(unit_d, k).keys
            found_bk[row, : len(keys)] = np.sort(keys)  # top_k lists equals in this order
        item_bk = torch.from_numpy(found_bk)
        cosine_bk = torch.einsum("bkd,bd->bk", self.unit_id[item_bk.clamp(min=0)], unit_bd)
        column_bk, best_bk, _ = top_k(cosine_bk.masked_fill(item_bk < 0, -torch.inf), k)
        item_bk = item_bk.gather(1, column_bk.clamp(min=0))
        return item_bk.masked_fill(column_bk < 0, -1), best_bk


def recall_of(index: VectorIndex, vector_bd: Tensor, k: int) -> float:
    """The mean share of the exact k nearest that an index finds."""
    item_bk, _ = index.nearest(vector_bd, k)
    exact_bk, _ = VectorIndex(index.unit_id).nearest(vector_bd, k)
    return (exact_bk[:, :, None] == item_bk[:, None, :]).any(dim=2).float().mean().item()


def _graph(unit_id: Tensor) -> Any:
    try:
        from usearch.index import Index  # noqa: PLC0415 -- an extra
    except ImportError:
        raise UsageError(
            "an approximate vector index needs usearch.", fix="pip install 'foretaste[vectors]'"
        ) from None
    graph = Index(ndim=unit_id.shape[1], metric="cos", dtype="f16")
    graph.add(np.arange(len(unit_id)), unit_id.numpy(), threads=torch.get_num_threads())
    return graph


def _in_order(bits: Tensor) -> Tensor:
    """Bits of floats as integers in the same order; its own inverse."""
    # Negative floats run backwards as integers: flip all their bits but the sign.
    return bits ^ ((bits >> (8 * bits.itemsize - 1)) & torch.iinfo(bits.dtype).max)


def _cut(kth_b: Tensor, bound_b: Tensor) -> Tensor:
    """The lowest key, as of `_in_order`, that one of the k best can have: (B,).

    kth_b: coarse scores that k candidates reach.  A coarse score is also rounded once itself.
    """
    unit = torch.finfo(kth_b.dtype).eps / 2
    # Twice the bound: the k-th best may be too high by it, and the candidate too low.
    low_b = kth_b.float() - 2 * unit * kth_b.float().abs() - 2 * bound_b
    low_b -= unit * low_b.abs()
    near_b = low_b.to(kth_b.dtype)
    key_b = _in_order(near_b.view(torch.int16 if kth_b.dtype == torch.bfloat16 else torch.int32))
    # Rounding to the coarse type may have gone up, past a score that belongs: one step back then.
    return key_b - (near_b.float() > low_b).to(key_b.dtype)


def _survivors(key_bc: Tensor, max_bn: Tensor, cut_b: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every key that is not below its row's cut, in order."""
    row_p, block_p = (max_bn >= cut_b[:, None]).nonzero(as_tuple=True)
    key_pl = key_bc.view(-1, BLOCK)[row_p * max_bn.shape[1] + block_p]
    pair_n, column_n = (key_pl >= cut_b[row_p, None]).nonzero(as_tuple=True)
    return row_p[pair_n], block_p[pair_n] * BLOCK + column_n


def _dot(user_bd: Tensor, item_id: Tensor, row_n: Tensor, item_n: Tensor) -> Tensor:
    """Products of pairs, each as if it were alone: (N,)."""
    # A sum of products, not a matrix product, whose order of additions depends on the size of the
    # batch.
    pairs = zip(row_n.split(4096), item_n.split(4096), strict=True)  # 4096 x d stay in the cache
    return torch.cat([(user_bd[row] * item_id[item]).sum(dim=1) for row, item in pairs])


def refuse_nan(found: bool) -> None:
    """ModelError where scores are not numbers."""
    if found:
        raise ModelError(
            "the model scored NaN: no ranking can be made of it.",
            fix="Train again with a lower learning rate, or report this with the model's fields.",
        )


def top_k(score_bi: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k highest scores of each row; equal scores in the order of the columns, always.

    Returns items (B, k), scores (B, k), and how many columns of the row equal the last one listed.
    Columns of -inf are no candidates: item -1.  Raises ModelError where a score is NaN.
    """
    # One more than k: where it equals the last one listed, there are ties across the end of the
    # list.
    next_bn, item_bn = torch.topk(score_bi, min(k + 1, score_bi.shape[1]), dim=1)
    refuse_nan(bool(torch.isnan(next_bn[:, 0]).any()))  # topk puts NaN above every number
    last_b1 = next_bn[:, k - 1 : k]
    tied_b = (next_bn[:, :k] == last_b1).sum(dim=1)
    cut_b = (next_bn[:, k:] == last_b1).any(dim=1) & (last_b1[:, 0] > -torch.inf)
    if cut_b.any():  # topk chose among equals: choose again
        score_ci, last_c1 = score_bi[cut_b], last_b1[cut_b]
        equal_ci = score_ci == last_c1
        tied_b[cut_b] = equal_ci.sum(dim=1)
        # Of the equal ones, the first in the order of columns get the places that are left.
        room_c1 = k - (score_ci > last_c1).sum(dim=1, keepdim=True)
        surplus_ci = equal_ci & (equal_ci.cumsum(dim=1) > room_c1)
        chosen_ck = torch.topk(score_ci.masked_fill(surplus_ci, -torch.inf), k, dim=1).indices
        item_bn[cut_b, :k] = chosen_ck
    # topk promises no order among equals: by column first, then stably by score.
    item_bk = item_bn[:, :k].sort(dim=1).values
    score_bk, order_bk = score_bi.gather(1, item_bk).sort(dim=1, descending=True, stable=True)
    item_bk = item_bk.gather(1, order_bk)
    return item_bk.masked_fill(score_bk == -torch.inf, -1), score_bk, tied_b


class ItemIndex:
    """The items nearest to an item; indexes are built when they are first needed."""

    def __init__(self, vectors: Callable[[], Tensor]) -> None:
        """Remember where vectors come from.

        Args:
            vectors: Makes the items' vectors, (items, d).
        """
        self._vectors = vectors
        self._indexes: dict[bool, VectorIndex] = {}

    def of(
        self, row: int, k: int, cosines: Callable[[int], Tensor] | None, *, approximate: bool
    ) -> tuple[Tensor, Tensor]:
        """Return rows and cosines of the k items nearest to one, without it: (k,) each.

        Args:
            row: Row of the item.
            k: How many.
            cosines: Gives the cosines of an item to all, (items,), for models without vectors.
            approximate: Whether a graph may miss some, among INDEXED_FROM items and more.
        """
        if cosines is not None:
            cosine_1i = cosines(row)[None]
            item_1k, score_1k, _ = top_k(cosine_1i, min(k + 1, cosine_1i.shape[1]))
        else:
            index = self._index(graph=False)
            if approximate and len(index.unit_id) >= INDEXED_FROM:
                index = self._index(graph=True)
            item_1k, score_1k = index.nearest(index.unit_id[row][None], k + 1)
        other_k = (item_1k[0] >= 0) & (item_1k[0] != row)
        return item_1k[0][other_k][:k], score_1k[0][other_k][:k]

    def _index(self, graph: bool) -> VectorIndex:
        if graph not in self._indexes:
            self._indexes[graph] = VectorIndex(self._vectors(), graph=graph)
        return self._indexes[graph]
