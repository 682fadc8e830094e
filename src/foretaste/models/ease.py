"""EASE: an item-item regression in closed form (Steck 2019), a hard ranker to beat."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.errors import ModelError
from foretaste.models.base import Shape, UserBatch
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

    def score(self, batch: UserBatch) -> Tensor:
        """The sum of the rows of the liked items: (B, items)."""
        x_bi = self.likes(batch, len(self.weights_ij_))
        pointer_b, item_h, weight_h = map(torch.from_numpy, (x_bi.indptr, x_bi.indices, x_bi.data))
        return nn.functional.embedding_bag(
            item_h, self.weights_ij_, pointer_b, mode="sum", include_last_offset=True,
            per_sample_weights=weight_h,
        )  # fmt: skip

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
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
    P_ij = torch.cholesky_inverse(torch.linalg.cholesky(G_ij))
    B_ij = (P_ij / -P_ij.diagonal()).float()  # column j divided by P_jj
    return B_ij.fill_diagonal_(0.0)  # an item must not predict itself


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
