"""Two towers: users from their histories, items from id and content, a dot product between them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.features import Column, ItemFeatures, encode
from foretaste.models.base import Shape, UserBatch
from foretaste.models.likes import LearnsFromLikes
from foretaste.training.batches import Batches
from foretaste.training.engine import Engine
from foretaste.training.loop import Dropout, Loop, one_cycle
from foretaste.training.losses import sampled_softmax


@dataclass(frozen=True, eq=False)
class Masked(Batches):
    """Users in shuffled batches; part of each history is shown, the rest is to be found.

    columns: the users.  pointer_u, item_h, weight_h: the histories.  negatives: items drawn evenly
    for each batch.
    """

    pointer_u: Tensor
    item_h: Tensor
    weight_h: Tensor
    n_items: int
    negatives: int

    def epoch(self, number: int) -> list[tuple[Tensor, ...]]:
        """Users (B,), lengths (B,), items, weights, whether each is shown (H,), negatives (N,).

        How much of a history is shown is drawn evenly from none to all, so that newcomers are
        served by what was trained.
        """
        rng, device = self.engine.generator("masks", number), self.engine.torch_device
        user_b = self.columns[0][torch.randperm(self.n_samples, generator=rng)]
        length_b = self.pointer_u.diff()[user_b]
        before_b = length_b.cumsum(0) - length_b
        first_h = (self.pointer_u[user_b] - before_b).repeat_interleave(length_b)
        entry_h = first_h + torch.arange(len(first_h))
        share_b = torch.rand(len(user_b), generator=rng)
        shown_h = torch.rand(len(entry_h), generator=rng) < share_b.repeat_interleave(length_b)
        noise_bn = torch.randint(self.n_items, (self.per_epoch, self.negatives), generator=rng)
        lengths = length_b.split(self.size)
        sizes = [int(part.sum()) for part in lengths]
        entries = [t.split(sizes) for t in (self.item_h[entry_h], self.weight_h[entry_h], shown_h)]
        parts = (user_b.split(self.size), lengths, *entries, noise_bn.unbind())
        return [tuple(t.to(device) for t in batch) for batch in zip(*parts, strict=True)]

    def log_chances(self) -> Tensor:
        """Log of the chance that an item is in a batch: by a user who likes it, or as noise."""
        count_i = torch.bincount(self.item_h, minlength=self.n_items).double()
        users = min(self.size, self.n_samples)
        missed_i = (1 - count_i / self.n_samples).clamp(min=0) ** users
        missed_i *= (1 - 1 / self.n_items) ** self.negatives
        return torch.log1p(-missed_i.clamp(max=1 - 1e-9)).float()


class Towers(nn.Module):
    """An item is its id's row plus the sum of its features' rows: [as history, as candidate, bias].

    A user is the sum of what is shown over the root of its number, plus layers on top of it.
    """

    def __init__(
        self, sizes: tuple[int, int, int], n_factors: int, hidden: int, id_dropout: float,
        dropout: float, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        n_items, n_features, n_user_features = sizes
        width, self.n_factors = 2 * n_factors + 1, n_factors

        def table(rows: int, columns: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.empty(rows, columns).normal_(std=std, generator=generator))

        self.id = table(n_items, width, 0.5 / n_factors**0.5)
        self.content = table(n_features, width, 0.1 / n_factors**0.5)
        self.user_features = table(n_user_features, n_factors, 0.1 / n_factors**0.5)
        self.into = table(n_factors, hidden, n_factors**-0.5)
        self.into_bias = nn.Parameter(torch.zeros(hidden))
        self.out = table(hidden, n_factors, 0.1 * hidden**-0.5)
        self.out_bias = nn.Parameter(torch.zeros(n_factors))
        self.id_drop, self.drop = Dropout(id_dropout), Dropout(dropout)

    def items(self, item_c: Tensor | None, content_cf: Any) -> Tensor:
        """Rows of the item tower: (C, 2 d + 1).

        item_c: rows of ids; None for items without one.  content_cf: CSR features.
        """
        device = self.id.device
        pointer_c, feature_h, value_h = (
            torch.from_numpy(part).to(device)
            for part in (content_cf.indptr, content_cf.indices, content_cf.data)
        )
        of_content = embedding_bag(
            feature_h, self.content, pointer_c, mode="sum", include_last_offset=True,
            per_sample_weights=value_h,
        )  # fmt: skip
        if item_c is None:
            return of_content
        return of_content + self._kept(len(item_c)) * nn.functional.embedding(item_c, self.id)

    def users(self, pooled_bd: Tensor, features_bf: Tensor) -> Tensor:
        """Vectors of users from pooled histories and what is known of them: (B, d)."""
        of_features = features_bf @ self.user_features
        x_bd = self.drop(pooled_bd) + self._kept(len(pooled_bd)) * of_features
        hidden_bh = torch.relu(x_bd @ self.into + self.into_bias)
        return x_bd + self.drop(hidden_bh) @ self.out + self.out_bias

    def _kept(self, rows: int) -> Tensor:
        """1, or 0 where training hides the id of an item or the features of a user: (rows, 1)."""
        return (self.id_drop(torch.ones(rows, 1, device=self.id.device)) > 0).float()


def pool(row_id: Tensor, item_h: Tensor, weight_h: Tensor, length_b: Tensor) -> Tensor:
    """Weighted sums of rows over ragged histories, over the root of the weights' sum: (B, d)."""
    owner_h = torch.repeat_interleave(torch.arange(len(length_b), device=row_id.device), length_b)
    pointer_b = nn.functional.pad(length_b.cumsum(0), (1, 0))
    total_bd = embedding_bag(
        item_h, row_id, pointer_b, mode="sum", include_last_offset=True, per_sample_weights=weight_h
    )
    weight_b = torch.zeros(len(length_b), device=row_id.device).index_add_(0, owner_h, weight_h)
    return total_bd * weight_b.clamp(min=1).rsqrt()[:, None]


@dataclass(eq=False)
class TwoTower(LearnsFromLikes):
    """Scores items by the dot product of two vectors: one of the history, one of id and content.

    hidden: width of the user tower's layer.  temperature: divides the products.  id_dropout: how
    often training hides an item's id and a user's features, so that content and history alone must
    serve.  negatives: items drawn evenly for a batch, beside what its users liked.  batch_size:
    users.
    """

    name: ClassVar[str] = "two-tower"

    n_factors: int = 128
    hidden: int = 256
    temperature: float = 0.2
    dropout: float = 0.1
    id_dropout: float = 0.1
    negatives: int = 1000
    epochs: int = 30
    learning_rate: float = 3e-3
    batch_size: int = 128
    network_: Towers = field(init=False, repr=False)
    item_rows_: Tensor = field(init=False, repr=False)  # what the item tower says: (items, 2 d + 1)
    columns_: list[Column] = field(init=False, repr=False)
    user_columns_: list[Column] = field(init=False, repr=False)
    user_features_: Tensor = field(init=False, repr=False)
    curve_: list[dict[str, Any]] = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Hide part of each history, and learn to find it from the rest."""
        X_ui = self.learn_likes(train)
        n_items = X_ui.shape[1]
        of_items, of_users = map(ItemFeatures.learn, (train.item_table, train.user_table))
        self.columns_, self.user_columns_ = of_items.columns, of_users.columns
        content_if = of_items.encode(train.item_frame)
        self.user_features_ = torch.from_numpy(of_users.encode(train.user_frame).toarray())
        sizes = (n_items, content_if.shape[1], self.user_features_.shape[1])
        network = self._empty(sizes, engine.generator("weights")).to(engine.torch_device)
        batches = self._batches(X_ui, engine)
        total = self.epochs * batches.per_epoch
        run = Loop(
            network=network,
            optimizer=torch.optim.Adam(network.parameters(), self.learning_rate, fused=True),
            batches=batches,
            loss=self._loss(network, content_if, batches.log_chances().to(engine.torch_device)),
            validate=None,
            rate=lambda step: one_cycle(step, total),
            epochs=self.epochs,
            patience=self.epochs,
            engine=engine,
            identity=self.identity(train, engine),
        ).run()
        self.curve_ = run.curve
        self.network_ = network.cpu().eval()
        with torch.no_grad():
            self.item_rows_ = self.network_.items(torch.arange(n_items), content_if)
        return self

    def _batches(self, X_ui: Any, engine: Engine) -> Masked:
        """Users who like two items at least: one can be shown, and one found."""
        pointer_u = torch.from_numpy(X_ui.indptr).long()
        users = (pointer_u.diff() > 1).nonzero()[:, 0]
        item_h, weight_h = torch.from_numpy(X_ui.indices).long(), torch.from_numpy(X_ui.data)
        return Masked(
            (users,), self.batch_size, engine,
            pointer_u, item_h, weight_h, X_ui.shape[1], self.negatives,
        )  # fmt: skip

    def _loss(
        self, network: Towers, content_if: Any, log_chance_i: Tensor
    ) -> Callable[..., Tensor]:
        features_uf = self.user_features_.to(log_chance_i.device)

        def loss(
            user_b: Tensor, length_b: Tensor, item_h: Tensor, weight_h: Tensor, shown_h: Tensor,
            noise_n: Tensor,
        ) -> Tensor:  # fmt: skip
            item_c, place = torch.unique(torch.cat([item_h, noise_n]), return_inverse=True)
            place_h = place[: len(item_h)]
            row_cw = network.items(item_c, content_if[item_c.cpu().numpy()])
            b = torch.arange(len(user_b), device=user_b.device)
            owner_h = torch.repeat_interleave(b, length_b)
            shown_b = torch.bincount(owner_h[shown_h], minlength=len(user_b))
            pooled_bd = pool(
                row_cw[:, : self.n_factors], place_h[shown_h], weight_h[shown_h], shown_b
            )
            score_bc = self._products(network.users(pooled_bd, features_uf[user_b]), row_cw)
            # what is shown is no candidate, as in a list
            never = score_bc.new_tensor(-torch.inf)
            score_bc = score_bc.index_put((owner_h[shown_h], place_h[shown_h]), never)
            return sampled_softmax(
                score_bc, log_chance_i[item_c], owner_h[~shown_h], place_h[~shown_h]
            )

        return loss

    def _products(self, user_bd: Tensor, row_iw: Tensor) -> Tensor:
        """Products over the temperature, and the item's bias: (B, I)."""
        return torch.addmm(
            row_iw[:, -1], user_bd / self.temperature, row_iw[:, self.n_factors : -1].T
        )

    def _empty(self, sizes: tuple[int, int, int], generator: torch.Generator | None) -> Towers:
        return Towers(sizes, self.n_factors, self.hidden, self.id_dropout, self.dropout, generator)

    def user_vectors(self, batch: UserBatch) -> Tensor:
        """What the user tower says of each history: (B, d)."""
        X_bi = self.likes(batch, len(self.item_rows_))
        length_b, item_h = (
            torch.from_numpy(t).long() for t in (np.diff(X_bi.indptr), X_bi.indices)
        )
        features_bf = batch.features(
            self.user_features_,
            lambda about: torch.from_numpy(encode(about, self.user_columns_, len(about))),
        )
        row_id = self.item_rows_[:, : self.n_factors]
        with torch.no_grad():
            pooled_bd = pool(row_id, item_h, torch.from_numpy(X_bi.data), length_b)
            return self.network_.users(pooled_bd, features_bf)

    def score(self, batch: UserBatch) -> Tensor:
        """Dot products of users and items: (B, items)."""
        return self._products(self.user_vectors(batch), self.item_rows_)

    def item_vectors(self) -> Tensor:
        """What the item tower says of each item as a candidate: (items, d)."""
        return self.item_rows_[:, self.n_factors : -1]

    def with_items(self, table: pl.DataFrame) -> Self:
        """A copy with the lines of an item table as further items, placed by their content."""
        extended = copy.copy(self)
        with torch.no_grad():
            new_cw = self.network_.items(None, ItemFeatures(self.columns_).encode(table))
        extended.item_rows_ = torch.cat([self.item_rows_, new_cw])
        return extended

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """Rebuild the network from the shapes of its tables."""
        super().restore(tensors, values)
        weights = {
            n.removeprefix("network_."): t for n, t in tensors.items() if n.startswith("network_.")
        }
        n_items, n_features, n_of_user = (
            len(weights[name]) for name in ("id", "content", "user_features")
        )
        self.network_ = self._empty((n_items, n_features, n_of_user), None)
        self.network_.load_state_dict(weights)
        self.network_.eval()
        return self

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
        """Twenty epochs of softmaxes of each user over the batch's candidates."""
        return Cost(
            seconds=1 + 20 * 3e-9 * shape.users * shape.items,
            memory_bytes=4 * 4 * 129 * shape.items + 16 * shape.interactions,
        )
