"""A column of times, chunk by chunk: which layout it has, and its milliseconds since 1970.

A layout is chosen once for a column, by its first cells; what does not fit it later is a bad row. A
column that two layouts fit is refused, with the option that says which. The module does not know
files: `casting.py` gives it columns in chunks.

Whole numbers are days and moments (20050315, 20050315093000) where they have 8, 10, 12, 14 or 17
digits and at least half of them are dates between 1970 and 2100: of seconds since 1970 one in
thirty would be by chance. Other numbers are seconds, milliseconds, microseconds or nanoseconds by
their size, and days of Excel where all lie between 25,569 (1970) and 73,415 (2101) and some have a
fraction; whole ones in that range are refused, because they could be seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from foretaste.data.interactions import IntArray
from foretaste.data.times import (
    DAY,
    DIGITS,
    EITHER,
    LAYOUTS,
    ORDERS,
    by_pattern,
    milliseconds,
    moments,
)
from foretaste.errors import DataError, RatingsFileError, UsageError

UNITS = {                      # the sizes of numbers in a unit, up to the year 5138
    "seconds": (0, 10**11), "milliseconds": (10**11, 10**14),
    "microseconds": (10**14, 10**17), "nanoseconds": (10**17, 2**63),
}  # fmt: skip
PER_MS = {"microseconds": 1_000, "nanoseconds": 1_000_000}
EXCEL = (25_569, 73_415)  # days since 30 December 1899: 1970 and 2101
JUDGED = 1000  # cells by which a layout is chosen
ASKED = (*UNITS, "excel", *ORDERS)


def check_format(asked: str | None) -> None:
    """Refuse a format of times that is none.

    Args:
        asked: A unit, "excel", "day-first", "month-first", a pattern with %, or None.

    Raises:
        UsageError: It is none of these.
    """
    if asked is not None and asked not in ASKED and "%" not in asked:
        raise UsageError(
            f"time_format={asked!r}.",
            fix=f"Use {', '.join(ASKED)}, or a pattern such as %d/%m/%Y %H:%M.",
        )


@dataclass
class TimeReader:
    """Reads the chunks of one column of times.

    Args:
        source: The source, for messages.
        column: The name of the column.
        asked: The format that was asked for; None to choose one.
        by_line: Whether rows have numbers of lines; else messages count rows.
    """

    source: str | Path
    column: str
    asked: str | None = None
    by_line: bool = True
    layout: str = field(default="", init=False)  # a unit, a layout of text, "excel" or digits
    line: int = field(default=0, init=False)  # the line from which a unit was judged
    text: bool = field(default=False, init=False)  # whether cells are no integers

    def __post_init__(self) -> None:
        check_format(self.asked)
        if self.asked in UNITS or self.asked == "excel":
            self.layout = self.asked
        elif self.asked in ORDERS:
            self.layout = EITHER

    def read(
        self, column: pl.Series, line_r: IntArray | range
    ) -> tuple[pl.Series, pl.Series | None]:
        """Return times in milliseconds, (rows,), and the marks of cells that are none.

        Args:
            column: Cells as text, numbers or dates, (rows,).
            line_r: The line of each row, (rows,).

        Raises:
            DataError: The cells can be no times, or the layout is not clear.
            RatingsFileError: Numbers are in two units.
        """
        if column.dtype in (pl.Date, pl.Datetime):
            self.layout = "given"
            return column.dt.timestamp("ms"), column.is_null()
        if self.asked and "%" in self.asked:
            read = by_pattern(column.cast(pl.String), self.asked)
            self.text = True
            return read, read.is_null()
        if self.layout in LAYOUTS and column.dtype.is_numeric():
            column = column.cast(pl.String)  # a chunk of numbers among dates: its rows are bad
        if column.dtype == pl.String:
            read = self._dates(column)
            if read is not None:
                self.text = True
                return read, read.is_null() if read.dtype != pl.Struct else _neither(read)
            column = numbers(column)
        if not column.dtype.is_numeric():
            raise self._unclear(f"the column holds {column.dtype}.", "Give numbers, dates or text.")
        if column.dtype.is_float() or column.dtype.is_decimal():
            column = column.cast(pl.Float64)
            usable = (column.is_finite() & (column.abs() < 2.0**63)).fill_null(False)
            column = column.set(~usable, None)
        read = self._of_numbers(column, line_r)
        return read, read.is_null()

    def _dates(self, column: pl.Series) -> pl.Series | None:
        """Return the times of text that is no number, or None where it is numbers."""
        if self.layout and self.layout not in LAYOUTS:
            return None
        if not self.layout:
            some = column.drop_nulls().head(JUDGED)
            known = numbers(some).count()
            if known * 2 >= max(len(some), 1):
                return None
            fitting = {name: int(some.str.strip_chars().str.contains(layout.pattern).sum())
                       for name, layout in LAYOUTS.items()}  # fmt: skip
            best = max(fitting, key=lambda name: fitting[name])
            if fitting[best] <= known:
                return None
            self.layout = best
        return milliseconds(column, LAYOUTS[self.layout], self.asked or "")

    def _of_numbers(self, column: pl.Series, line_r: IntArray | range) -> pl.Series:
        """Return the times of numbers; the first chunk with one that is not 0 gives the layout."""
        top, low = column.max(), column.min()
        largest = max(abs(float(top or 0)), abs(float(low or 0)))  # type: ignore[arg-type]
        if not self.layout and largest:
            nonzero = column.fill_null(0) != 0
            self.line = int(line_r[int(nonzero.arg_max() or 0)])
            self.layout = self._layout_of(column.filter(nonzero))
        if self.layout.isdecimal():
            whole = column.cast(pl.Int64, strict=False).set(~_is_whole(column), None)
            return pl.select(
                pl.when(whole == 0).then(0).otherwise(moments(whole, int(self.layout)))
            ).to_series()
        if self.layout == "excel":
            days = column.cast(pl.Float64)
            inside = ((days >= EXCEL[0] - 25_568) & (days < EXCEL[1])).fill_null(False)
            seconds = ((days - EXCEL[0]) * (DAY / 1000)).round()  # of which a cell has 5 decimals
            return seconds.set(~inside, None).cast(pl.Int64) * 1000
        return self._scaled(column, largest, line_r)

    def _layout_of(self, column: pl.Series) -> str:
        """Return the layout of numbers that are not 0: digits of dates, "excel" or a unit."""
        some = column.head(JUDGED)
        integers = some.filter(_is_whole(some)).cast(pl.Int64)
        digits = integers.cast(pl.String).str.len_chars().mode().max()
        if digits in DIGITS and moments(integers, digits).count() * 2 >= len(some):  # type: ignore[arg-type]
            return str(digits)
        first, last = EXCEL
        if float(some.min() or 0) >= first and float(some.max() or 0) < last:  # type: ignore[arg-type]
            if len(integers) < len(some):
                return "excel"
            raise self._unclear(
                f"numbers such as {some[0]:g} could be days of Excel or seconds since 1970.",
                "Choose with --time-format excel or --time-format seconds (time_format=).",
            )
        return _unit_of(float(column[0]))

    def _scaled(self, column: pl.Series, largest: float, line_r: IntArray | range) -> pl.Series:
        """Return numbers of a unit in milliseconds; one of another unit's size is an error."""
        unit = self.layout or "seconds"
        least, most = UNITS[unit]
        if not self.asked and (largest >= most or (least and largest)):
            size = column.cast(pl.Float64).abs()
            strange = (((size < least) & (size > 0)) | (size >= most)).fill_null(False)
            if strange.any():
                raise self._mixed_units(column, line_r, int(strange.arg_max() or 0))
        if column.dtype.is_float():
            scale = 1000.0 if unit == "seconds" else 1 / PER_MS.get(unit, 1)
            return (column * scale).round().cast(pl.Int64, strict=False)
        if unit == "seconds":
            return column.cast(pl.Int64) * 1000
        return column.cast(pl.Int64) // PER_MS.get(unit, 1)

    def _mixed_units(self, column: pl.Series, line_r: IntArray | range, r: int) -> RatingsFileError:
        other = _unit_of(float(column[r]))
        place = "line" if self.by_line else "row"
        return RatingsFileError(
            self.source, int(line_r[r]) if self.by_line else None, column=self.column,
            what=f"got {column[r]}, which looks like {other}, but {place} {self.line} has "
            f"{self.layout}.",
            fix="Give all times in one unit.",
        )  # fmt: skip

    def settled(self, read: pl.Series) -> pl.Series:
        """Return the times of the whole column in milliseconds, (rows,).

        Args:
            read: What `read` returned for the rows that are kept; day and month may be in either
                order there.

        Raises:
            DataError: Both orders fit every row, or each fits only some.
        """
        if read.dtype != pl.Struct:
            return read
        day_first, month_first = (read.struct.field(order) for order in ORDERS)
        both = day_first.is_not_null() & month_first.is_not_null()
        which = "Choose with --time-format day-first or month-first (time_format=)."
        if day_first.null_count() and month_first.null_count():
            raise self._unclear("some dates have the day first, and others the month.", which)
        if bool(both.all()) and not day_first.equals(month_first):
            raise self._unclear("every date could have the day first or the month.", which)
        self.asked = ORDERS[1] if day_first.null_count() else ORDERS[0]
        return month_first if day_first.null_count() else day_first

    def note(self) -> str:
        """Return the sentence about how times were read."""
        if self.asked and "%" in self.asked:
            return f"times read by {self.asked}"
        if self.layout in LAYOUTS:
            order = f", {self.asked}" if self.layout == EITHER else ""
            return f"times read as {self.layout}{order}, UTC where no zone is given"
        named = {"given": "dates", "excel": "days of Excel", "": "seconds"}
        if self.layout.isdecimal():
            return f"times read as dates of {self.layout} digits, UTC"
        return f"times read as {named.get(self.layout, self.layout)}"

    def _unclear(self, what: str, fix: str) -> DataError:
        return DataError(f"column {self.column!r}: {what}", where=self.source, fix=fix)


def numbers(column: pl.Series) -> pl.Series:
    """Return text as Int64 where every number is whole, else Float64; null for other cells.

    Args:
        column: Cells of text.
    """
    whole = column.cast(pl.Int64, strict=False)
    number = column.cast(pl.Float64, strict=False)
    number = number.set(~number.is_finite().fill_null(False), None)
    return whole if whole.count() == number.count() else number


def _is_whole(column: pl.Series) -> pl.Series:
    if column.dtype.is_integer():
        return column.is_not_null()
    return (column == column.round()).fill_null(False)


def _unit_of(time: float) -> str:
    return next(unit for unit, (_, most) in UNITS.items() if abs(time) < most)


def in_either_order(read: pl.Series) -> pl.Series:
    """Return times of which the order of day and month may not be clear, as such.

    Args:
        read: What `TimeReader.read` returned for one chunk: times that are clear where the layout
            showed in a later chunk only.
    """
    if read.dtype == pl.Struct:
        return read
    return pl.DataFrame(dict.fromkeys(ORDERS, read)).to_struct(read.name)


def _neither(read: pl.Series) -> pl.Series:
    """Return the marks of rows that are a date in neither order."""
    return read.struct.field(ORDERS[0]).is_null() & read.struct.field(ORDERS[1]).is_null()
