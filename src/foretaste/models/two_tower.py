"""TwoTower: a dot product of a user's history and an item's id and content, and what it reads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import torch
from scipy import sparse
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.features import Column, ItemFeatures, encode
from foretaste.data.histories import Histories, histories_of
from foretaste.errors import ModelError
from foretaste.models.base import Shape, searched
from foretaste.models.likes import LearnsFromLikes
from foretaste.models.neural import NeuralModel
from foretaste.models.towers import Sparse, Towers, pool
from foretaste.training.batches import Batches, turns
from foretaste.training.engine import Engine
from foretaste.training.loop import all_epochs
from foretaste.training.losses import sampled_softmax


@dataclass(frozen=True, eq=False)
class Masked(Batches):
    """Users in shuffled batches; a part of each history is shown, and the rest is to be found.

    Args:
        users: Rows of the users to learn from: (users,), int64.
        size: The number of users in a batch.
        engine: The seed of orders and masks, and the device that batches are put on.
        X_ri: What users like and dislike, as `interleaved` makes it: CSR (2 users, items).
        negatives: The number of items that are drawn evenly for each batch; where there are no
            more items than that, all of them are candidates.
    """

    users: Tensor
    size: int
    engine: Engine
    X_ri: Any
    negatives: int

    @property
    def n_samples(self) -> int:
        """The number of users in an epoch: all of them."""
        return len(self.users)

    @property
    def per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.n_samples // self.size)

    @property
    def sampled(self) -> bool:
        """Whether the candidates of a batch are a sample of the items."""
        return self.negatives < self.X_ri.shape[1]

    def epoch(
        self, number: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Any, ...]]:
        """Serve users, what is shown of them, what is wanted, what is never wanted, candidates.

        How much of a history is shown is drawn evenly from none to all of it, so that the model
        learns to serve short histories too. What is shown is no candidate, as in a list.

        Yields:
            Rows of users (B,); what is shown, interleaved, CSR (2 B, C); the places in (B, C) of
            likes that are hidden; those of all that is shown; and the rows of the C candidates, or
            None where these are all items.
        """
        user_n = self.engine.rng("users", number).permutation(self.users.numpy())
        for batch in turns(self.per_epoch, start, rank, world):
            user_b = user_n[batch * self.size : (batch + 1) * self.size]
            masked = self._masked(user_b, self.engine.rng("masks", number, batch))
            yield torch.from_numpy(user_b).to(self.engine.torch_device), *masked

    def _masked(self, user_b: np.ndarray, rng: np.random.Generator) -> tuple[Any, ...]:
        """Return what `epoch` yields of one batch after its users."""
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
        """Return the log of the chance that an item is a candidate of a batch: (items,).

        It becomes one through a user of the batch who has it, or as noise; the softmax subtracts
        the log, so that an item does not score less for being a candidate often.
        """
        n_items = self.X_ri.shape[1]
        count_i = np.bincount(self.X_ri.indices, minlength=n_items)
        missed_i = (1 - count_i / self.n_samples).clip(0) ** min(self.size, self.n_samples)
        missed_i *= (1 - 1 / n_items) ** self.negatives
        return torch.from_numpy(np.log1p(-missed_i.clip(max=1 - 1e-9))).float()


def candidates(X_ri: Any, noise_n: np.ndarray) -> tuple[np.ndarray, Any]:
    """Return the rows of the candidates of a batch, ascending, and the matrix of them alone.

    Args:
        X_ri: What the users of the batch like and dislike: CSR (R, items).
        noise_n: Rows of further items, which may repeat: (N,).

    Returns:
        Rows of the C candidates (C,), and their columns of the matrix: CSR (R, C).
    """
    item_c = np.union1d(X_ri.indices, noise_n)
    column_h = np.searchsorted(item_c, X_ri.indices).astype(X_ri.indices.dtype)
    shape = X_ri.shape[0], len(item_c)
    return item_c, sparse.csr_matrix((X_ri.data, column_h, X_ri.indptr), shape)


def interleaved(likes_ui: Any, dislikes_ui: Any) -> Any:
    """Return likes and dislikes as one matrix, two rows for each user in turn: (2 users, items).

    Args:
        likes_ui: Weights of what users like: CSR (users, items).
        dislikes_ui: Weights of what the same users dislike: CSR (users, items).
    """
    order_r = np.arange(2 * likes_ui.shape[0]).reshape(2, -1).T.ravel()
    both_ri: Any = sparse.vstack([likes_ui, dislikes_ui], "csr")
    return both_ri[order_r]


@dataclass(eq=False)
class TwoTower(LearnsFromLikes, NeuralModel):
    """Scores items by the dot product of two vectors: one of the history, one of id and content.

    The history is what was liked and, where there are ratings, what was seen and not liked. It is
    a set: the model does not know in which order its items came. A new user is a history like any
    other, and a new item is placed by its columns.

    Args:
        n_factors: The number of factors of both vectors.
        hidden: The width of the user tower's layer.
        temperature: What the products are divided by in the softmax.
        dropout: Probability with which training drops a unit of the user tower.
        id_dropout: Probability with which training hides the id of an item, or the features of a
            user, so that content and history learn to serve without them.
        negatives: The number of items drawn evenly for a batch, beside those of its users; all
            items are candidates where there are no more than that.
        epochs: The number of epochs.
        learning_rate: The highest learning rate of Adam.
        batch_size: The number of users in a batch, at most a third of all.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> pairs = [(u, i) for u in range(8) for i in range(u % 2, 8, 2)]
        >>> clicks = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
        >>> model = ft.TwoTower(n_factors=4, hidden=4, epochs=2)
        >>> len(ft.fit(model, ft.from_frame(clicks)).recommend(user=0, k=3))
        3
    """

    name: ClassVar[str] = "two-tower"
    reads_users: ClassVar[bool] = True

    n_factors: int = searched(256, 32, 512, log=True)
    hidden: int = searched(256, 32, 512, log=True)
    temperature: float = searched(0.2, 0.05, 1.0, log=True)
    dropout: float = searched(0.0, 0.0, 0.5)
    id_dropout: float = searched(0.1, 0.0, 0.5)
    negatives: int = 4000
    epochs: int = searched(32, 8, 64, log=True)
    learning_rate: float = searched(4e-3, 4e-4, 2e-2, log=True)
    batch_size: int = 1024
    network_: Towers = field(init=False, repr=False)
    history_id_: Tensor = field(init=False, repr=False)
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
        network = self._empty(sizes, engine.generator("weights"))
        users = torch.from_numpy(np.flatnonzero(np.diff(X_ui.indptr) > 1))
        if not len(users):
            raise ModelError(
                f"{self.name} learns from users who like two items at least: one is shown, one "
                "found. Here no user does.",
                fix="Lower positive_threshold, or use als, for which one like will do.",
            )
        size = min(self.batch_size, len(users) // 3 + 1)
        everyone = histories_of(train, np.arange(len(train.users)), train)
        X_ri = interleaved(X_ui, self.dislikes(everyone, X_ui.shape[1]))
        batches = Masked(users, size, engine, X_ri, self.negatives)
        loss = self._loss(network, features_if, batches, self.user_features_)
        self.curve_ = all_epochs(
            network, batches, loss, self.learning_rate, self.epochs, engine,
            self.identity(train, engine),
        ).curve  # fmt: skip
        self.keep(network)
        self.history_id_, self.candidate_id_ = self._placed(features_if)
        return self

    def _loss(
        self, network: Towers, features_if: Any, batches: Masked, features_uf: Tensor
    ) -> Callable[..., Tensor]:
        """Return the loss of a batch: a softmax of each user's hidden likes over the candidates."""
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

    def _empty(
        self, sizes: tuple[int, int, int], generator: torch.Generator | None = None
    ) -> Towers:
        """Return towers that have learned nothing."""
        return Towers(sizes, self.n_factors, self.hidden, self.id_dropout, self.dropout, generator)

    def build(self, weights: Mapping[str, Tensor]) -> Towers:
        """Return towers of the shapes of the weights; other features of items count as ids."""
        return self._empty((len(weights["as_history"]), 0, len(weights["user_features"])))

    def _placed(self, features_if: Any) -> tuple[Tensor, Tensor]:
        """Return the vectors of items by their features, CSR: (items, d), (items, d + 1)."""
        with torch.no_grad():
            return self.network_.items(Sparse.of(features_if, torch.device("cpu")))

    def user_factors(self, histories: Histories) -> Tensor:
        """Return the vector of each history from the user tower, and a one: (B, d + 1)."""
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
        """Return the vector of each item as a candidate, and its bias: (items, d + 1)."""
        return self.candidate_id_

    def score(self, histories: Histories) -> Tensor:
        """Return the dot products of users and items: (B, items)."""
        return self.user_factors(histories) @ self.candidate_id_.T

    def item_vectors(self) -> Tensor:
        """Return the vector of each item as a candidate, without its bias: (items, d)."""
        return self.candidate_id_[:, :-1]

    def with_items(self, table: pl.DataFrame) -> Self:
        """Return a copy with further items, which are placed by their columns alone."""
        content_cf = ItemFeatures(self.columns_).encode(table)
        n_ids = len(self.network_.as_history) - content_cf.shape[1]
        features_cf = sparse.hstack(
            [sparse.csr_matrix((len(table), n_ids)), content_cf], "csr", "f4"
        )
        extended = copy.copy(self)
        history_cd, candidate_cd = self._placed(features_cf)
        extended.history_id_ = torch.cat([self.history_id_, history_cd])
        extended.candidate_id_ = torch.cat([self.candidate_id_, candidate_cd])
        return extended

    def cost(self, shape: Shape) -> Cost:
        """Estimate a softmax over the candidates for every user in every epoch.

        Args:
            shape: The size of the Dataset.

        Returns:
            Seconds of all epochs; in bytes, the two tables of items, with Adam's moments, the
            gradients and the copy that is kept, and the scores of one batch.
        """
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
