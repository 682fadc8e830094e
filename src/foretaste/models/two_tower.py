"""Two towers: users from their histories, items from id and content, a dot product between them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
import torch
from scipy import sparse
from torch import Tensor, nn

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.features import Column, ItemFeatures, encode
from foretaste.models.base import Shape, UserBatch
from foretaste.models.likes import LearnsFromLikes
from foretaste.training.batches import Batches
from foretaste.training.engine import Engine
from foretaste.training.loop import Dropout, all_epochs
from foretaste.training.losses import sampled_softmax


@dataclass(frozen=True, eq=False)
class Masked(Batches):
    """Users in shuffled batches; part of each history is shown, the rest is to be found.

    columns: the users.  X_ui: CSR, the weights of what they like.  negatives: items drawn evenly
    for each batch; where there are no more than that, all items are candidates.
    """

    X_ui: Any
    negatives: int

    @property
    def sampled(self) -> bool:
        """Whether the candidates of a batch are a sample of the items."""
        return self.negatives < self.X_ui.shape[1]

    def epoch(self, number: int) -> list[tuple[Any, ...]]:
        """Users (B,), what is shown of them, what is to be found (CSR: B, items), negatives (N,).

        How much of a history is shown is drawn evenly from none to all, so that newcomers are
        served by what was trained.
        """
        rng, device = self.engine.rng("masks", number), self.engine.torch_device
        user_b = rng.permutation(self.columns[0].numpy())
        X_bi = self.X_ui[user_b]
        share_h = np.repeat(rng.random(len(user_b), np.float32), np.diff(X_bi.indptr))
        shown_h = rng.random(len(share_h), np.float32) < share_h
        shown_bi, wanted_bi = _entries(X_bi, shown_h), _entries(X_bi, ~shown_h)
        n_noise = self.negatives if self.sampled else 0
        noise_bn = rng.integers(X_bi.shape[1], size=(self.per_epoch, n_noise))
        parts = [slice(start, start + self.size) for start in range(0, len(user_b), self.size)]
        return [
            (torch.from_numpy(user_b[part]).to(device), shown_bi[part], wanted_bi[part], noise_n)
            for part, noise_n in zip(parts, noise_bn, strict=True)
        ]

    def log_chances(self) -> Tensor:
        """Log of the chance that an item is in a sample: by a user who likes it, or as noise."""
        n_items = self.X_ui.shape[1]
        count_i = np.bincount(self.X_ui.indices, minlength=n_items)
        missed_i = (1 - count_i / self.n_samples).clip(0) ** min(self.size, self.n_samples)
        missed_i *= (1 - 1 / n_items) ** self.negatives
        return torch.from_numpy(np.log1p(-missed_i.clip(max=1 - 1e-9))).float()


def _entries(X_bi: Any, kept_h: np.ndarray) -> Any:
    """The marked entries of a CSR matrix."""
    kept_h = np.flatnonzero(kept_h)
    pointer_b = np.searchsorted(kept_h, X_bi.indptr)
    return sparse.csr_matrix((X_bi.data[kept_h], X_bi.indices[kept_h], pointer_b), X_bi.shape)


class Sparse(NamedTuple):
    """A constant sparse matrix and its transpose, both CSR: products go forward and backward."""

    A_rf: Tensor
    A_fr: Tensor

    @classmethod
    def of(cls, A_rf: Any, device: torch.device) -> Sparse:
        """A CSR matrix of scipy."""
        return cls(
            *(_csr(A.indptr, A.indices, A.data, A.shape, device) for A in (A_rf, A_rf.T.tocsr()))
        )

    def with_first(self, value_r: Tensor) -> Sparse:
        """Other values for the first entry of each row, the only one of a column, and in order."""
        first_r, n = self.A_rf.crow_indices()[:-1], len(value_r)
        return Sparse(
            _valued(self.A_rf, self.A_rf.values().index_put((first_r,), value_r)),
            _valued(self.A_fr, torch.cat([value_r, self.A_fr.values()[n:]])),
        )

    def __matmul__(self, x_fd: Tensor) -> Tensor:
        return _Product.apply(self, x_fd)  # type: ignore[return-value]


class _Product(torch.autograd.Function):
    """An embedding bag is a sparse matrix times a dense one; and so is its gradient."""

    @staticmethod
    def forward(ctx: Any, A: Sparse, x_fd: Tensor) -> Tensor:
        ctx.A_fr = A.A_fr
        return _times(A.A_rf, x_fd)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, _times(ctx.A_fr, grads[0])


def _valued(A_rf: Tensor, value_h: Tensor) -> Tensor:
    parts = A_rf.crow_indices(), A_rf.col_indices(), value_h
    return torch.sparse_csr_tensor(*parts, size=A_rf.shape, check_invariants=False)


def _times(A_rf: Tensor, x_fd: Tensor) -> Tensor:
    total_rd = x_fd.new_empty(len(A_rf), x_fd.shape[1])  # `@` would fill it and copy it
    return torch.addmm(total_rd, A_rf, x_fd, beta=0, out=total_rd)


def _csr(pointer: Any, column: Any, value: Any, shape: Any, device: torch.device) -> Tensor:
    parts = [torch.as_tensor(part, device=device) for part in (pointer, column, value)]
    with warnings.catch_warnings(action="ignore"):  # torch calls the layout beta
        return torch.sparse_csr_tensor(*parts, size=shape, check_invariants=False)


class Towers(nn.Module):
    """An item is the sum of its features' rows, its id one of them, in two tables.

    As part of a history: (d,); as a candidate, with its bias: (d + 1,).  A user is the sum of what
    is shown over the root of its number, plus layers on top of it, and a one for the bias.
    """

    def __init__(
        self, sizes: tuple[int, int, int], n_factors: int, hidden: int, id_dropout: float,
        dropout: float, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        n_items, n_features, n_user_features = sizes

        def table(rows: int, columns: int, std: float) -> Tensor:
            return torch.empty(rows, columns).normal_(std=std, generator=generator)

        def of_items(width: int) -> nn.Parameter:
            ids = table(n_items, width, 0.5 / n_factors**0.5)
            return nn.Parameter(torch.cat([ids, table(n_features, width, 0.1 / n_factors**0.5)]))

        self.as_history, self.as_candidate = of_items(n_factors), of_items(n_factors + 1)
        self.user_features = nn.Parameter(table(n_user_features, n_factors, 0.1 / n_factors**0.5))
        self.into = nn.Parameter(table(n_factors, hidden, n_factors**-0.5))
        self.into_bias = nn.Parameter(torch.zeros(hidden))
        self.out = nn.Parameter(table(hidden, n_factors, 0.1 * hidden**-0.5))
        self.out_bias = nn.Parameter(torch.zeros(n_factors))
        self.id_drop, self.drop = Dropout(id_dropout), Dropout(dropout)

    def items(self, features: Sparse) -> tuple[Tensor, Tensor]:
        """The item tower, as history and as candidate: (C, d), (C, d + 1).

        features: in training the first column of each row is the id's, which may be hidden.
        """
        if self.training:
            features = features.with_first(self._kept(len(features.A_rf)))
        return features @ self.as_history, features @ self.as_candidate

    def users(self, pooled_bd: Tensor, features_bf: Tensor, temperature: float) -> Tensor:
        """Vectors of users over the temperature, and a one: (B, d + 1).

        pooled_bd: what is shown of them.  features_bf: what is known of them.
        """
        of_features = features_bf @ self.user_features
        x_bd = self.drop(pooled_bd) + self._kept(len(pooled_bd))[:, None] * of_features
        hidden_bh = torch.relu(torch.addmm(self.into_bias, x_bd, self.into))
        u_bd = x_bd + torch.addmm(self.out_bias, self.drop(hidden_bh), self.out)
        return torch.cat([u_bd / temperature, torch.ones_like(u_bd[:, :1])], dim=1)

    def _kept(self, rows: int) -> Tensor:
        """1, or 0 where training hides the id of an item or the features of a user: (rows,)."""
        return (self.id_drop(torch.ones(rows, device=self.into.device)) > 0).float()


def pool(shown_bc: Any, history_cd: Tensor) -> Tensor:
    """Sums of rows by the weights in a CSR matrix, over the root of the weights' sum: (B, d)."""
    device = history_cd.device
    weight_b = torch.from_numpy(shown_bc.sum(axis=1).A1).to(device)
    return Sparse.of(shown_bc, device) @ history_cd * weight_b.clamp(min=1).rsqrt()[:, None]


@dataclass(eq=False)
class TwoTower(LearnsFromLikes):
    """Scores items by the dot product of two vectors: one of the history, one of id and content.

    hidden: width of the user tower's layer.  temperature: divides the products.  id_dropout: how
    often training hides an item's id and a user's features, so that content and history alone must
    serve.  negatives: items drawn evenly for a batch, beside what its users liked; all items are
    candidates where there are no more than that.  batch_size: users, a third of all at most.
    """

    name: ClassVar[str] = "two-tower"
    reads_users: ClassVar[bool] = True

    n_factors: int = 192
    hidden: int = 256
    temperature: float = 0.2
    dropout: float = 0.0
    id_dropout: float = 0.1
    negatives: int = 4000
    epochs: int = 30
    learning_rate: float = 4e-3
    batch_size: int = 512
    network_: Towers = field(init=False, repr=False)
    history_id_: Tensor = field(init=False, repr=False)  # what the item tower says
    candidate_id_: Tensor = field(init=False, repr=False)
    columns_: list[Column] = field(init=False, repr=False)
    user_columns_: list[Column] = field(init=False, repr=False)
    user_features_: Tensor = field(init=False, repr=False)
    curve_: list[dict[str, Any]] = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Hide part of each history, and learn to find it from the rest."""
        X_ui = self.learn_likes(train)
        of_items, of_users = map(ItemFeatures.learn, (train.item_table, train.user_table))
        self.columns_, self.user_columns_ = of_items.columns, of_users.columns
        ids_ii = sparse.identity(X_ui.shape[1], dtype="f4")
        features_if = sparse.hstack([ids_ii, of_items.encode(train.item_frame)], format="csr")
        self.user_features_ = torch.from_numpy(of_users.encode(train.user_frame).toarray())
        sizes = (X_ui.shape[1], of_items.width, of_users.width)
        network = self._empty(sizes, engine.generator("weights")).to(engine.torch_device)
        # of users who like two items at least: one can be shown, and one found
        users = torch.from_numpy(np.flatnonzero(np.diff(X_ui.indptr) > 1))
        size = min(self.batch_size, len(users) // 3 + 1)
        batches = Masked((users,), size, engine, X_ui, self.negatives)
        loss = self._loss(network, features_if, batches, self.user_features_)
        self.curve_ = all_epochs(
            network, batches, loss, self.learning_rate, self.epochs, engine,
            self.identity(train, engine),
        ).curve  # fmt: skip
        self.network_ = network.cpu().eval()
        with torch.no_grad():
            rows = self.network_.items(Sparse.of(features_if, torch.device("cpu")))
            self.history_id_, self.candidate_id_ = rows
        return self

    def _loss(
        self, network: Towers, features_if: Any, batches: Masked, features_uf: Tensor
    ) -> Callable[..., Tensor]:
        device = batches.engine.torch_device
        features_uf = features_uf.to(device)
        log_chance_i = batches.log_chances().to(device) if batches.sampled else None
        features = Sparse.of(features_if, device)

        def loss(user_b: Tensor, shown_bc: Any, wanted_bc: Any, noise_n: np.ndarray) -> Tensor:
            of_candidates, log_chance_c = features, None
            if log_chance_i is not None:
                item_c, (shown_bc, wanted_bc) = candidates(noise_n, shown_bc, wanted_bc)
                of_candidates = Sparse.of(features_if[item_c], device)
                log_chance_c = log_chance_i[item_c]
            history_cd, candidate_cd = network.items(of_candidates)
            pooled_bd = pool(shown_bc, history_cd)
            user_bd = network.users(pooled_bd, features_uf[user_b], self.temperature)
            # what is shown is no candidate, as in a list
            wanted, never = (positions(X_bc, device) for X_bc in (wanted_bc, shown_bc))
            return sampled_softmax(user_bd @ candidate_cd.T, log_chance_c, wanted, never)

        return loss

    def _empty(self, sizes: tuple[int, int, int], generator: torch.Generator | None) -> Towers:
        return Towers(sizes, self.n_factors, self.hidden, self.id_dropout, self.dropout, generator)

    def user_factors(self, batch: UserBatch) -> Tensor:
        """What the user tower says of each history, and a one: (B, d + 1)."""
        X_bi = self.likes(batch, len(self.history_id_))
        features_bf = batch.features(
            self.user_features_,
            lambda about: torch.from_numpy(encode(about, self.user_columns_, len(about))),
        )
        with torch.no_grad():
            return self.network_.users(pool(X_bi, self.history_id_), features_bf, self.temperature)

    def item_factors(self) -> Tensor:
        """What the item tower says of each item as a candidate, and its bias: (items, d + 1)."""
        return self.candidate_id_

    def score(self, batch: UserBatch) -> Tensor:
        """Dot products of users and items: (B, items)."""
        return self.user_factors(batch) @ self.candidate_id_.T

    def item_vectors(self) -> Tensor:
        """What the item tower says of each item as a candidate: (items, d)."""
        return self.candidate_id_[:, :-1]

    def with_items(self, table: pl.DataFrame) -> Self:
        """A copy with the lines of an item table as further items, placed by their content."""
        content_cf = ItemFeatures(self.columns_).encode(table)
        n_ids = len(self.network_.as_history) - content_cf.shape[1]
        features_cf = sparse.hstack(
            [sparse.csr_matrix((len(table), n_ids)), content_cf], "csr", "f4"
        )
        extended = copy.copy(self)
        with torch.no_grad():
            rows = self.network_.items(Sparse.of(features_cf, torch.device("cpu")))
        extended.history_id_ = torch.cat([self.history_id_, rows[0]])
        extended.candidate_id_ = torch.cat([self.candidate_id_, rows[1]])
        return extended

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """Rebuild the network from the shapes of its tables."""
        super().restore(tensors, values)
        weights = {
            n.removeprefix("network_."): t for n, t in tensors.items() if n.startswith("network_.")
        }
        sizes = (len(weights["as_history"]), 0, len(weights["user_features"]))
        self.network_ = self._empty(sizes, None)
        self.network_.load_state_dict(weights)
        self.network_.eval()
        return self

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
        """Thirty epochs of softmaxes of each user over all items; two tables and their moments."""
        return Cost(
            seconds=1 + 30 * 1.2e-8 * shape.users * shape.items,
            memory_bytes=4 * (5 * 385 + 2 * 512) * shape.items + 24 * shape.interactions,
        )


def candidates(noise_n: np.ndarray, *matrices: Any) -> tuple[np.ndarray, list[Any]]:
    """The items of a batch's users and the noise, and the users' matrices (CSR) of these alone."""
    is_candidate_i = np.zeros(matrices[0].shape[1], dtype=bool)
    is_candidate_i[noise_n] = True
    for X_bi in matrices:
        is_candidate_i[X_bi.indices] = True
    item_c, place_i = np.flatnonzero(is_candidate_i), np.cumsum(is_candidate_i) - 1
    return item_c, [
        sparse.csr_matrix((X.data, place_i[X.indices], X.indptr), (X.shape[0], len(item_c)))
        for X in matrices
    ]


def positions(X_bc: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every entry of a CSR matrix."""
    row_h = np.repeat(np.arange(X_bc.shape[0]), np.diff(X_bc.indptr))
    return torch.from_numpy(row_h).to(device), torch.from_numpy(X_bc.indices).long().to(device)
