"""EmbeddingModel: a network that rates pairs, trained on rows of users and asked by histories."""

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
from foretaste.models.base import RatingPrediction, Shape, searched
from foretaste.models.baselines import shrunk_mean
from foretaste.models.learning_ratings import LearnsFromRatings
from foretaste.models.networks import PAIRS, EmbeddingNet, HistoryNet, Incidence, RatingNet
from foretaste.models.neural import NeuralModel
from foretaste.models.penalties import Ratings, biases, ratings_of
from foretaste.training.batches import ShuffledBatches
from foretaste.training.engine import Engine
from foretaste.training.loop import Loop, Progress, cosine_restarts, one_cycle
from foretaste.training.losses import root_mean_square, squared_error

Columns = tuple[Tensor, Tensor, Tensor]  # rows of users and of items, and standardised ratings


@dataclass(eq=False)
class EmbeddingModel(LearnsFromRatings, NeuralModel):
    """Rates pairs of a user and an item by a network, trained by Adam on squared error.

    Its predictions are a weighted mean of the network's and of the biases', by weights that
    held-out ratings decide. It does not know when a rating was given, nor the columns of users and
    items: a new item is the mean item. The vector of a new user is fitted to the history while the
    network stays as it is.

    Args:
        architecture: "history" for our own network (`HistoryNet`), "article" for `EmbeddingNet`.
        n_factors: The number of factors of users and items.
        hidden: The widths of the layers, from the vectors to the rating.
        dropouts: Probabilities with which training drops a unit of each layer; layers beyond the
            list drop none.
        embedding_dropout: Probability with which training drops a unit of the joined vectors.
        l2: Weight of the squares of a vector's own part, for each rating ("history" only).
        l2_pooled: Weight of the squares of what histories add to vectors ("history" only).
        learning_rate: The highest learning rate of the tables of vectors.
        table_decay: Weight decay of the tables of vectors.
        layer_rate: The highest learning rate of the layers.
        weight_decay: Weight decay of the layers.
        schedule: "one-cycle" for rates that rise and fall once; "cosine-restarts" for rates that
            fall and start again every two epochs.
        batch_size: The number of ratings in a batch; None for a hundredth of the ratings.
        epochs: The highest number of epochs.
        patience: The number of epochs without improvement after which training stops.
        validation: Fraction of the ratings that is held out to choose the number of epochs.
        refit: Whether to train again on all ratings, for the chosen number of epochs.
        fold_in_steps: The number of steps of Adam that fit the vector of a new user.
        fold_in_rate: Their learning rate, from which it falls to zero.
        fold_in_prior: How many ratings of a history the mean user weighs where a fit starts.
        fold_in_pull: Weight of the squared distance of a vector from where its fit started.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> pairs = [(u, i, 1 + (u + i) % 5) for u in range(8) for i in range(u % 2, 8, 2)]
        >>> ratings = pl.DataFrame(pairs, schema=["user", "item", "rating"], orient="row")
        >>> model = ft.EmbeddingModel(n_factors=2, hidden=[4], epochs=2, validation=0.2)
        >>> ft.fit(model, ft.from_frame(ratings)).predict([0], [1])["rating"].is_between(1, 5).all()
        True
    """

    name: ClassVar[str] = "embedding-net"

    architecture: Literal["history", "article"] = "history"
    n_factors: int = searched(64, 8, 256, log=True)
    hidden: list[int] = field(default_factory=lambda: [128, 64])
    dropouts: list[float] = field(default_factory=lambda: [0.2, 0.2])
    embedding_dropout: float = searched(0.1, 0.0, 0.5)
    l2: float = searched(0.1, 0.01, 1.0, log=True)
    l2_pooled: float = searched(0.2, 0.01, 2.0, log=True)
    learning_rate: float = searched(5e-3, 5e-4, 2e-2, log=True)
    table_decay: float = 0.0
    layer_rate: float = searched(1e-3, 1e-4, 1e-2, log=True)
    weight_decay: float = searched(1e-5, 1e-7, 1e-3, log=True)
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
    # The share of the network in predictions, whose rest is of biases; bundles of 0.1.0 lack both.
    share_: float = field(init=False, repr=False, default=1.0)
    l2_user_: float = field(init=False, repr=False, default=0.0)
    bias_i_: Tensor = field(init=False, repr=False)
    curve_: list[dict[str, Any]] = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Choose the number of epochs on ratings held out from train, then train on all."""
        self.learn_unit(train)
        if not 0 < round(self.validation * len(train)) < len(train):
            raise ModelError(
                f"{self.name} holds out {self.validation:.3g} of the ratings to choose the epoch "
                f"by, and trains on the others; of {len(train):,} one part would be empty.",
                fix="Change validation, or use biased-mf, which holds out none.",
            )
        parts = split(train, "random", test=self.validation, seed=engine.seed)
        # rows of the whole of train, so that every user and item has its place in the network
        fit_columns, valid_columns = (
            self._columns(part, train) for part in (parts.train, parts.test)
        )
        network, chosen = self._train("choose", train, fit_columns, valid_columns, engine)
        self.curve_ = chosen.curve
        self.share_ = self._share(network, fit_columns, valid_columns, train)
        _, self.bias_i_, self.l2_user_ = biases(ratings_of(train, self.learn_unit(train)))
        if self.refit and not chosen.interrupted:
            again, run = self._train(
                "refit",
                train,
                self._columns(train, train),
                None,
                engine,
                epochs=chosen.best_epoch + 1,
            )
            if not run.interrupted:
                network = again
            self.curve_[-1]["interrupted"] = run.interrupted
        network.settle()
        self.keep(network)
        self.mean_user_ = self.network_.user.weight.detach().mean(dim=0)
        return self

    def _train(
        self, phase: str, train: Dataset, columns: Columns,
        valid_columns: Columns | None, engine: Engine, epochs: int | None = None,
    ) -> tuple[RatingNet, Progress]:  # fmt: skip
        """Train once over the columns; without validation data, keep the last epoch's weights."""
        network = self._network_for(train, columns, engine)
        size = self.batch_size or max(1, len(columns[0]) // 100)
        batches = ShuffledBatches(columns, size, engine)
        validate = None
        if valid_columns is not None:
            validate = self._validation_error(network, valid_columns, engine)
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

    def _columns(self, part: Dataset, train: Dataset) -> Columns:
        """Return users and items of a part, as rows of `train`, and standardised ratings: (R,)."""
        x = part.interactions
        user_r = train.users.find(part.users.values)[x.user_r]
        item_r = train.items.find(part.items.values)[x.item_r]
        value_r = self.standardised(torch.from_numpy(x.value_r))
        return torch.from_numpy(user_r), torch.from_numpy(item_r), value_r

    def _share(
        self, network: RatingNet, fit_columns: Columns, valid_columns: Columns, train: Dataset
    ) -> float:
        """Return the share of the network in predictions, the rest of which is biases.

        It is that of least squares on held-out ratings less its standard error, between 0 and 1: a
        network that has learned little is no worse than the biases, one that has learned much is
        left alone.
        """
        user_u, item_i, _ = biases(Ratings(*fit_columns, len(train.users), len(train.items)))
        user_p, item_p, y_p = valid_columns
        bias_p = user_u[user_p] + item_i[item_p]
        with torch.no_grad():
            device = network.output.weight.device
            network_p = _rated(network, *network.vectors(), user_p.to(device), item_p.to(device))
            network_p = network_p.cpu()
        apart_p, rest_p = (network_p - bias_p).double(), (y_p - bias_p).double()
        information = float(apart_p.square().sum())
        if not information:
            return 0.0
        share = float(apart_p @ rest_p) / information
        error = float((apart_p * (rest_p - share * apart_p)).square().sum().sqrt()) / information
        return min(1.0, max(0.0, share - error))

    def _validation_error(
        self, network: RatingNet, columns: Columns, engine: Engine
    ) -> Callable[[], float]:
        """Return a function that measures the RMSE of clipped predictions."""
        user_p, item_p, y_p = (column.to(engine.torch_device) for column in columns)

        def error() -> float:
            rated_p = _rated(network, *network.vectors(), user_p, item_p)
            return root_mean_square(self.clipped(rated_p) - self.in_ratings(y_p))

        return error

    def _network_for(self, train: Dataset, pairs: tuple[Tensor, ...], engine: Engine) -> RatingNet:
        """Return a network that has learned nothing, for the columns it will be trained on."""
        n_users, n_items = len(train.users), len(train.items)
        rng, device = engine.generator("weights"), engine.torch_device
        if self.architecture == "article":
            low, high, half = *train.scale, train.step / 2
            low, high = self.standardised(
                torch.tensor([low - half, high + half], dtype=torch.float32)
            ).tolist()
            reach = (low, high)
            return self._empty(n_users, n_items, reach=reach, generator=rng).to(device)
        network = self._empty(n_users, n_items, mean=float(pairs[2].mean()), generator=rng)
        network.incidence = Incidence.of(pairs[0], pairs[1], n_users, n_items).to(device)
        return network.to(device)

    def _empty(self, n_users: int, n_items: int, **extra: Any) -> Any:
        """Return a network that has learned nothing; `extra` goes to its constructor."""
        kind = EmbeddingNet if self.architecture == "article" else HistoryNet
        sizes = (self.n_factors, self.hidden, self.dropouts, self.embedding_dropout)
        return kind(n_users, n_items, *sizes, **extra)

    def build(self, weights: Mapping[str, Tensor]) -> RatingNet:
        """Return a network for as many users and items as the tables have rows."""
        return self._empty(len(weights["user.weight"]), len(weights["item.weight"]))

    def _optimizer(self, network: RatingNet) -> torch.optim.Optimizer:
        """Return Adam with one rate and decay for tables, and another for layers."""
        layers = [*network.hidden.parameters(), *network.output.parameters()]
        of_layers = set(map(id, layers))
        tables = [p for p in network.parameters() if id(p) not in of_layers]
        groups = [
            {"params": tables, "lr": self.learning_rate, "weight_decay": self.table_decay},
            {"params": layers, "lr": self.layer_rate, "weight_decay": self.weight_decay},
        ]
        return torch.optim.Adam(groups, fused=True)

    def _loss(self, network: RatingNet) -> Callable[..., Tensor]:
        """Return the loss of a batch: the squared error, and what the network adds to it."""

        def loss(user_b: Tensor, item_b: Tensor, rating_b: Tensor) -> Tensor:
            error = squared_error(network(user_b, item_b), rating_b)
            return error + network.penalty(user_b, item_b, self.l2, self.l2_pooled)

        return loss

    def _rate(self, per_epoch: int) -> Callable[[int], float]:
        """Return the factor of the learning rates at each step."""
        if self.schedule == "cosine-restarts":
            return lambda step: cosine_restarts(step, 2 * per_epoch)
        return lambda step: one_cycle(step, self.epochs * per_epoch)

    def user_vectors(self, histories: Histories) -> Tensor:
        """Return the trained vector of each history that training had, fitted ones else: (B, d).

        Args:
            histories: Histories of B users; the mean user stands for empty ones.
        """
        table_ud = self.network_.user.weight.detach()
        vector_bd = self.mean_user_.repeat(len(histories), 1)
        known_b = histories.train_row_b >= 0
        vector_bd[known_b] = table_ud[histories.train_row_b[known_b]]
        new_users = (~known_b & (histories.length_b > 0)).nonzero()[:, 0]
        if len(new_users):
            vector_bd[new_users] = self.fold_in(histories.take(new_users))
        return vector_bd

    def fold_in(self, histories: Histories) -> Tensor:
        """Fit the vectors of users to their histories, the network as it is: (B, d).

        Adam minimises the training loss of all users at once; the length of its steps does not
        depend on that of a history. A vector starts at the network's prior and is pulled to it.

        Args:
            histories: Histories of B users; whether training had them does not matter.
        """
        network, user_h = self.network_, histories.user_h
        item_hd = network.item.weight.detach()[histories.item_h]
        value_h = self.standardised(histories.value_h)
        with torch.no_grad():
            prior_bd = network.prior(
                histories.item_h, histories.pointer_b, self.mean_user_, self.fold_in_prior
            )
        own_bd = torch.zeros_like(prior_bd).requires_grad_(True)
        optimizer = torch.optim.Adam([own_bd], lr=self.fold_in_rate)
        for step in range(self.fold_in_steps):
            optimizer.param_groups[0]["lr"] = self.fold_in_rate * (1 - step / self.fold_in_steps)
            error_h = (network.rate((own_bd + prior_bd)[user_h], item_hd) - value_h).square()
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
        """Return expected ratings, before they are clipped to the scale: (B, items)."""
        user_bd = self.user_vectors(histories)
        with torch.no_grad():
            score_bi = self.network_.rate_all(user_bd)
        if self.share_ < 1:
            bias_bi = self._user_bias(histories)[:, None] + self.bias_i_
            score_bi = torch.lerp(bias_bi, score_bi, self.share_)
        return self.in_ratings(score_bi)

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Predict the ratings of pairs; an item that training did not have is the mean item."""
        user_bd = self.user_vectors(histories)
        with torch.no_grad():
            rated_p = _rated(self.network_, user_bd, self._with_mean_item, user_p, item_p)
        if self.share_ < 1:
            item_bias_p = torch.where(item_p >= 0, self.bias_i_[item_p], 0.0)
            rated_p = torch.lerp(
                self._user_bias(histories)[user_p] + item_bias_p, rated_p, self.share_
            )
        return RatingPrediction(self.clipped(rated_p))

    def _user_bias(self, histories: Histories) -> Tensor:
        """Return the standardised bias of each history: (B,)."""
        rest_h = self.standardised(histories.value_h) - self.bias_i_[histories.item_h]
        return shrunk_mean(rest_h, histories.user_h, len(histories), self.l2_user_)

    @cached_property
    def _with_mean_item(self) -> Tensor:
        """The item vectors, and after them, as row -1, their mean: (items + 1, d)."""
        item_id = self.network_.item.weight.detach()
        return torch.cat([item_id, item_id.mean(dim=0, keepdim=True)])

    def item_vectors(self) -> Tensor:
        """Return item vectors, without the bias that "history" keeps in them: (items, d)."""
        return self.network_.item.weight.detach()[:, : self.n_factors]

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


def _rated(
    network: RatingNet, user_bd: Tensor, item_id: Tensor, user_p: Tensor, item_p: Tensor
) -> Tensor:
    """Return the standardised ratings of pairs of rows of two tables, in chunks: (P,)."""
    rated = [
        network.rate(user_bd[user_c], item_id[item_c])
        for user_c, item_c in zip(user_p.split(PAIRS), item_p.split(PAIRS), strict=True)
    ]
    return torch.cat(rated or [torch.empty(0, dtype=torch.float32)])
