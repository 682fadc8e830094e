"""Two towers: users from their histories, items from id and content, a dot product between them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
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
from foretaste.data.histories import Histories, histories_of
from foretaste.errors import ModelError
from foretaste.models.base import Shape
from foretaste.models.likes import LearnsFromLikes
from foretaste.training.batches import Batches
from foretaste.training.engine import Engine
from foretaste.training.loop import Dropout, all_epochs
from foretaste.training.losses import sampled_softmax


@dataclass(frozen=True, eq=False)
class Masked(Batches):
    """Users in shuffled batches; part of each history is shown, the rest is to be found.

    columns: the users.  X_ri: CSR, the weights of what they like, each row followed by that of what
    they dislike (`interleaved`).  negatives: items drawn evenly for each batch; where there are no
    more than that, all items are candidates.
    """

    X_ri: Any
    negatives: int

    @property
    def sampled(self) -> bool:
        """Whether the candidates of a batch are a sample of the items."""
        return self.negatives < self.X_ri.shape[1]

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Any, ...]]:
        """Users (B,), what is shown (CSR: 2 B, C), wanted and never, and the candidates (C,).

        How much of a history is shown is drawn evenly from none to all, so that newcomers are
        served by what was trained.  wanted, never: places in (B, C) of likes that are hidden, and
        of all that is shown: it is no candidate, as in a list.  candidates: None for all items.
        """
        user_n = self.engine.rng("users", number).permutation(self.columns[0].numpy())
        for batch in range(start, self.per_epoch):
            user_b = user_n[batch * self.size : (batch + 1) * self.size]
            masked = self._masked(user_b, self.engine.rng("masks", number, batch))
            yield torch.from_numpy(user_b).to(self.engine.torch_device), *masked

    def _masked(self, user_b: np.ndarray, rng: np.random.Generator) -> tuple[Any, ...]:
        X_rc, item_c = self.X_ri[np.stack([2 * user_b, 2 * user_b + 1], axis=1).ravel()], None
        if self.sampled:
            noise_n = rng.integers(X_rc.shape[1], size=self.negatives)
            item_c, X_rc = candidates(X_rc, noise_n)
        n_r = np.diff(X_rc.indptr)
        share_h = np.repeat(rng.integers(65_536, size=len(user_b), dtype="u2").repeat(2), n_r)
        is_shown_h = rng.integers(65_536, size=X_rc.nnz, dtype="u2") < share_h
        is_liked_h = np.repeat(np.tile([True, False], len(user_b)), n_r)
        shown_h, wanted_h = np.flatnonzero(is_shown_h), np.flatnonzero(is_liked_h & ~is_shown_h)
        pointer_r = np.searchsorted(shown_h, X_rc.indptr)
        shown_rc = sparse.csr_matrix(
            (X_rc.data[shown_h], X_rc.indices[shown_h], pointer_r), X_rc.shape
        )
        place_h = np.repeat(np.arange(len(n_r)) // 2 * X_rc.shape[1], n_r) + X_rc.indices
        device = self.engine.torch_device
        wanted, never = (torch.from_numpy(place_h[h]).to(device) for h in (wanted_h, shown_h))
        return shown_rc, wanted, never, item_c

    def log_chances(self) -> Tensor:
        """Log of the chance that an item is in a sample: by a user who has it, or as noise."""
        n_items = self.X_ri.shape[1]
        count_i = np.bincount(self.X_ri.indices, minlength=n_items)
        missed_i = (1 - count_i / self.n_samples).clip(0) ** min(self.size, self.n_samples)
        missed_i *= (1 - 1 / n_items) ** self.negatives
        return torch.from_numpy(np.log1p(-missed_i.clip(max=1 - 1e-9))).float()


def candidates(X_ri: Any, noise_n: np.ndarray) -> tuple[np.ndarray, Any]:
    """The items of a CSR matrix and the noise, and the matrix of these columns alone."""
    item_c = np.union1d(X_ri.indices, noise_n)
    column_h = np.searchsorted(item_c, X_ri.indices).astype(X_ri.indices.dtype)
    shape = X_ri.shape[0], len(item_c)
    return item_c, sparse.csr_matrix((X_ri.data, column_h, X_ri.indptr), shape)


def interleaved(likes_ui: Any, dislikes_ui: Any) -> Any:
    """Two CSR matrices of the same users as one, (2 users, items): likes, dislikes, likes, ..."""
    order_r = np.arange(2 * likes_ui.shape[0]).reshape(2, -1).T.ravel()
    both_ri: Any = sparse.vstack([likes_ui, dislikes_ui], "csr")
    return both_ri[order_r]


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

    As part of a history: (d,); as a candidate, with its bias: (d + 1,).  A user is the sum of the
    likes shown over the root of their number, plus the same of the dislikes through a matrix, plus
    layers on top of it, and a one for the bias.
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
        self.disliked = nn.Parameter(
            torch.eye(n_factors, dtype=torch.float32) * 0.3
        )  # seen, which says something good
        self.into = nn.Parameter(table(n_factors, hidden, n_factors**-0.5))
        self.into_bias = nn.Parameter(torch.zeros(hidden, dtype=torch.float32))
        self.out = nn.Parameter(table(hidden, n_factors, 0.1 * hidden**-0.5))
        self.out_bias = nn.Parameter(torch.zeros(n_factors, dtype=torch.float32))
        self.id_drop, self.drop = Dropout(id_dropout), Dropout(dropout)

    def items(self, features: Sparse) -> tuple[Tensor, Tensor]:
        """The item tower, as history and as candidate: (C, d), (C, d + 1).

        features: in training the first column of each row is the id's, which may be hidden.
        """
        if self.training:
            features = features.with_first(self._kept(len(features.A_rf)))
        return features @ self.as_history, features @ self.as_candidate

    def users(self, pooled_rd: Tensor, features_bf: Tensor, temperature: float) -> Tensor:
        """Vectors of users, and the temperature, which their products are divided by: (B, d + 1).

        pooled_rd: what is shown of their likes and dislikes, interleaved.  features_bf: what is
        known of them.
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
        """1, or 0 where training hides the id of an item or the features of a user: (rows,)."""
        return (
            self.id_drop(torch.ones(rows, device=self.into.device, dtype=torch.float32)) > 0
        ).float()


def pool(shown_rc: Any, history_cd: Tensor) -> Tensor:
    """Sums of rows by the weights in a CSR matrix, over the root of the weights' sum: (R, d)."""
    scale_r = shown_rc.sum(axis=1).A1.clip(min=1) ** -0.5
    scaled_h = shown_rc.data * np.repeat(scale_r, np.diff(shown_rc.indptr))
    scaled_rc = sparse.csr_matrix((scaled_h, shown_rc.indices, shown_rc.indptr), shown_rc.shape)
    return Sparse.of(scaled_rc, history_cd.device) @ history_cd


@dataclass(eq=False)
class TwoTower(LearnsFromLikes):
    """Scores items by the dot product of two vectors: one of the history, one of id and content.

    The history is what was liked and, where ratings tell it, what was seen and not liked.
    hidden: width of the user tower's layer.  temperature: divides the products.  id_dropout: how
    often training hides an item's id and a user's features, so that content and history alone must
    serve.  negatives: items drawn evenly for a batch, beside what its users have; all items are
    candidates where there are no more than that.  batch_size: users, a third of all at most.
    """

    name: ClassVar[str] = "two-tower"
    reads_users: ClassVar[bool] = True

    n_factors: int = 256
    hidden: int = 256
    temperature: float = 0.2
    dropout: float = 0.0
    id_dropout: float = 0.1
    negatives: int = 4000
    epochs: int = 32
    learning_rate: float = 4e-3
    batch_size: int = 1024
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
        if not len(users):
            raise ModelError(
                f"{self.name} learns from users who like two items at least: one is shown, one "
                "found. Here nobody does.",
                fix="Lower positive_threshold, or use als, for which one like will do.",
            )
        size = min(self.batch_size, len(users) // 3 + 1)
        everyone = histories_of(train, np.arange(len(train.users)), train)
        X_ri = interleaved(X_ui, self.dislikes(everyone, X_ui.shape[1]))
        batches = Masked((users,), size, engine, X_ri, self.negatives)
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
        log_chance_i = batches.log_chances().to(device)
        features = Sparse.of(features_if, device)

        def loss(
            user_b: Tensor, shown_rc: Any, wanted: Tensor, never: Tensor, item_c: np.ndarray | None
        ) -> Tensor:
            of_candidates, log_chance_c = features, None
            if item_c is not None:
                of_candidates = Sparse.of(features_if[item_c], device)
                log_chance_c = log_chance_i[item_c]
            history_cd, candidate_cd = network.items(of_candidates)
            pooled_rd = pool(shown_rc, history_cd)
            user_bd = network.users(pooled_rd, features_uf[user_b], self.temperature)
            return sampled_softmax(
                user_bd, candidate_cd, self.temperature, log_chance_c, wanted, never
            )

        return loss

    def _empty(self, sizes: tuple[int, int, int], generator: torch.Generator | None) -> Towers:
        return Towers(sizes, self.n_factors, self.hidden, self.id_dropout, self.dropout, generator)

    def user_factors(self, histories: Histories) -> Tensor:
        """What the user tower says of each history, and a one: (B, d + 1)."""
        n_items = len(self.history_id_)
        X_ri = interleaved(self.likes(histories, n_items), self.dislikes(histories, n_items))
        features_bf = histories.features(
            self.user_features_,
            lambda about: torch.from_numpy(encode(about, self.user_columns_, len(about))),
        )
        with torch.no_grad():
            pooled_rd = pool(X_ri, self.history_id_)
            user_bd = self.network_.users(pooled_rd, features_bf, self.temperature)
        return user_bd / self.temperature

    def item_factors(self) -> Tensor:
        """What the item tower says of each item as a candidate, and its bias: (items, d + 1)."""
        return self.candidate_id_

    def score(self, histories: Histories) -> Tensor:
        """Dot products of users and items: (B, items)."""
        return self.user_factors(histories) @ self.candidate_id_.T

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

    def cost(self, shape: Shape) -> Cost:
        """Each user's softmax over the candidates, every epoch; two tables and their moments."""
        batch = min(self.batch_size, shape.users)
        theirs = batch * shape.interactions / max(shape.users, 1)
        candidates = min(shape.items, self.negatives + theirs)
        products = self.epochs * shape.users * candidates * self.n_factors
        of_users = self.epochs * shape.users * self.n_factors * self.hidden
        tables = 4 * 5 * (2 * self.n_factors + 1) * shape.items
        return Cost(
            seconds=1 + 6e-11 * (products + 2 * of_users),
            memory_bytes=tables + 8 * batch * candidates + 24 * shape.interactions,
        )
