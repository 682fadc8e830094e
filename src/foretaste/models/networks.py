"""Networks that rate pairs of users and items: the article's, and ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from foretaste.training.loop import Dropout

PAIRS = 1 << 16  # user-item pairs that go through the layers at a time


# torch's own initialisation draws from global random state: these are filled by their network
def _table(n_rows: int, width: int) -> nn.Embedding:
    return cast(nn.Embedding, skip_init(nn.Embedding, n_rows, width, dtype=torch.float32))


def _linear(width: int, size: int) -> nn.Linear:
    return cast(nn.Linear, skip_init(nn.Linear, width, size, dtype=torch.float32))


class RatingNet(nn.Module, ABC):
    """A table of user vectors, one of item vectors, and layers that rate a pair of them.

    Training looks vectors up by row; serving fits the vector of a stranger, everything else frozen.
    """

    user: nn.Embedding
    item: nn.Embedding
    drop: Dropout
    hidden: nn.Sequential
    output: nn.Linear

    def forward(self, user_b: Tensor, item_b: Tensor) -> Tensor:
        """Ratings of the pairs of rows (user_b[b], item_b[b]): (B,)."""
        user_ud, item_id = self.vectors()
        return self.rate(
            nn.functional.embedding(user_b, user_ud), nn.functional.embedding(item_b, item_id)
        )

    @abstractmethod
    def rate(self, user_bd: Tensor, item_bd: Tensor) -> Tensor:
        """Ratings of pairs of vectors: (B, d), (B, d) to (B,)."""

    @abstractmethod
    def rate_all(self, user_bd: Tensor) -> Tensor:
        """Ratings of every item for each user vector, in evaluation mode: (B, d) to (B, items)."""

    def vectors(self) -> tuple[Tensor, Tensor]:
        """User and item vectors as training sees them: (users, d), (items, d)."""
        return self.user.weight, self.item.weight

    def penalty(
        self, user_b: Tensor, item_b: Tensor, l2: float, l2_pooled: float
    ) -> Tensor | float:
        """What training adds to the squared error of a batch."""
        return 0.0

    def prior(self, item_h: Tensor, pointer_b: Tensor, mean_d: Tensor, weight: float) -> Tensor:
        """Where the vector of a history starts before it is fitted: (B, d).

        mean_d: the mean user.  weight: how many entries of a history the mean user counts for.
        """
        return mean_d.repeat(len(pointer_b) - 1, 1)

    def settle(self) -> None:
        """Training is over: from here on, table rows are vectors."""

    def _layers(self, width: int, hidden: Sequence[int], dropouts: Sequence[float]) -> None:
        """Linear, ReLU and (where a rate is given) Dropout for each size, then one output."""
        self.hidden = nn.Sequential()
        for place, size in enumerate(hidden):
            self.hidden.extend([_linear(width, size), nn.ReLU()])
            if place < len(dropouts):
                self.hidden.append(Dropout(dropouts[place]))
            width = size
        self.output = _linear(width, 1)

    def _initialise_layers(self, generator: torch.Generator | None) -> None:
        for layer in [*self.hidden, self.output]:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.constant_(layer.bias, 0.01)

    def _through_layers(self, user_bd: Tensor, item_id: Tensor) -> Tensor:
        """The layers on every pair of vectors: (B, d), (I, d) to (B, I).

        The first layer is linear in the joined vectors, so its two halves are multiplied apart.
        """
        first, *rest = [*self.hidden, self.output]
        of_user, of_item = first.weight.split(user_bd.shape[1], dim=1)
        user_bh, item_ih = user_bd @ of_user.T + first.bias, item_id @ of_item.T
        after = nn.Sequential(*rest)
        parts = user_bh.split(max(1, PAIRS // len(item_ih)))
        return torch.cat([after(part[:, None] + item_ih).squeeze(-1) for part in parts])


class EmbeddingNet(RatingNet):
    """Embeddings of user and item, concatenated, through ReLU layers to a rating: the article's.

    reach: the output range, half a step beyond the rating scale.
    """

    reach: Tensor

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 150,
        hidden: Sequence[int] = (100, 200, 300), dropouts: Sequence[float] = (0.25, 0.5),
        embedding_dropout: float = 0.05,
        reach: tuple[float, float] = (0.5, 5.5), generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.user = _table(n_users, n_factors)
        self.item = _table(n_items, n_factors)
        self.drop = Dropout(embedding_dropout)
        self._layers(2 * n_factors, hidden, dropouts)
        self.register_buffer("reach", torch.tensor(reach, dtype=torch.float32))
        for table in (self.user, self.item):
            nn.init.uniform_(table.weight, -0.05, 0.05, generator=generator)
        self._initialise_layers(generator)

    def rate(self, user_bd: Tensor, item_bd: Tensor) -> Tensor:
        """Ratings of pairs of vectors: (B, d), (B, d) to (B,)."""
        joined = self.drop(torch.cat([user_bd, item_bd], dim=-1))
        return self._scaled(self.output(self.hidden(joined)).squeeze(-1))

    def rate_all(self, user_bd: Tensor) -> Tensor:
        """Ratings of every item for each user vector, in evaluation mode: (B, d) to (B, items)."""
        return self._scaled(self._through_layers(user_bd, self.item.weight))

    def _scaled(self, x: Tensor) -> Tensor:
        low, high = self.reach
        return low + (high - low) * torch.sigmoid(x.float())


@dataclass(frozen=True, eq=False)
class Incidence:
    """Which rows of one side touch which of the other, both ways round.

    item_h with start_u: items of each user in turn.  user_h with start_i: users of each item in
    turn.
    """

    item_h: Tensor
    start_u: Tensor
    user_h: Tensor
    start_i: Tensor

    @classmethod
    def of(cls, user_r: Tensor, item_r: Tensor, n_users: int, n_items: int) -> Incidence:
        """From pairs of rows, in any order."""
        by_user, by_item = user_r.argsort(stable=True), item_r.argsort(stable=True)
        return cls(
            item_r[by_user], _starts(user_r, n_users), user_r[by_item], _starts(item_r, n_items)
        )

    def to(self, device: torch.device) -> Incidence:
        """The same on another device."""
        return Incidence(
            *(t.to(device) for t in (self.item_h, self.start_u, self.user_h, self.start_i))
        )

    def over_items(self, table_id: Tensor) -> Tensor:
        """For each user the sum of its items' rows over the root of their number: (users, d)."""
        return _Pool.apply(table_id, self.item_h, self.start_u, self.user_h, self.start_i)

    def over_users(self, table_ud: Tensor) -> Tensor:
        """For each item the same over its users: (items, d)."""
        return _Pool.apply(table_ud, self.user_h, self.start_i, self.item_h, self.start_u)


def _starts(row_r: Tensor, n_rows: int) -> Tensor:
    return torch.cat(
        [torch.zeros(1, dtype=torch.int64), torch.bincount(row_r, minlength=n_rows)]
    ).cumsum(0)


def pool(table_jd: Tensor, index_h: Tensor, start_b: Tensor) -> Tensor:
    """Sum of table rows over each ragged group, divided by the root of its size: (B, d)."""
    total_bd = nn.functional.embedding_bag(
        index_h, table_jd, start_b, mode="sum", include_last_offset=True
    )
    return total_bd * start_b.diff().clamp(min=1).float().rsqrt()[:, None]


class _Pool(torch.autograd.Function):
    """`pool` over a fixed incidence, whose gradient is the same sum the other way round."""

    @staticmethod
    def forward(
        ctx: Any,
        table: Tensor,
        index: Tensor,
        start: Tensor,
        back_index: Tensor,
        back_start: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(start, back_index, back_start)
        return pool(table, index, start)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        start, back_index, back_start = ctx.saved_tensors
        scaled = gradient * start.diff().clamp(min=1).float().rsqrt()[:, None]
        total = nn.functional.embedding_bag(
            back_index, scaled, back_start, mode="sum", include_last_offset=True
        )
        return total, None, None, None, None


class HistoryNet(RatingNet):
    """Ours: biases, a dot product and ReLU layers over vectors that know the histories.

    r_ui = mean + b_u + b_i + P_u . Q_i + layers([P_u, Q_i]), with
    P_u = p_u + |N(u)|^-1/2 sum of y_j over the items j that u rated   (SVD++, Koren 2008)
    Q_i = q_i + |N(i)|^-1/2 sum of z_v over the users v who rated i    (the same, flipped)

    A row of the tables `user` and `item` is [p, b]: k + 1 numbers.  `incidence`: who rated what in
    training; None once `settle` has added the sums to the tables.
    """

    rated: nn.Embedding  # y
    raters: nn.Embedding  # z
    mean: Tensor
    incidence: Incidence | None = None

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 64, hidden: Sequence[int] = (128, 64),
        dropouts: Sequence[float] = (0.2, 0.2), embedding_dropout: float = 0.1, mean: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.user = _table(n_users, n_factors + 1)
        self.item = _table(n_items, n_factors + 1)
        self.rated = _table(n_items, n_factors)
        self.raters = _table(n_users, n_factors)
        self.drop = Dropout(embedding_dropout)
        self._layers(2 * n_factors, hidden, dropouts)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.05, generator=generator)
            table.weight.data[:, -1] = 0.0
        for table in (self.rated, self.raters):
            nn.init.normal_(table.weight, std=0.01, generator=generator)
        self._initialise_layers(generator)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """User and item vectors with the sums over histories in them: (users, d), (items, d)."""
        user_ud, item_id = self.user.weight, self.item.weight
        if self.incidence is None:
            return user_ud, item_id
        user_ud = user_ud + _no_bias(self.incidence.over_items(self.rated.weight))
        return user_ud, item_id + _no_bias(self.incidence.over_users(self.raters.weight))

    def penalty(self, user_b: Tensor, item_b: Tensor, l2: float, l2_pooled: float) -> Tensor:
        """l2 on the vectors' own part, once per rating; l2_pooled on y and z, once per row."""
        p_bk, q_bk = self.user(user_b)[:, :-1], self.item(item_b)[:, :-1]
        free = p_bk.square().sum(dim=1).mean() + q_bk.square().sum(dim=1).mean()
        y_ik, z_uk = self.rated.weight, self.raters.weight
        return l2 * free + l2_pooled * (y_ik.square().sum(1).mean() + z_uk.square().sum(1).mean())

    def settle(self) -> None:
        """Put the sums over training histories into the tables: from here on, rows are vectors."""
        user_ud, item_id = (vectors.detach().clone() for vectors in self.vectors())
        self.user.weight.data, self.item.weight.data, self.incidence = user_ud, item_id, None

    def prior(self, item_h: Tensor, pointer_b: Tensor, mean_d: Tensor, weight: float) -> Tensor:
        """The sum over the history, shrunk towards the mean user where it is short: (B, d)."""
        n_b1 = pointer_b.diff()[:, None].float()
        summed_bd = _no_bias(pool(self.rated.weight, item_h, pointer_b))
        return (n_b1 * summed_bd + weight * mean_d) / (n_b1 + weight)

    def rate(self, user_bd: Tensor, item_bd: Tensor) -> Tensor:
        """Ratings of pairs of vectors: (B, d), (B, d) to (B,)."""
        p_bk, q_bk = user_bd[:, :-1], item_bd[:, :-1]
        bias_b = self.mean + user_bd[:, -1] + item_bd[:, -1]
        layers_b = self.output(self.hidden(self.drop(torch.cat([p_bk, q_bk], dim=1)))).squeeze(-1)
        return bias_b + (p_bk * q_bk).sum(dim=1) + layers_b.float()

    def rate_all(self, user_bd: Tensor) -> Tensor:
        """Ratings of every item for each user vector, in evaluation mode: (B, d) to (B, items)."""
        p_bk, q_ik = user_bd[:, :-1], self.item.weight[:, :-1]
        bias_bi = self.mean + user_bd[:, -1:] + self.item.weight[:, -1]
        return bias_bi + p_bk @ q_ik.T + self._through_layers(p_bk, q_ik)


def _no_bias(vector_bk: Tensor) -> Tensor:
    """The vectors with a zero in the place of the bias: (B, k + 1)."""
    return nn.functional.pad(vector_bk, (0, 1))
