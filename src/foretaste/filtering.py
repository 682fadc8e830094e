"""Which items satisfy an SQL condition on their columns."""

from __future__ import annotations

import numpy as np
import polars as pl

from foretaste.errors import UsageError

LONGEST_CONDITION = 2000  # characters; polars takes seconds from about 500 terms on
_MATCHED = "__matched__"


def matching(where: str, table: pl.DataFrame) -> np.ndarray:
    """Items that satisfy an SQL condition on their columns: (items,) bool; null counts as no."""
    columns = f"Columns: {', '.join(table.columns)}."
    if len(where) > LONGEST_CONDITION:
        raise UsageError(
            f"where: the condition has {len(where):,} characters, {LONGEST_CONDITION:,} at most.",
            fix="Give a long list of items as candidates, or as exclude.",
        )
    try:
        condition = pl.sql_expr(where)
        unknown = [c for c in condition.meta.root_names() if c not in table.columns]
        if unknown:
            raise UsageError(f"where: there is no column {unknown[0]!r}.", fix=columns)
        # with_columns, so that 1 = 1 too becomes a value for every item
        matched = table.with_columns(condition.alias(_MATCHED)).get_column(_MATCHED)
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"where: {str(error).splitlines()[0]}.", fix=columns) from None
    if matched.dtype != pl.Boolean:
        raise UsageError(
            f"where: {where!r} is not a condition.", fix="Write one like year >= 1990."
        )
    return matched.fill_null(False).to_numpy()
