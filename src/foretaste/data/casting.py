"""Cells to clean columns: ids as given, finite values, times in milliseconds; and the bad rows.

The module does not know files: cells reach it in chunks, from text (`delimited.py`) or a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from foretaste.data.building import EventRules, build
from foretaste.data.dataset import Dataset, ReadReport
from foretaste.data.interactions import IntArray
from foretaste.data.time_columns import TimeReader, in_either_order
from foretaste.errors import BadRowsError, DataError, RatingsFileError, UsageError

BAD_ROWS = ("error", "drop")
NAMED = 10  # bad rows that an error names at most


@dataclass
class CleanColumns:
    """Collects rows chunk by chunk; a row that cannot be read is an error, or counted and dropped.

    Args:
        source: The path or the name of the source, for messages.
        columns: Name of the column by role: user, item, value, time and event.
        bad_rows: "error" or "drop".
        by_line: Whether rows have numbers of lines; else messages count rows.
        notes: Sentences about what was assumed so far.
        events: What the caller says of kinds of events.
        time_format: How times are written: a unit, "excel", "day-first", "month-first" or a pattern
            of strptime; None to choose by the cells.

    Raises:
        UsageError: `bad_rows` is neither of the two, or there is no such format of times.
    """

    source: str | Path
    columns: dict[str, str]
    bad_rows: str = "error"
    by_line: bool = True
    notes: list[str] = field(default_factory=list)
    events: EventRules = field(default_factory=EventRules)
    time_format: str | None = None
    rows: int = field(default=0, init=False)
    errors: list[RatingsFileError] = field(default_factory=list, init=False)
    n_bad: int = field(default=0, init=False)
    parts: dict[str, list[pl.Series]] = field(default_factory=dict, init=False)
    row_parts: list[IntArray | range] = field(default_factory=list, init=False)
    not_integers: set[str] = field(default_factory=set, init=False)
    times: TimeReader = field(init=False)
    comma: bool = field(default=False, init=False)  # whether values have a decimal comma
    spaced: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.bad_rows not in BAD_ROWS:
            raise UsageError(f"bad_rows={self.bad_rows!r}.", fix="Use error or drop.")
        self.parts = {role: [] for role in self.columns}
        self.not_integers.add("event")
        name = self.columns.get("time", "")
        self.times = TimeReader(self.source, name, self.time_format, self.by_line)

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
            if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Date, pl.Datetime)):
                raise self._wrong_type("time", column, "Give numbers, dates or text.")
            read, bad = self.times.read(column, line_r)
            if self.times.text:
                self.not_integers.add("time")
            fix = (
                "Write seconds or milliseconds since 1970, or a date such as 2015-03-01T12:30:00Z, "
                "or name another column with --time-column."
            )
        elif role == "event":
            read = column.cast(pl.String)
            bad = read.is_null() | (read.str.strip_chars() == "") if self.events.named else None
            fix = "Give every row a kind, or name no column of events: --event-column ''."
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
        read = column.cast(pl.Float64, strict=False)
        if column.dtype == pl.String and read.null_count() > column.null_count():
            read = self._with_comma(column, read)
        read = read.cast(pl.Float32)
        return read, ~read.is_finite().fill_null(False)

    def _with_comma(self, column: pl.Series, read: pl.Series) -> pl.Series:
        """Return values with those that have a decimal comma.

        A comma is one where no value has a point and some value has other than three digits behind
        its comma, because 1,234 could be a thousand.
        """
        comma = column.str.contains(r"^[+-]?\d*,\d+$").fill_null(False)
        if not comma.any():
            return read
        if not self.comma:
            sure = column.filter(comma).str.contains(r",(\d{1,2}|\d{4,})$").any()
            points = column.str.contains(".", literal=True).any() or any(
                bool((part != part.round()).any()) for part in self.parts["value"]
            )
            self.comma = bool(sure) and not points
        if not self.comma:
            return read
        pointed = column.str.contains(".", literal=True).fill_null(False)
        dotted = column.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
        return dotted.set(pointed, None)

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
        settled: pl.Series | None = None
        if "time" in self.columns:
            settled = self.times.settled(self._whole("time"))
            self.notes.append(self.times.note())
        if self.comma:
            self.notes.append("values read with a decimal comma")
        kinds = self._whole("event") if "event" in self.parts else None
        events, note = self.events.events(kinds, self.columns.get("event", ""))
        self.notes.extend([note] if note else [])
        used = {r: name for r, name in self.columns.items() if r != "event" or events is not None}
        report = ReadReport(
            source=str(self.source), rows=self.rows, dropped=self.n_bad, encoding=encoding,
            columns=used, notes=tuple(self.notes),
        )  # fmt: skip
        order = None
        if self.n_bad:
            order = pl.Series("order", np.concatenate([np.asarray(r) for r in self.row_parts]))
        values = self._whole("value") if "value" in self.parts else None
        return build(           # holds no ids itself, so that build can free their memory
            self._whole("user"), self._whole("item"), values, settled,
            order=order, events=events, duplicates=duplicates, name=name, report=report,
        )  # fmt: skip

    def _whole(self, role: str) -> pl.Series:
        parts = self.parts.pop(role)
        if any(part.dtype == pl.Struct for part in parts):  # dates with day or month first
            parts = [in_either_order(part) for part in parts]
        if len({part.dtype for part in parts}) > 1:
            parts = [part.cast(pl.Int64) for part in parts]
        return pl.concat(parts, rechunk=True)
