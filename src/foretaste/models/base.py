"""The model contract: a user is a history, and a model is a dataclass that scores histories."""

from __future__ import annotations

import copy
import dataclasses
import json
import typing
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import polars as pl
import pydantic
from torch import Tensor, nn

from foretaste import __version__
from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.errors import UsageError, did_you_mean
from foretaste.training.engine import Engine


@dataclass(frozen=True)
class Shape:
    """The size of a Dataset, for estimates."""

    users: int
    items: int
    interactions: int


RENAMED = {  # fields as 0.1.0 calls them: for one release, with a warning
    "positive_from": "positive_threshold", "weigh": "weighting", "factors": "n_factors",
    "rounds": "iterations", "sweeps": "iterations",
}  # fmt: skip
RENAMED_VALUES = {("weighting", "alike"): "uniform"}


class _TakesOldNames(ABCMeta):
    """The class of `Model`: its constructors take the names that fields had in 0.1.0."""

    if not TYPE_CHECKING:  # the constructors of dataclasses are known better than this one

        def __call__(cls, *args, **fields):
            return super().__call__(*args, **current_names(cls, fields))


@dataclass(eq=False)
class Model(metaclass=_TakesOldNames):
    """Init fields are hyperparameters; fields ending in `_` are learned, and saved in bundles.

    What every score needs and no bundle does (matrices in another layout, scaled vectors) is a
    `functools.cached_property`: it lasts until a field is set, and is neither saved nor copied.
    """

    name: ClassVar[str]
    needs_ratings: ClassVar[bool] = False  # True: a table of clicks is refused
    needs_interactions: ClassVar[bool] = True  # False: a catalogue, items alone, will do
    reads_users: ClassVar[bool] = False  # True: what a batch says `about` users counts

    @abstractmethod
    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Learn from the Dataset; returns itself."""

    @abstractmethod
    def score(self, histories: Histories) -> Tensor:
        """Scores of every item for every history: (B, items), higher is better, no NaN.

        The tensor is the caller's to overwrite.
        """

    @abstractmethod
    def cost(self, shape: Shape) -> Cost:
        """Estimate what `fit` takes with these fields.

        Args:
            shape: The size of the Dataset that would be fitted to.

        Returns:
            Seconds on two cores and bytes at the peak, right to a factor of about two.
        """

    def __setattr__(self, name: str, value: object) -> None:
        """Set a field, and drop what `cached_property` has derived from the fields so far.

        What was learned is replaced, never changed in place, so nothing derived outlives it.

        Args:
            name: Of the field.
            value: Its new value.
        """
        for derived in self.__dict__.keys() - self.__dataclass_fields__.keys():
            del self.__dict__[derived]
        object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: copies and pickles derive again what is derived."""
        return {n: v for n, v in self.__dict__.items() if n in self.__dataclass_fields__}

    def hyperparameters(self) -> dict[str, Any]:
        """The init fields and their values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    def unfitted(self) -> Self:
        """Return a model with the same hyperparameters that has learned nothing."""
        return type(self)(**copy.deepcopy(self.hyperparameters()))

    def identity(self, train: Dataset, engine: Engine) -> str:
        """Return what a checkpoint must agree on to be resumed, as JSON.

        Args:
            train: What is learned from; its fingerprint counts.
            engine: Its seed and precision count.
        """
        run = {"model": self.name, "fields": self.hyperparameters(), "data": train.fingerprint}
        run |= {"seed": engine.seed, "precision": engine.precision, "foretaste": __version__}
        return json.dumps(run, sort_keys=True)

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
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
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

    def user_factors(self, histories: Histories) -> Tensor:
        """Of each history: (B, d), float32."""
        ...

    def item_factors(self) -> Tensor:
        """(items, d), float32."""
        ...


def default_threshold(train: Dataset, positive_threshold: float | None) -> float:
    """The lowest value that counts as liked: three quarters up the scale of ratings; any click."""
    if positive_threshold is not None:
        return positive_threshold
    low, high = train.scale
    return low + 0.75 * (high - low) if train.explicit else low


def current_names(model: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename fields that had another name in 0.1.0, each with a DeprecationWarning.

    Args:
        model: The class of the model, whose own names go first.
        fields: Values by field, under old names or new ones.

    Returns:
        The same under the names that the model has.

    Raises:
        UsageError: A field is given under both names.
    """
    own, renamed = {f.name for f in dataclasses.fields(model)}, {}
    for name, value in fields.items():
        new = name if name in own or RENAMED.get(name) not in own else RENAMED[name]
        new_value = RENAMED_VALUES.get((new, value), value) if isinstance(value, str) else value
        if new != name and new in fields:
            raise UsageError(
                f"{model.name}: {name!r} is the old name of {new!r}, and both are given.",
                fix=f"Leave {name!r} out.",
            )
        if (new, new_value) != (name, value):
            warnings.warn(
                f"{model.name}: {name}={value!r} is now {new}={new_value!r}; the old name goes with "
                "the next release.", DeprecationWarning, stacklevel=3,
            )  # fmt: skip
        renamed[new] = new_value
    return renamed


def configure(model: type[Model], fields: Mapping[str, object]) -> Model:
    """Make a model from a table of fields (a recipe, `--set`, a manifest); a typo is an error.

    Args:
        model: The class of the model.
        fields: Values by field; names of 0.1.0 are understood, with a DeprecationWarning.

    Returns:
        The model, not fitted.

    Raises:
        UsageError: The model has no such field, or a value is of the wrong kind.
    """
    hints = typing.get_type_hints(model)
    known = [f.name for f in dataclasses.fields(model) if f.init]
    values = {}
    for name, value in current_names(model, fields).items():
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
