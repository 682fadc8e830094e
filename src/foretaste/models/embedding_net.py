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
from foretaste.training.dropout import Dropout
from foretaste.training.engine import Engine
from foretaste.training.loop import Loop
from foretaste.training.losses import root_mean_square, squared_error
from foretaste.training.schedules import cosine_restarts

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
        self.low, self.high = low, high
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
        x_b = self.output(self.hidden(joined)).squeeze(-1)
        return self.low + (self.high - self.low) * torch.sigmoid(x_b.float())
