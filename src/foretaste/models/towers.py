"""The network of TwoTower: an item tower, a user tower, and products with sparse matrices."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from foretaste.training.loop import Dropout


class Sparse(NamedTuple):
    """A constant sparse matrix, whose products with dense ones have a gradient.

    Args:
        A_rf: The matrix, CSR: (R, F).
        A_fr: Its transpose, CSR: (F, R), which gradients are multiplied by.
    """

    A_rf: Tensor
    A_fr: Tensor

    @classmethod
    def of(cls, A_rf: Any, device: torch.device) -> Sparse:
        """Return a matrix of SciPy, and its transpose, on a device.

        Args:
            A_rf: The matrix, CSR: (R, F).
            device: Where the products are computed.
        """
        return cls(
            *(_csr(A.indptr, A.indices, A.data, A.shape, device) for A in (A_rf, A_rf.T.tocsr()))
        )

    def with_first(self, value_r: Tensor) -> Sparse:
        """Return the matrix with other values for the first entry of each row.

        These entries must be alone in their columns, and the columns in the order of the rows.

        Args:
            value_r: The new values: (R,).
        """
        first_r, n = self.A_rf.crow_indices()[:-1], len(value_r)
        return Sparse(
            _valued(self.A_rf, self.A_rf.values().index_put((first_r,), value_r)),
            _valued(self.A_fr, torch.cat([value_r, self.A_fr.values()[n:]])),
        )

    def __matmul__(self, x_fd: Tensor) -> Tensor:
        """Return the product with a dense matrix: (R, d)."""
        return _Product.apply(self, x_fd)  # type: ignore[return-value]


class _Product(torch.autograd.Function):
    """A sparse matrix times a dense one, whose gradient is a product with the transpose."""

    @staticmethod
    def forward(ctx: Any, A: Sparse, x_fd: Tensor) -> Tensor:
        ctx.A_fr = A.A_fr
        return _times(A.A_rf, x_fd)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, _times(ctx.A_fr, grads[0])


def _valued(A_rf: Tensor, value_h: Tensor) -> Tensor:
    """Return a CSR matrix with the same places and other values."""
    parts = A_rf.crow_indices(), A_rf.col_indices(), value_h
    return torch.sparse_csr_tensor(*parts, size=A_rf.shape, check_invariants=False)


def _times(A_rf: Tensor, x_fd: Tensor) -> Tensor:
    """Return the product of a CSR matrix and a dense one: (R, d)."""
    total_rd = x_fd.new_empty(len(A_rf), x_fd.shape[1])  # `@` would fill it and copy it
    return torch.addmm(total_rd, A_rf, x_fd, beta=0, out=total_rd)


def _csr(pointer: Any, column: Any, value: Any, shape: Any, device: torch.device) -> Tensor:
    """Return a CSR matrix of torch from the three arrays of one of SciPy."""
    parts = [torch.as_tensor(part, device=device) for part in (pointer, column, value)]
    with warnings.catch_warnings(action="ignore"):  # torch calls the layout beta
        return torch.sparse_csr_tensor(*parts, size=shape, check_invariants=False)


def pool(shown_rc: Any, history_cd: Tensor) -> Tensor:
    """Return weighted sums of vectors over the root of the sum of their weights: (R, d).

    Args:
        shown_rc: Weights of C items in R histories, CSR of SciPy: (R, C).
        history_cd: Vectors of the items as parts of a history: (C, d).
    """
    scale_r = shown_rc.sum(axis=1).A1.clip(min=1) ** -0.5
    scaled_h = shown_rc.data * np.repeat(scale_r, np.diff(shown_rc.indptr))
    scaled_rc = sparse.csr_matrix((scaled_h, shown_rc.indices, shown_rc.indptr), shown_rc.shape)
    return Sparse.of(scaled_rc, history_cd.device) @ history_cd


class Towers(nn.Module):
    """An item tower that sums the rows of an item's features, and a user tower over histories.

    The id of an item is one of its features. There are two tables of rows: one makes the vector of
    an item as part of a history (d,), the other that of a candidate, with its bias (d + 1,). A user
    is the pooled likes, plus the pooled dislikes through a matrix, plus the rows of the user's
    features; then a layer on top of the sum is added to it, and a one for the bias. The towers do
    not know who has been shown what.

    Args:
        sizes: The numbers of items, of the other features of items, and of features of users.
        n_factors: The number of factors d.
        hidden: The width of the user tower's layer.
        id_dropout: Probability with which training hides the id of an item, or the features of a
            user.
        dropout: Probability with which training drops a unit of the user tower.
        generator: Draws the weights; None for weights that are loaded afterwards.
    """

    def __init__(
        self, sizes: tuple[int, int, int], n_factors: int, hidden: int, id_dropout: float,
        dropout: float, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        n_items, n_features, n_user_features = sizes

        def table(rows: int, columns: int, std: float) -> Tensor:
            return torch.empty(rows, columns, dtype=torch.float32).normal_(
                std=std, generator=generator
            )

        def of_items(width: int) -> nn.Parameter:
            ids = table(n_items, width, 0.5 / n_factors**0.5)
            return nn.Parameter(torch.cat([ids, table(n_features, width, 0.1 / n_factors**0.5)]))

        self.as_history, self.as_candidate = of_items(n_factors), of_items(n_factors + 1)
        self.user_features = nn.Parameter(table(n_user_features, n_factors, 0.1 / n_factors**0.5))
        # positive at the start: whoever dislikes an item has still chosen to see it
        self.disliked = nn.Parameter(torch.eye(n_factors, dtype=torch.float32) * 0.3)
        self.into = nn.Parameter(table(n_factors, hidden, n_factors**-0.5))
        self.into_bias = nn.Parameter(torch.zeros(hidden, dtype=torch.float32))
        self.out = nn.Parameter(table(hidden, n_factors, 0.1 * hidden**-0.5))
        self.out_bias = nn.Parameter(torch.zeros(n_factors, dtype=torch.float32))
        self.id_drop, self.drop = Dropout(id_dropout), Dropout(dropout)

    def items(self, features: Sparse) -> tuple[Tensor, Tensor]:
        """Return the vectors of items as parts of a history and as candidates: (C, d), (C, d + 1).

        Args:
            features: Features of C items. In training the first entry of each row is that of the
                id, which may be hidden.
        """
        if self.training:
            features = features.with_first(self._kept(len(features.A_rf)))
        return features @ self.as_history, features @ self.as_candidate

    def users(self, pooled_rd: Tensor, features_bf: Tensor, temperature: float) -> Tensor:
        """Return the vectors of users, each followed by the temperature: (B, d + 1).

        Scores are their products with candidates, divided by the temperature, which leaves the
        bias of a candidate as it is.

        Args:
            pooled_rd: Pooled likes and dislikes of B users, in turn: (2 B, d).
            features_bf: Features of the users: (B, F).
            temperature: What the products will be divided by.
        """
        likes_bd, dislikes_bd = pooled_rd.view(len(features_bf), 2, -1).unbind(1)
        x_bd = self.drop(torch.addmm(likes_bd, dislikes_bd, self.disliked))
        if len(self.user_features):
            kept_b1 = self._kept(len(x_bd))[:, None]
            x_bd = torch.addcmul(x_bd, kept_b1, features_bf @ self.user_features)
        hidden_bh = torch.relu(torch.addmm(self.into_bias, x_bd, self.into))
        u_bd = x_bd + torch.addmm(self.out_bias, self.drop(hidden_bh), self.out)
        return torch.cat([u_bd, u_bd.new_full((len(u_bd), 1), temperature)], dim=1)

    def _kept(self, rows: int) -> Tensor:
        """Return 1, or 0 where training hides the id of an item or a user's features: (rows,)."""
        ones_r = torch.ones(rows, device=self.into.device, dtype=torch.float32)
        return (self.id_drop(ones_r) > 0).float()
