"""All prefixes of all histories as the rows of a regression, of which only sums are ever made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

FORGOTTEN = 1e-3  # a weight below which an entry of a history does not count
CHUNK_ENTRIES = 1 << 24  # of prefixes written down at a time: 128 MiB

FloatArray = np.ndarray
IntArray = np.ndarray


def entries_kept(decay: float) -> int:
    """Return how many entries of a history weigh more than FORGOTTEN, at least one.

    Args:
        decay: What an entry weighs for each entry after it, 0 up to 1 exclusive.
    """
    return 1 if decay == 0 else max(1, math.ceil(math.log(FORGOTTEN) / math.log(decay)))


@dataclass(frozen=True, eq=False)
class Prefixes:
    """The prefixes of histories: before each entry, the decayed sums of all entries before it.

    Prefix t of a user has, for each decay c and item i, the feature f_ci = sum of c^(t - 1 - s)
    over the entries s < t of that item, and a one.  What follows it is entry t; the empty prefix
    comes before the first.

    Two entries of a user, r and one k places before it, meet in all m prefixes that contain r.
    For decays c and d the products of their weights sum there to

        c^k (1 + cd + ... + (cd)^(m - 1)) = c^k (1 - (cd)^m) / (1 - cd),

    so that one pass over pairs of entries takes the place of a pass over pairs in every prefix.

    Attributes:
        item_r: Items of the entries, users one after the other, in order: (entries,).
        pointers: Where each history starts: (users + 1,).
        n_items: How many items there are.
        decays: What an entry weighs for each entry after it, each 0 up to 1 exclusive.
    """

    item_r: IntArray
    pointers: IntArray
    n_items: int
    decays: Sequence[float]

    def matrices(self, done: Callable[[], None]) -> tuple[FloatArray, FloatArray]:
        """Return F^T F and F^T Y over all prefixes, where Y marks the entry that follows.

        Args:
            done: Called after each decay.

        Returns:
            Single precision, (f, f) and (f, items), with f = decays x items + 1: the features in
            the order of the decays, then the one.
        """
        n, n_features = self.n_items, len(self.decays) * self.n_items + 1
        A_ff = np.zeros((n_features, n_features), np.float32)
        B_fi = np.zeros((n_features, n), np.float32)
        after_r = np.repeat(self.pointers[1:], np.diff(self.pointers)) - np.arange(
            1, 1 + len(self.item_r)
        )
        for c, decay in enumerate(self.decays):
            of_c = slice(c * n, (c + 1) * n)
            weight_r = [np.ones(len(after_r))] + [
                (decay * other) ** after_r.astype(np.float64) for other in self.decays
            ]
            B_fi[of_c], pairs_ij, *ends_ij = self._pairs(decay, weight_r)
            for d, other in enumerate(self.decays):
                # From pairs with r in the role of d.  An entry is its own partner for k = 0, which
                # both roles of a pair of decays count: half from each.
                both = decay * other
                Q_ij = (pairs_ij - ends_ij[d]) / np.float32(1 - both)
                self_r = (1 - both ** after_r.astype(np.float64)) / (1 - both)
                Q_ij.ravel()[:: n + 1] -= np.bincount(self.item_r, self_r, n) / 2
                of_d = slice(d * n, (d + 1) * n)
                A_ff[of_d, of_c] += Q_ij
                A_ff[of_c, of_d] += Q_ij.T
            sum_r = (1 - decay ** after_r.astype(np.float64)) / (1 - decay)
            A_ff[-1, of_c] = A_ff[of_c, -1] = np.bincount(self.item_r, sum_r, n)
            done()
        A_ff[-1, -1] = len(self.item_r)
        B_fi[-1] = np.bincount(self.item_r, minlength=n)
        return A_ff, B_fi

    def _pairs(self, decay: float, weight_r: Sequence[FloatArray]) -> list[FloatArray]:
        """Return sums over pairs of an entry r and one k before it, of decay^k and a weight of r.

        Args:
            decay: What the earlier entry weighs for each entry after it.
            weight_r: Weights of the later entries, (entries,) each.

        Returns:
            First, with the entry that follows r in place of r and without a weight,
            (earlier item, item that follows); then for each weight (item of r, earlier item).
        """
        n = self.n_items
        follows_ij = np.zeros((n, n), np.float32)
        sums_ij = [np.zeros((n, n), np.float32) for _ in weight_r]
        last_r = np.zeros(len(self.item_r), bool)
        last_r[self.pointers[1:][np.diff(self.pointers) > 0] - 1] = True
        for rows, F_ri in self._rows(decay):
            item_r = self.item_r[rows]
            # The prefixes that end with r are told by the next entry, where the user has one.
            next_r = np.append(self.item_r, 0)[rows.start + 1 : rows.stop + 1]
            follows_ij += (F_ri.T @ _marks(next_r, ~last_r[rows], n)).toarray()
            for w, weight in enumerate(weight_r):
                sums_ij[w] += (_marks(item_r, weight[rows], n).T.tocsr() @ F_ri).toarray()
        return [follows_ij, *sums_ij]

    def _rows(self, decay: float) -> Iterator[tuple[slice, sparse.csr_matrix]]:
        """Yield the features of one decay of the prefixes that end with each entry, in chunks."""
        kept = entries_kept(decay)
        power_k = (float(decay) ** np.arange(kept)).astype(np.float32)
        place_r = np.arange(len(self.item_r)) - np.repeat(
            self.pointers[:-1], np.diff(self.pointers)
        )
        step = max(1, CHUNK_ENTRIES // kept)
        for start in range(0, len(self.item_r), step):
            rows = slice(start, min(start + step, len(self.item_r)))
            length_r = np.minimum(place_r[rows] + 1, kept)
            pointer_r = np.concatenate([[0], np.cumsum(length_r)])
            back_h = np.arange(pointer_r[-1]) - np.repeat(pointer_r[:-1], length_r)
            item_h = self.item_r[np.repeat(np.arange(rows.start, rows.stop), length_r) - back_h]
            parts = power_k[back_h], item_h, pointer_r
            yield rows, sparse.csr_matrix(parts, shape=(len(length_r), self.n_items))


def _marks(item_r: IntArray, weight_r: FloatArray, n_items: int) -> sparse.csr_matrix:
    """Return one weight in each row, at its item, where it is not too small to count."""
    weight_r = weight_r.astype(np.float32)
    counts_r = weight_r > FORGOTTEN / 10
    pointer_r = np.concatenate([[0], np.cumsum(counts_r)])
    parts = weight_r[counts_r], item_r[counts_r], pointer_r
    return sparse.csr_matrix(parts, shape=(len(item_r), n_items))
