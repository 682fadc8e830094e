"""The model contract: a user is a history, and a model is a dataclass that scores histories."""

from __future__ import annotations

import dataclasses
import json
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import polars as pl
import pydantic
import torch
from torch import Tensor, nn

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.interactions import IntArray
from foretaste.errors import UsageError, did_you_mean
from foretaste.training.engine import Engine


@dataclass(frozen=True, eq=False)
class UserBatch:
    """Histories of B users as ragged arrays: user b has entries pointer_b[b] to pointer_b[b + 1].

    item_h: item rows (int64).  value_h: ratings or weights (float32).  time_h: milliseconds
    (int64), or None.  train_row_b: the user's row in training where the history is the one trained
    on, else -1.  about: lines of a user table, for those who have no such row; None: unknown.
    """

    pointer_b: Tensor
    item_h: Tensor
    value_h: Tensor
    time_h: Tensor | None
    train_row_b: Tensor
    about: pl.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.pointer_b) - 1

    @property
    def length_b(self) -> Tensor:
        """Entries in each history."""
        return self.pointer_b.diff()

    @property
    def user_h(self) -> Tensor:
        """The user b of every entry."""
        return torch.repeat_interleave(torch.arange(len(self)), self.length_b)

    def __getitem__(self, users: slice) -> UserBatch:
        """The batch of a contiguous range of its users."""
        start, stop, _ = users.indices(len(self))
        low, high = int(self.pointer_b[start]), int(self.pointer_b[stop])
        return UserBatch(
            self.pointer_b[start : stop + 1] - low,
            self.item_h[low:high],
            self.value_h[low:high],
            None if self.time_h is None else self.time_h[low:high],
            self.train_row_b[start:stop],
            None if self.about is None else self.about[start:stop],
        )

    def take(self, users: Tensor) -> UserBatch:
        """The batch of some of its users, in the order given (int64)."""
        before_b, entry_h = _ragged(self.pointer_b[users].numpy(), self.length_b[users].numpy())
        time_h = None if self.time_h is None else self.time_h[entry_h]
        return UserBatch(
            before_b, self.item_h[entry_h], self.value_h[entry_h], time_h, self.train_row_b[users],
            None if self.about is None else self.about[users.numpy()],
        )  # fmt: skip

    def only(self, kept_h: Tensor) -> UserBatch:
        """The marked entries of each history."""
        before_h = nn.functional.pad(kept_h.cumsum(0), (1, 0))
        time_h = None if self.time_h is None else self.time_h[kept_h]
        return dataclasses.replace(
            self, pointer_b=before_h[self.pointer_b], item_h=self.item_h[kept_h],
            value_h=self.value_h[kept_h], time_h=time_h,
        )  # fmt: skip

    def features(self, known_uf: Tensor, read: Callable[[pl.DataFrame], Tensor]) -> Tensor:
        """Features of users: (B, f), zeros where nothing is known.

        known_uf: those of training.  read: makes them of `about`, for users who were not in it.
        """
        of_bf = torch.cat([known_uf, torch.zeros_like(known_uf[:1])])[self.train_row_b]
        if self.about is not None:
            new_b = self.train_row_b < 0
            of_bf[new_b] = read(self.about)[new_b]
        return of_bf

    def dense(self, n_items: int, value_h: Tensor | None = None) -> Tensor:
        """Histories as a matrix: (B, items), value_h (default: ones) where there is an entry."""
        x_bi = torch.zeros(len(self), n_items)
        x_bi[self.user_h, self.item_h] = 1.0 if value_h is None else value_h
        return x_bi


def batch_of(histories: Dataset, user_rows: IntArray, known: Dataset) -> UserBatch:
    """The histories of `user_rows` of one Dataset, in the item rows of the Dataset trained on.

    A row of -1 is a user of `known` without history.  Items that `known` lacks are left out.
    """
    x = histories.interactions
    start_b = np.where(user_rows < 0, 0, histories.pointers[user_rows])
    length_b = np.where(user_rows < 0, 0, histories.pointers[user_rows + 1] - start_b)
    before_b, entry_h = (t.numpy() for t in _ragged(start_b, length_b))
    item_h = x.item_r[entry_h].astype(np.int64)
    train_row_b, about = user_rows.astype(np.int64), None
    if histories is not known:
        if histories.user_table is not None:
            row_b = pl.Series(user_rows).cast(pl.Int64).replace(-1, None)
            about = histories.user_table.select(pl.all().gather(row_b))
        train_row_b = np.full(len(user_rows), -1)
        item_h = known.items.find(histories.items.values)[item_h]
        kept_h = item_h >= 0
        entry_h, item_h = entry_h[kept_h], item_h[kept_h]
        before_b = np.concatenate([[0], np.cumsum(kept_h)])[before_b]
    return UserBatch(
        torch.from_numpy(before_b),
        torch.from_numpy(item_h),
        torch.from_numpy(x.value_r[entry_h]),
        None if x.time_r is None else torch.from_numpy(x.time_r[entry_h]),
        torch.from_numpy(train_row_b),
        about,
    )


def _ragged(start_b: IntArray, length_b: IntArray) -> tuple[Tensor, Tensor]:
    """Pointers of ranges laid end to end, and the positions that they cover."""
    before_b = np.concatenate([[0], np.cumsum(length_b)])
    entry_h = np.arange(before_b[-1]) + np.repeat(start_b - before_b[:-1], length_b)
    return torch.from_numpy(before_b), torch.from_numpy(entry_h)


@dataclass(frozen=True)
class Shape:
    """The size of a Dataset, for estimates."""

    users: int
    items: int
    interactions: int


@dataclass(eq=False)
class Model(ABC):
    """Init fields are hyperparameters; fields ending in `_` are learned, and saved in bundles."""

    name: ClassVar[str]
    needs_ratings: ClassVar[bool] = False  # True: a table of clicks is refused
    needs_interactions: ClassVar[bool] = True  # False: a catalogue, items alone, will do
    reads_users: ClassVar[bool] = False  # True: what a batch says `about` users counts

    @abstractmethod
    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Learn from the Dataset; returns itself."""

    @abstractmethod
    def score(self, batch: UserBatch) -> Tensor:
        """Scores of every item for every history: (B, items), higher is better, no NaN.

        The tensor is the caller's to overwrite.
        """

    @classmethod
    @abstractmethod
    def cost(cls, shape: Shape) -> Cost:
        """Rough time and memory of `fit` with default fields on two cores."""

    def hyperparameters(self) -> dict[str, Any]:
        """The init fields and their values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    def identity(self, train: Dataset, engine: Engine) -> str:
        """What a checkpoint must agree on to be resumed."""
        run = {"model": self.name, "fields": self.hyperparameters(), "data": train.fingerprint}
        return json.dumps(
            run | {"seed": engine.seed, "precision": engine.precision}, sort_keys=True
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What `fit` learned: tensors by name, and the rest as JSON values."""
        tensors, values = {}, {}
        for f in dataclasses.fields(self):
            learned = getattr(self, f.name, None)
            if f.init or learned is None:
                continue
            if isinstance(learned, nn.Module):
                tensors |= {f"{f.name}.{key}": t for key, t in learned.state_dict().items()}
            elif isinstance(learned, Tensor):
                tensors[f.name] = learned
            else:
                values[f.name] = learned
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """The inverse of `state`; a model with a network rebuilds it from the shapes first."""
        for name, learned in {
            **values,
            **{n: t for n, t in tensors.items() if "." not in n},
        }.items():
            setattr(self, name, learned)
        return self


@dataclass(frozen=True, eq=False)
class RatingPrediction:
    """Expected ratings of P pairs, and their predictive standard deviation where there is one."""

    mean_p: Tensor
    std_p: Tensor | None = None


@runtime_checkable
class PredictsRatings(Protocol):
    """A model whose scores are ratings, in the units of the data."""

    def predict(
        self, batch: UserBatch, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Ratings of the pairs (batch user, item row), clipped to the scale.

        user_p: index into the batch.  item_p: item row, or -1 for an item that training never saw.
        time_p: when the ratings are given (milliseconds), for models that can tell; None: unknown.
        """
        ...


@runtime_checkable
class PlacesNewItems(Protocol):
    """A model that knows something of an item from its columns alone."""

    def with_items(self, table: pl.DataFrame) -> Self:
        """A copy with the lines of an item table as further item rows."""
        ...


@runtime_checkable
class ComparesItems(Protocol):
    """A model that knows cosines of items in a space too large for vectors: sparse features."""

    def cosines(self, item: int) -> Tensor:
        """Of one item row to every item: (items,), float32."""
        ...


@runtime_checkable
class HasItemVectors(Protocol):
    """A model that places items in a vector space, where cosine is similarity."""

    def item_vectors(self) -> Tensor:
        """(items, d), float32."""
        ...


@runtime_checkable
class ScoresByDot(Protocol):
    """A model whose scores are dot products; `ranking` then finds the best without all of them."""

    def user_factors(self, batch: UserBatch) -> Tensor:
        """Of each history: (B, d), float32."""
        ...

    def item_factors(self) -> Tensor:
        """(items, d), float32."""
        ...


def liked_from(train: Dataset, positive_from: float | None) -> float:
    """The lowest value that counts as liked: three quarters up the scale of ratings; any click."""
    if positive_from is not None:
        return positive_from
    low, high = train.scale
    return low + 0.75 * (high - low) if train.explicit else low


def configure(model: type[Model], fields: Mapping[str, object]) -> Model:
    """A model from a table of fields (a recipe, `--set`, a manifest); a typo is an error.

    Raises UsageError for a field it does not have or a value of the wrong kind.
    """
    hints = typing.get_type_hints(model)
    known = [f.name for f in dataclasses.fields(model) if f.init]
    values = {}
    for name, value in fields.items():
        if name not in known:
            hint = did_you_mean(name, known, else_say="It has {}.")
            raise UsageError(f"{model.name} has no field {name!r}.", fix=hint)
        try:
            values[name] = pydantic.TypeAdapter(hints[name]).validate_python(value)
        except pydantic.ValidationError as error:
            raise UsageError(
                f"{model.name}: field {name!r}: got {value!r}.", fix=f"{error.errors()[0]['msg']}."
            ) from None
    return model(**values)
