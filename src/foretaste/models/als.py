"""Alternating least squares for implicit feedback, as Rendle et al. (2021) revisit it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import torch
from scipy import sparse
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.features import Column, ItemFeatures
from foretaste.data.histories import Histories
from foretaste.models.base import Shape, searched
from foretaste.models.likes import LearnsFromLikes
from foretaste.training.engine import Engine

UNSEEN, PENALTY, HIGHEST = 2.4, 1.25, 0.28  # chosen on validation parts: python -m bench.defaults
BATCH_FLOATS = 1 << 20  # gathered factors at a time: 4 MiB stay near the cores


@dataclass(eq=False)
class ALS(LearnsFromLikes):
    """Score by factors x_u, y_i of users and items that minimise a weighted squared error.

    sum over liked w_ui (x_u.y_i - 1)^2 + unseen sum over all (x_u.y_i)^2
    + l2 (sum_u (n_u + unseen items)^nu |x_u|^2 + sum_i (n_i + unseen users)^nu |y_i|^2)

    (arXiv 2110.14037, equations 3 and 6).  A user's factors are solved from the history by the same
    function in training and in serving, so that only item factors are kept.  It does not know the
    order of a history, nor the columns of items: an item without likes has factors near zero.

    Steps of conjugate gradients (Takacs et al. 2011) are taken in the basis where Y^T Y is
    diagonal, preconditioned by that diagonal and the l2: three from zero come within 2 % of the
    exact factors, where plain ones leave 10 to 14 % (ML-1M at 64 factors, Gowalla at 128).

    Args:
        n_factors: Factors of a user and of an item.  "auto": 4 for the root of each item, from 64
            to 256, and no more than there are users or items.
        unseen: Weight of every pair of user and item, liked or not, beside 1 of a like.  "auto":
            UNSEEN (users items)^(1/8) times the density, so that all pairs together weigh 14 to 35
            times what all likes do, the more the larger the data.
        l2: Ridge penalty of the factors.  "auto": min(HIGHEST, PENALTY / n^(1/2)) / (1 + unseen /
            density), with n the geometric mean of the likes of a mean user and of a mean item, so
            that the penalty of either grows with the root of their likes, as noise does.
        nu: Exponent of the number of likes in the penalty, 0 for the same penalty everywhere.
        iterations: Alternations between users and items.
        steps: Steps of conjugate gradients in each solve.
        prior: Likes that are added to a history when it is folded in, spread over the items as all
            likes of training are, so that a user of few likes gets what is popular.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> clicks = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
        >>> ft.fit(ft.ALS(n_factors=2), ft.from_frame(clicks)).recommend(user="b")["item"].item()
        'y'
    """

    name: ClassVar[str] = "als"

    n_factors: int | Literal["auto"] = searched("auto", 16, 512, log=True)
    unseen: float | Literal["auto"] = searched("auto", 0.001, 1.0, log=True)
    l2: float | Literal["auto"] = searched("auto", 0.0001, 1.0, log=True)
    nu: float = searched(1.0, 0.0, 1.0)
    iterations: int = 10
    steps: int = 3
    prior: float = searched(5.0, 0.0, 20.0)
    item_id_: Tensor = field(init=False, repr=False)
    square_d_: Tensor = field(init=False, repr=False)
    prior_d_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Solve for users, then for items, in turn, each from its last solution."""
        X_ui = self.learn_likes(train)
        X_iu = X_ui.T.tocsr()
        d, unseen = self.decided("n_factors"), self.decided("unseen")
        draw = torch.randn(
            len(train.items), d, generator=engine.generator("items"), dtype=torch.float32
        )
        item_id = draw * 0.1 / d**0.5
        user_ud = torch.zeros(len(train.users), d, dtype=torch.float32)
        with engine.meter("als", self.iterations) as meter:
            for _ in range(self.iterations):
                item_id, user_ud, square_d = principal_axes(item_id, user_ud, unseen)
                user_ud = self.solve(X_ui, item_id, square_d, user_ud)
                user_ud, item_id, square_d = principal_axes(user_ud, item_id, unseen)
                item_id = self.solve(X_iu, user_ud, square_d, item_id)
                meter.advance()
        liked_i = torch.from_numpy(X_ui.sum(axis=0).A1)
        liked_i *= self.prior / liked_i.sum().clamp(min=1e-12)
        self.item_id_, _, self.square_d_ = principal_axes(item_id, user_ud, unseen + liked_i)
        self.prior_d_ = liked_i @ self.item_id_
        return self

    def rules(self, X_ui: Any) -> dict[str, float]:
        """Return factors by the number of items, and weight and penalty by the density."""
        n_pairs = X_ui.shape[0] * X_ui.shape[1]
        density, n = X_ui.nnz / n_pairs, X_ui.nnz / n_pairs**0.5
        given = self.unseen
        unseen = UNSEEN * n_pairs**0.125 * density if given == "auto" else given
        return {
            "n_factors": n_factors_for(*X_ui.shape), "unseen": unseen,
            "l2": min(HIGHEST, PENALTY / n**0.5) / (1 + unseen / density),
        }  # fmt: skip

    def solve(
        self, X_bj: Any, y_jd: Tensor, square_d: Tensor, start_bd: Tensor,
        prior_d: Tensor | None = None, n_unseen: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Solve for the factors of rows b given those of what they like: (B, d).

        Rows are taken by length, so that a batch pads little.

        Args:
            X_bj: Weights of likes, CSR: (B, J).
            y_jd: Factors of what is liked, turned by `principal_axes`: (J, d).
            square_d: The diagonal that `principal_axes` returns: (d,).
            start_bd: Where the conjugate gradients start: (B, d).
            prior_d: Sum of the factors that the prior likes: (d,); None for no prior.
            n_unseen: How many rows square_d is the sum of; None for all of y_jd.
        """
        pointer_b, index_h, weight_h = map(torch.from_numpy, (X_bj.indptr, X_bj.indices, X_bj.data))
        length_b = pointer_b.diff()
        n_unseen = len(y_jd) if n_unseen is None else n_unseen
        unseen = self.decided("unseen") * n_unseen
        l2_b = self.decided("l2") * (length_b.float() + unseen) ** self.nu
        prior_d = torch.zeros_like(square_d) if prior_d is None else prior_d
        x_bd = prior_d / (square_d + l2_b[:, None]).clamp(min=1e-12)
        order = length_b.argsort(descending=True, stable=True)
        order = order[length_b[order] > 0]
        while len(order):
            longest = int(length_b[order[0]])
            rows, order = order.tensor_split([max(1, BATCH_FLOATS // (longest * y_jd.shape[1]))])
            column_l = torch.arange(longest)
            real_bl = column_l < length_b[rows, None]
            place_bl = (pointer_b[rows, None] + column_l).clamp(max=len(index_h) - 1)
            y_bld, w_bl = y_jd[index_h[place_bl]], weight_h[place_bl] * real_bl
            m_bd = square_d + l2_b[rows, None]
            x_bd[rows] = conjugate_gradients(y_bld, w_bl, m_bd, prior_d, start_bd[rows], self.steps)
        return x_bd

    def score(self, histories: Histories) -> Tensor:
        """Return dot products with the factors solved from each history: (B, items)."""
        return self.user_factors(histories) @ self.item_id_.T

    def user_factors(self, histories: Histories) -> Tensor:
        """Return the factors solved from each history: (B, d)."""
        X_bi = self.likes(histories, len(self.item_id_))
        start_bd = torch.zeros(len(histories), self.item_id_.shape[1], dtype=torch.float32)
        return self.solve(X_bi, self.item_id_, self.square_d_, start_bd, self.prior_d_)

    def item_factors(self) -> Tensor:
        """Return the item factors, with which user factors are multiplied: (items, d)."""
        return self.item_id_

    def item_vectors(self) -> Tensor:
        """Return the item factors: (items, d)."""
        return self.item_id_

    def cost(self, shape: Shape) -> Cost:
        """Estimate two products with what each row likes for every step of every iteration.

        The time is linear in factors and steps (ML-100K: 5.6 s of processor time at 64 factors,
        12.8 at 128, 26 at 256, 45 at 512).
        """
        rows = shape.users + shape.items
        given = self.n_factors
        d = n_factors_for(shape.users, shape.items) if given == "auto" else given
        each = 2e-7 * shape.interactions + 3e-6 * rows  # at 64 factors and 3 steps
        return Cost(
            seconds=self.iterations * (self.steps + 1) / 4 * d / 64 * each,
            memory_bytes=8 * d * rows + 40 * shape.interactions + 12 * BATCH_FLOATS,
        )


def n_factors_for(n_users: int, n_items: int) -> int:
    """Return how many factors suit a catalogue: 4 for the root of each item, from 64 to 256.

    Args:
        n_users: How many users there are, which limits the factors.
        n_items: How many items there are, likewise.
    """
    return max(1, min(max(64, round(4 * n_items**0.5)), 256, n_users, n_items))


def principal_axes(
    y_jd: Tensor, x_bd: Tensor, weight_j: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the factors of both sides so that Y^T W Y is diagonal, which changes no score.

    Args:
        y_jd: Factors of one side: (J, d).
        x_bd: Factors of the other side: (B, d).
        weight_j: The diagonal of W: (J,), or one number for all.

    Returns:
        y_jd and x_bd in the new basis, and the diagonal (d,), single.
    """
    weight_j1 = torch.as_tensor(weight_j, dtype=torch.float32).reshape(-1, 1)
    square_d, Q_dd = torch.linalg.eigh((y_jd.T @ (weight_j1 * y_jd)).double())
    return y_jd @ Q_dd.float(), x_bd @ Q_dd.float(), square_d.clamp(min=0).float()


def conjugate_gradients(
    y_bld: Tensor, w_bl: Tensor, m_bd: Tensor, prior_d: Tensor, x_bd: Tensor, steps: int
) -> Tensor:
    """Take preconditioned steps towards (Y_b^T W_b Y_b + diag m_b) x_b = Y_b^T w_b + prior.

    Args:
        y_bld: Factors of what each row likes, padded: (B, length, d).
        w_bl: Their weights, zero where padded: (B, length).
        m_bd: The diagonal that is added, which is the preconditioner too: (B, d).
        prior_d: The prior's term of the right-hand side: (d,).
        x_bd: Where the steps start: (B, d).
        steps: How many steps are taken.

    Returns:
        x_bd after the last step: (B, d).
    """

    def A(p_bd: Tensor, target: float = 0.0) -> Tensor:
        """Return the left-hand side at p, less `target` times Y_b^T w_b: (B, d)."""
        error_bl = w_bl * (torch.bmm(y_bld, p_bd[:, :, None])[:, :, 0] - target)
        return torch.bmm(error_bl[:, None], y_bld)[:, 0] + m_bd * p_bd

    m_bd = m_bd.clamp(min=1e-12)
    r_bd = prior_d - A(x_bd, target=1.0)
    z_bd = p_bd = r_bd / m_bd
    rz_b1 = (r_bd * z_bd).sum(dim=1, keepdim=True)
    for _ in range(steps):
        Ap_bd = A(p_bd)
        step_b1 = rz_b1 / (p_bd * Ap_bd).sum(dim=1, keepdim=True).clamp(min=1e-30)
        x_bd = x_bd + step_b1 * p_bd
        r_bd = r_bd - step_b1 * Ap_bd
        z_bd = r_bd / m_bd
        fresh_b1 = (r_bd * z_bd).sum(dim=1, keepdim=True)
        p_bd = z_bd + fresh_b1 / rz_b1.clamp(min=1e-30) * p_bd
        rz_b1 = fresh_b1
    return x_bd


CG_STEPS, CG_ACCURACY = 200, 1e-4  # of the residual, relative


@dataclass(eq=False)
class AlignedALS(ALS):
    """Score known items as ALS does, and new ones by factors y_c = W' f_c of their columns.

    W minimises sum_i sqrt(n_i) |y_i - W' f_i|^2 + content_l2 |W|^2 over the items of training, with
    n_i the likes of item i, so that the noisy factors of rare items count less.  Items of training
    keep their own factors: it does not use the columns of those, however rarely they are liked.

    Args:
        content_l2: Ridge penalty of W.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> clicks = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
        >>> items = pl.DataFrame({"item": ["x", "y"], "year": [1990, 1991]})
        >>> data = ft.from_frame(clicks).with_items(items)
        >>> ft.fit(ft.AlignedALS(n_factors=2), data).recommend(user="b")["item"].item()
        'y'
    """

    name: ClassVar[str] = "aligned-als"

    content_l2: float = 30.0
    columns_: list[Column] = field(init=False, repr=False)
    weights_fd_: Tensor = field(init=False, repr=False)
    trained_: int = field(init=False, repr=False)  # items, before those that came later

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Fit ALS, then one ridge regression of its item factors on the columns."""
        super().fit(train, engine)
        n_i = self.learn_likes(train).sum(axis=0).A1
        self.columns_ = ItemFeatures.learn(train.item_table).columns
        F_if = self._content(train.item_frame)
        W_fd = content_ridge(F_if, self.item_id_.double().numpy(), np.sqrt(n_i), self.content_l2)
        self.weights_fd_ = torch.from_numpy(W_fd).float()
        self.trained_ = len(train.items)
        return self

    def user_factors(self, histories: Histories) -> Tensor:
        """Return the factors of histories, which new items move only where they are liked."""
        X_bi = self.likes(histories, len(self.item_id_))
        start_bd = torch.zeros(len(histories), self.item_id_.shape[1], dtype=torch.float32)
        return self.solve(
            X_bi, self.item_id_, self.square_d_, start_bd, self.prior_d_, self.trained_
        )

    def with_items(self, table: pl.DataFrame) -> Self:
        """Return a copy that also scores new items, by factors that follow from their columns."""
        F_cf = self._content(table)
        new_cd = torch.from_numpy(F_cf @ self.weights_fd_.double().numpy()).float()
        extended = copy.copy(self)
        extended.item_id_ = torch.cat([self.item_id_, new_cd])
        return extended

    def _content(self, table: pl.DataFrame) -> Any:
        """Return features of the columns, and a one for the mean item: CSR (rows, f)."""
        F_rf = ItemFeatures(self.columns_).encode(table).astype(np.float64)
        return sparse.hstack([F_rf, np.ones((len(table), 1))], format="csr")

    def cost(self, shape: Shape) -> Cost:
        """Estimate ALS, and sparse products of a hundred features an item."""
        als = super().cost(shape)
        return Cost(als.seconds + 1e-3 * shape.items, als.memory_bytes + 2000 * shape.items)


def content_ridge(
    F_if: sparse.csr_matrix, Y_id: np.ndarray, weight_i: np.ndarray, l2: float
) -> np.ndarray:
    """Return the W that minimises sum_i weight_i |y_i - W' f_i|^2 + l2 |W|^2.

    Conjugate gradients take all targets at once, each with step sizes of its own, and only sparse
    products, so that features may be many.

    Args:
        F_if: Features, CSR: (items, f).
        Y_id: Targets, double: (items, d).
        weight_i: Weights of the items: (items,).
        l2: Ridge penalty.

    Returns:
        W_fd, double: (f, d).
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
