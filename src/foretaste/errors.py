"""The errors that foretaste raises on purpose: each says where, what, and what to do."""

from __future__ import annotations

import difflib
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar


class ForetasteError(Exception):
    """The base of all errors that foretaste raises on purpose.

    Args:
        what: What is wrong, a sentence.
        where: A file, a folder or a data set; None where there is no place to name.
        fix: What to do about it, a sentence.

    Example:
        >>> import foretaste as ft
        >>> try:
        ...     ft.read("missing/ratings.csv")
        ... except ft.ForetasteError as error:
        ...     print(error)
        missing/ratings.csv: there is no such file. There is no folder missing either.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, fix: str = "") -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        gap = "" if self.what.endswith("\n") else " "
        return f"{place}{self.what}{gap}{self.fix}".rstrip()


class DataError(ForetasteError):
    """The data cannot be used as asked: an empty split, a missing column, unsorted input."""


class RatingsFileError(DataError):
    """A row or a cell of a ratings file cannot be read.

    Args:
        path: The file.
        line: The number of the line, from 1; None where rows have no lines, as in Parquet.
        column: The name of the column.
        got: The text of the cell.
        what: What is wrong, where it is not the text of the cell.
        fix: What to do about it.
    """

    def __init__(
        self, path: str | Path, line: int | None, *, column: str = "", got: str | None = None,
        what: str = "", fix: str = "",
    ) -> None:  # fmt: skip
        self.path, self.line, self.column, self.got = str(path), line, column, got
        where = f"{path}:{line}" if line is not None else str(path)
        what = what or ("the cell is empty." if got in (None, "") else f"got {got!r}.")
        super().__init__(f"column {column!r}: {what}" if column else what, where=where, fix=fix)


class BadRowsError(DataError):
    """Several rows cannot be read; the message names the first of them and the total.

    Args:
        path: The file.
        errors: The first errors, ten at most, by line.
        total: The number of rows that cannot be read.
    """

    def __init__(self, path: str | Path, errors: Sequence[RatingsFileError], total: int) -> None:
        self.errors, self.total = list(errors), total
        rest = total - len(self.errors)
        lines = [str(error) for error in self.errors] + ([f"... and {rest:,} more"] if rest else [])
        rows = "row" if total == 1 else "rows"
        super().__init__(
            f"{total:,} {rows} cannot be read:\n  " + "\n  ".join(lines) + "\n",
            where=path,
            fix="Mend them, or pass --bad-rows drop (bad_rows='drop') to leave them out, counted.",
        )


class UnknownIdError(ForetasteError):
    """An external id is not in the Dataset.

    Args:
        kind: "user" or "item".
        ids: The ids that are unknown; the message names five at most.
        fix: What ids look like here.
    """

    def __init__(self, kind: str, ids: Sequence[object], fix: str = "") -> None:
        self.kind, self.ids = kind, list(ids)
        named = ", ".join(repr(i) for i in self.ids[:5]) + (", ..." if len(self.ids) > 5 else "")
        super().__init__(f"unknown {kind} {named}.", fix=fix)


class FetchError(ForetasteError):
    """A data set cannot be fetched, or what came is not what was expected."""


class BundleError(ForetasteError):
    """A bundle cannot be written, or what lies there cannot be trusted."""


class CheckpointError(ForetasteError):
    """A checkpoint does not belong to this run, or is damaged."""


class ModelError(ForetasteError):
    """A model cannot be fitted, or cannot answer what it was asked."""


class TrialError(ForetasteError):
    """Trials cannot be run: the process that starts them does not stay alive."""


class UsageError(ForetasteError):
    """A call or a command is wrong in itself; the command line exits with 2."""


class RecipeError(UsageError):
    """A recipe is unknown or has a field that it must not have. A missed target is no error."""


def did_you_mean(name: str, known: Iterable[str], *, else_say: str) -> str:
    """Return a question with the known name that is nearest to a wrong one.

    Args:
        name: The wrong name.
        known: The names that there are.
        else_say: What to return where no name is near: a format with {} for all of them.
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]}?" if close else else_say.format(", ".join(names) or "none")


_used_by: list[int] = []  # the process that holds data or models: its threads are not forked along


def refuse_fork() -> None:
    """Note that this process uses data or models; refuse where its parent did before it forked.

    The thread pools of torch and polars do not survive a fork: the child would wait for them for
    ever.  A fork of a process that has only imported foretaste is fine.

    Raises:
        ModelError: This process was forked off one that held data or models.
    """
    if not _used_by:
        _used_by.append(os.getpid())
    elif _used_by[0] != os.getpid():
        raise ModelError(
            "this process was forked off one that had already used foretaste, whose threads did "
            "not come along: it would hang.",
            fix="Start processes by multiprocessing.get_context('spawn'), or fork before any data "
            "is read.",
        )


P = ParamSpec("P")
R = TypeVar("R")


def takes_old_names(**new_of: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator by which a function takes arguments under their names of 0.1.0 too.

    Each use of an old name is a DeprecationWarning that names the new one.

    Args:
        new_of: The new name of each old one.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **named: P.kwargs) -> R:
            for old, new in new_of.items():
                if old in named:
                    warnings.warn(
                        f"{function.__name__}: {old}= is now {new}=; the old name goes with the "
                        "next release.", DeprecationWarning, stacklevel=2,
                    )  # fmt: skip
                    named[new] = named.pop(old)
            return function(*args, **named)

        return call

    return decorate
