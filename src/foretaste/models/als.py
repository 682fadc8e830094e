"""Alternating least squares for implicit feedback, as Rendle et al. (2021) revisit it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.models.base import Model, Shape, UserBatch, liked_from
from foretaste.training.engine import Engine

BATCH_FLOATS = 1 << 22  # gathered factors at a time: 16 MiB


@dataclass(eq=False)
class ALS(Model):
    """Factors x_u, y_i of users and items that minimise (arXiv 2110.14037, equations 3 and 6)

    sum over liked (x_u.y_i - 1)^2 + unseen sum over all (x_u.y_i)^2
    + l2 (sum_u (n_u + unseen items)^nu |x_u|^2 + sum_i (n_i + unseen users)^nu |y_i|^2).

    A user's factors are solved from the history by the same function in training and in serving, so
    only item factors are kept.
    """

    name: ClassVar[str] = "als"

    n_factors: int = 64
    unseen: float = 0.1
    l2: float = 0.01
    nu: float = 1.0
    iterations: int = 10
    positive_from: float | None = None
    item_id_: Tensor = field(init=False, repr=False)
    border_: float = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Solve for users, then for items, in turn."""
        self.border_ = liked_from(train, self.positive_from)
        x = train.interactions
        n_users, n_items = len(train.users), len(train.items)
        liked_r = x.value_r >= self.border_
        user_r = torch.from_numpy(x.user_r[liked_r]).long()
        item_r = torch.from_numpy(x.item_r[liked_r]).long()
        by_item = item_r.argsort(stable=True)
        pointer_u, pointer_i = _pointers(user_r, n_users), _pointers(item_r, n_items)
        draw = torch.randn(n_items, self.n_factors, generator=engine.generator("items"))
        item_id = draw * 0.1 / self.n_factors**0.5
        with engine.meter("als", self.iterations) as meter:
            for _ in range(self.iterations):
                user_ud = self.solve(pointer_u, item_r, item_id)
                item_id = self.solve(pointer_i, user_r[by_item], user_ud)
                meter.advance()
        self.item_id_ = item_id
        return self

    def solve(self, pointer_b: Tensor, index_h: Tensor, other_jd: Tensor) -> Tensor:
        """Factors of rows b given those of what they like: (B, d); zero where that is nothing.

        pointer_b, index_h: ragged rows of `other_jd`.  Rows are taken by length, so that a batch
        pads little; each is a Cholesky solve of its own normal equations.
        """
        d = other_jd.shape[1]
        length_b = pointer_b.diff()
        G_dd = self.unseen * other_jd.T @ other_jd
        l2_b = self.l2 * (length_b + self.unseen * len(other_jd)) ** self.nu
        x_bd = torch.zeros(len(length_b), d)
        order = length_b.argsort(descending=True, stable=True)
        order = order[length_b[order] > 0]
        while len(order):
            longest = int(length_b[order[0]])
            rows, order = order.tensor_split([max(1, BATCH_FLOATS // (max(longest, d) * d))])
            column_l = torch.arange(longest)
            real_bl = column_l < length_b[rows, None]
            place_bl = (pointer_b[rows, None] + column_l).clamp(max=len(index_h) - 1)
            y_bld = other_jd[index_h[place_bl]] * real_bl[:, :, None]
            A_bdd = torch.baddbmm(G_dd[None], y_bld.mT, y_bld)
            A_bdd.diagonal(dim1=1, dim2=2).add_(l2_b[rows, None])
            L_bdd = torch.linalg.cholesky(A_bdd)
            x_bd[rows] = torch.cholesky_solve(y_bld.sum(dim=1)[:, :, None], L_bdd)[:, :, 0]
        return x_bd

    def score(self, batch: UserBatch) -> Tensor:
        """Dot products with the factors solved from each history: (B, items)."""
        liked_h = batch.value_h >= self.border_
        pointer_b = _pointers(batch.user_h[liked_h], len(batch))
        return self.solve(pointer_b, batch.item_h[liked_h], self.item_id_) @ self.item_id_.T

    def item_vectors(self) -> Tensor:
        """The item factors: (items, d)."""
        return self.item_id_

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
        """Ten iterations of 64 factors: outer products of interactions, a Cholesky for each row."""
        rows = shape.users + shape.items
        return Cost(
            seconds=10 * (4e-7 * shape.interactions + 3e-5 * rows),
            memory_bytes=8 * 64 * rows + 40 * shape.interactions + 12 * BATCH_FLOATS,
        )


def _pointers(row_r: Tensor, n_rows: int) -> Tensor:
    """Where each row's entries start, from sorted or unsorted rows: (n_rows + 1,)."""
    count = torch.bincount(row_r, minlength=n_rows)
    return torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])
