"""A graph filter, which smooths a history over the graph of users and items."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

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

OVERSAMPLED = 32  # columns of the random projection beyond the factors that are kept


@dataclass(eq=False)
class GraphFilter(LearnsFromLikes):
    """Score by normalised co-occurrence and an ideal low-pass filter (GF-CF, Shen et al. 2021).

    s = x (P + alpha D_i^-1/2 V V^T D_i^1/2) with P = R^T R, R = D_u^-user_power X D_i^-1/2 and V
    the leading right singular vectors of R.  Two powers generalise the two D_i^-1/2 of P; the
    paper has all powers 0.5 and alpha 0.3.  Sharpening undoes a part of the smoothing by
    ds/dt = -s P (BSPM, Choi et al. 2023).  Nothing is optimised, and it knows neither the order of
    a history nor the columns of items.

    Args:
        n_factors: Singular vectors in V.
        alpha: Weight of the low-pass filter beside co-occurrence.
        user_power: Exponent by which the likes of a user lower the weight of each.
        history_power: The same exponent of an item of the history.
        target_power: The same exponent of an item that is scored.
        iterations: Subspace iterations that find V; few of them leave V short of the true
            subspace, which makes a softer filter, another model.
        sharpen: Time for which scores are sharpened, 0 for not at all.
        sharpen_order: Terms of the series of exp(-sharpen P) in the solver's one step: 4 is
            Runge-Kutta, 1 is Euler.  Each costs as much as all the rest of a score.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> clicks = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
        >>> recommender = ft.fit(ft.GraphFilter(n_factors=1), ft.from_frame(clicks))
        >>> recommender.recommend(user="b")["item"].item()
        'y'
    """

    name: ClassVar[str] = "graph-filter"

    n_factors: int = searched(256, 16, 1024, log=True)
    alpha: float = searched(0.3, 0.0, 1.0)
    user_power: float = searched(0.5, 0.0, 1.0)
    history_power: float = searched(0.5, 0.0, 1.0)
    target_power: float = searched(0.5, 0.0, 1.0)
    iterations: int = 12
    sharpen: float = searched(0.0, 0.0, 3.0)
    sharpen_order: int = 4
    pointer_u_: Tensor = field(init=False, repr=False)
    item_r_: Tensor = field(init=False, repr=False)
    weight_r_: Tensor = field(init=False, repr=False)
    degree_i_: Tensor = field(init=False, repr=False)
    V_ik_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Count degrees, and find V by randomised subspace iteration."""
        X_ui = self.learn_likes(train)
        self.pointer_u_, self.item_r_ = map(torch.from_numpy, (X_ui.indptr, X_ui.indices))
        self.weight_r_ = torch.from_numpy(X_ui.data)
        self.degree_i_ = _degrees(X_ui, axis=0)
        A_ui = self._user_scaled() @ sparse.diags_array(self._item_power(-0.5))
        k = min(self.n_factors, min(A_ui.shape) - 1)
        self.V_ik_ = right_singular_vectors(
            sparse.csr_matrix(A_ui), k, engine.rng("projection"), self.iterations
        )
        return self

    def score(self, histories: Histories) -> Tensor:
        """Return filtered histories: (B, items).

        They take 2 + 2 sharpen_order sparse products, and one thin dense product.
        """
        history_bi = self.likes(histories, len(self.degree_i_))
        R_ui, R_iu = self._graph
        V_in_ik, V_out_ki = self._low_pass
        x_bi = history_bi @ sparse.diags_array(self._item_power(-self.history_power))
        near_bi = (x_bi @ R_iu @ R_ui).toarray() * self._item_power(-self.target_power)
        smooth_bk = history_bi @ V_in_ik
        blurred_bi = torch.from_numpy(near_bi)
        blurred_bi.addmm_(torch.from_numpy(smooth_bk), V_out_ki, alpha=self.alpha)
        return self._sharpened(blurred_bi) if self.sharpen else blurred_bi

    @cached_property
    def _graph(self) -> tuple[Any, Any]:
        """Return R D_i^1/2 and its transpose: CSR (users, items) and (items, users)."""
        R_ui = self._user_scaled()
        return R_ui, R_ui.T.tocsr()

    @cached_property
    def _low_pass(self) -> tuple[np.ndarray, Tensor]:
        """Return D_i^-1/2 V and V^T D_i^1/2: (items, k) and (k, items)."""
        V_in_ik = self.V_ik_.numpy() * self._item_power(-0.5)[:, None]
        return V_in_ik, self.V_ik_.T * torch.from_numpy(self._item_power(0.5))

    def _sharpened(self, s_bi: Tensor) -> Tensor:
        """Return s (1 - tP + (tP)^2/2 - ...) for t = sharpen, without making P: (B, items)."""
        R_ui, R_iu = self._graph
        s_ib = np.ascontiguousarray(s_bi.numpy().T)
        history_i1, target_i1 = (
            self._item_power(-power)[:, None] for power in (self.history_power, self.target_power)
        )
        term_ib = s_ib
        for n in range(1, self.sharpen_order + 1):
            term_ib = R_iu @ (R_ui @ (term_ib * history_i1))
            term_ib *= target_i1 * np.float32(-self.sharpen / n)
            s_ib = s_ib + term_ib
        return torch.from_numpy(np.ascontiguousarray(s_ib.T))

    def _user_scaled(self) -> Any:
        """Return D_u^-user_power X as a CSR matrix, single: (users, items)."""
        shape = (len(self.pointer_u_) - 1, len(self.degree_i_))
        X_ui = sparse.csr_matrix(
            (self.weight_r_.numpy(), self.item_r_.numpy(), self.pointer_u_.numpy()), shape=shape
        )
        weight_u = (_degrees(X_ui, axis=1) ** -self.user_power).numpy()
        return sparse.csr_matrix(sparse.diags_array(weight_u) @ X_ui)

    def _item_power(self, power: float) -> np.ndarray:
        """Return the degrees of the items to a power: (items,)."""
        return (self.degree_i_**power).numpy()

    def cost(self, shape: Shape) -> Cost:
        """Estimate the sparse products and thin QR decompositions of subspace iteration."""
        width = min(self.n_factors + OVERSAMPLED, shape.users, shape.items)
        each = 2e-9 * shape.interactions * width + 4e-11 * shape.items * width**2
        return Cost(
            seconds=1 + self.iterations * each,
            memory_bytes=16 * width * (shape.users + shape.items) + 24 * shape.interactions,
        )


def _degrees(X_ui: Any, axis: int) -> Tensor:
    """Return sums of weights along an axis, 1 where there is nothing: single."""
    degree = torch.from_numpy(np.asarray(X_ui.sum(axis=axis)).ravel()).float()
    return degree.where(degree > 0, 1.0)


def right_singular_vectors(A_ui: Any, k: int, rng: np.random.Generator, iterations: int) -> Tensor:
    """Find leading singular vectors by randomised subspace iteration.

    (Halko, Martinsson, Tropp 2011, algorithm 4.4.)

    Args:
        A_ui: CSR matrix, single: (users, items).
        k: How many vectors are wanted.
        rng: Draws the subspace that the iteration starts from.
        iterations: How many iterations to take.

    Returns:
        V_ik, the k leading right singular vectors as columns, single: (items, k).
    """
    A_iu = A_ui.T.tocsr()
    width = min(k + OVERSAMPLED, *A_ui.shape)
    Q_ik = torch.from_numpy(rng.standard_normal((A_ui.shape[1], width), dtype=np.float32))
    for _ in range(iterations):
        Q_ik = torch.linalg.qr(torch.from_numpy(A_iu @ (A_ui @ Q_ik.numpy()))).Q
    B_uk = torch.from_numpy(A_ui @ Q_ik.numpy())
    _, W_kk = torch.linalg.eigh((B_uk.T @ B_uk).double())  # ascending
    return (Q_ik @ W_kk.flip(1)[:, :k].float()).contiguous()


def co_occurrence_vectors(train: Dataset, width: int = 64) -> Tensor:
    """Return item vectors with nearly the cosines of the columns of interactions.

    They are the leading part V S of U S V^T, the interactions with each user at unit length.  They
    do not know the values of ratings; an item without interactions has a zero vector.

    Args:
        train: The interactions to learn from.
        width: How many dimensions d the vectors have at most.

    Returns:
        (items, d), single.
    """
    x, shape = train.interactions, (len(train.users), len(train.items))
    ones_r = np.ones(len(x), dtype=np.float32)
    X_ui = sparse.csr_matrix((ones_r, (x.user_r, x.item_r)), shape=shape)
    A_ui = sparse.csr_matrix(sparse.diags_array((_degrees(X_ui, axis=1) ** -0.5).numpy()) @ X_ui)
    k = max(1, min(width, min(shape) - 1))
    V_ik = right_singular_vectors(A_ui, k, np.random.default_rng(0), iterations=4)
    return V_ik * torch.from_numpy(A_ui @ V_ik.numpy()).norm(dim=0)
