"""EASE: item-item regressions in closed form, full and sparse."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy import linalg
from torch import Tensor, nn

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.errors import ModelError
from foretaste.models.base import Shape, searched
from foretaste.models.item_knn import nearest, square
from foretaste.models.likes import LearnsFromLikes
from foretaste.training.engine import Engine

PENALTY = 35.0  # of a model without dropout, beside the root of how often items are liked
MAX_BYTES = 16 << 30  # two double matrices of items x items, at the peak of `fit`


@dataclass(eq=False)
class EASE(LearnsFromLikes):
    """Score an item by a weighted sum over what the user liked (Steck 2019).

    It does not know the order of a history, nor values beyond the weights of likes, nor the columns
    of items.  Memory grows with the square of the number of items; SparseEASE avoids that.

    Args:
        l2: Ridge penalty of each item's regression on the others, in users; "auto" for the rule of
            `penalty_for`.
        dropout: Share of a history that training hides, 0 up to 1 exclusive, in expectation and in
            closed form (Steck 2020, "Autoencoders that don't overfit towards the identity"): the
            penalty of an item then grows with how often it is liked.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> clicks = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
        >>> ft.fit(ft.EASE(l2=1.0), ft.from_frame(clicks)).recommend(user="b")["item"].item()
        'y'
    """

    name: ClassVar[str] = "ease"

    l2: float | Literal["auto"] = searched("auto", 1.0, 10_000.0, log=True)
    dropout: float = searched(0.0, 0.0, 0.8)
    weights_ij_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Count co-occurrences and invert once; refuse a catalogue that is too large."""
        n_items = len(train.items)
        needed = self.cost(Shape(len(train.users), n_items, len(train))).memory_bytes
        if needed > MAX_BYTES:
            raise ModelError(
                f"{self.name} needs {needed / 2**30:.3g} GiB for {n_items:,} items, more than "
                f"{MAX_BYTES / 2**30:.3g}.",
                fix="Use sparse-ease, which does not grow with items squared, or graph-filter.",
            )  # fmt: skip
        X_ui = self.learn_likes(train).astype("float64")  # counts are exact
        l2 = self.decided("l2")
        if few(len(train.users), n_items):
            X_ui = torch.from_numpy(X_ui.toarray())
            self.weights_ij_ = ease_weights_of_few(X_ui, l2, self.dropout)
        else:
            G_ij = torch.from_numpy((X_ui.T @ X_ui).toarray())
            self.weights_ij_ = ease_weights(G_ij, l2, self.dropout)
        return self

    def rules(self, X_ui: Any) -> dict[str, float]:
        """Return the penalty by how often items are liked."""
        return {"l2": penalty_for(X_ui)}

    def score(self, histories: Histories) -> Tensor:
        """Return the sum of the rows of weights of the liked items: (B, items)."""
        x_bi = self.likes(histories, len(self.weights_ij_))
        pointer_b, item_h, weight_h = map(torch.from_numpy, (x_bi.indptr, x_bi.indices, x_bi.data))
        return nn.functional.embedding_bag(
            item_h, self.weights_ij_, pointer_b, mode="sum", include_last_offset=True,
            per_sample_weights=weight_h,
        )  # fmt: skip

    def cost(self, shape: Shape) -> Cost:
        """Estimate the products of one inversion, and the memory of two square matrices."""
        size = shape.users if few(shape.users, shape.items) else shape.items
        products = shape.items**2 * size
        return Cost(seconds=0.1 + 4e-11 * products, memory_bytes=20 * shape.items**2)


def penalty_for(X_ui: Any) -> float:
    """Return the ridge penalty that suits the likes: PENALTY sqrt(m) times their mean square.

    m is the mean, over likes, of how many users like the item, so that items count as often as
    histories hold them.  The optimum is flat: on seven validation parts, penalties near this one
    cost 2 % of NDCG@10 at most beside the best of a grid (python -m bench.defaults).

    Args:
        X_ui: Weights of likes, CSR: (users, items).
    """
    count_i = np.bincount(X_ui.indices, minlength=X_ui.shape[1])
    met = np.square(count_i, dtype=np.float64).sum() / max(1, X_ui.nnz)
    return float(PENALTY * met**0.5 * np.square(X_ui.data, dtype=np.float64).mean())


def few(n_users: int, n_items: int) -> bool:
    """Return whether a system of as many equations as users is the cheaper one.

    Args:
        n_users: How many users there are.
        n_items: How many items there are.
    """
    return 2 * n_users < n_items


def ease_weights(G_ij: Tensor, l2: float, dropout: float = 0.0) -> Tensor:
    """Return item-item weights of EASE in closed form (Steck 2019, equation 8; 2020, section 3).

    Args:
        G_ij: Co-occurrence counts, double: (items, items).  They are overwritten.
        l2: Ridge penalty.
        dropout: Share of a history that is hidden.

    Returns:
        B_ij, single, with a zero diagonal: (items, items).
    """
    G_ij.diagonal().mul_(1 / (1 - dropout)).add_(l2)
    # LAPACK fills columns.  P is symmetric, so its transpose is P laid out in rows, which `score`
    # sums: summed from columns, 500 users of ML-1M take 8.7 s instead of 0.12 s.
    P_ij = torch.cholesky_inverse(torch.linalg.cholesky(G_ij)).T
    B_ij = (P_ij / -P_ij.diagonal()).float()  # column j divided by P_jj
    return B_ij.fill_diagonal_(0.0).contiguous()  # an item must not predict itself


def ease_weights_of_few(X_ui: Tensor, l2: float, dropout: float = 0.0) -> Tensor:
    """Return the weights of `ease_weights` by a system of as many equations as users.

    By the identity of Woodbury, with D the penalties, (X'X + D)^-1 is
    D^-1 - D^-1 X' (I + X D^-1 X')^-1 X D^-1.

    Args:
        X_ui: Weights of likes, double: (users, items).
        l2: Ridge penalty.
        dropout: Share of a history that is hidden.

    Returns:
        B_ij, single, with a zero diagonal: (items, items).
    """
    penalty_i = l2 + dropout / (1 - dropout) * X_ui.square().sum(dim=0)
    Z_ui = X_ui / penalty_i
    K_uu = Z_ui @ X_ui.T
    K_uu.diagonal().add_(1.0)
    Z_ui = torch.linalg.solve_triangular(torch.linalg.cholesky(K_uu), Z_ui, upper=False)
    P_ij = -(Z_ui.T @ Z_ui)
    P_ij.diagonal().add_(1 / penalty_i)
    P_ij /= -P_ij.diagonal().clone()  # in place: the users' matrices take memory too
    return P_ij.float().fill_diagonal_(0.0)


@dataclass(eq=False)
class SparseEASE(LearnsFromLikes):
    """Score as EASE does, with the regression of an item on its nearest neighbours alone.

    Memory grows with items times neighbours.  It does not know the order of a history, and an item
    weighs nothing for another that is not its neighbour; items without a user in common never are.

    Args:
        l2: Ridge penalty of each item's regression on its neighbours, in users; "auto" for the
            rule of `penalty_for`.
        dropout: Share of a history that training hides, 0 up to 1 exclusive, in expectation.
        neighbours: How many items of the highest cosine an item is predicted from.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> clicks = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
        >>> recommender = ft.fit(ft.SparseEASE(l2=1.0), ft.from_frame(clicks))
        >>> recommender.recommend(user="b")["item"].item()
        'y'
    """

    name: ClassVar[str] = "sparse-ease"

    l2: float | Literal["auto"] = searched("auto", 1.0, 10_000.0, log=True)
    dropout: float = searched(0.0, 0.0, 0.8)
    neighbours: int = searched(400, 50, 1000, log=True)
    pointer_j_: Tensor = field(init=False, repr=False)
    item_n_: Tensor = field(init=False, repr=False)
    weight_n_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Find the neighbours of each item, then solve its regression on them."""
        X_ui, l2 = self.learn_likes(train), self.decided("l2")
        B_ij = nearest(X_ui, self.neighbours, 0.0, engine)
        X_ui, n_items = X_ui.tocsc(), X_ui.shape[1]
        with engine.meter("sparse-ease", n_items) as meter:
            for i in range(n_items):
                near = slice(B_ij.indptr[i], B_ij.indptr[i + 1])
                B_ij.data[near] = neighbour_ridge(X_ui, i, B_ij.indices[near], l2, self.dropout)
                meter.advance()
        B_ji = B_ij.T.tocsr()
        self.pointer_j_, self.item_n_, self.weight_n_ = map(
            torch.from_numpy, (B_ji.indptr, B_ji.indices, B_ji.data)
        )
        return self

    def rules(self, X_ui: Any) -> dict[str, float]:
        """Return the penalty by how often items are liked."""
        return {"l2": penalty_for(X_ui)}

    def score(self, histories: Histories) -> Tensor:
        """Return the product of likes and weights, both sparse: (B, items)."""
        history_bj = self.likes(histories, len(self.pointer_j_) - 1)
        return torch.from_numpy((history_bj @ self._weights_ji).toarray())

    @cached_property
    def _weights_ji(self) -> Any:
        """Return the weights by row of the liked item: CSR (items, items)."""
        return square(self.pointer_j_, self.item_n_, self.weight_n_)

    def cost(self, shape: Shape) -> Cost:
        """Estimate a system of `neighbours` equations an item, and the search for neighbours."""
        k = min(self.neighbours, shape.items)
        return Cost(
            seconds=0.1 + 3e-3 * (k / 400) ** 2 * shape.items + 1e-9 * shape.items**2,
            memory_bytes=(1 << 30) + 3 * 12 * k * shape.items + 40 * shape.interactions,
        )


def neighbour_ridge(
    X_ui: Any, item: int, near_k: np.ndarray, l2: float, dropout: float
) -> np.ndarray:
    """Return the weights of some items that predict another by ridge regression: (k,).

    Args:
        X_ui: Weights of likes, CSC: (users, items).
        item: The item that is predicted.
        near_k: The items that it is predicted from: (k,).
        l2: Ridge penalty.
        dropout: Share of a history that is hidden.
    """
    X_uk = X_ui[:, near_k]
    G_kk = (X_uk.T @ X_uk).toarray().astype(np.float64)
    G_kk[np.diag_indices_from(G_kk)] *= 1 / (1 - dropout)
    G_kk[np.diag_indices_from(G_kk)] += l2
    target_k = (X_uk.T @ X_ui[:, [item]]).toarray()[:, 0]
    triangle = linalg.cho_factor(G_kk, overwrite_a=True, check_finite=False)
    return linalg.cho_solve(triangle, target_k, check_finite=False)
