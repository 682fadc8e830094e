"""The operands of a condition: a polars expression with its type, and what it costs.

Six types are told apart; whatever else a column holds can be asked for IS NULL alone.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
from sqlglot import exp

from foretaste.errors import UsageError
from foretaste.recommending.conditions import EXAMPLE, quoted, shortened

MOST_STEPS = 256  # operations on a column; some count for several
SEARCH, REWRITE = 4, 8  # steps of a search in a text, and of making another text
TIME = pl.Datetime("us")
_KINDS = {pl.Boolean: "a truth value", pl.String: "a text", pl.Datetime: "a date"}
_WITHIN_INT64 = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
_NUMBERS = (pl.Float64(), pl.Int128(), pl.Int64())  # the widest first


@dataclass(frozen=True)
class Value:
    """A part of a condition, which knows how it is computed and not what it is called.

    Attributes:
        expr: What computes it: one value per row, or one for all rows if it does not vary.
        dtype: Boolean, Int64, Int128, Float64, String, Datetime in microseconds, or Null; another
            one for a column that can only be asked for IS NULL.
        steps: What it costs, with all that is below it.
        constant: Its value, where it is written in the text; None elsewhere.
        varies: Whether it reads a column.
    """

    expr: pl.Expr
    dtype: pl.DataType
    steps: int = 0
    constant: Any = None
    varies: bool = False

    @property
    def kind(self) -> str:
        """What an error calls it."""
        if self.dtype.is_numeric():
            return "a number"
        return _KINDS.get(self.dtype.base_type(), f"a value of type {self.dtype}")


NULL = Value(pl.lit(None), pl.Null())


def column(expr: pl.Expr, dtype: pl.DataType) -> Value:
    """Return a column in the type that it is asked in; NaN is null.

    Args:
        expr: The column.
        dtype: The type that it has in the table.
    """
    to: pl.DataType = dtype
    if dtype.is_integer():
        to = pl.Int64() if dtype in _WITHIN_INT64 else pl.Int128()
        expr = expr.cast(to, strict=False)
    elif dtype.is_numeric():
        to, expr = pl.Float64(), expr.cast(pl.Float64).fill_nan(None)
    elif dtype in (pl.Categorical, pl.Enum):
        to, expr = pl.String(), expr.cast(pl.String)
    elif dtype in (pl.Date, pl.Datetime):
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
            expr = expr.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        to, expr = TIME, expr.cast(TIME)
    return Value(expr, to, varies=True)


def computed(expr: pl.Expr, dtype: pl.DataType, parts: Sequence[Value], steps: int = 1) -> Value:
    """Return what an operation makes of its parts.

    Args:
        expr: The operation; it holds the expression of each part once.
        dtype: The type of what it makes.
        parts: What it is made of.
        steps: What the operation itself costs.

    Raises:
        UsageError: It takes more than `MOST_STEPS` with all that is below it.
    """
    steps += sum(part.steps for part in parts)
    if steps > MOST_STEPS:
        raise UsageError(
            f"where: the condition takes more than {MOST_STEPS} steps.",
            fix="Write x IN (1, 2) in place of x = 1 OR x = 2, or give items as candidates. A LIKE "
            f"counts {SEARCH}, a LOWER {REWRITE}.",
        )
    return Value(expr, dtype, steps, varies=any(part.varies for part in parts))


def number(value: float, node: exp.Expr) -> Value:
    """Return a number of the text, exact if it is whole and below 2 to the power of 126.

    Args:
        value: An int or a float.
        node: Where it stands, for the error.

    Raises:
        UsageError: It is too large for a double.
    """
    if isinstance(value, int):
        for dtype, bits in ((pl.Int64(), 63), (pl.Int128(), 126)):
            if abs(value) < 1 << bits:
                return Value(pl.lit(value, dtype=dtype), dtype, constant=value)
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if math.isinf(value):
        raise UsageError(f"where: the number {quoted(node)} is too large.", fix=EXAMPLE)
    return Value(pl.lit(value, dtype=pl.Float64), pl.Float64(), constant=value)


def alike(values: Sequence[Value], node: exp.Expr) -> tuple[list[pl.Expr], pl.DataType]:
    """Return values in the one type that they can be compared in.

    Numbers and truth values go together, as numbers; so do dates and constant texts, as dates.

    Args:
        values: What is compared, or what a CASE can give.
        node: Where they stand, for the error.

    Returns:
        The expressions, and their type: Null where all are null.

    Raises:
        UsageError: There is no such type, or a text is no date.
    """
    dtypes = {value.dtype for value in values} - {pl.Null()}
    dtype: pl.DataType | None = None
    if len(dtypes) <= 1:
        dtype = next(iter(dtypes), pl.Boolean())
    elif dtypes <= {*_NUMBERS, pl.Boolean()}:
        dtype = next(d for d in _NUMBERS if d in dtypes)
    elif dtypes == {pl.String(), TIME}:
        fits = all(v.dtype == TIME or v.constant is not None for v in values if v.dtype != pl.Null)
        dtype = TIME if fits else None
    if dtype not in (*_NUMBERS, pl.Boolean(), pl.String(), TIME):
        kinds = " beside ".join(sorted({v.kind for v in values if v.dtype != pl.Null}))
        raise UsageError(
            f"where: {quoted(node)} has {kinds}.",
            fix="Write a text in quotes, a number without, and a date as DATE '1995-12-31'.",
        )
    exprs = [_cast(value, dtype) for value in values]
    return exprs, dtype if dtypes else pl.Null()


def as_type(value: Value, dtype: pl.DataType, node: exp.Expr, whole: exp.Expr) -> Value:
    """Return a value that must be of a type; where that is Float64, any number will do.

    Args:
        value: What the type is asked of.
        dtype: Boolean, String or Float64.
        node: Where the value stands, for the error.
        whole: What needs it to be of that type.

    Raises:
        UsageError: It is of another type.
    """
    fits = dtype == pl.Float64 and value.dtype.is_numeric()
    if value.dtype not in (dtype, pl.Null) and not fits:
        raise UsageError(
            f"where: {quoted(whole)} needs {Value(value.expr, dtype).kind}, and {quoted(node)} is "
            f"{value.kind}.",
            fix=EXAMPLE,
        )
    return replace(value, expr=_cast(value, dtype), dtype=dtype)


def constant_of(value: Value, dtype: pl.DataType) -> Any:
    """Return what is written in the text as a Python value of a type that it fits.

    Args:
        value: Has a constant.
        dtype: The type that it is wanted in, as `alike` has found it.

    Raises:
        UsageError: A text is no date.
    """
    if dtype == TIME and isinstance(value.constant, str):
        try:
            when = dt.datetime.fromisoformat(value.constant)
            return when if when.tzinfo is None else when.astimezone(dt.UTC).replace(tzinfo=None)
        except (ValueError, OverflowError):
            raise UsageError(
                f"where: {shortened(value.constant)} is not a date.",
                fix="Write '1995-12-31', or '1995-12-31 18:00:00'.",
            ) from None
    if dtype.is_numeric():
        return float(value.constant) if dtype == pl.Float64 else int(value.constant)
    return value.constant


def _cast(value: Value, dtype: pl.DataType) -> pl.Expr:
    if value.constant is not None:
        return pl.lit(constant_of(value, dtype), dtype=dtype)
    return value.expr if value.dtype == dtype else value.expr.cast(dtype)
