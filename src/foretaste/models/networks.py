"""Networks that rate pairs of a user and an item: that of the article, and our own."""

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


# torch's own initialisation draws from the global random state, so it is skipped
def _table(n_rows: int, width: int) -> nn.Embedding:
    """Return a table of vectors, which its network fills."""
    return cast(nn.Embedding, skip_init(nn.Embedding, n_rows, width, dtype=torch.float32))


def _linear(width: int, size: int) -> nn.Linear:
    """Return a linear layer, which its network fills."""
    return cast(nn.Linear, skip_init(nn.Linear, width, size, dtype=torch.float32))


class RatingNet(nn.Module, ABC):
    """A table of user vectors, one of item vectors, and layers that rate a pair of them.

    Training looks vectors up by row; serving fits the vector of a new user, and the rest of the
    network stays as it is. It does not know the scale of the ratings.

    Attributes:
        user: Vectors of users: (users, d).
        item: Vectors of items: (items, d).
        drop: Dropout of the joined vectors.
        hidden: The layers.
        output: From the last layer to the rating.
    """

    user: nn.Embedding
    item: nn.Embedding
    drop: Dropout
    hidden: nn.Sequential
    output: nn.Linear

    def forward(self, user_b: Tensor, item_b: Tensor) -> Tensor:
        """Return the ratings of pairs of rows: (B,).

        Args:
            user_b: Rows of the users: (B,).
            item_b: Rows of the items: (B,).
        """
        user_ud, item_id = self.vectors()
        return self.rate(
            nn.functional.embedding(user_b, user_ud), nn.functional.embedding(item_b, item_id)
        )

    @abstractmethod
    def rate(self, user_bd: Tensor, item_bd: Tensor) -> Tensor:
        """Return the ratings of pairs of vectors: (B,).

        Args:
            user_bd: Vectors of the users: (B, d).
            item_bd: Vectors of the items: (B, d).
        """

    @abstractmethod
    def rate_all(self, user_bd: Tensor) -> Tensor:
        """Return the ratings of every item for each user vector, in evaluation mode: (B, items).

        Args:
            user_bd: Vectors of the users: (B, d).
        """

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return user and item vectors as training sees them: (users, d), (items, d)."""
        return self.user.weight, self.item.weight

    def penalty(
        self, user_b: Tensor, item_b: Tensor, l2: float, l2_pooled: float
    ) -> Tensor | float:
        """Return what training adds to the squared error of a batch.

        Args:
            user_b: Rows of the users of the batch: (B,).
            item_b: Rows of the items: (B,).
            l2: Weight of the squares of a vector's own part.
            l2_pooled: Weight of the squares of what histories add to vectors.
        """
        return 0.0

    def prior(self, item_h: Tensor, pointer_b: Tensor, mean_d: Tensor, weight: float) -> Tensor:
        """Return where the vectors of histories start before they are fitted: (B, d).

        Args:
            item_h: Rows of the items of all histories, one after the other: (H,).
            pointer_b: Where each history starts, and the end: (B + 1,).
            mean_d: The vector of the mean user: (d,).
            weight: How many entries of a history the mean user weighs.
        """
        return mean_d.repeat(len(pointer_b) - 1, 1)

    def settle(self) -> None:
        """End the training: from here on, the rows of the tables are the vectors."""

    def _layers(self, width: int, hidden: Sequence[int], dropouts: Sequence[float]) -> None:
        """Add Linear, ReLU and, where there is a rate for it, Dropout of each size; one output."""
        self.hidden = nn.Sequential()
        for place, size in enumerate(hidden):
            self.hidden.extend([_linear(width, size), nn.ReLU()])
            if place < len(dropouts):
                self.hidden.append(Dropout(dropouts[place]))
            width = size
        self.output = _linear(width, 1)

    def _initialise_layers(self, generator: torch.Generator | None) -> None:
        """Draw the weights of the layers by Xavier and Glorot's rule; biases are 0.01."""
        for layer in [*self.hidden, self.output]:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.constant_(layer.bias, 0.01)

    def _through_layers(self, user_bd: Tensor, item_id: Tensor) -> Tensor:
        """Return the layers' output for every pair of a (B, d) and an (I, d) vector: (B, I).

        The first layer is linear in the joined vectors, so its two halves are multiplied apart.
        """
        first, *rest = [*self.hidden, self.output]
        of_user, of_item = first.weight.split(user_bd.shape[1], dim=1)
        user_bh, item_ih = user_bd @ of_user.T + first.bias, item_id @ of_item.T
        after = nn.Sequential(*rest)
        parts = user_bh.split(max(1, PAIRS // len(item_ih)))
        return torch.cat([after(part[:, None] + item_ih).squeeze(-1) for part in parts])


class EmbeddingNet(RatingNet):
    """The network of the article: joined embeddings of user and item, through layers to a rating.

    The output is a sigmoid over the scale of the ratings and half a step beyond it on either side.

    Args:
        n_users: The number of users.
        n_items: The number of items.
        n_factors: The length d of the embeddings.
        hidden: The widths of the layers.
        dropouts: Probabilities with which training drops a unit of each layer.
        embedding_dropout: Probability with which training drops a unit of the joined embeddings.
        reach: The lowest and the highest output.
        generator: Draws the weights; None for weights that are loaded afterwards.

    Example:
        >>> import foretaste as ft
        >>> import torch
        >>> network = ft.EmbeddingNet(n_users=3, n_items=4, n_factors=2, hidden=[5])
        >>> network(torch.tensor([0, 2]), torch.tensor([1, 3])).shape
        torch.Size([2])
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
        """Return the ratings of pairs of vectors: (B,)."""
        joined = self.drop(torch.cat([user_bd, item_bd], dim=-1))
        return self._scaled(self.output(self.hidden(joined)).squeeze(-1))

    def rate_all(self, user_bd: Tensor) -> Tensor:
        """Return the ratings of every item for each user vector: (B, items)."""
        return self._scaled(self._through_layers(user_bd, self.item.weight))

    def _scaled(self, x: Tensor) -> Tensor:
        """Return the sigmoid of the output, within `reach`."""
        low, high = self.reach
        return low + (high - low) * torch.sigmoid(x.float())


@dataclass(frozen=True, eq=False)
class Incidence:
    """Which users have which items, and the other way round.

    Args:
        item_h: Rows of the items of each user in turn: (H,).
        start_u: Where the items of each user start, and the end: (users + 1,).
        user_h: Rows of the users of each item in turn: (H,).
        start_i: Where the users of each item start, and the end: (items + 1,).
    """

    item_h: Tensor
    start_u: Tensor
    user_h: Tensor
    start_i: Tensor

    @classmethod
    def of(cls, user_r: Tensor, item_r: Tensor, n_users: int, n_items: int) -> Incidence:
        """Return the incidence of pairs of rows, which come in any order.

        Args:
            user_r: Rows of the users: (R,).
            item_r: Rows of the items: (R,).
            n_users: The number of users, with or without pairs.
            n_items: The number of items, with or without pairs.
        """
        by_user, by_item = user_r.argsort(stable=True), item_r.argsort(stable=True)
        return cls(
            item_r[by_user], _starts(user_r, n_users), user_r[by_item], _starts(item_r, n_items)
        )

    def to(self, device: torch.device) -> Incidence:
        """Return the incidence on a device.

        Args:
            device: Where the sums are computed.
        """
        return Incidence(
            *(t.to(device) for t in (self.item_h, self.start_u, self.user_h, self.start_i))
        )

    def over_items(self, table_id: Tensor) -> Tensor:
        """Return for each user the sum of the items' rows over the root of their number.

        Args:
            table_id: Rows of the items: (items, d).

        Returns:
            (users, d), with a gradient.
        """
        return _Pool.apply(table_id, self.item_h, self.start_u, self.user_h, self.start_i)

    def over_users(self, table_ud: Tensor) -> Tensor:
        """Return for each item the sum of the users' rows over the root of their number.

        Args:
            table_ud: Rows of the users: (users, d).

        Returns:
            (items, d), with a gradient.
        """
        return _Pool.apply(table_ud, self.user_h, self.start_i, self.item_h, self.start_u)


def _starts(row_r: Tensor, n_rows: int) -> Tensor:
    """Return where the entries of each row start once sorted, and the end: (rows + 1,)."""
    return torch.cat(
        [torch.zeros(1, dtype=torch.int64), torch.bincount(row_r, minlength=n_rows)]
    ).cumsum(0)


def pool(table_jd: Tensor, index_h: Tensor, start_b: Tensor) -> Tensor:
    """Return the sum of the table's rows over each group, over the root of its size: (B, d).

    Args:
        table_jd: The rows: (J, d).
        index_h: Which rows each group has, one group after the other: (H,).
        start_b: Where each group starts, and the end: (B + 1,).
    """
    total_bd = nn.functional.embedding_bag(
        index_h, table_jd, start_b, mode="sum", include_last_offset=True
    )
    return total_bd * start_b.diff().clamp(min=1).float().rsqrt()[:, None]


class _Pool(torch.autograd.Function):
    """`pool` over a fixed incidence, whose gradient is the same sum the other way round."""

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, index: Tensor, start: Tensor,
        back_index: Tensor, back_start: Tensor,
    ) -> Tensor:  # fmt: skip
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
    """Our own network: biases, a dot product and layers over vectors that know the histories.

    r_ui = mean + b_u + b_i + P_u . Q_i + layers([P_u, Q_i]), with
    P_u = p_u + |N(u)|^-1/2 sum of y_j over the items j that u rated   (SVD++, Koren 2008)
    Q_i = q_i + |N(i)|^-1/2 sum of z_v over the users v who rated i    (the same, flipped)

    A row of the tables `user` and `item` is [p, b]: k + 1 numbers. The network does not know the
    values of the ratings behind the sums.

    Args:
        n_users: The number of users.
        n_items: The number of items.
        n_factors: The number of factors k.
        hidden: The widths of the layers.
        dropouts: Probabilities with which training drops a unit of each layer.
        embedding_dropout: Probability with which training drops a unit of the joined factors.
        mean: The mean rating.
        generator: Draws the weights; None for weights that are loaded afterwards.

    Attributes:
        rated: The vectors y of items: (items, k).
        raters: The vectors z of users: (users, k).
        incidence: Who rated what in training; None once `settle` has added the sums to the tables.
    """

    rated: nn.Embedding
    raters: nn.Embedding
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
        """Return user and item vectors with the sums over histories in them."""
        # All users and items, whatever the batch: one of a hundredth of the ratings, as is usual,
        # holds users of 85 % of the ratings and items of 94 % (ML-1M; ML-100K: 75 % and 69 %), and
        # would have to gather them first.
        user_ud, item_id = self.user.weight, self.item.weight
        if self.incidence is None:
            return user_ud, item_id
        user_ud = user_ud + _no_bias(self.incidence.over_items(self.rated.weight))
        return user_ud, item_id + _no_bias(self.incidence.over_users(self.raters.weight))

    def penalty(self, user_b: Tensor, item_b: Tensor, l2: float, l2_pooled: float) -> Tensor:
        """Return l2 times p and q squared, per rating, and l2_pooled times y and z, per row."""
        p_bk, q_bk = self.user(user_b)[:, :-1], self.item(item_b)[:, :-1]
        free = p_bk.square().sum(dim=1).mean() + q_bk.square().sum(dim=1).mean()
        y_ik, z_uk = self.rated.weight, self.raters.weight
        return l2 * free + l2_pooled * (y_ik.square().sum(1).mean() + z_uk.square().sum(1).mean())

    def settle(self) -> None:
        """Put the sums over the histories of training into the tables."""
        user_ud, item_id = (vectors.detach().clone() for vectors in self.vectors())
        self.user.weight.data, self.item.weight.data, self.incidence = user_ud, item_id, None

    def prior(self, item_h: Tensor, pointer_b: Tensor, mean_d: Tensor, weight: float) -> Tensor:
        """Return the sum over each history, shrunk towards the mean user where it is short."""
        n_b1 = pointer_b.diff()[:, None].float()
        summed_bd = _no_bias(pool(self.rated.weight, item_h, pointer_b))
        return (n_b1 * summed_bd + weight * mean_d) / (n_b1 + weight)

    def rate(self, user_bd: Tensor, item_bd: Tensor) -> Tensor:
        """Return the ratings of pairs of vectors: (B,)."""
        p_bk, q_bk = user_bd[:, :-1], item_bd[:, :-1]
        bias_b = self.mean + user_bd[:, -1] + item_bd[:, -1]
        layers_b = self.output(self.hidden(self.drop(torch.cat([p_bk, q_bk], dim=1)))).squeeze(-1)
        return bias_b + (p_bk * q_bk).sum(dim=1) + layers_b.float()

    def rate_all(self, user_bd: Tensor) -> Tensor:
        """Return the ratings of every item for each user vector: (B, items)."""
        p_bk, q_ik = user_bd[:, :-1], self.item.weight[:, :-1]
        bias_bi = self.mean + user_bd[:, -1:] + self.item.weight[:, -1]
        return bias_bi + p_bk @ q_ik.T + self._through_layers(p_bk, q_ik)


def _no_bias(vector_bk: Tensor) -> Tensor:
    """Return the vectors with a zero in the place of the bias: (B, k + 1)."""
    return nn.functional.pad(vector_bk, (0, 1))
