"""Item factors regressed on content, in closed form: the fast answer to items nobody has rated."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import torch
from scipy import sparse
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.features import Column, ItemFeatures
from foretaste.models.als import ALS
from foretaste.models.base import Shape, UserBatch
from foretaste.training.engine import Engine

CG_STEPS, CG_ACCURACY = 200, 1e-4  # of the residual, relative


@dataclass(eq=False)
class AlignedALS(ALS):
    """ALS that also knows how its item factors follow from content: y_c = W' f_c for a new item.

    W minimises sum_i sqrt(n_i) |y_i - W' f_i|^2 + content_l2 |W|^2 over the items trained on, n_i
    the number of users who liked i: factors of rare items are noise, and count less.  Items that
    were rated keep their own factors, so what ALS knows of them is not lost.
    """

    name: ClassVar[str] = "aligned-als"

    content_l2: float = 30.0
    columns_: list[Column] = field(init=False, repr=False)
    weights_fd_: Tensor = field(init=False, repr=False)
    trained_: int = field(init=False, repr=False)  # items, before those that came later

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """ALS, then one ridge regression of its item factors."""
        super().fit(train, engine)
        n_i = self.learn_likes(train).sum(axis=0).A1
        self.columns_ = ItemFeatures.learn(train.item_table).columns
        F_if = self._content(train.item_frame)
        W_fd = ridge(F_if, self.item_id_.double().numpy(), np.sqrt(n_i), self.content_l2)
        self.weights_fd_ = torch.from_numpy(W_fd).float()
        self.trained_ = len(train.items)
        return self

    def user_factors(self, batch: UserBatch) -> Tensor:
        """The factors of histories, to which new items matter only where they are liked: (B, d)."""
        X_bi = self.likes(batch, len(self.item_id_))
        start_bd = torch.zeros(len(batch), self.item_id_.shape[1])
        return self.solve(
            X_bi, self.item_id_, self.square_d_, start_bd, self.prior_d_, self.trained_
        )

    def with_items(self, table: pl.DataFrame) -> Self:
        """A copy with the lines of an item table as further items, placed by their content."""
        F_cf = self._content(table)
        new_cd = torch.from_numpy(F_cf @ self.weights_fd_.double().numpy()).float()
        extended = copy.copy(self)
        extended.item_id_ = torch.cat([self.item_id_, new_cd])
        return extended

    def _content(self, table: pl.DataFrame) -> Any:
        """Content features and a column of ones, for the mean item: CSR (rows, f)."""
        F_rf = ItemFeatures(self.columns_).encode(table).astype(np.float64)
        return sparse.hstack([F_rf, np.ones((len(table), 1))], format="csr")

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
        """ALS, and sparse products of a hundred features an item."""
        als = ALS.cost(shape)
        return Cost(als.seconds + 1e-3 * shape.items, als.memory_bytes + 2000 * shape.items)


def ridge(F_if: sparse.csr_matrix, Y_id: np.ndarray, weight_i: np.ndarray, l2: float) -> np.ndarray:
    """W_fd that minimises sum_i weight_i |y_i - W' f_i|^2 + l2 |W|^2, by conjugate gradients.

    All targets at once, each with step sizes of its own; only sparse products, so that features may
    be many.
    """
    F_fi = F_if.T.tocsr()
    weight_i1 = weight_i[:, None]
    scale_f1 = 1 / (F_if.multiply(F_if).T @ weight_i1 + l2)  # Jacobi
    R_fd = F_fi @ (weight_i1 * Y_id)
    W_fd = np.zeros_like(R_fd)
    Z_fd = scale_f1 * R_fd
    P_fd, rz_d = Z_fd, (R_fd * Z_fd).sum(axis=0)
    goal_d = CG_ACCURACY**2 * rz_d
    for _ in range(CG_STEPS):
        if (rz_d <= goal_d).all():
            break
        A_fd = F_fi @ (weight_i1 * (F_if @ P_fd)) + l2 * P_fd
        step_d = rz_d / np.maximum((P_fd * A_fd).sum(axis=0), 1e-300)
        W_fd += step_d * P_fd
        R_fd = R_fd - step_d * A_fd
        Z_fd = scale_f1 * R_fd
        before_d, rz_d = rz_d, (R_fd * Z_fd).sum(axis=0)
        P_fd = Z_fd + rz_d / np.maximum(before_d, 1e-300) * P_fd
    return W_fd
