"""Tables in memory as polars frames: polars, pandas, and whatever speaks Arrow's C streams.

A sparse matrix with the ids of its rows and columns is a table too. The module does not know which
column has which role; `plain_column` makes columns of rare types ready for any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from foretaste.errors import DataError, UsageError

GIVE_TABLE = "Give a polars, pandas or Arrow table, or a mapping of columns."


def as_polars(frame: Any, name: str) -> pl.DataFrame:
    """Return a table in memory as a polars frame.

    Args:
        frame: A polars, pandas or Arrow table, a mapping of columns, or anything with
            `__arrow_c_stream__`, such as a relation of DuckDB.
        name: What messages call it.

    Raises:
        UsageError: It is not a table.
        DataError: A column cannot be converted, or a library for it is missing.
    """
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    kind = type(frame).__module__.split(".")[0].strip("_")
    _refuse_no_table(frame, kind)
    try:
        if kind == "pandas":
            return pl.from_pandas(frame)
        if isinstance(frame, Mapping) or hasattr(frame, "__arrow_c_stream__"):
            return pl.DataFrame(frame)
        table = pl.from_arrow(frame) if kind == "pyarrow" else None
    except ImportError as error:
        raise DataError(
            f"{error}.", where=name, fix="Install it, or give a polars frame or an Arrow table."
        ) from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # of polars, pandas and Arrow, and panics: no common root
        column = _unreadable_column(frame)
        raise DataError(
            f"{f'column {column!r} of ' if column is not None else ''}the {kind} table cannot be "
            f"read: {error}", where=name, fix="Give every column one type, or a polars frame.",
        ) from error  # fmt: skip
    if isinstance(table, pl.DataFrame):
        return table
    raise UsageError(f"{type(frame).__name__} is not a table.", fix=GIVE_TABLE)


def _refuse_no_table(frame: Any, kind: str) -> None:
    if sparse.issparse(frame) or isinstance(frame, np.ndarray):
        raise UsageError(
            f"{type(frame).__name__} is a matrix, which has no ids.",
            fix="Give the ids of its rows and columns with it: "
            "from_frame(matrix, users=[...], items=[...]).",
        )
    if isinstance(frame, pl.Series) or (kind == "pandas" and not hasattr(frame, "columns")):
        hint = ".reset_index()" if kind == "pandas" else ".to_frame()"
        raise UsageError(
            f"{type(frame).__name__} is one column, not a table.",
            fix=f"{GIVE_TABLE} A Series becomes one by {hint}.",
        )


def _unreadable_column(frame: Any) -> Any:
    """Return the name of the first column that polars cannot read by itself; None if all can be."""
    try:
        names = list(getattr(frame, "columns", None) or getattr(frame, "column_names", frame))
    except Exception:
        names = list(getattr(frame, "columns", ()))
    for name in names:
        try:
            pl.Series("", pl.from_pandas(frame[name]) if hasattr(frame, "iloc") else frame[name])
        except BaseException:
            return name
    return None


def matrix_table(matrix: Any, users: Any, items: Any) -> pl.DataFrame:
    """Return a sparse matrix as a table of user, item and value; zeros that are stored count.

    Args:
        matrix: A scipy matrix, (users, items).
        users: The ids of its rows.
        items: The ids of its columns.

    Raises:
        UsageError: It is no sparse matrix, or the ids are not as many as its rows and columns.
    """
    if not sparse.issparse(matrix):
        raise UsageError(
            f"{type(matrix).__name__} is not a sparse matrix, which users= and items= belong to.",
            fix="Give scipy.sparse.csr_matrix(array), in which what is not stored is no "
            "interaction.",
        )
    cells = matrix.tocoo()
    found = {}
    axes = (("user", users, cells.row, 0), ("item", items, cells.col, 1))
    for role, ids, rows, axis in axes:
        if ids is None or isinstance(ids, str | bytes) or not hasattr(ids, "__len__"):
            raise UsageError(
                f"{role}s={ids!r}.", fix=f"Give the ids of the matrix's axis {axis}, a list."
            )
        if len(ids) != matrix.shape[axis]:
            raise UsageError(
                f"{len(ids):,} {role}s for a matrix of shape {matrix.shape}.",
                fix=f"Give {matrix.shape[axis]:,}, one for each {('row', 'column')[axis]}.",
            )
        try:
            known = ids if isinstance(ids, pl.Series) else pl.Series(role, list(ids))
        except (TypeError, pl.exceptions.PolarsError):
            known = pl.Series(role, [str(one) for one in ids])
        if known.n_unique() < len(known):
            raise UsageError(f"the {role}s are not all different.", fix="Give each id once.")
        found[role] = known.gather(rows.astype(np.int64))
    value = np.asarray(cells.data)
    if value.dtype.kind == "b" or (len(value) and (value == 1).all()):
        return pl.DataFrame(found)  # a matrix of ones says who, not how much
    return pl.DataFrame(found | {"value": value})


def plain_column(column: pl.Series, role: str, where: str) -> pl.Series:
    """Return a column in one of the types that `casting.py` knows.

    Args:
        column: Cells of any type.
        role: What it is: user, item, value or time.
        where: The source, for messages.

    Raises:
        DataError: The type can hold no such cells; names the column.
    """
    dtype = column.dtype
    if dtype in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    if dtype == pl.Null:
        return column.cast(pl.String)
    if dtype == pl.Binary:
        try:
            return column.cast(pl.String)
        except pl.exceptions.PolarsError:
            raise _wrong(
                column, role, where, "bytes that are not UTF-8", "Decode it first."
            ) from None
    wide = dtype in (pl.Int128, pl.UInt128)
    if role == "value":
        return column.cast(pl.Float64) if wide or dtype.is_decimal() else column
    if wide or (dtype.is_decimal() and role in ("user", "item")):
        whole = column.cast(pl.Int64, strict=False)
        same = whole.cast(dtype, strict=False) == column
        if whole.null_count() == column.null_count() and bool(same.fill_null(True).all()):
            return whole
        if wide and role in ("user", "item"):
            return column.cast(pl.String)
        raise _wrong(column, role, where, f"{dtype}", "Cast it to whole numbers or text first.")
    return column


def _wrong(column: pl.Series, role: str, where: str, holds: str, fix: str) -> DataError:
    first = column.drop_nulls().head(1).to_list()
    such = f", such as {first[0]!r}" if first else ""
    return DataError(f"column {column.name!r} ({role}) holds {holds}{such}.", where=where, fix=fix)


def check_names(wanted: Mapping[str, Any]) -> None:
    """Refuse a column that is given by anything but its name.

    Args:
        wanted: Name of the column by role; None to guess, "" for none.

    Raises:
        UsageError: It is a number, or something else.
    """
    for role, name in wanted.items():
        if name is not None and not isinstance(name, str):
            raise UsageError(
                f"{role}={name!r} is no name of a column.",
                fix=f"Give the name as text, such as {role}='column'; columns without a header "
                "are called column_1, column_2 and so on.",
            )
