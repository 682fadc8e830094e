"""Cells to clean columns: ids as given, finite values, times in milliseconds; and the bad rows.

The module does not know files: cells reach it in chunks, from text (`delimited.py`) or a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from foretaste.data.building import build
from foretaste.data.dataset import Dataset, ReadReport
from foretaste.data.interactions import IntArray
from foretaste.errors import BadRowsError, DataError, RatingsFileError, UsageError

BAD_ROWS = ("error", "drop")
NAMED = 10  # bad rows that an error names at most
UNITS = {                      # the sizes of numbers in a unit, up to the year 5138
    "seconds": (0, 10**11), "milliseconds": (10**11, 10**14),
    "microseconds": (10**14, 10**17), "nanoseconds": (10**17, 2**63),
}  # fmt: skip
PER_MS = {"microseconds": 1_000, "nanoseconds": 1_000_000}
ISO = (
    r"^(?<date>\d{4}-\d{2}-\d{2})(?:[T ](?<hour>\d{2}):(?<minute>\d{2})"
    r"(?::(?<second>\d{2})(?:\.(?<fraction>\d{1,9}))?)?)?"
    r" ?(?:(?<zulu>Z|UTC)|(?<sign>[+-])(?<zh>\d{2}):?(?<zm>\d{2}))?$"
)


@dataclass
class CleanColumns:
    """Collects rows chunk by chunk; a row that cannot be read is an error, or counted and dropped.

    Args:
        source: The path or the name of the source, for messages.
        columns: Name of the column by role: user, item, value and time.
        bad_rows: "error" or "drop".
        by_line: Whether rows have numbers of lines; else messages count rows.
        notes: Sentences about what was assumed so far.

    Raises:
        UsageError: `bad_rows` is neither of the two.
    """

    source: str | Path
    columns: dict[str, str]
    bad_rows: str = "error"
    by_line: bool = True
    notes: list[str] = field(default_factory=list)
    rows: int = field(default=0, init=False)
    errors: list[RatingsFileError] = field(default_factory=list, init=False)
    n_bad: int = field(default=0, init=False)
    parts: dict[str, list[pl.Series]] = field(default_factory=dict, init=False)
    row_parts: list[IntArray | range] = field(default_factory=list, init=False)
    not_integers: set[str] = field(default_factory=set, init=False)
    unit: str = field(default="", init=False)  # of times: a key of UNITS, "iso" or "given"
    unit_line: int = field(default=0, init=False)  # the line from which the unit was judged
    spaced: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.bad_rows not in BAD_ROWS:
            raise UsageError(f"bad_rows={self.bad_rows!r}.", fix="Use error or drop.")
        self.parts = {role: [] for role in self.columns}

    def integers(self) -> list[str]:
        """Return the roles whose cells have all been integers so far."""
        return [role for role in self.columns if role not in self.not_integers]

    def add(
        self, cells: dict[str, pl.Series], line_r: IntArray | range, row_r: IntArray | range,
        wrong: Sequence[tuple[int, str]] = (),
    ) -> None:  # fmt: skip
        """Add a chunk of rows.

        Args:
            cells: Cells by role, (rows,) each, as text or as typed columns.
            line_r: The line of each row in the source, (rows,).
            row_r: The position of each row among the rows of the chunk, (rows,).
            wrong: Line and fault of each row that could not be cut into cells.
        """
        n, before = len(line_r), self.rows
        self.rows += n + len(wrong)
        found = [(line, self._error(line, what=what)) for line, what in wrong]
        clean: dict[str, pl.Series] = {}
        bad_r = np.zeros(n, dtype=bool)
        for role, column in cells.items():
            read, bad, fix = self._cast(role, column, line_r)
            clean[role] = read
            if bad is not None:
                fresh = np.flatnonzero(bad.to_numpy() & ~bad_r)
                bad_r[fresh] = True
                self.n_bad += max(len(fresh) - NAMED, 0)
                for r in fresh[:NAMED]:
                    line, got = int(line_r[int(r)]), column[int(r)]
                    text = None if got is None else str(got)
                    found.append((line, self._error(line, role, text, fix)))
        self.n_bad += len(found)
        found.sort(key=lambda one: one[0])
        self.errors = (self.errors + [error for _, error in found])[:NAMED]
        if bad_r.any():
            keep = pl.Series(~bad_r)
            clean = {role: column.filter(keep) for role, column in clean.items()}
            row_r = np.asarray(row_r)[~bad_r]
        whole = isinstance(row_r, range)
        self._append(clean, range(before, before + n) if whole else row_r + before)

    def _append(self, clean: dict[str, pl.Series], row_r: IntArray | range) -> None:
        for role, column in clean.items():
            # _as_ids may replace self.parts[role], so it runs before that is looked up.
            taken = self._as_ids(role, column) if role in ("user", "item") else column
            self.parts[role].append(taken)
        self.row_parts.append(row_r)

    def _as_ids(self, role: str, column: pl.Series) -> pl.Series:
        """Return ids as integers while every id so far is written as one, else all as text."""
        if role not in self.not_integers and column.dtype == pl.String:
            number = column.cast(pl.Int64, strict=False)
            if bool((number.cast(pl.String) == column).fill_null(False).all()):
                column = number
            else:
                self.not_integers.add(role)
                self.parts[role] = [part.cast(pl.String) for part in self.parts[role]]
        if role in self.not_integers:
            column = column.cast(pl.String)
            spaced = int((column.str.strip_chars() != column).sum())
            self.spaced[role] = self.spaced.get(role, 0) + spaced
            return column
        narrow = column.cast(pl.Int32, strict=False)  # half the memory where the ids fit
        return column if narrow.null_count() else narrow

    def _cast(
        self, role: str, column: pl.Series, line_r: IntArray | range
    ) -> tuple[pl.Series, pl.Series | None, str]:
        """Return the typed column, the marks of its bad rows if there are any, and their fix."""
        if role == "value":
            read, bad = self._value(column)
            if column.dtype == pl.String:
                self.not_integers.add(role)
            fix = "Write a number such as 4.5, or name another column with --rating-column."
        elif role == "time":
            read, bad = self._time(column, line_r)
            fix = (
                "Write seconds or milliseconds since 1970, or a date such as 2015-03-01T12:30:00Z, "
                "or name another column with --time-column."
            )
        else:
            read, bad = self._id(role, column)
            fix = f"Give every row {'an' if role == 'item' else 'a'} {role} id."
        return read, bad if bad is not None and bad.any() else None, fix

    def _id(self, role: str, column: pl.Series) -> tuple[pl.Series, pl.Series | None]:
        if column.dtype.is_integer():
            fits = column.dtype != pl.UInt64 or int(column.max() or 0) < 2**63  # type: ignore[arg-type]
            read = column.cast(pl.Int64 if fits else pl.String)
            return read, column.is_null() if column.null_count() else None
        if column.dtype in (pl.Categorical, pl.Enum):
            column = column.cast(pl.String)
        if column.dtype == pl.String:
            return column, column.is_null() | (column.str.strip_chars() == "")
        raise self._wrong_type(role, column, "Cast it to integers or to text first.")

    def _value(self, column: pl.Series) -> tuple[pl.Series, pl.Series | None]:
        if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Boolean)):
            raise self._wrong_type("value", column, "Give numbers, or no value column for clicks.")
        if column.dtype.is_integer() and not column.null_count():
            return column.cast(pl.Float32), None
        if column.dtype == pl.String and len(column):
            truth = column.str.strip_chars().str.to_lowercase()
            if truth.is_in(["true", "false"]).all():  # a thumb up or down
                column = truth == "true"
        read = column.cast(pl.Float64, strict=False).cast(pl.Float32)
        return read, ~read.is_finite().fill_null(False)

    def _time(
        self, column: pl.Series, line_r: IntArray | range
    ) -> tuple[pl.Series, pl.Series | None]:
        if column.dtype in (pl.Date, pl.Datetime):
            self.unit = "given"
            return column.dt.timestamp("ms"), column.is_null()
        if column.dtype == pl.String:
            number = _numbers(column)
            known = number.count()
            if self.unit == "iso" or (not self.unit and known * 2 < len(column)):
                read = iso_milliseconds(column)
                if self.unit or read.count() > known:
                    self.unit = "iso"
                    self.not_integers.add("time")
                    return read, read.is_null()
            column = number
        if not column.dtype.is_numeric():
            raise self._wrong_type("time", column, "Give numbers, dates or text.")
        if column.dtype.is_float() or column.dtype.is_decimal():
            column = column.cast(pl.Float64)
            usable = (column.is_finite() & (column.abs() < 2.0**63)).fill_null(False)
            column = column.set(~usable, None)
        bad = column.is_null()
        return self._milliseconds(column, line_r), bad

    def _milliseconds(self, column: pl.Series, line_r: IntArray | range) -> pl.Series:
        """Return times in milliseconds; the first that is not 0 gives the unit of all of them."""
        top, low = column.max(), column.min()
        largest = max(abs(float(top or 0)), abs(float(low or 0)))  # type: ignore[arg-type]
        if not self.unit and largest:
            nonzero = column.filter(column.fill_null(0) != 0)
            self.unit = _unit_of(float(nonzero[0]))
            self.unit_line = line_r[int(column.fill_null(0).ne(0).arg_max() or 0)]
        unit = self.unit or "seconds"
        least, most = UNITS[unit]
        if largest >= most or (least and largest):
            size = column.cast(pl.Float64).abs()
            strange = (((size < least) & (size > 0)) | (size >= most)).fill_null(False)
            if strange.any():
                raise self._mixed_units(column, line_r, int(strange.arg_max() or 0))
        if column.dtype.is_float():
            scale = 1000.0 if unit == "seconds" else 1 / PER_MS.get(unit, 1)
            return (column * scale).round().cast(pl.Int64)
        if unit == "seconds":
            return column.cast(pl.Int64) * 1000
        return column.cast(pl.Int64) // PER_MS.get(unit, 1)

    def _mixed_units(self, column: pl.Series, line_r: IntArray | range, r: int) -> RatingsFileError:
        other = _unit_of(float(column[r]))
        place = "line" if self.by_line else "row"
        return RatingsFileError(
            self.source, line_r[r] if self.by_line else None, column=self.columns["time"],
            what=f"got {column[r]}, which looks like {other}, but {place} {self.unit_line} has "
            f"{self.unit}.",
            fix="Give all times in one unit.",
        )  # fmt: skip

    def _wrong_type(self, role: str, column: pl.Series, fix: str) -> DataError:
        name, first = self.columns[role], column.drop_nulls().head(1).to_list()
        such = f", such as {first[0]!r}" if first else ""
        return DataError(
            f"column {name!r} ({role}) holds {column.dtype}{such}.", where=self.source, fix=fix
        )

    def _error(
        self, line: int, role: str = "", got: str | None = None, fix: str = "", what: str = ""
    ) -> RatingsFileError:
        if got is not None and len(got) > 40:
            got = got[:40] + "…"
        if not self.by_line:
            what = f"row {line}: " + (what or (f"got {got!r}." if got else "the cell is empty."))
        return RatingsFileError(
            self.source, line if self.by_line else None, column=self.columns.get(role, ""),
            got=got, what=what, fix=fix,
        )  # fmt: skip

    def build(self, *, duplicates: str, name: str, encoding: str = "utf-8") -> Dataset:
        """Return the Dataset of everything that was added, with its report; only once.

        Args:
            duplicates: What to do with several rows of one user and one item.
            name: What messages call the Dataset.
            encoding: The encoding that the text was read in, for the report.

        Raises:
            BadRowsError: Rows cannot be read, and `bad_rows` is "error".
            DataError: No row is left.
        """
        if self.n_bad and self.bad_rows == "error":
            raise BadRowsError(self.source, self.errors, self.n_bad)
        if self.n_bad and self.n_bad == self.rows:
            raise DataError(
                f"none of its {self.rows:,} rows can be read; the first: {self.errors[0]}",
                where=self.source,
            )
        if not self.rows:
            raise DataError(
                "there is no row in it.", where=self.source, fix="Give a file with ratings."
            )
        for role, n in self.spaced.items():
            if n:
                self.notes.append(f"{n:,} {role} ids begin or end with a space; kept as they are")
        if "time" in self.columns:
            unit = {"iso": "ISO dates, UTC where no zone is given", "given": "dates", "": "seconds"}
            self.notes.append(f"times read as {unit.get(self.unit, self.unit)}")
        report = ReadReport(
            source=str(self.source), rows=self.rows, dropped=self.n_bad, encoding=encoding,
            columns=dict(self.columns), notes=tuple(self.notes),
        )  # fmt: skip
        order = None
        if self.n_bad:
            order = pl.Series("order", np.concatenate([np.asarray(r) for r in self.row_parts]))
        values = self._whole("value") if "value" in self.parts else None
        times = self._whole("time") if "time" in self.parts else None
        return build(           # holds no ids itself, so that build can free their memory
            self._whole("user"), self._whole("item"), values, times,
            order=order, duplicates=duplicates, name=name, report=report,
        )  # fmt: skip

    def _whole(self, role: str) -> pl.Series:
        parts = self.parts.pop(role)
        if len({part.dtype for part in parts}) > 1:
            parts = [part.cast(pl.Int64) for part in parts]
        return pl.concat(parts, rechunk=True)


def _numbers(column: pl.Series) -> pl.Series:
    """Return text as Int64 where every number is whole, else Float64; null for other cells."""
    whole = column.cast(pl.Int64, strict=False)
    number = column.cast(pl.Float64, strict=False)
    number = number.set(~number.is_finite().fill_null(False), None)
    return whole if whole.count() == number.count() else number


def _unit_of(time: float) -> str:
    return next(unit for unit, (_, most) in UNITS.items() if abs(time) < most)


def iso_milliseconds(column: pl.Series) -> pl.Series:
    """Return ISO dates and times as milliseconds since 1970 UTC, Int64; null for other cells.

    Args:
        column: Cells of text; without a zone they are UTC.
    """
    part = column.str.strip_chars().str.extract_groups(ISO).struct.unnest()
    number = {name: part[name].cast(pl.Int64).fill_null(0) for name in
              ("hour", "minute", "second", "zh", "zm")}  # fmt: skip
    day = part["date"].str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    milli = part["fraction"].fill_null("").str.pad_end(3, "0").str.slice(0, 3).cast(pl.Int64)
    minute = number["hour"] * 60 + number["minute"]
    offset = (number["zh"] * 60 + number["zm"]) * pl.select(
        pl.when(part["sign"] == "-").then(-1).otherwise(1)
    ).to_series()
    valid = (number["hour"] < 24) & (number["minute"] < 60) & (number["second"] < 60)
    valid = valid & (number["zh"] < 24) & (number["zm"] < 60)
    read = (day * 1440 + minute - offset) * 60_000 + number["second"] * 1000 + milli
    return read.set(~valid, None)
