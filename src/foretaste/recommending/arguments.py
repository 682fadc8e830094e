"""Arguments at the public doors: what they must be, and errors that say what to give instead.

The module does not know which ids exist: `Ids` finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from foretaste.errors import UsageError


def whole_number(value: Any, what: str, example: int) -> int:
    """Return an argument that must be a whole number.

    Args:
        value: What was given; whole numbers of NumPy count.
        what: The name of the argument, for the error.
        example: A value that would do, for the error.

    Raises:
        UsageError: It is something else, 3.0 and "3" included.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise UsageError(
        f"{what}={value!r} is no whole number.", fix=f"Give one, such as {what}={example}."
    )


def number(value: Any, what: str, example: float) -> float:
    """Return an argument that must be a number.

    Args:
        value: What was given.
        what: The name of the argument, for the error.
        example: A value that would do, for the error.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(value, Real | np.number) and not isinstance(value, bool):
        return float(value)
    raise UsageError(f"{what}={value!r} is no number.", fix=f"Give one, such as {what}={example}.")


def truth(value: Any, what: str) -> bool:
    """Return an argument that must be True or False.

    Args:
        value: What was given.
        what: The name of the argument, for the error.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise UsageError(f"{what}={value!r}.", fix="Give True or False.")


def text(value: Any, what: str, example: str) -> str:
    """Return an argument that must be text.

    Args:
        value: What was given.
        what: The name of the argument, for the error.
        example: A value that would do, for the error.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(value, str):
        return value
    raise UsageError(f"{what}={value!r} is no text.", fix=f"Give text, such as {example!r}.")


def one_id(value: Any, what: str) -> Any:
    """Return an argument that must be one id: text or a whole number.

    Args:
        value: What was given.
        what: The name of the argument, for the error.

    Raises:
        UsageError: It is something else, such as a list.
    """
    if _is_id(type(value)):
        return value
    several_ = f" Give several as {what}s=[...]." if what == "user" else ""
    raise UsageError(
        f"{what}={_shown(value)} is no id.", fix=f"Give one id, text or a whole number.{several_}"
    )


def several(ids: Iterable[Any], what: str, entry: type | None = None) -> list[Any]:
    """Return ids as a list, whatever sequence they came in.

    Args:
        ids: Ids: a list, a Series, an array of one axis, or anything else that yields them.
        what: The name of the argument, for the error.
        entry: What may stand in place of an id, or None.

    Raises:
        UsageError: For one text, which is no list of characters; for a matrix or a table; for what
            is no list; and for entries that are no ids.
    """
    example = "['50', '172']"
    if isinstance(ids, str | bytes):
        raise UsageError(f"{what}={ids!r} is one text.", fix=f"Give a list: {what}=[{ids!r}].")
    if getattr(ids, "ndim", 1) != 1 or hasattr(ids, "columns"):
        raise UsageError(
            f"{what} is a {type(ids).__name__} of shape {tuple(getattr(ids, 'shape', ()))}, not a "
            "list of ids.", fix=f"Give ids: {what}={example}.",
        )  # fmt: skip
    if not isinstance(ids, Iterable):
        raise UsageError(f"{what}={ids!r} is no list.", fix=f"Give a list: {what}=[{ids!r}].")
    found = list(ids)
    for kind in set(map(type, found)):
        if not _is_id(kind) and not (entry is not None and issubclass(kind, entry)):
            wrong = next(one for one in found if type(one) is kind)
            rated = "" if entry is None else " Ratings go with them as {'50': 4.0}, or as Entry."
            raise UsageError(
                f"{what}: {_shown(wrong)} is no id.", fix=f"Give ids: {what}={example}.{rated}"
            )
    return found


def features(value: Any, what: str) -> None:
    """Refuse an argument that must be a mapping of columns, and is none.

    Args:
        value: What was given.
        what: The name of the argument, for the error.

    Raises:
        UsageError: It is no mapping.
    """
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{what}={_shown(value)} is no mapping.",
            fix="Give values by column: {'gender': 'F', 'age': 25}.",
        )


def _is_id(kind: type) -> bool:
    return issubclass(kind, str | int | np.integer) and kind is not bool


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 and "\n" not in shown else type(value).__name__
