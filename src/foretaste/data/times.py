"""Dates to milliseconds since 1970: the one table of layouts, and patterns of strptime.

The module does not choose a layout: `time_columns.py` does that for a column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

from foretaste.errors import UsageError

DAY = 86_400_000  # milliseconds
DIGITS = {8: 0, 10: 1, 12: 2, 14: 3, 17: 4}  # of a whole number that is a date: parts of the time
YEARS = (1970, 2100)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
ZONES = {
    "EST": -300,
    "EDT": -240,
    "CST": -360,
    "CDT": -300,
    "MST": -420,
    "MDT": -360,
    "PST": -480,
    "PDT": -420,
}  # fmt: skip -- minutes; those that RFC 2822 defines

CLOCK = (
    r"(?<hour>\d{1,2}):(?<minute>\d{2})(?::(?<second>\d{2})(?:[.,](?<fraction>\d{1,9}))?)?"
    r"(?: ?(?<half>[AaPp])\.?[Mm]\.?)?"
)
ZONE = (
    r"(?: ?(?<zulu>Z|UTC|GMT)| ?(?<sign>[+-])(?<zh>\d{2})(?::?(?<zm>\d{2}))?(?: [A-Z]{3,5})?"
    rf"| (?<zone>{'|'.join(ZONES)}|[A-Z][A-Za-z]+/[A-Za-z_/]+))?(?:\[[A-Za-z_/]+\])?"
)
LATER = rf"(?:,?[T ]{CLOCK})?{ZONE}(?: m=[+-][\d.]+)?$"


@dataclass(frozen=True)
class Layout:
    """A way to write dates.

    Args:
        name: What notes call it.
        pattern: The regular expression of a cell. Its groups name the parts; `first` and `other`
            are the day and the month in either order.
        example: A cell.
    """

    name: str
    pattern: str
    example: str


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("ISO dates",
               r"^(?<date>\d{4}-\d{2}-\d{2})(?:[T ](?<hour>\d{2}):(?<minute>\d{2})(?::(?<second>"
               rf"\d{{2}})(?:[.,](?<fraction>\d{{1,9}}))?)?)?{ZONE}(?: m=[+-][\d.]+)?$",
               "2005-03-15T09:30:00Z"),
        Layout("dates with the year first",
               rf"^(?<year>\d{{4}})[/.](?<month>\d{{1,2}})[/.](?<day>\d{{1,2}}){LATER}",
               "2005/03/15 09:30:00"),
        Layout("dates of RFC 2822",
               r"^(?:[A-Za-z]{3}, ?)?(?<day>\d{1,2})[ -](?<name>[A-Za-z]{3,9})\.?[ -](?<year>\d{4})"
               + LATER, "Tue, 15 Mar 2005 09:30:00 +0000"),
        Layout("dates with the month in words",
               rf"^(?<name>[A-Za-z]{{3,9}})\.? (?<day>\d{{1,2}}),? (?<year>\d{{4}}){LATER}",
               "Mar 15, 2005"),
        Layout("dates of ctime",
               rf"^[A-Za-z]{{3}} (?<name>[A-Za-z]{{3}}) +(?<day>\d{{1,2}}) {CLOCK}{ZONE} "
               r"(?<year>\d{4})$", "Tue Mar 15 09:30:00 +0000 2005"),
        Layout("dates of Amazon, the month first",
               r"^(?<month>\d{1,2}) (?<day>\d{1,2}), (?<year>\d{4})$", "03 15, 2005"),
        Layout("dates with points, the day first",
               rf"^(?<day>\d{{1,2}})\.(?<month>\d{{1,2}})\.(?<year>\d{{4}}){LATER}",
               "15.03.2005 09:30"),
        Layout("dates of day, month and year",
               rf"^(?<first>\d{{1,2}})[/-](?<other>\d{{1,2}})[/-](?<year>\d{{4}}){LATER}",
               "15/03/2005 09:30"),
    )
}  # fmt: skip
ISO = "ISO dates"
EITHER = "dates of day, month and year"
ORDERS = ("day-first", "month-first")


def is_date(cell: str) -> bool:
    """Return whether a cell is a date in one of the layouts.

    Args:
        cell: The text.
    """
    patterns = (layout.pattern.replace("(?<", "(?P<") for layout in LAYOUTS.values())
    return any(re.search(pattern, cell.strip()) for pattern in patterns) or (
        len(cell) == 8 and cell.isdecimal() and cell.isascii()
        and bool(moments(pl.Series([int(cell)]), 8).count())
    )  # fmt: skip


def moments(whole: pl.Series, digits: int) -> pl.Series:
    """Return whole numbers such as 20050315093000 in milliseconds; null for other cells.

    Args:
        whole: The numbers, (rows,), Int64.
        digits: The number of digits that they have, one of DIGITS.
    """
    part = whole // 10 ** (digits - 8)
    rest = whole - part * 10 ** (digits - 8)
    width = (2, 2, 2, 3)[: DIGITS[digits]]
    clock: list[pl.Series] = []
    for n in reversed(width):
        clock.insert(0, rest % 10**n)
        rest = rest // 10**n
    hour, minute, second, milli = clock + [whole * 0] * (4 - len(clock))
    day = _days(part // 10_000, part // 100 % 100, part % 100)
    inside = (part // 10_000).is_between(*YEARS) & (hour < 24) & (minute < 60) & (second < 60)
    read = ((day * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + milli
    return read.set(~inside.fill_null(False), None)


def _days(year: pl.Series, month: pl.Series, day: pl.Series) -> pl.Series:
    """Return days since 1970 of calendar dates, Int64; null for those that do not exist."""
    frame = pl.DataFrame({"y": year, "m": month, "d": day})
    text = pl.format("{}-{}-{}", pl.col("y"), pl.col("m"), pl.col("d"))
    dates = frame.select(text.str.to_date("%Y-%m-%d", strict=False)).to_series()
    return dates.cast(pl.Int64)


def milliseconds(column: pl.Series, layout: Layout, order: str = "") -> pl.Series:
    """Return dates as milliseconds since 1970 UTC, Int64; null for other cells.

    Args:
        column: Cells of text, (rows,); without a zone they are UTC.
        layout: How they are written.
        order: "day-first" or "month-first" where the layout leaves it open; with neither, the
            result has a field for each.
    """
    part = column.str.strip_chars().str.extract_groups(layout.pattern).struct.unnest()

    def number(name: str) -> pl.Series:
        if name not in part.columns:
            return pl.Series(name, [0], pl.Int64).new_from_index(0, len(part))
        return part[name].cast(pl.Int64, strict=False).fill_null(0)

    if "date" in part.columns:
        days = {"": part["date"].str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)}
    elif "first" in part.columns:
        first, other, year = part["first"], part["other"], part["year"]
        days = {ORDERS[0]: _days(year, other, first), ORDERS[1]: _days(year, first, other)}
        days = {order: days[order]} if order else days
    else:
        month = number("month")
        if "name" in part.columns:
            name = part["name"].str.slice(0, 3).str.to_lowercase()
            month = name.replace_strict(MONTHS, list(range(1, 13)), default=None)
        days = {"": _days(part["year"], month, part["day"])}
    hour, minute, second = number("hour"), number("minute"), number("second")
    valid = (hour < 24) & (minute < 60) & (second < 60) & (number("zh") < 24) & (number("zm") < 60)
    if "half" in part.columns:
        half = part["half"].str.to_lowercase()
        valid = valid & (half.is_null() | hour.is_between(1, 12))
        late = (half == "p").fill_null(False).cast(pl.Int64) * 12
        hour = pl.select(pl.when(half.is_null()).then(hour).otherwise(hour % 12 + late)).to_series()
    milli = pl.Series([0], dtype=pl.Int64).new_from_index(0, len(part))
    if "fraction" in part.columns:
        milli = part["fraction"].fill_null("").str.pad_end(3, "0").str.slice(0, 3).cast(pl.Int64)
    clock = (hour * 60 + minute) * 60_000 + second * 1000 + milli
    found = {name: _in_utc(day * DAY + clock, part).set(~valid, None) for name, day in days.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    return pl.DataFrame(found).to_struct("time")


def _in_utc(local: pl.Series, part: pl.DataFrame) -> pl.Series:
    """Return local milliseconds in UTC, by an offset, or by the name of a zone."""
    if "sign" not in part.columns:
        return local
    minutes = part["zh"].cast(pl.Int64).fill_null(0) * 60 + part["zm"].cast(pl.Int64).fill_null(0)
    west = (part["sign"] == "-").fill_null(False).cast(pl.Int64)
    local = local - minutes * (1 - 2 * west) * 60_000
    for zone in part["zone"].drop_nulls().unique().to_list():
        here = (part["zone"] == zone).fill_null(False)
        moved = local - ZONES[zone] * 60_000 if zone in ZONES else _from_zone(local, zone)
        local = pl.select(pl.when(here).then(moved).otherwise(local)).to_series()
    return local


def _from_zone(local: pl.Series, zone: str) -> pl.Series:
    """Return local milliseconds of a named zone in UTC; null where there is no such zone."""
    moments = local.cast(pl.Datetime("ms"))
    try:
        there = moments.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    except pl.exceptions.PolarsError:
        return pl.Series([None], dtype=pl.Int64).new_from_index(0, len(local))
    return there.dt.timestamp("ms")


def by_pattern(column: pl.Series, pattern: str) -> pl.Series:
    """Return text as milliseconds since 1970 by a pattern of strptime; null for other cells.

    Args:
        column: Cells of text, (rows,); without a zone they are UTC.
        pattern: Such as `%d/%m/%Y %H:%M`; a part that it leaves out is the first, or 0.

    Raises:
        UsageError: The pattern is none.
    """
    lacks = [code for code, others in (("%m", "mbBhjDFs"), ("%d", "dejDFs"))
             if not re.search(f"%-?[{others}]", pattern)]  # fmt: skip
    timed = re.search("%-?[HIklTRrXs]", pattern)
    try:
        whole = pl.select(column + " 01" * len(lacks)).to_series() if lacks else column
        full = " ".join([pattern, *lacks])
        if timed:
            read = whole.str.strip_chars().str.to_datetime(full, strict=False, time_unit="ms")
        else:
            read = whole.str.strip_chars().str.to_date(full, strict=False)
    except pl.exceptions.PolarsError as error:
        raise UsageError(
            f"time_format={pattern!r} is no pattern ({str(error).splitlines()[0]}).",
            fix="Use one such as %d/%m/%Y %H:%M.",
        ) from None
    return read.cast(pl.Datetime("ms")).dt.timestamp("ms") if not timed else read.dt.timestamp("ms")
