"""Which items satisfy an SQL condition on their columns."""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from foretaste.errors import UsageError

LONGEST_CONDITION = 2000  # characters; polars takes seconds from about 500 terms on
LONGEST_REASON = 200  # characters of what polars says
_MATCHED = "__matched__"
# Others could make a value of any size out of a short condition (LPAD, REPLACE), or read a file.
_FUNCTIONS = {
    "abs", "ceil", "coalesce", "contains", "date", "ends_with", "floor", "length", "lower",
    "regexp_like", "round", "starts_with", "trim", "upper",
}  # fmt: skip
_WORDS = {
    "and",
    "or",
    "not",
    "in",
    "like",
    "ilike",
    "between",
    "is",
    "when",
    "then",
    "else",
    "case",
}
_TEXT = re.compile(r"'(?:[^']|'')*'")
_CALL = re.compile(r'([A-Za-z_]\w*|")\s*\(')


def matching(where: str, table: pl.DataFrame) -> np.ndarray:
    """Items that satisfy an SQL condition on their columns: (items,) bool; null counts as no."""
    columns = f"Columns: {', '.join(table.columns)}."
    if len(where) > LONGEST_CONDITION:
        raise UsageError(
            f"where: the condition has {len(where):,} characters, {LONGEST_CONDITION:,} at most.",
            fix="Give a long list of items as candidates, or as exclude.",
        )
    _refuse_calls(where)
    try:
        condition = pl.sql_expr(where)
        unknown = [c for c in condition.meta.root_names() if c not in table.columns]
        if unknown:
            raise UsageError(f"where: there is no column {unknown[0]!r}.", fix=columns)
        # with_columns, so that 1 = 1 too becomes a value for every item
        matched = table.with_columns(condition.alias(_MATCHED)).get_column(_MATCHED)
    except pl.exceptions.PolarsError as error:
        raise UsageError(
            f"where: {str(error).splitlines()[0][:LONGEST_REASON]}.", fix=columns
        ) from None
    if matched.dtype != pl.Boolean:
        raise UsageError(
            f"where: {where!r} is not a condition.", fix="Write one like year >= 1990."
        )
    return matched.fill_null(False).to_numpy()


def _refuse_calls(where: str) -> None:
    """UsageError for anything but comparisons, logic and a few harmless functions."""
    code = _TEXT.sub("''", where)
    called = {name.lower() for name in _CALL.findall(code)} - _WORDS
    if re.search(r"\bselect\b", code, re.IGNORECASE):
        called.add("select")
    if unknown := sorted(called - _FUNCTIONS):
        raise UsageError(
            f"where: {unknown[0]!r} cannot be called in a condition.",
            fix=f"Functions: {', '.join(sorted(_FUNCTIONS))}.",
        )
