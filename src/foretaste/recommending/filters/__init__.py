"""Which items satisfy an SQL condition on their columns: the one door for a client's condition.

`conditions` reads the text, `expressions` turns what is allowed of it into polars expressions;
polars' own SQL never sees it.  Here the expression meets a table, in chunks of bounded memory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from foretaste.errors import UsageError
from foretaste.recommending.filters.conditions import EXAMPLE, shortened, syntax_tree
from foretaste.recommending.filters.expressions import Builder

LONGEST_CONDITION = 2000  # characters
LARGEST_CHUNK = 1 << 20  # bytes of the cells of a column evaluated at a time, one row at least
SLOWEST = 10.0  # seconds for one table; checked between chunks


@dataclass(frozen=True, eq=False)
class Condition:
    """A condition on the columns of a table, ready to be evaluated: text in, rows out.

    It knows the columns that it reads and their types, not the table: it may be kept, and asked of
    any table with these columns.  It can be asked from several threads.

    Attributes:
        text: The SQL that it was parsed from.
        schema: Name and type of each column that it reads.
    """

    text: str
    schema: Mapping[str, pl.DataType]
    _expr: pl.Expr = field(repr=False)
    _made_bytes: int = field(default=0, repr=False)  # of text that a row gets from the condition

    @classmethod
    def parse(cls, text: str, schema: Mapping[str, pl.DataType]) -> Condition:
        """Read a condition; nothing is evaluated and nothing outside of the text is opened.

        Args:
            text: SQL of at most `LONGEST_CONDITION` characters, such as `year >= 1990`.
            schema: The columns that may be named, and their types, as of `DataFrame.schema`.

        Raises:
            UsageError: The text is no condition on these columns, or too costly a one.

        Example:
            >>> Condition.parse("year >= 1990", {"year": pl.Int64()}).schema
            {'year': Int64}
        """
        if len(text) > LONGEST_CONDITION:
            raise UsageError(
                f"where: the condition has {len(text):,} characters, {LONGEST_CONDITION:,} at "
                "most.",
                fix="Give a long list of items as candidates, or as exclude.",
            )
        builder = Builder(schema)
        if not text.isascii() and text != text.encode(errors="ignore").decode():
            raise UsageError("where: the condition holds half of a character.", fix=EXAMPLE)
        try:
            value = builder.value(syntax_tree(text))
        except UsageError as error:
            raise _with_quotes(error, text, schema) from None
        if value.dtype not in (pl.Boolean, pl.Null):
            raise UsageError(f"where: {shortened(text)} is not a condition.", fix=EXAMPLE)
        expr = value.expr.cast(pl.Boolean).fill_null(False)
        return cls(text, builder.read, expr, builder.made_bytes)

    def matching(self, table: pl.DataFrame) -> np.ndarray:
        """Find the rows that satisfy the condition, in chunks of bounded memory.

        Args:
            table: Has the columns of `schema`; the others are not looked at.

        Returns:
            One bool per row of the table, shape (rows,); null counts as no.

        Raises:
            UsageError: A column is missing or has another type now, or it takes too long.
        """
        for name, dtype in self.schema.items():
            if table.schema.get(name) != dtype:
                raise UsageError(
                    f"where: column {name!r} is not {dtype} in this table.",
                    fix="Parse the condition again, with the schema of the table.",
                )
        if not self.schema:  # a value for every item, of 1 = 1 too
            return np.full(len(table), _evaluated(pl.DataFrame(), self._expr))
        # by number: polars reads some names of columns, such as ^.*$, as patterns
        table = pl.DataFrame([table[name].alias(str(n)) for n, name in enumerate(self.schema)])
        matched = np.zeros(len(table), dtype=bool)
        end = time.monotonic() + SLOWEST
        for rows in _chunks(table, self._made_bytes):
            if time.monotonic() > end:
                raise UsageError(
                    f"where: the condition takes more than {SLOWEST:g} s on {len(table):,} items.",
                    fix="Write it with fewer or simpler patterns and functions of text.",
                )
            matched[rows] = _evaluated(table[rows], self._expr)
        return matched


def _with_quotes(error: UsageError, text: str, schema: Mapping[str, pl.DataType]) -> UsageError:
    """Return an error, or one that shows the quotes which a name in the condition needs."""
    for name in schema:
        quoted = '"' + name.replace('"', '""') + '"'
        if not re.fullmatch(r"[A-Za-z_]\w*", name) and name in text and quoted not in text:
            return UsageError(error.what, fix=f"Quote the name of this column: {quoted}.")
    return error


def matching(where: str, table: pl.DataFrame) -> np.ndarray:
    """Find the items that satisfy a condition on their columns: the door for every client's text.

    Args:
        where: SQL, such as `year >= 1990 AND genres LIKE '%Drama%'`.
        table: One row per item.

    Returns:
        One bool per item, shape (items,); null counts as no.

    Raises:
        UsageError: The text is no condition on these columns, or too costly a one.
    """
    return Condition.parse(where, table.schema).matching(table)


def _evaluated(chunk: pl.DataFrame, expr: pl.Expr) -> np.ndarray:
    """A bool per row, or one for all of them: polars does not repeat what is the same in each.

    UsageError for what polars refuses in spite of the types that `expressions` has checked.
    """
    try:
        return chunk.select(expr).to_series().to_numpy()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise UsageError(
            "where: polars cannot evaluate the condition on these columns.", fix=EXAMPLE
        ) from None


def _chunks(table: pl.DataFrame, made_bytes: int) -> Iterator[slice]:
    """Runs of rows of at most `LARGEST_CHUNK` bytes, or of one row; a number has eight bytes."""
    texts = [column.str for column in table if column.dtype == pl.String]
    texts += [column.cat for column in table if column.dtype in (pl.Categorical, pl.Enum)]
    width, rows = 8 + made_bytes, len(table)
    if not texts:
        length = max(LARGEST_CHUNK // width, 1)
        yield from (slice(start, min(start + length, rows)) for start in range(0, rows, length))
        return
    byte_r = np.full(rows, width, dtype=np.int64)
    for text in texts:
        byte_r += text.len_bytes().fill_null(0).to_numpy()
    end_r = byte_r.cumsum()
    start = 0
    while start < rows:
        most = end_r[start] - byte_r[start] + LARGEST_CHUNK
        stop = max(int(np.searchsorted(end_r, most, side="right")), start + 1)
        yield slice(start, stop)
        start = stop
