"""The article's embedding network, and the model that lets it serve histories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.splitting import split
from foretaste.models.base import Model, RatingPrediction, Shape, UserBatch, batch_of
from foretaste.training.batches import Batches
from foretaste.training.engine import Engine
from foretaste.training.loop import Dropout, Loop, cosine_restarts
from foretaste.training.losses import root_mean_square, squared_error

PAIRS = 1 << 16      # user-item pairs that go through the layers at a time


class EmbeddingNet(nn.Module):
    """Embeddings of user and item, concatenated, through ReLU layers to a rating (the article's).

    forward: rows of users and items (B,), (B,) to ratings (B,), within half a step of the scale.
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 150, hidden: Sequence[int] = (100, 200, 300),
        dropouts: Sequence[float] = (0.25, 0.5), embedding_dropout: float = 0.05,
        low: float = 0.5, high: float = 5.5, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_buffer("range", torch.tensor([low, high]))
        self.user = nn.Embedding(n_users, n_factors)
        self.item = nn.Embedding(n_items, n_factors)
        self.drop = Dropout(embedding_dropout)
        self.hidden = nn.Sequential()
        width = 2 * n_factors
        for place, size in enumerate(hidden):
            self.hidden.extend([nn.Linear(width, size), nn.ReLU()])
            if place < len(dropouts):
                self.hidden.append(Dropout(dropouts[place]))
            width = size
        self.output = nn.Linear(width, 1)
        for embedding in (self.user, self.item):
            nn.init.uniform_(embedding.weight, -0.05, 0.05, generator=generator)
        for layer in [*self.hidden, self.output]:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.constant_(layer.bias, 0.01)

    def forward(self, user_b: Tensor, item_b: Tensor) -> Tensor:
        """Ratings of the pairs (user_b[b], item_b[b])."""
        return self.rate(self.user(user_b), self.item(item_b))

    def rate(self, user_bd: Tensor, item_bd: Tensor) -> Tensor:
        """Ratings of pairs of vectors: (B, d), (B, d) to (B,)."""
        joined = self.drop(torch.cat([user_bd, item_bd], dim=-1))
        return self._scaled(self.output(self.hidden(joined)))

    def rate_all(self, user_bd: Tensor) -> Tensor:
        """Ratings of every item for each user vector, in evaluation mode: (B, d) to (B, items).

        The first layer is linear in the joined vectors, so its two halves are multiplied apart.
        """
        if len(self.hidden) == 0:
            first, rest = self.output, nn.Sequential()
        else:
            first, rest = self.hidden[0], nn.Sequential(*self.hidden[1:], self.output)
        of_user, of_item = first.weight.split(user_bd.shape[1], dim=1)
        user_bh, item_ih = user_bd @ of_user.T + first.bias, self.item.weight @ of_item.T
        size = max(1, PAIRS // len(item_ih))
        parts = [rest(chunk_bh[:, None, :] + item_ih) for chunk_bh in user_bh.split(size)]
        return self._scaled(torch.cat(parts))

    def _scaled(self, x: Tensor) -> Tensor:
        """One number per pair, squeezed into the range of ratings."""
        low, high = self.range
        return low + (high - low) * torch.sigmoid(x.squeeze(-1).float())


@dataclass(eq=False)
class EmbeddingModel(Model):
    """The network as a recommender: trained on rows, asked with histories."""

    name: ClassVar[str] = "embedding-net"
    needs_ratings: ClassVar[bool] = True

    architecture: str = "article"
    n_factors: int = 150
    hidden: list[int] = field(default_factory=lambda: [100, 200, 300])
    dropouts: list[float] = field(default_factory=lambda: [0.25, 0.5])
    embedding_dropout: float = 0.05
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    batch_size: int = 2000
    epochs: int = 16
    patience: int = 10
    validation: float = 0.05           # of the train ratings; chooses the epoch
    fold_in_steps: int = 100
    fold_in_rate: float = 0.02
    fold_in_l2: float = 0.02           # pulls a stranger's vector to the mean user, per rating
    network_: EmbeddingNet = field(init=False, repr=False)
    scale_: list[float] = field(init=False, repr=False)
    curve_: list[dict[str, Any]] = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Train by Adam on squared error; the epoch with the best validation RMSE is kept."""
        low, high = train.scale
        self.scale_ = [low, high]
        parts = split(train, "random", test=self.validation, seed=engine.seed)
        # rows of the whole train Dataset, so that every user and item has its place in the network
        fit_columns, valid_columns = (_pairs(part, train) for part in (parts.train, parts.test))
        network = self._network(
            len(train.users), len(train.items), low - train.step / 2, high + train.step / 2,
            engine.generator("weights"),
        ).to(engine.torch_device)  # fmt: skip
        batches = Batches(fit_columns, self.batch_size, engine)
        valid_user, valid_item, valid_rating = (c.to(engine.torch_device) for c in valid_columns)

        def validate() -> float:
            rated = [network(*pair) for pair in zip(valid_user.split(PAIRS), valid_item.split(PAIRS), strict=True)]
            return root_mean_square(torch.cat(rated).clamp(low, high) - valid_rating)

        loop = Loop(
            network=network,
            optimizer=torch.optim.Adam(
                network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
            ),
            batches=batches,
            loss=lambda user_b, item_b, rating_b: squared_error(network(user_b, item_b), rating_b),
            validate=validate,
            rate=lambda step: cosine_restarts(step, 2 * batches.per_epoch),
            epochs=self.epochs,
            patience=self.patience,
            engine=engine,
            identity=self._identity(train, engine),
        )  # fmt: skip
        self.curve_ = loop.run().curve
        self.network_ = network.cpu().eval()
        return self

    def _network(
        self, n_users: int, n_items: int, low: float, high: float, generator: torch.Generator | None = None
    ) -> EmbeddingNet:
        return EmbeddingNet(
            n_users, n_items, self.n_factors, self.hidden, self.dropouts, self.embedding_dropout,
            low, high, generator,
        )  # fmt: skip

    def _identity(self, train: Dataset, engine: Engine) -> str:
        """What a checkpoint must agree on to be resumed."""
        run = {"model": self.name, "fields": self.hyperparameters(), "data": train.fingerprint}
        return json.dumps(run | {"seed": engine.seed, "precision": engine.precision}, sort_keys=True)

    def user_vectors(self, batch: UserBatch) -> Tensor:
        """The trained vectors where the history is the one trained on, else fitted ones: (B, d)."""
        vector_bd = self.network_.user.weight.detach().mean(dim=0).repeat(len(batch), 1)
        known_b = batch.train_row_b >= 0
        vector_bd[known_b] = self.network_.user.weight.detach()[batch.train_row_b[known_b]]
        strangers = (~known_b & (batch.length_b > 0)).nonzero()[:, 0]
        if len(strangers):
            vector_bd[strangers] = self.fold_in(batch.take(strangers), vector_bd[strangers])
        return vector_bd

    def fold_in(self, batch: UserBatch, start_bd: Tensor) -> Tensor:
        """Vectors of users from their histories alone, everything else frozen: (B, d).

        Adam on the training loss plus a pull towards the mean user, all users at once.
        """
        vector_bd = start_bd.clone().requires_grad_(True)
        item_hd = self.network_.item.weight.detach()[batch.item_h]
        user_h = batch.user_h
        weight_h = 1 / batch.length_b[user_h]
        optimizer = torch.optim.Adam([vector_bd], lr=self.fold_in_rate)
        for _ in range(self.fold_in_steps):
            rated_h = self.network_.rate(vector_bd[user_h], item_hd)
            error = (weight_h * (rated_h - batch.value_h).square()).sum()
            pull = self.fold_in_l2 * (vector_bd - start_bd).square().sum()
            (gradient,) = torch.autograd.grad(error + pull, vector_bd)
            vector_bd.grad = gradient
            optimizer.step()
        return vector_bd.detach()

    @torch.no_grad()
    def score(self, batch: UserBatch) -> Tensor:
        """Expected ratings, before clipping: (B, items)."""
        with torch.enable_grad():
            user_bd = self.user_vectors(batch)
        return self.network_.rate_all(user_bd)

    @torch.no_grad()
    def predict(self, batch: UserBatch, user_p: Tensor, item_p: Tensor) -> RatingPrediction:
        """Ratings of pairs; an unknown item is the mean item."""
        with torch.enable_grad():
            user_bd = self.user_vectors(batch)
        item_id = self.network_.item.weight
        item_id = torch.cat([item_id, item_id.mean(dim=0, keepdim=True)])      # row -1
        rated = [
            self.network_.rate(user_bd[user_c], item_id[item_c])
            for user_c, item_c in zip(user_p.split(PAIRS), item_p.split(PAIRS), strict=True)
        ]
        return RatingPrediction(torch.cat(rated or [torch.empty(0)]).clamp(*self.scale_))

    def item_vectors(self) -> Tensor:
        """The item embeddings: (items, d)."""
        return self.network_.item.weight.detach()

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """Rebuild the network from the shapes of its embeddings."""
        super().restore({}, values)
        weights = {name.removeprefix("network_."): t for name, t in tensors.items()}
        low, high = weights["range"].tolist()
        self.network_ = self._network(len(weights["user.weight"]), len(weights["item.weight"]), low, high)
        self.network_.load_state_dict(weights)
        self.network_.eval()
        return self

    @classmethod
    def cost(cls, shape: Shape) -> Cost:
        """Adam moments triple the weights."""
        weights = 4 * 151 * (shape.users + shape.items)
        return Cost(seconds=1e-4 * shape.interactions, memory_bytes=4 * weights + 60 * shape.interactions)


def _pairs(part: Dataset, train: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """User rows, item rows (of `train`) and ratings of a part carved from it."""
    x = part.interactions
    user_r = train.users.find(part.users.values)[x.user_r]
    item_r = train.items.find(part.items.values)[x.item_r]
    return torch.from_numpy(user_r), torch.from_numpy(item_r), torch.from_numpy(x.value_r)
