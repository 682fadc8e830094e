"""EASE aligned with content: new items, without a rating, are placed by their columns."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import torch
from scipy import sparse
from scipy.optimize import nnls
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.features import Column, ItemFeatures, column_width
from foretaste.models.base import Shape
from foretaste.models.ease import EASE, few
from foretaste.training.engine import Engine

SAMPLE = 1500  # items that the similarity of columns is learned on
BLOCK = 1 << 24  # numbers in memory at a time, of all similarities


@dataclass(eq=False)
class AlignedEASE(EASE):
    """Score known items as EASE does, and new ones by how their columns resemble known items'.

    The similarity of two items is g = sum_k mu_k g_k over columns and pairs of columns: g_k of a
    column is a smoothed cosine, and of a pair the product of its two cosines.  The coefficients mu
    of the regression of histories X on X G_k are not negative.  The weights of a new item score
    histories nearly as g does: b = beta / (1 + beta) (X'X + l2 / (1 + beta))^-1 X'X g.

    It does not use columns for items of training, however rarely they are liked, and what is liked
    of a new item later does not move its weights before the next fit.

    Args:
        l2: Ridge penalty of each item's regression on the others, in users, or "auto" as in EASE.
        dropout: Share of a history that training hides, as in EASE; new items do without.
        beta: Weight of the similarity beside the likes, of which a new item has none.
        smoothing: Cosines of items with n features count n / (n + smoothing).

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> clicks = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
        >>> items = pl.DataFrame({"item": ["x", "y"], "year": [1990, 1991]})
        >>> data = ft.from_frame(clicks).with_items(items)
        >>> ft.fit(ft.AlignedEASE(l2=1.0), data).recommend(user="b")["item"].item()
        'y'
    """

    name: ClassVar[str] = "aligned-ease"

    beta: float = 100.0
    smoothing: float = 5.0
    columns_: list[Column] = field(init=False, repr=False)
    mu_k_: Tensor = field(init=False, repr=False)
    users_: int = field(init=False, repr=False)
    pointer_i_: Tensor = field(init=False, repr=False)  # of each item: who liked it, its features
    place_n_: Tensor = field(init=False, repr=False)
    weight_n_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Fit EASE, then one small regression for the coefficient of each column."""
        super().fit(train, engine)
        X_ui = self.learn_likes(train)
        self.columns_ = ItemFeatures.learn(train.item_table).columns
        F_if = ItemFeatures(self.columns_).encode(train.item_frame)
        self.mu_k_ = torch.from_numpy(self._learn_mu(X_ui, F_if, engine.rng("similarity")))
        known: Any = sparse.hstack([X_ui.T, F_if], format="csr", dtype=np.float32)
        self.users_ = len(train.users)
        self.pointer_i_, self.place_n_, self.weight_n_ = map(
            torch.from_numpy, (known.indptr, known.indices, known.data)
        )
        return self

    def with_items(self, table: pl.DataFrame) -> Self:
        """Return a copy that also scores new items, by weights that follow from their columns.

        In a history, a new item weighs as much for an item of training as that item for it.
        """
        B_ic = self._aligned(ItemFeatures(self.columns_).encode(table))
        n_known, trained = len(self.weights_ij_), len(B_ic)
        n_items = n_known + len(table)
        grown = copy.copy(self)
        grown.weights_ij_ = torch.zeros(n_items, n_items, dtype=torch.float32)
        grown.weights_ij_[:n_known, :n_known] = self.weights_ij_
        grown.weights_ij_[:trained, n_known:] = B_ic
        grown.weights_ij_[n_known:, :trained] = B_ic.T
        return grown

    def cosines(self, item: int) -> Tensor:
        """Return the cosines of the weights that predict one item to every item's: (items,)."""
        norm_j = self._norm_j
        return self.weights_ij_[:, item] @ self.weights_ij_ / (norm_j * norm_j[item])

    @cached_property
    def _norm_j(self) -> Tensor:
        """Return the lengths of the weights that predict each item: (items,)."""
        return self.weights_ij_.norm(dim=0).clamp(min=1e-8)

    def _aligned(self, F_cf: Any) -> Tensor:
        """Return the weights that predict new items from those of training: (trained, new).

        Where users are few, the system has as many equations as users: X' (XX' + l)^-1 X g.
        """
        X_ui, F_if = self._known()
        n_users, n_items = X_ui.shape
        by_users = few(n_users, n_items)
        X_ui = X_ui.astype("float64")
        K = torch.from_numpy((X_ui @ X_ui.T if by_users else X_ui.T @ X_ui).toarray())
        K.diagonal().add_(self.decided("l2") / (1 + self.beta))
        triangle = torch.linalg.cholesky(K)
        B_ic = torch.empty(n_items, F_cf.shape[0], dtype=torch.float32)
        for part in blocks(F_cf.shape[0], BLOCK // ((len(self.columns_) + 3) * n_items)):
            g_ic = np.zeros((n_items, part.stop - part.start))
            for mu, S_ic in zip(
                self.mu_k_.numpy(), self._similarities(F_if, F_cf[part]), strict=True
            ):
                g_ic += mu * S_ic
            z = X_ui @ g_ic
            z = torch.from_numpy(z if by_users else X_ui.T @ z)
            z = torch.cholesky_solve(z, triangle).numpy()
            b_ic = self.beta / (1 + self.beta) * (X_ui.T @ z if by_users else z)
            B_ic[:, part] = torch.from_numpy(b_ic)
        return B_ic

    def _learn_mu(self, X_ui: Any, F_if: Any, rng: np.random.Generator) -> np.ndarray:
        """Return the mu >= 0 that minimise |X - X sum_k mu_k G_k - constant|^2 over some items."""
        n_users, n_items = X_ui.shape
        sample = rng.permutation(n_items)[:SAMPLE]
        n_k = len(self.columns_) * (len(self.columns_) + 1) // 2
        normal = np.zeros((n_k + 2, n_k + 2))  # products of all X G_k, the constant, and X
        for part in blocks(len(sample), BLOCK // ((n_k + 2) * max(n_users, n_items))):
            item_c = sample[part]
            A_ku = np.ones((n_k + 2, n_users * len(item_c)))
            for A_u, S_ic in zip(A_ku[:n_k], self._similarities(F_if, F_if[item_c]), strict=True):
                S_ic[item_c, np.arange(len(item_c))] = 0.0  # an item must not predict itself
                A_u[:] = (X_ui @ S_ic).ravel()
            A_ku[-1] = X_ui[:, item_c].toarray().ravel()
            normal += A_ku @ A_ku.T
        scale_k = np.sqrt(normal.diagonal()).clip(min=1e-12)
        normal /= scale_k[:, None] * scale_k
        normal[np.diag_indices_from(normal)] += 1e-9  # columns may be equal, and one may be empty
        L_kk = np.linalg.cholesky(normal[:-1, :-1])
        mu_k, _ = nnls(L_kk.T, np.linalg.solve(L_kk, normal[:-1, -1]))
        return (mu_k * scale_k[-1] / scale_k[:-1])[:-1]

    def _similarities(self, F_if: Any, F_cf: Any) -> Iterator[np.ndarray]:
        """Yield similarities by each column, then by each pair of columns: (i, c), single."""
        edges = np.cumsum([0, *map(column_width, self.columns_)])
        columns = [slice(*edge) for edge in pairwise(edges)]
        alone = [cosines(F_if[:, f], F_cf[:, f], self.smoothing) for f in columns]
        yield from (S_ic.copy() for S_ic in alone)
        yield from (a * b for a, b in combinations(alone, 2))

    def _known(self) -> tuple[Any, Any]:
        """Return likes (users, items) and features (items, f) of training: sparse."""
        arrays = (self.weight_n_.numpy(), self.place_n_.numpy(), self.pointer_i_.numpy())
        width = self.users_ + ItemFeatures(self.columns_).width
        known = sparse.csr_matrix(arrays, (len(self.pointer_i_) - 1, width))
        return known[:, : self.users_].T.tocsr(), known[:, self.users_ :]

    def cost(self, shape: Shape) -> Cost:
        """Estimate EASE, and sparse products with similarities of some items by a few columns."""
        ease, sample = super().cost(shape), min(SAMPLE, shape.items)
        products = 10 * sample * (shape.interactions + shape.items + shape.users)
        return Cost(ease.seconds + 2e-10 * products, ease.memory_bytes + 2000 * shape.items)


def cosines(F_if: Any, F_cf: Any, smoothing: float) -> np.ndarray:
    """Return cosines of rows of two sparse matrices, times n / (n + smoothing).

    n is the root of the product of the numbers of features of the two rows.

    Args:
        F_if: Features of items i, CSR: (i, f).
        F_cf: Features of items c, CSR: (c, f).
        smoothing: Number of features at which a cosine counts half.

    Returns:
        (i, c), single; zero where a row has no features.
    """
    n_i, n_c = (np.sqrt(np.diff(F.indptr)).astype(np.float32) for F in (F_if, F_cf))
    norm_i, norm_c = (np.sqrt(F.multiply(F).sum(axis=1).A1) for F in (F_if, F_cf))
    n_ic = n_i[:, None] * n_c
    S_ic = (F_if @ F_cf.T).toarray() / np.maximum(norm_i[:, None] * norm_c, 1e-9)
    return S_ic * n_ic / np.maximum(n_ic + smoothing, 1.0)


def blocks(rows: int, size: int) -> list[slice]:
    """Return slices that together make all rows.

    Args:
        rows: How many rows there are.
        size: How many rows a slice has at most; less than 1 counts as 1.
    """
    size = max(1, size)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
