"""EASE for large catalogues: each item's regression on the items most like it alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.models.base import Shape, UserBatch
from foretaste.models.item_knn import nearest, weighted_sum
from foretaste.models.likes import LearnsFromLikes
from foretaste.training.engine import Engine


@dataclass(eq=False)
class SparseEASE(LearnsFromLikes):
    """EASE whose column of an item has zeros but for its `neighbours` of the highest cosine.

    l2, dropout: as there.  Items without a user in common are no neighbours.
    """

    name: ClassVar[str] = "sparse-ease"

    l2: float = 60.0
    dropout: float = 0.0
    neighbours: int = 400
    pointer_j_: Tensor = field(init=False, repr=False)
    item_n_: Tensor = field(init=False, repr=False)
    weight_n_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Find the neighbours of each item, then its regression on them."""
        X_ui = self.learn_likes(train)
        B_ij = nearest(X_ui, self.neighbours, 0.0, engine)
        X_ui, n_items = X_ui.tocsc(), X_ui.shape[1]
        with engine.meter("sparse-ease", n_items) as meter:
            for i in range(n_items):
                near = slice(B_ij.indptr[i], B_ij.indptr[i + 1])
                B_ij.data[near] = ridge(X_ui, i, B_ij.indices[near], self.l2, self.dropout)
                meter.advance()
        B_ji = B_ij.T.tocsr()
        self.pointer_j_, self.item_n_, self.weight_n_ = map(
            torch.from_numpy, (B_ji.indptr, B_ji.indices, B_ji.data)
        )
        return self

    def score(self, batch: UserBatch) -> Tensor:
        """One sparse product: (B, items)."""
        history_bj = self.likes(batch, len(self.pointer_j_) - 1)
        return weighted_sum(history_bj, self.pointer_j_, self.item_n_, self.weight_n_)

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
        """A system of 400 equations an item, and the search for the neighbours."""
        return Cost(
            seconds=0.1 + 3e-3 * shape.items + 1e-9 * shape.items**2,
            memory_bytes=(1 << 30) + 3 * 12 * 400 * shape.items + 40 * shape.interactions,
        )


def ridge(X_ui: Any, item: int, near_k: np.ndarray, l2: float, dropout: float) -> np.ndarray:
    """Weights of the columns near_k that predict the column of an item: (k,).

    X_ui: CSC matrix.
    """
    X_uk = X_ui[:, near_k]
    G_kk = (X_uk.T @ X_uk).toarray().astype(np.float64)
    G_kk[np.diag_indices_from(G_kk)] *= 1 / (1 - dropout)
    G_kk[np.diag_indices_from(G_kk)] += l2
    target_k = (X_uk.T @ X_ui[:, [item]]).toarray()[:, 0]
    triangle = linalg.cho_factor(G_kk, overwrite_a=True, check_finite=False)
    return linalg.cho_solve(triangle, target_k, check_finite=False)
