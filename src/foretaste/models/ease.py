"""EASE: item-item regressions in closed form: full, sparse, and aligned with content."""

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
from scipy import linalg, sparse
from scipy.optimize import nnls
from torch import Tensor, nn

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.features import Column, ItemFeatures, column_width
from foretaste.data.histories import Histories
from foretaste.errors import ModelError
from foretaste.models.base import Shape
from foretaste.models.item_knn import nearest, square
from foretaste.models.likes import LearnsFromLikes
from foretaste.training.engine import Engine

MOST_BYTES = 16 << 30  # two double matrices of items x items, at the peak of `fit`


@dataclass(eq=False)
class EASE(LearnsFromLikes):
    """Scores an item by a weighted sum over what the user liked.

    l2: ridge penalty of each item's regression on the others.  dropout: the share of a history that
    training hides, in expectation and closed form (Steck 2020, "Autoencoders that don't overfit
    towards the identity"): an item's penalty grows with how often it is liked.
    """

    name: ClassVar[str] = "ease"

    l2: float = 300.0
    dropout: float = 0.0
    weights_ij_: Tensor = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Count co-occurrences, invert once; ModelError where the catalogue is too large."""
        n_items = len(train.items)
        needed = self.cost(Shape(len(train.users), n_items, len(train))).memory_bytes
        if needed > MOST_BYTES:
            raise ModelError(
                f"{self.name} needs {needed / 2**30:.3g} GiB for {n_items:,} items, more than "
                f"{MOST_BYTES / 2**30:.3g}.",
                fix="Use sparse-ease, which does not grow with items squared, or graph-filter.",
            )  # fmt: skip
        X_ui = self.learn_likes(train).astype("float64")  # counts are exact
        if few(len(train.users), n_items):
            X_ui = torch.from_numpy(X_ui.toarray())
            self.weights_ij_ = ease_weights_of_few(X_ui, self.l2, self.dropout)
        else:
            G_ij = torch.from_numpy((X_ui.T @ X_ui).toarray())
            self.weights_ij_ = ease_weights(G_ij, self.l2, self.dropout)
        return self

    def score(self, histories: Histories) -> Tensor:
        """The sum of the rows of the liked items: (B, items)."""
        x_bi = self.likes(histories, len(self.weights_ij_))
        pointer_b, item_h, weight_h = map(torch.from_numpy, (x_bi.indptr, x_bi.indices, x_bi.data))
        return nn.functional.embedding_bag(
            item_h, self.weights_ij_, pointer_b, mode="sum", include_last_offset=True,
            per_sample_weights=weight_h,
        )  # fmt: skip

    def cost(self, shape: Shape) -> Cost:
        """Items squared, times the smaller of users and items in time; quadratic in memory."""
        size = shape.users if few(shape.users, shape.items) else shape.items
        products = shape.items**2 * size
        return Cost(seconds=0.1 + 4e-11 * products, memory_bytes=20 * shape.items**2)


def few(n_users: int, n_items: int) -> bool:
    """Whether a system as large as the users is the cheaper one."""
    return 2 * n_users < n_items


def ease_weights(G_ij: Tensor, l2: float, dropout: float = 0.0) -> Tensor:
    """Item-item weights of EASE, in closed form (Steck 2019, equation 8; 2020, section 3).

    G_ij: (items, items) co-occurrence counts, double; overwritten.  Returns B_ij: same shape,
    single, zero diagonal.
    """
    G_ij.diagonal().mul_(1 / (1 - dropout)).add_(l2)
    # LAPACK fills columns.  P is symmetric, so its transpose is P in rows, which `score` sums: from
    # columns, 500 users of ML-1M take 8.7 s for 0.12 s.
    P_ij = torch.cholesky_inverse(torch.linalg.cholesky(G_ij)).T
    B_ij = (P_ij / -P_ij.diagonal()).float()  # column j divided by P_jj
    return B_ij.fill_diagonal_(0.0).contiguous()  # an item must not predict itself


def ease_weights_of_few(X_ui: Tensor, l2: float, dropout: float = 0.0) -> Tensor:
    """The same weights where users are fewer than items, by a system as large as the users.

    X_ui: (users, items), double.  Woodbury: with D the penalties, (X'X + D)^-1 is
    D^-1 - D^-1 X' (I + X D^-1 X')^-1 X D^-1.
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
                B_ij.data[near] = neighbour_ridge(
                    X_ui, i, B_ij.indices[near], self.l2, self.dropout
                )
                meter.advance()
        B_ji = B_ij.T.tocsr()
        self.pointer_j_, self.item_n_, self.weight_n_ = map(
            torch.from_numpy, (B_ji.indptr, B_ji.indices, B_ji.data)
        )
        return self

    def score(self, histories: Histories) -> Tensor:
        """One sparse product: (B, items)."""
        history_bj = self.likes(histories, len(self.pointer_j_) - 1)
        return torch.from_numpy((history_bj @ self._weights_ji).toarray())

    @cached_property
    def _weights_ji(self) -> Any:
        return square(self.pointer_j_, self.item_n_, self.weight_n_)

    def cost(self, shape: Shape) -> Cost:
        """A system of `neighbours` equations an item, and the search for the neighbours."""
        k = min(self.neighbours, shape.items)
        return Cost(
            seconds=0.1 + 3e-3 * (k / 400) ** 2 * shape.items + 1e-9 * shape.items**2,
            memory_bytes=(1 << 30) + 3 * 12 * k * shape.items + 40 * shape.interactions,
        )


def neighbour_ridge(
    X_ui: Any, item: int, near_k: np.ndarray, l2: float, dropout: float
) -> np.ndarray:
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


SAMPLE = 1500  # items that the similarity of columns is learned on
BLOCK = 1 << 24  # numbers in memory at a time, of all similarities


@dataclass(eq=False)
class AlignedEASE(EASE):
    """EASE that also knows how items go together by their columns, for those nobody has rated.

    The similarity of two items is g = sum_k mu_k g_k over columns and pairs of columns: g_k of a
    column is a smoothed cosine, of a pair the product of theirs.  mu, not negative, is how
    histories X follow from X G_k.  A new item's weights score histories much as g
    does: b = beta / (1 + beta) (X'X + l2 / (1 + beta))^-1 X'X g.  Known items keep EASE's.

    beta: how much that weighs beside the item's likes, of which it has none.  smoothing: cosines
    of items with n features count n / (n + smoothing).
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
        """EASE, then one small regression: how much each column says."""
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
        """A copy with the lines of an item table as further items, placed by their content.

        In a history, a new item weighs for those trained on what they weigh for it.
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
        """Of the weights that predict one item to those of every item: (items,)."""
        norm_j = self._norm_j
        return self.weights_ij_[:, item] @ self.weights_ij_ / (norm_j * norm_j[item])

    @cached_property
    def _norm_j(self) -> Tensor:
        """Of the weights that predict each item: (items,)."""
        return self.weights_ij_.norm(dim=0).clamp(min=1e-8)

    def _aligned(self, F_cf: Any) -> Tensor:
        """Weights that predict new items from the items trained on: (trained, new).

        By a system as large as the users, X' (XX' + l)^-1 X g, where they are few.
        """
        X_ui, F_if = self._known()
        n_users, n_items = X_ui.shape
        by_users = few(n_users, n_items)
        X_ui = X_ui.astype("float64")
        K = torch.from_numpy((X_ui @ X_ui.T if by_users else X_ui.T @ X_ui).toarray())
        K.diagonal().add_(self.l2 / (1 + self.beta))
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
        """The mu >= 0 that minimise |X - X sum_k mu_k G_k - constant|^2, over some of the items."""
        n_users, n_items = X_ui.shape
        sample = rng.permutation(n_items)[:SAMPLE]
        n_k = len(self.columns_) * (len(self.columns_) + 1) // 2
        normal = np.zeros((n_k + 2, n_k + 2))  # the products of all G_k, the constant, and X
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
        normal[np.diag_indices_from(normal)] += 1e-9  # two columns may say the same, one nothing
        L_kk = np.linalg.cholesky(normal[:-1, :-1])
        mu_k, _ = nnls(L_kk.T, np.linalg.solve(L_kk, normal[:-1, -1]))
        return (mu_k * scale_k[-1] / scale_k[:-1])[:-1]

    def _similarities(self, F_if: Any, F_cf: Any) -> Iterator[np.ndarray]:
        """Of items and items: for each column, then for each pair of columns: (i, c), single."""
        edges = np.cumsum([0, *map(column_width, self.columns_)])
        columns = [slice(*edge) for edge in pairwise(edges)]
        alone = [cosines(F_if[:, f], F_cf[:, f], self.smoothing) for f in columns]
        yield from (S_ic.copy() for S_ic in alone)
        yield from (a * b for a, b in combinations(alone, 2))

    def _known(self) -> tuple[Any, Any]:
        """Of the items trained on, likes (users, items) and features (items, f): sparse."""
        arrays = (self.weight_n_.numpy(), self.place_n_.numpy(), self.pointer_i_.numpy())
        width = self.users_ + ItemFeatures(self.columns_).width
        known = sparse.csr_matrix(arrays, (len(self.pointer_i_) - 1, width))
        return known[:, : self.users_].T.tocsr(), known[:, self.users_ :]

    def cost(self, shape: Shape) -> Cost:
        """EASE, and sparse products with the similarities of some items by a few columns."""
        ease, sample = super().cost(shape), min(SAMPLE, shape.items)
        products = 10 * sample * (shape.interactions + shape.items + shape.users)
        return Cost(ease.seconds + 2e-10 * products, ease.memory_bytes + 2000 * shape.items)


def cosines(F_if: Any, F_cf: Any, smoothing: float) -> np.ndarray:
    """Of the rows of two sparse matrices, times n / (n + smoothing): (i, c), single.

    n: the root of the product of how many features they have; zero where one has none.
    """
    n_i, n_c = (np.sqrt(np.diff(F.indptr)).astype(np.float32) for F in (F_if, F_cf))
    norm_i, norm_c = (np.sqrt(F.multiply(F).sum(axis=1).A1) for F in (F_if, F_cf))
    n_ic = n_i[:, None] * n_c
    S_ic = (F_if @ F_cf.T).toarray() / np.maximum(norm_i[:, None] * norm_c, 1e-9)
    return S_ic * n_ic / np.maximum(n_ic + smoothing, 1.0)


def blocks(rows: int, size: int) -> list[slice]:
    """Slices of at most `size` rows, of one at least."""
    size = max(1, size)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
