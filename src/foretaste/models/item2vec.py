"""Item2Vec: skip-gram with negative sampling, where a history is a sentence (Barkan 2016)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.models.base import Shape, searched
from foretaste.models.likes import LearnsFromLikes
from foretaste.training.batches import Batches, turns
from foretaste.training.engine import Engine
from foretaste.training.loop import all_epochs
from foretaste.training.losses import skip_gram

NOISE = 512  # contexts of noise that a batch shares: one matrix product instead of many look-ups


@dataclass(frozen=True, eq=False)
class SkipGrams(Batches):
    """Liked items as centres, served with the items around them in the same history.

    Args:
        item_r: Item of each like, by user and time: (likes,), int64.
        user_r: User of each like: (likes,), int64.
        size: The number of centres in a batch; thinning out leaves fewer.
        engine: The seed of all that is drawn, and the device that batches are put on.
        window: The number of items on either side of a centre that are context at most.
        keep_i: Probability that a like of an item stays in an epoch: (items,).
        noise_i: How often an item is drawn as noise, in proportion: (items,).
    """

    item_r: Tensor
    user_r: Tensor
    size: int
    engine: Engine
    window: int
    keep_i: Tensor
    noise_i: Tensor

    @property
    def n_samples(self) -> int:
        """The number of likes that an epoch thins out."""
        return len(self.item_r)

    @property
    def per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.n_samples // self.size)

    def epoch(
        self, number: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> list[tuple[Tensor, ...]]:
        """Return centres (B,), contexts (B, 2 window), -1 where there is none, and noise (NOISE,).

        As in word2vec, frequent items are thinned out first, which brings others closer, and each
        centre sees as far as 1 to `window`, drawn evenly.
        """
        rng, device = self.engine.generator("skip-grams", number), self.engine.torch_device
        chance_r = torch.rand(self.n_samples, generator=rng, dtype=torch.float32)
        kept_r = chance_r < self.keep_i[self.item_r]
        item_n, user_n = self.item_r[kept_r], self.user_r[kept_r]
        reach_n = torch.randint(1, self.window + 1, (len(item_n),), generator=rng)
        context_nc = torch.full((len(item_n), 2 * self.window), -1, dtype=torch.int64)
        for ahead in range(1, self.window + 1):
            together_m = user_n[ahead:] == user_n[:-ahead]
            sees_after, sees_before = reach_n[:-ahead] >= ahead, reach_n[ahead:] >= ahead
            context_nc[:-ahead, ahead - 1] = item_n[ahead:].where(together_m & sees_after, -1)
            context_nc[ahead:, -ahead] = item_n[:-ahead].where(together_m & sees_before, -1)
        order = torch.randperm(len(item_n), generator=rng)
        drawn = torch.multinomial(
            self.noise_i, self.per_epoch * NOISE, replacement=True, generator=rng
        )
        parts = (item_n[order].to(device), context_nc[order].to(device))
        shuffled = [part.tensor_split(self.per_epoch) for part in parts]
        batches = list(zip(*shuffled, drawn.to(device).split(NOISE), strict=True))
        return [batches[b] for b in turns(self.per_epoch, start, rank, world)]


class SkipGramNet(nn.Module):
    """A vector of each item as a centre, and one as a context.

    Args:
        n_items: The number of items.
        n_factors: The length d of both vectors.
        generator: Draws the centres; contexts start at zero.
    """

    def __init__(self, n_items: int, n_factors: int, generator: torch.Generator | None) -> None:
        super().__init__()
        shape = (n_items, n_factors)
        self.centre = nn.Parameter(
            torch.empty(shape, dtype=torch.float32).uniform_(-1, 1, generator=generator)
        )
        self.centre.data /= 2 * n_factors  # word2vec's start
        self.context = nn.Parameter(torch.zeros(shape, dtype=torch.float32))

    def forward(self, centre_b: Tensor, context_bc: Tensor, noise_n: Tensor) -> tuple[Tensor, ...]:
        """Return products of centres with their contexts (B, C), and with the noise (B, N).

        Args:
            centre_b: Rows of the centres: (B,).
            context_bc: Rows of their contexts, -1 where there is none: (B, C).
            noise_n: Rows of the noise, which all centres share: (N,).
        """
        v_bd = nn.functional.embedding(centre_b, self.centre)
        u_bcd = nn.functional.embedding(context_bc.clamp(min=0), self.context)
        u_nd = nn.functional.embedding(noise_n, self.context)
        return (u_bcd @ v_bd[:, :, None])[:, :, 0], v_bd @ u_nd.T


@dataclass(eq=False)
class Item2Vec(LearnsFromLikes):
    """Gives items that follow each other in histories vectors that point the same way.

    An item is scored by its mean cosine to what was liked, of the sums of its two vectors (as a
    centre and as a context), plus popularity times log n_j, n_j the users who like it.  v_i . u_j
    tends to log P(j near i) - log noise_j (Levy and Goldberg 2014), but of rare items it is mostly
    noise, and the highest of many noisy products win; cosines are bounded. Scores do not know the
    order of a history.

    Args:
        n_factors: The length of the vectors.
        window: The number of items on either side of an item that are its context at most.
        negatives: The number of items of noise that each pair is compared with.
        noise_exponent: Noise is drawn in proportion to the likes of an item to this power.
        subsample: Items with more than this share of all likes are thinned out; None keeps all.
        popularity: Weight of the log of an item's likes in its score.
        epochs: The number of epochs.
        learning_rate: The highest learning rate of Adam.
        batch_size: The number of centres in a batch; thinning out leaves fewer.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> pairs = [(u, i) for u in range(8) for i in range(u % 2, 8, 2)]
        >>> clicks = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
        >>> model = ft.Item2Vec(n_factors=4, epochs=2)
        >>> len(ft.fit(model, ft.from_frame(clicks)).similar(0, k=3))
        3
    """

    name: ClassVar[str] = "item2vec"

    n_factors: int = searched(64, 16, 256, log=True)
    window: int = searched(3, 1, 10)
    negatives: int = searched(5, 1, 20, log=True)
    noise_exponent: float = searched(0.5, -1.0, 1.0)
    subsample: float | None = 1e-4
    popularity: float = searched(0.1, 0.0, 1.0)
    epochs: int = searched(30, 10, 100, log=True)
    learning_rate: float = searched(5e-3, 5e-4, 5e-2, log=True)
    batch_size: int = 4096
    centre_id_: Tensor = field(init=False, repr=False)
    context_id_: Tensor = field(init=False, repr=False)
    log_count_i_: Tensor = field(init=False, repr=False)
    curve_: list[dict[str, Any]] = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Train by Adam on the skip-grams of the likes."""
        X_ui = self.learn_likes(train)
        batches = self._batches(X_ui, engine)
        self.log_count_i_ = torch.from_numpy(np.log(np.maximum(X_ui.getnnz(axis=0), 1))).float()
        network = SkipGramNet(len(train.items), self.n_factors, engine.generator("weights"))

        def loss(centre_b: Tensor, context_bc: Tensor, noise_n: Tensor) -> Tensor:
            positive_bc, negative_bn = network(centre_b, context_bc, noise_n)
            return skip_gram(positive_bc, context_bc >= 0, negative_bn, self.negatives)

        self.curve_ = all_epochs(
            network, batches, loss, self.learning_rate, self.epochs, engine,
            self.identity(train, engine),
        ).curve  # fmt: skip
        self.centre_id_ = network.centre.detach().cpu()
        self.context_id_ = network.context.detach().cpu()
        return self

    def _batches(self, X_ui: Any, engine: Engine) -> SkipGrams:
        """Return the skip-grams of the likes, a CSR matrix: (users, items)."""
        item_r = torch.from_numpy(X_ui.indices).long()
        n_users, n_items = X_ui.shape
        user_r = torch.repeat_interleave(
            torch.arange(n_users), torch.from_numpy(np.diff(X_ui.indptr)).long()
        )
        count_i = torch.bincount(item_r, minlength=n_items).float()
        keep_i = torch.ones(n_items, dtype=torch.float32)
        if self.subsample is not None:
            keep_i = (self.subsample * len(item_r) / count_i.clamp(min=1)).sqrt().clamp(max=1)
        noise_i = count_i.clamp(min=1).pow(self.noise_exponent) * (count_i > 0)
        noise_i /= noise_i.sum()
        return SkipGrams(item_r, user_r, self.batch_size, engine, self.window, keep_i, noise_i)

    def score(self, histories: Histories) -> Tensor:
        """Return mean cosines to what was liked, plus popularity: (B, items)."""
        X_bi = self.likes(histories, len(self.centre_id_))
        unit_id = self._unit_id
        mean_bd = torch.from_numpy(X_bi @ unit_id.numpy())
        mean_bd /= torch.from_numpy(np.asarray(X_bi.sum(axis=1))).clamp(min=1e-9)
        return mean_bd @ unit_id.T + self.popularity * self.log_count_i_

    @cached_property
    def _unit_id(self) -> Tensor:
        """The sums of an item's two vectors, of unit length: (items, d)."""
        return normalize(self.centre_id_ + self.context_id_, dim=1)

    def item_vectors(self) -> Tensor:
        """Return the vectors of items as centres, of unit length: (items, d)."""
        return normalize(self.centre_id_, dim=1)

    def cost(self, shape: Shape) -> Cost:
        """Estimate the products with contexts and noise, in every epoch.

        Args:
            shape: The size of the Dataset.

        Returns:
            Seconds of all epochs; in bytes, both tables with Adam's moments, and the skip-grams of
            one epoch.
        """
        products = self.n_factors / 64 * (2 * self.window + NOISE) / (6 + NOISE)
        return Cost(
            seconds=1 + self.epochs * 2e-6 * shape.interactions * products,
            memory_bytes=4 * 2 * self.n_factors * 4 * shape.items
            + (56 + 8 * self.window) * shape.interactions,
        )
