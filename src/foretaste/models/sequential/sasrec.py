"""SASRec: self-attention over the sequence of a history, trained to name what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import eigsh
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.models.base import Shape, searched
from foretaste.models.neural import NeuralModel
from foretaste.models.sequential.attention import SoftmaxLoss
from foretaste.models.sequential.transformer import Transformer, gap_buckets
from foretaste.models.sequential.windows import Windows
from foretaste.training.engine import Engine
from foretaste.training.loop import all_epochs

TOKENS = 1 << 15  # positions that are scored at a time
# Of the vectors to start from: how far apart two entries may stand to be a pair, and what each
# entry between them leaves of it.
NEAR, PAIRED = 10, 0.8


@dataclass(eq=False)
class SASRec(NeuralModel):
    """Score an item by the dot product of its vector and what a transformer makes of a history.

    Self-attentive sequential recommendation (Kang and McAuley 2018) with what has been found better
    since: a full softmax over the items at every position, norms before the branches, gates behind
    them, distances instead of absolute positions, and the time between entries.

    Every entry counts, whatever was thought of it: the model knows what comes next, not what will
    be liked.  It reads the newest entries alone, and neither the columns of users nor of items.

    Args:
        n_factors: Factors of an item and of a position.
        n_blocks: How many blocks of attention are stacked.
        heads: How many heads attend side by side; they divide the factors.
        length: How many of the newest entries of a history are read.
        dropout: Probability with which training drops a unit.
        epochs: The number of epochs.
        learning_rate: The highest learning rate of Adam.
        batch_size: How many entries are predicted in a step, about.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> plays = pl.DataFrame({"user": ["a"] * 4 + ["b"] * 2, "item": list("xyzx") + list("xy")})
        >>> model = ft.SASRec(n_factors=4, n_blocks=1, epochs=2)
        >>> data = ft.from_frame(plays, duplicates="keep")
        >>> len(ft.fit(model, data).recommend(user="b", k=1))
        1
    """

    name: ClassVar[str] = "sasrec"

    n_factors: int = searched(64, 16, 256, log=True)
    n_blocks: int = searched(2, 1, 4)
    heads: int = 2
    length: int = 200
    dropout: float = searched(0.2, 0.0, 0.6)
    epochs: int = searched(12, 4, 64, log=True)
    learning_rate: float = searched(3e-3, 3e-4, 1e-2, log=True)
    batch_size: int = 6144
    network_: Transformer = field(init=False, repr=False)
    curve_: list[dict[str, Any]] = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Predict every entry of every history from those before it."""
        x, n_items = train.interactions, len(train.items)
        first_r = np.zeros(len(x), bool)
        first_r[train.pointers[:-1]] = True
        time_r = None if x.time_r is None else torch.from_numpy(x.time_r)
        gap_r = gap_buckets(time_r, torch.from_numpy(first_r)).numpy()
        network = self._empty(n_items, engine.generator("weights"))
        start_from(network, train, engine)
        batches = Windows(
            x.item_r.astype(np.int64), gap_r, train.pointers, n_items, self.length,
            self.batch_size, engine,
        )  # fmt: skip
        network.to(engine.torch_device)

        def loss(target_t: Tensor, place_t: Tensor, item_bl: Tensor, gap_bl: Tensor) -> Tensor:
            x_td = network(item_bl, gap_bl).flatten(0, 1)[place_t]
            return SoftmaxLoss.apply(with_one(x_td), network.table(), target_t, None)  # type: ignore[return-value]

        self.curve_ = all_epochs(
            network, batches, loss, self.learning_rate, self.epochs, engine,
            self.identity(train, engine),
        ).curve  # fmt: skip
        self.keep(network)
        return self

    def _empty(self, n_items: int, generator: torch.Generator | None = None) -> Transformer:
        """Return a network that has learned nothing."""
        with torch.random.fork_rng(devices=[]):  # torch draws weights, which are drawn again
            return Transformer(
                n_items, self.n_factors, self.n_blocks, self.heads, self.length, self.dropout,
                generator,
            )  # fmt: skip

    def build(self, weights: Mapping[str, Tensor]) -> Transformer:
        """Return a network of the shapes of the weights."""
        return self._empty(len(weights["items"]) - 1)

    def user_factors(self, histories: Histories) -> Tensor:
        """Return what the network expects after each history, and a one: (B, d + 1)."""
        recent = histories.last(self.length)
        first_h = torch.zeros(len(recent.item_h), dtype=torch.bool)
        first_h[recent.pointer_b[:-1][recent.length_b > 0]] = True
        gap_h = gap_buckets(recent.time_h, first_h)
        # A history that is read whole begins with the start, as it did in training.
        length_b = recent.length_b + (recent.length_b < self.length)
        n_items = len(self.network_.items) - 1
        user_bd = torch.empty(len(histories), self.n_factors + 1, dtype=torch.float32)
        order_b = length_b.argsort(descending=True)
        while len(order_b):
            longest = int(length_b[order_b[0]])
            rows, order_b = order_b.tensor_split([max(1, TOKENS // longest)])
            place_bl = torch.arange(longest) - (length_b - recent.length_b)[rows, None]
            real_bl = (place_bl >= 0) & (place_bl < recent.length_b[rows, None])
            entry_bl = (recent.pointer_b[rows, None] + place_bl).clamp(0, len(recent.item_h) - 1)
            item_bl = torch.full(real_bl.shape, n_items)
            gap_bl = torch.zeros_like(item_bl)
            if len(recent.item_h):
                item_bl = torch.where(real_bl, recent.item_h[entry_bl], n_items)
                gap_bl = torch.where(real_bl, gap_h[entry_bl], 0)
            with torch.no_grad():
                x_bld = self.network_(item_bl, gap_bl)
            user_bd[rows] = with_one(x_bld[torch.arange(len(rows)), length_b[rows] - 1])
        return user_bd

    def item_factors(self) -> Tensor:
        """Return the vector of each item, and how likely it is anywhere: (items, d + 1)."""
        return self.network_.table().detach()

    def item_vectors(self) -> Tensor:
        """Return the vector of each item: (items, d)."""
        return self.network_.items.detach()[:-1]

    def score(self, histories: Histories) -> Tensor:
        """Return the logits of each item to be the next entry: (B, items)."""
        return self.user_factors(histories) @ self.item_factors().T

    def cost(self, shape: Shape) -> Cost:
        """Estimate the softmax, and the products of the blocks, for every entry in every epoch."""
        softmax = 3 * self.n_factors * shape.items
        blocks = self.n_blocks * (60 * self.n_factors**2 + 8 * self.n_factors * self.length)
        return Cost(
            seconds=1 + 3e-11 * self.epochs * shape.interactions * (softmax + blocks),
            memory_bytes=(300 << 20) + 24 * self.n_factors * shape.items + 60 * shape.interactions,
        )


def with_one(x_bd: Tensor) -> Tensor:
    """Return vectors with a one behind, for the bias of the items: (B, d + 1)."""
    return torch.cat([x_bd, torch.ones_like(x_bd[:, :1])], dim=1)


def start_from(network: Transformer, train: Dataset, engine: Engine) -> None:
    """Put vectors of items that follow each other near each other, and popular items first.

    The vectors are the principal directions of the positive pointwise mutual information of items
    that stand near each other in a history, which skip-grams find by gradients (Levy and Goldberg
    2014).

    Args:
        network: The network, whose table of items is overwritten.
        train: The histories.
        engine: The seed of the directions to start from.
    """
    n_items, x = len(train.items), train.interactions
    count_i = np.bincount(x.item_r, minlength=n_items).clip(min=1)
    log_i = torch.from_numpy(np.log(count_i)).float()
    vector_id = neighbour_vectors(x.item_r, x.user_r, n_items, network.items.shape[1], engine)
    with torch.no_grad():
        network.popularity.copy_(log_i - log_i.mean())
        # Of the size that the random vectors have; items without a direction keep those.
        scale = network.items.std() / max(float(vector_id.std()), 1e-12)
        network.items[:n_items] = torch.where(
            vector_id.any(dim=1, keepdim=True), vector_id * scale, network.items[:n_items]
        )


def neighbour_vectors(
    item_r: np.ndarray, user_r: np.ndarray, n_items: int, width: int, engine: Engine
) -> Tensor:
    """Return vectors whose products are close to what items that stand together have in common.

    Args:
        item_r: Items of the entries, users one after the other, in order: (entries,).
        user_r: Users of the entries: (entries,).
        n_items: How many items there are.
        width: How many directions are wanted; zeros follow where there are fewer.
        engine: The seed of the iteration's start.

    Returns:
        (items, width).
    """
    pairs_ij = sparse.csr_matrix((n_items, n_items), dtype=np.float64)
    for back in range(1, NEAR + 1):
        same_r = user_r[back:] == user_r[:-back]
        pair = item_r[back:][same_r], item_r[:-back][same_r]
        weight_r = np.full(len(pair[0]), PAIRED ** (back - 1))
        pairs_ij = pairs_ij + sparse.csr_matrix((weight_r, pair), shape=pairs_ij.shape)
    pairs_ij = (pairs_ij + pairs_ij.T).tocoo()
    total_i = np.asarray(pairs_ij.sum(axis=0)).ravel()
    expected = total_i[pairs_ij.row] * total_i[pairs_ij.col] / max(total_i.sum(), 1e-12)
    pairs_ij.data = np.log(pairs_ij.data / expected).clip(min=0)
    vector_id = np.zeros((n_items, width), np.float32)
    rank = min(width, n_items - 2)
    if rank > 0 and pairs_ij.data.any():
        start_i = engine.rng("directions").standard_normal(n_items)
        about = {"which": "LA", "v0": start_i, "tol": 1e-2}
        weight_d, direction_id = eigsh(pairs_ij.tocsr(), rank, **about)
        vector_id[:, :rank] = direction_id * np.sqrt(weight_d.clip(min=0))
    return torch.from_numpy(vector_id)
