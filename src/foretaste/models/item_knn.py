"""Item neighbourhoods: sparse similarities to the items of a history (Sarwar et al. 2001)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.models.base import Shape, searched
from foretaste.models.likes import LearnsFromLikes
from foretaste.training.engine import Engine

CHUNK_BYTES = 64 << 20  # of dense similarities at a time


@dataclass(eq=False)
class ItemKNN(LearnsFromLikes):
    """Score an item by its similarity to what the user liked: s_bi = sum_j x_bj S_ji.

    S_ij = w_i.w_j / (|w_i| |w_j| + shrinkage), and each item i keeps its nearest items j alone.  It
    does not know the order of a history, and two items that no user liked both are not similar.

    Args:
        similarity: "cosine" for w = x, the weights of likes; "bm25" for items as documents and
            users as their words, w = idf_u x (k1 + 1) / (x + k1 (1 - b + b n_i / mean n)).
        neighbours: How many similar items each item keeps.
        shrinkage: What is added to the product of lengths, which lowers similarities of rare items.
        k1: How slowly a weight of BM25 saturates.
        b: How much BM25 corrects for the likes n_i of an item, 0 to 1.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> clicks = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
        >>> ft.fit(ft.ItemKNN(), ft.from_frame(clicks)).recommend(user="b")["item"].item()
        'y'
    """

    name: ClassVar[str] = "item-knn"

    similarity: Literal["cosine", "bm25"] = searched("bm25", choices=["cosine", "bm25"])
    neighbours: int = searched(100, 10, 1000, log=True)
    shrinkage: float = searched(0.0, 0.0, 200.0)
    k1: float = searched(1.2, 0.1, 5.0, log=True)
    b: float = searched(0.75, 0.0, 1.0)
    pointer_j_: Tensor = field(init=False, repr=False)
    item_n_: Tensor = field(init=False, repr=False)
    similarity_n_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Weigh the likes, then find the nearest items of each item, in blocks of items."""
        W_ui = self.learn_likes(train)
        if self.similarity == "bm25":
            W_ui = bm25(W_ui, self.k1, self.b)
        S_ij = nearest(W_ui, self.neighbours, self.shrinkage, engine)
        S_ji = S_ij.T.tocsr()
        self.pointer_j_ = torch.from_numpy(S_ji.indptr)
        self.item_n_, self.similarity_n_ = (
            torch.from_numpy(S_ji.indices),
            torch.from_numpy(S_ji.data),
        )
        return self

    def score(self, histories: Histories) -> Tensor:
        """Return the product of likes and similarities, both sparse: (B, items)."""
        history_bi = self.likes(histories, len(self.pointer_j_) - 1)
        return torch.from_numpy((history_bi @ self._similarity_ji).toarray())

    @cached_property
    def _similarity_ji(self) -> Any:
        """Return the similarities by row of the liked item: CSR (items, items)."""
        return square(self.pointer_j_, self.item_n_, self.similarity_n_)

    def cost(self, shape: Shape) -> Cost:
        """Estimate every pair of items that share a user, and a dense block to choose from."""
        pairs = shape.interactions**2 / max(shape.users, 1)
        k = min(self.neighbours, shape.items)
        return Cost(
            seconds=0.1 + 4e-9 * pairs + 1e-9 * shape.items**2,
            memory_bytes=3 * CHUNK_BYTES + 3 * 12 * k * shape.items + 40 * shape.interactions,
        )


def square(pointer_j: Tensor, item_n: Tensor, value_n: Tensor) -> Any:
    """Sparse weights of items on items from the parts of a CSR matrix: (items, items).

    Args:
        pointer_j: Where the row of each item begins, and where the last one ends: (items + 1,).
        item_n: Columns of the entries: (N,).
        value_n: Weights of the entries: (N,).

    Returns:
        A CSR matrix.  SciPy checks every index of it, which takes longer than to multiply it by
        one history, so it is made once.
    """
    arrays = (value_n.numpy(), item_n.numpy(), pointer_j.numpy())
    return sparse.csr_matrix(arrays, shape=(len(pointer_j) - 1, len(pointer_j) - 1))


def bm25(X_ui: Any, k1: float, b: float) -> Any:
    """Return BM25 weights of likes, with items as documents (Robertson and Zaragoza 2009).

    Args:
        X_ui: Weights of likes, CSR: (users, items).
        k1: How slowly a weight saturates.
        b: How much is corrected for the likes of an item, 0 to 1.

    Returns:
        A CSR matrix, single, with entries at the same places: (users, items).
    """
    n_items = X_ui.shape[1]
    count_u = np.diff(X_ui.indptr)
    length_i = np.bincount(X_ui.indices, X_ui.data, minlength=n_items)
    norm_i = 1 - b + b * length_i / max(length_i.mean(), 1e-12)
    idf_u = np.log((n_items - count_u + 0.5) / (count_u + 0.5) + 1)
    W_ui = X_ui.astype(np.float32)  # a copy
    W_ui.data *= (k1 + 1) / (W_ui.data + k1 * norm_i[W_ui.indices]) * np.repeat(idf_u, count_u)
    return W_ui


def nearest(W_ui: Any, neighbours: int, shrinkage: float, engine: Engine) -> Any:
    """Return the shrunk cosines of each item i to its nearest other items j.

    Args:
        W_ui: Weights, CSR: (users, items).
        neighbours: How many items j each item keeps.
        shrinkage: What is added to the product of lengths.
        engine: Where progress is shown.

    Returns:
        A CSR matrix, single: (items, items).
    """
    W_iu = W_ui.T.tocsr()
    n_items = len(W_iu.indptr) - 1
    norm_i = np.sqrt(np.asarray(W_iu.multiply(W_iu).sum(axis=1)).ravel()).astype(np.float32)
    rows = max(1, CHUNK_BYTES // (4 * max(n_items, 1)))
    parts = []
    with engine.meter("neighbours", n_items) as meter:
        for start in range(0, n_items, rows):
            S_ij = (W_iu[start : start + rows] @ W_ui).toarray()
            S_ij /= norm_i[start : start + rows, None] * norm_i + np.float32(shrinkage + 1e-12)
            place_i = np.arange(len(S_ij))
            S_ij[place_i, start + place_i] = 0.0  # an item is not its own neighbour
            value_ik, item_ik = torch.from_numpy(S_ij).topk(min(neighbours, n_items))
            pointer_i = np.arange(len(S_ij) + 1) * item_ik.shape[1]
            part = sparse.csr_matrix(
                (value_ik.flatten().numpy(), item_ik.flatten().numpy(), pointer_i), S_ij.shape
            )
            part.eliminate_zeros()
            parts.append(part)
            meter.advance(len(S_ij))
    return sparse.vstack(parts, format="csr")
