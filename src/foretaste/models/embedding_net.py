"""The embedding network as a recommender: trained on rows, asked with histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.data.splitting import split
from foretaste.errors import ModelError
from foretaste.models.base import Model, RatingPrediction, Shape
from foretaste.models.networks import PAIRS, EmbeddingNet, HistoryNet, Incidence, RatingNet
from foretaste.training.batches import Batches
from foretaste.training.engine import Engine
from foretaste.training.loop import Loop, Progress, cosine_restarts, one_cycle
from foretaste.training.losses import root_mean_square, squared_error


@dataclass(eq=False)
class EmbeddingModel(Model):
    """Rates user-item pairs by a network, trained by Adam on squared error.

    architecture: "history" (ours, HistoryNet) or "article" (EmbeddingNet).  learning_rate and
    table_decay: of the tables of vectors; layer_rate and weight_decay: of the layers.  l2: pull on
    a vector's own part, per rating; l2_pooled: on what histories add (ours only).  batch_size: None
    for a hundredth of the ratings.  validation: fraction of the ratings that chooses the epoch.
    refit: train again on all ratings for so many epochs.  fold_in_*: how a
    stranger's vector is fitted: steps of Adam, its rate, how many ratings the mean user counts for,
    and the pull back to that start.
    """

    name: ClassVar[str] = "embedding-net"
    needs_ratings: ClassVar[bool] = True

    architecture: Literal["history", "article"] = "history"
    n_factors: int = 64
    hidden: list[int] = field(default_factory=lambda: [128, 64])
    dropouts: list[float] = field(default_factory=lambda: [0.2, 0.2])
    embedding_dropout: float = 0.1
    l2: float = 0.1
    l2_pooled: float = 0.2
    learning_rate: float = 5e-3
    table_decay: float = 0.0
    layer_rate: float = 1e-3
    weight_decay: float = 1e-5
    schedule: Literal["one-cycle", "cosine-restarts"] = "one-cycle"
    batch_size: int | None = None
    epochs: int = 8
    patience: int = 4
    validation: float = 0.05
    refit: bool = True
    fold_in_steps: int = 50
    fold_in_rate: float = 0.05
    fold_in_prior: float = 20.0
    fold_in_pull: float = 5.0
    network_: RatingNet = field(init=False, repr=False)
    mean_user_: Tensor = field(init=False, repr=False)
    scale_: list[float] = field(init=False, repr=False)
    curve_: list[dict[str, Any]] = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Choose the number of epochs on validation data carved from train, then train on all."""
        self.scale_ = list(train.scale)
        if not 0 < round(self.validation * len(train)) < len(train):
            raise ModelError(
                f"{self.name} holds out {self.validation:.3g} of the ratings to choose the epoch "
                f"by, and trains on the others; of {len(train):,} one part would be empty.",
                fix="Change validation, or use biased-mf, which holds out none.",
            )
        parts = split(train, "random", test=self.validation, seed=engine.seed)
        # rows of the whole of train, so that every user and item has its place in the network
        fit_columns, valid_columns = (_columns(part, train) for part in (parts.train, parts.test))
        network, chosen = self._train("choose", train, fit_columns, valid_columns, engine)
        self.curve_ = chosen.curve
        if self.refit and not chosen.interrupted:
            again, run = self._train(
                "refit", train, _columns(train, train), None, engine, epochs=chosen.best_epoch + 1
            )
            if not run.interrupted:
                network = again
            self.curve_[-1]["interrupted"] = run.interrupted
        network.settle()
        self.network_ = network.cpu().eval()
        self.mean_user_ = self.network_.user.weight.detach().mean(dim=0)
        return self

    def _train(
        self, phase: str, train: Dataset, columns: tuple[Tensor, ...],
        valid_columns: tuple[Tensor, ...] | None, engine: Engine, epochs: int | None = None,
    ) -> tuple[RatingNet, Progress]:  # fmt: skip
        """One run over `columns`; without validation data, the weights after the last epoch."""
        network = self._network_for(train, columns, engine)
        batches = Batches(columns, self.batch_size or max(1, len(columns[0]) // 100), engine)
        validate = None
        if valid_columns is not None:
            validate = _validation_error(network, valid_columns, self.scale_, engine)
        loop = Loop(
            network=network,
            optimizer=self._optimizer(network),
            batches=batches,
            loss=self._loss(network),
            validate=validate,
            rate=self._rate(batches.per_epoch),
            epochs=epochs or self.epochs,
            patience=self.patience,
            engine=engine,
            identity=self.identity(train, engine),
            phase=phase,
            fallback=validate is None,  # the network that chose the number of epochs
        )
        return network, loop.run()

    def _network_for(self, train: Dataset, pairs: tuple[Tensor, ...], engine: Engine) -> RatingNet:
        n_users, n_items = len(train.users), len(train.items)
        rng, device = engine.generator("weights"), engine.torch_device
        if self.architecture == "article":
            low, high, half = *train.scale, train.step / 2
            reach = (low - half, high + half)
            return self._empty(n_users, n_items, reach=reach, generator=rng).to(device)
        network = self._empty(n_users, n_items, mean=float(pairs[2].mean()), generator=rng)
        network.incidence = Incidence.of(pairs[0], pairs[1], n_users, n_items).to(device)
        return network.to(device)

    def _empty(self, n_users: int, n_items: int, **extra: Any) -> Any:
        """A network of the right shapes."""
        kind = EmbeddingNet if self.architecture == "article" else HistoryNet
        sizes = (self.n_factors, self.hidden, self.dropouts, self.embedding_dropout)
        return kind(n_users, n_items, *sizes, **extra)

    def _optimizer(self, network: RatingNet) -> torch.optim.Optimizer:
        layers = [*network.hidden.parameters(), *network.output.parameters()]
        of_layers = set(map(id, layers))
        tables = [p for p in network.parameters() if id(p) not in of_layers]
        groups = [
            {"params": tables, "lr": self.learning_rate, "weight_decay": self.table_decay},
            {"params": layers, "lr": self.layer_rate, "weight_decay": self.weight_decay},
        ]
        return torch.optim.Adam(groups, fused=True)

    def _loss(self, network: RatingNet) -> Callable[..., Tensor]:
        def loss(user_b: Tensor, item_b: Tensor, rating_b: Tensor) -> Tensor:
            error = squared_error(network(user_b, item_b), rating_b)
            return error + network.penalty(user_b, item_b, self.l2, self.l2_pooled)

        return loss

    def _rate(self, per_epoch: int) -> Callable[[int], float]:
        if self.schedule == "cosine-restarts":
            return lambda step: cosine_restarts(step, 2 * per_epoch)
        return lambda step: one_cycle(step, self.epochs * per_epoch)

    def user_vectors(self, histories: Histories) -> Tensor:
        """Trained vectors where the history is the trained one, fitted ones elsewhere: (B, d)."""
        table_ud = self.network_.user.weight.detach()
        vector_bd = self.mean_user_.repeat(len(histories), 1)
        known_b = histories.train_row_b >= 0
        vector_bd[known_b] = table_ud[histories.train_row_b[known_b]]
        strangers = (~known_b & (histories.length_b > 0)).nonzero()[:, 0]
        if len(strangers):
            vector_bd[strangers] = self.fold_in(histories.take(strangers))
        return vector_bd

    def fold_in(self, histories: Histories) -> Tensor:
        """Vectors of users from their histories alone, everything else frozen: (B, d).

        Adam on the training loss, all users at once: its steps do not depend on how long a history
        is.  A vector starts at the network's prior and is pulled back to it.
        """
        network, user_h = self.network_, histories.user_h
        item_hd = network.item.weight.detach()[histories.item_h]
        with torch.no_grad():
            prior_bd = network.prior(
                histories.item_h, histories.pointer_b, self.mean_user_, self.fold_in_prior
            )
        own_bd = torch.zeros_like(prior_bd).requires_grad_(True)
        optimizer = torch.optim.Adam([own_bd], lr=self.fold_in_rate)
        for step in range(self.fold_in_steps):
            optimizer.param_groups[0]["lr"] = self.fold_in_rate * (1 - step / self.fold_in_steps)
            error_h = (
                network.rate((own_bd + prior_bd)[user_h], item_hd) - histories.value_h
            ).square()
            pull_b = (
                self.l2
                * histories.length_b.float()
                * own_bd[:, : self.n_factors].square().sum(dim=1)
            )
            pull_b = pull_b + self.fold_in_pull * own_bd.square().sum(dim=1)
            own_bd.grad = torch.autograd.grad(error_h.sum() + pull_b.sum(), own_bd)[0]
            optimizer.step()
        return (own_bd + prior_bd).detach()

    def score(self, histories: Histories) -> Tensor:
        """Expected ratings, before clipping: (B, items)."""
        user_bd = self.user_vectors(histories)
        with torch.no_grad():
            return self.network_.rate_all(user_bd)

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Ratings of pairs; an unknown item is the mean item."""
        user_bd = self.user_vectors(histories)
        with torch.no_grad():
            item_id = self._with_mean_item
            rated = [
                self.network_.rate(user_bd[user_c], item_id[item_c])
                for user_c, item_c in zip(user_p.split(PAIRS), item_p.split(PAIRS), strict=True)
            ]
        return RatingPrediction(
            torch.cat(rated or [torch.empty(0, dtype=torch.float32)]).clamp(*self.scale_)
        )

    @cached_property
    def _with_mean_item(self) -> Tensor:
        """Item vectors, and behind them, as row -1, their mean: (items + 1, d)."""
        item_id = self.network_.item.weight.detach()
        return torch.cat([item_id, item_id.mean(dim=0, keepdim=True)])

    def item_vectors(self) -> Tensor:
        """The vectors of the dot product (ours) or of the embedding (the article's): (items, d)."""
        return self.network_.item.weight.detach()[:, : self.n_factors]

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """Rebuild the network from the shapes of its tables."""
        super().restore(tensors, values)
        weights = {
            n.removeprefix("network_."): t for n, t in tensors.items() if n.startswith("network_.")
        }
        self.network_ = self._empty(len(weights["user.weight"]), len(weights["item.weight"]))
        self.network_.load_state_dict(weights)
        self.network_.eval()
        return self

    def cost(self, shape: Shape) -> Cost:
        """Estimate the layers for every rating, and the sums over histories for every batch.

        Args:
            shape: The size of the Dataset.

        Returns:
            Seconds of all epochs, and of those of the refit; in bytes, Adam's moments triple the
            weights, and the best epoch is a fourth copy.
        """
        n, d = shape.interactions, self.n_factors
        sizes = [2 * d, *self.hidden, 1]
        layers = sum(a * b for a, b in pairwise(sizes)) / 24_640  # 1 at the defaults
        batches = n / self.batch_size if self.batch_size else 100
        sums = d / 64 * batches / 100 if self.architecture == "history" else 0.0
        return Cost(
            seconds=1 + self.epochs * (1 + self.refit) * 1.875e-6 * n * (layers + sums),
            memory_bytes=5 * 4 * 1.5 * d * (shape.users + shape.items) + 80 * n,
        )


def _columns(part: Dataset, train: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """User rows, item rows (of `train`) and ratings of a part carved from it."""
    x = part.interactions
    user_r = train.users.find(part.users.values)[x.user_r]
    item_r = train.items.find(part.items.values)[x.item_r]
    return torch.from_numpy(user_r), torch.from_numpy(item_r), torch.from_numpy(x.value_r)


def _validation_error(
    network: RatingNet, columns: tuple[Tensor, ...], scale: list[float], engine: Engine
) -> Callable[[], float]:
    """RMSE of clipped ratings, as at test time."""
    user_p, item_p, rating_p = (column.to(engine.torch_device) for column in columns)

    def error() -> float:
        user_ud, item_id = network.vectors()
        rated = [
            network.rate(user_ud[user_c], item_id[item_c])
            for user_c, item_c in zip(user_p.split(PAIRS), item_p.split(PAIRS), strict=True)
        ]
        return root_mean_square(torch.cat(rated).clamp(*scale) - rating_p)

    return error
