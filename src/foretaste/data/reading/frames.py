"""Tables in memory as polars frames: polars, pandas, Arrow, and whatever speaks Arrow's C streams.

The module does not know which column has which role.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from foretaste.errors import DataError, UsageError


def as_polars(frame: Any, name: str) -> pl.DataFrame:
    """Return a table in memory as a polars frame.

    Args:
        frame: A polars, pandas or Arrow table, or a mapping of columns.
        name: What messages call it.

    Raises:
        UsageError: It is not a table.
        DataError: A column cannot be converted, or a library for it is missing.
    """
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    kind = type(frame).__module__.split(".")[0]
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
    except Exception as error:  # what polars, pandas and Arrow raise here has no common root
        raise DataError(
            f"the {kind} table cannot be read: {error}", where=name,
            fix="Give every column one type, or a polars frame.",
        ) from error  # fmt: skip
    if isinstance(table, pl.DataFrame):
        return table
    raise UsageError(
        f"{type(frame).__name__} is not a table.", fix="Give a polars, pandas or Arrow table."
    )
