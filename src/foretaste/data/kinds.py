"""Kinds of events (view, cart, purchase): what each weighs, and which one is to be predicted.

The module does not know users or items: a row is the code of its kind and an amount.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from foretaste.data.interactions import FloatArray, IntArray
from foretaste.errors import UsageError

MAX_KINDS = 50  # a column with more names is no column of kinds
STRONG = ("purchase", "buy", "order", "transaction", "like")  # begin the names of usual targets
WEAK = ("skip", "dislike", "impression", "remove", "return", "unlike", "hide")  # and of no target


@dataclass(frozen=True)
class Kinds:
    """The kinds that events have; the value of an event is its amount times its kind's weight.

    Kinds do not know which events there are.

    Args:
        names: The name of each kind, ascending; the code of a kind is its place here.
        weights: What an event of each kind weighs; negative where it speaks against an item.
        target: The name of the kind whose events are to be predicted.
        amounts: Whether some event has another amount than 1, such as a quantity or seconds.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    target: str
    amounts: bool = False

    @property
    def target_code(self) -> int:
        """The code of the target."""
        return self.names.index(self.target)

    @property
    def by_name(self) -> dict[str, float]:
        """The weight of each kind by its name."""
        return dict(zip(self.names, self.weights, strict=True))

    def code(self, name: str) -> int:
        """Return the code of a kind.

        Args:
            name: The name of the kind.

        Raises:
            UsageError: There is no such kind; names those that there are.
        """
        if name not in self.names:
            raise UsageError(
                f"there is no kind of event {name!r}.", fix=f"Use one of {_listed(self.names)}."
            )
        return self.names.index(name)

    def value(self, name: str | None, amount: float | None) -> float:
        """Return the value of one event.

        Args:
            name: Its kind; None for the target.
            amount: Its amount; None for 1.
        """
        weight = self.weights[self.code(self.target if name is None else name)]
        return weight if amount is None else weight * amount

    def weigh(self, kind_r: IntArray, amount_r: FloatArray) -> FloatArray:
        """Return the values of events, (events,) float32.

        Args:
            kind_r: The code of each kind, (events,).
            amount_r: The amounts, (events,).
        """
        weight_r = np.array(self.weights)[kind_r]
        return (amount_r.astype(np.float64) * weight_r).astype(np.float32)

    def amount(self, kind_r: IntArray, value_r: FloatArray) -> FloatArray:
        """Return the amounts of events, (events,) float64; 1 where the weight is 0.

        Args:
            kind_r: The code of each kind, (events,).
            value_r: The values, (events,).
        """
        weight_r = np.array(self.weights)[kind_r]
        known_r = weight_r != 0
        return np.divide(value_r, weight_r, out=np.ones(len(value_r)), where=known_r)

    def reweighed(self, weights: Mapping[str, float], target: str | None = None) -> Kinds:
        """Return the same kinds with other weights.

        Args:
            weights: The weight of every kind by its name.
            target: The kind to be predicted; None for the same as before.

        Raises:
            UsageError: A kind is unknown or has no weight, a weight is not a finite number, the
                target does not weigh above 0, or amounts cannot be known as the weight was 0.
        """
        checked = _checked(self.names, weights)
        for name, weight in self.by_name.items():
            if self.amounts and weight == 0 and checked[name] != 0:
                raise UsageError(
                    f"the amounts of {name!r} are not known any more, as its weight was 0.",
                    fix="Read the file again with the new weights.",
                )
        changed = replace(self, weights=tuple(checked[name] for name in self.names))
        return _aimed(changed, self.target if target is None else target)

    def summary(self) -> dict[str, Any]:
        """Return the kinds as JSON values; `kinds_from` is the inverse."""
        return {**asdict(self), "names": [*self.names], "weights": [*self.weights]}

    def __str__(self) -> str:
        """Return names, weights and target in words."""
        weights = ", ".join(f"{name}={weight:g}" for name, weight in self.by_name.items())
        return f"{weights}; {self.target} is to be predicted"


def kinds_from(summary: Mapping[str, Any]) -> Kinds:
    """Return the Kinds that `Kinds.summary` was called on.

    Args:
        summary: The JSON values.
    """
    names, weights = map(tuple, (summary["names"], summary["weights"]))
    return Kinds(names, weights, summary["target"], summary["amounts"])


def kinds_of(
    counts: Mapping[str, int], weights: Mapping[str, float] | None, target: str | None
) -> Kinds:
    """Return the kinds of a table, weighed as asked for, or all 1.

    Args:
        counts: How many events of each kind there are, by name.
        weights: The weight of every kind; None for 1 each.
        target: The kind to be predicted; None for the one of the highest weight. Of several such
            kinds it is the rarest whose name begins like purchase, buy, order, transaction or like;
            without one, the rarest whose name does not begin like skip, dislike or impression.

    Raises:
        UsageError: A kind is unknown or has no weight, a weight is not a finite number, or the
            target does not weigh above 0.
    """
    names = tuple(sorted(counts))
    chosen = dict.fromkeys(names, 1.0) if weights is None else _checked(names, weights)
    if target is None:
        top = [name for name in names if chosen[name] == max(chosen.values())]
        strong = [name for name in top if _begins(name, STRONG)]
        usual = [name for name in top if not _begins(name, WEAK)]
        target = min(strong or usual or top, key=lambda name: counts[name])
    return _aimed(Kinds(names, tuple(chosen[name] for name in names), ""), target)


def _aimed(kinds: Kinds, target: str) -> Kinds:
    """Return kinds with another target."""
    if kinds.weights[kinds.code(target)] <= 0:
        raise UsageError(
            f"the kind {target!r} is to be predicted and weighs {kinds.by_name[target]:g}.",
            fix="Give it a weight above 0, or name another target.",
        )
    return replace(kinds, target=target)


def _checked(names: Sequence[str], weights: Mapping[str, float]) -> dict[str, float]:
    """Return a weight for each kind, or raise the error that names what is wrong."""
    unknown = [name for name in weights if name not in names]
    missing = [name for name in names if name not in weights]
    wrong = "".join(
        f"{what} {_listed(found)}. "
        for what, found in (("no kind of event is called", unknown), ("no weight for", missing))
        if found
    )
    if wrong:
        fix = f"Give a weight for each kind: {_listed(names)}."
        raise UsageError(f"event weights: {wrong.strip()}", fix=fix)
    for name, weight in weights.items():
        if isinstance(weight, bool) or not math.isfinite(weight):
            raise UsageError(f"event weights: {name}={weight}.", fix="Give finite numbers.")
    return {name: float(weights[name]) for name in names}


def _begins(name: str, starts: tuple[str, ...]) -> bool:
    return re.sub(r"[\W_]", "", name.lower()).startswith(starts)


def _listed(names: Sequence[str]) -> str:
    """Return names with commas; of many, the first."""
    return ", ".join(map(repr, names[:MAX_KINDS])) + (", ..." if len(names) > MAX_KINDS else "")
