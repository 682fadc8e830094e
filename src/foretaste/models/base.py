"""The model contract: a user is a history, and a model is a dataclass that scores histories."""

from __future__ import annotations

import copy
import dataclasses
import json
import typing
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import polars as pl
import pydantic
from torch import Tensor, nn

from foretaste import __version__
from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.data.values import liked_from
from foretaste.errors import UsageError, did_you_mean
from foretaste.training.engine import Engine


@dataclass(frozen=True)
class Shape:
    """The size of a Dataset, from which costs are estimated.

    Args:
        users: How many users it has.
        items: How many items it has.
        interactions: How many ratings or clicks it has.
    """

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
    """A recommender that learns from a Dataset and scores the items for any history.

    Init fields are hyperparameters; fields that end in `_` are learned by `fit` and saved in
    bundles.  A model knows nothing of external ids, files or requests: users and items are row
    numbers here, and a Recommender translates them.

    What every score needs and no bundle does (matrices in another layout, scaled vectors) is a
    `functools.cached_property`: it lasts until a field is set, and is neither saved nor copied.
    """

    name: ClassVar[str]
    needs_ratings: ClassVar[bool] = False  # True: a table of clicks is refused
    needs_interactions: ClassVar[bool] = True  # False: a catalogue, items alone, will do
    reads_users: ClassVar[bool] = False  # True: scores depend on the columns of users too

    auto_: dict[str, float] = field(init=False, repr=False)  # what fields that are "auto" came to

    @abstractmethod
    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Learn from a Dataset, and return the model itself.

        Args:
            train: The interactions to learn from, with the tables of their users and items.
            engine: How to fit: device, precision, seed, checkpoints and progress.

        Raises:
            ModelError: The Dataset lacks something that the model needs, or is too large for it.
        """

    @abstractmethod
    def score(self, histories: Histories) -> Tensor:
        """Return a score of every item for every history, the higher the better.

        Args:
            histories: Histories of B users, who need not have been in training.

        Returns:
            (B, items), float32, without NaN.  The caller may overwrite the tensor.
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
            name: Name of the field.
            value: The new value of the field.
        """
        for derived in self.__dict__.keys() - self.__dataclass_fields__.keys():
            vars(self).pop(derived)
        object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: copies and pickles derive again what is derived."""
        return {n: v for n, v in self.__dict__.items() if n in self.__dataclass_fields__}

    def hyperparameters(self) -> dict[str, Any]:
        """Return the init fields, and their values, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    def auto_fields(self, train: Dataset) -> dict[str, float]:
        """Return what the fields whose value is "auto" come to on some data, by name.

        Fields that were given a value are left out.  `fit` uses these values and nothing else.

        Args:
            train: The interactions whose figures decide: density, likes of a user and of an item.
        """
        return {}

    def decided(self, name: str) -> Any:
        """Return the value of a field: what was given, or what the data decided where it is "auto".

        Args:
            name: Name of the field.
        """
        value = getattr(self, name)
        return self.auto_[name] if value == "auto" else value

    def unfitted(self) -> Self:
        """Return a model with the same hyperparameters that has learned nothing."""
        return type(self)(**copy.deepcopy(self.hyperparameters()))

    def identity(self, train: Dataset, engine: Engine) -> str:
        """Return what a checkpoint must agree on to be resumed, as JSON.

        Args:
            train: The Dataset that is learned from, whose fingerprint counts.
            engine: How to fit: the seed and the precision count.
        """
        run = {"model": self.name, "fields": self.hyperparameters(), "data": train.fingerprint}
        run |= {"seed": engine.seed, "precision": engine.precision, "foretaste": __version__}
        return json.dumps(run, sort_keys=True)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `fit` learned: tensors by name, and the rest as JSON values by name."""
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
        """Put what `state` returned back into an unfitted model, and return the model itself.

        A model with a network first rebuilds it from the shapes of the tensors.

        Args:
            tensors: Learned tensors by name.
            values: The other learned values by name.
        """
        for name, learned in {
            **values,
            **{n: t for n, t in tensors.items() if "." not in n},
        }.items():
            setattr(self, name, learned)
        return self


@dataclass(frozen=True, eq=False)
class RatingPrediction:
    """Expected ratings of P pairs, and their predictive standard deviation where there is one.

    Args:
        mean_p: Expected ratings (P,), in the unit of the ratings and within their scale.
        std_p: Standard deviations of single ratings (P,), in the same unit; None where the model
            does not know them.
    """

    mean_p: Tensor
    std_p: Tensor | None = None


@runtime_checkable
class PredictsRatings(Protocol):
    """A model that predicts ratings, in the unit of the ratings that it learned from."""

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Predict the ratings of P pairs of a user and an item, clipped to the scale.

        Args:
            histories: Histories of B users.
            user_p: Positions of the users among the histories: (P,), int64.
            item_p: Rows of the items: (P,), int64; -1 for an item that training did not have.
            time_p: When the ratings are given: (P,), in milliseconds, which most models ignore;
                None where it is unknown.

        Returns:
            Expected ratings, and standard deviations from the models that know them.
        """
        ...


@runtime_checkable
class PlacesNewItems(Protocol):
    """A model that knows something of an item from its columns alone."""

    def with_items(self, table: pl.DataFrame) -> Self:
        """Return a copy of the model that also scores new items, placed by their columns.

        Args:
            table: The new items: a column of ids, then the columns of training's item table.
                They become rows after those that the model has.
        """
        ...


@runtime_checkable
class ComparesItems(Protocol):
    """A model that knows cosines of items in a space too large for dense vectors."""

    def cosines(self, item: int) -> Tensor:
        """Return the cosines of one item to every item: (items,), float32.

        Args:
            item: Row of the item.
        """
        ...


@runtime_checkable
class HasItemVectors(Protocol):
    """A model that places items in a vector space, where cosine is similarity."""

    def item_vectors(self) -> Tensor:
        """Return a vector for each item: (items, d), float32."""
        ...


@runtime_checkable
class ScoresByDot(Protocol):
    """A model whose scores are dot products; `ranking` then finds the best without all of them."""

    def user_factors(self, histories: Histories) -> Tensor:
        """Return the factors of each history: (B, d), float32.

        Args:
            histories: Histories of B users, who need not have been in training.
        """
        ...

    def item_factors(self) -> Tensor:
        """Return the factors of each item: (items, d), float32."""
        ...


def default_threshold(train: Dataset, positive_threshold: float | None) -> float:
    """Return the lowest value that counts as liked.

    Args:
        train: The data trained on. Of ratings, three quarters up the scale are liked (4 of 5
            stars); of clicks, all with a weight above 0; of events of several kinds, all sums of
            values above 0.
        positive_threshold: What the caller chose; None for the rule above.
    """
    if positive_threshold is not None:
        return positive_threshold
    if train.explicit:
        return liked_from(train.scale)
    above_zero = train.levels[train.levels > 0]
    known = train.kinds is None and len(above_zero)
    return float(above_zero[0] if known else np.finfo(np.float32).tiny)


def current_names(model: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename fields that had another name in 0.1.0, each with a DeprecationWarning.

    Args:
        model: The class of the model, whose own names take precedence.
        fields: Values of fields by name, old or new.

    Returns:
        The same values under the names that the model has.

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
                f"{model.name}: {name}={value!r} is now {new}={new_value!r}; the old name goes "
                "with the next release.", DeprecationWarning, stacklevel=3,
            )  # fmt: skip
        renamed[new] = new_value
    return renamed


def configure(model: type[Model], fields: Mapping[str, object]) -> Model:
    """Make a model from fields by name, as a recipe, `--set` or a manifest gives them.

    Args:
        model: The class of the model.
        fields: Values of fields by name; names of 0.1.0 are understood, with a DeprecationWarning.

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


def searched(
    default: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    log: bool = False,
    choices: Sequence[Any] | None = None,
) -> Any:
    """Return a field of a dataclass that also says which of its values are worth searching.

    A tuner reads them from `metadata["search"]` of the field; nothing else does, so that values
    outside remain allowed.

    Args:
        default: The default of the field, which must be worth searching itself.
        low: The lowest value of a range.
        high: The highest value of a range.
        log: Whether factors matter rather than differences, so that the range is searched on the
            scale of logarithms.
        choices: The values, where they are no range.
    """
    space = {"low": low, "high": high, "log": log} if choices is None else {"choices": [*choices]}
    return dataclasses.field(default=default, metadata={"search": space})
