"""Reading: from a file, a folder, a table in memory or a database to a Dataset, and item tables.

The module does not know how cells are cut (`delimited.py`) or judged (`casting.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from foretaste.data.building import DUPLICATES, EventRules
from foretaste.data.casting import CleanColumns
from foretaste.data.dataset import Dataset
from foretaste.data.reading.columns import guess_roles, unused
from foretaste.data.reading.frames import as_polars, check_names, matrix_table, plain_column
from foretaste.data.reading.json_records import (
    by_last_key,
    fits_roles,
    is_json,
    json_cells,
    json_chunks,
    json_names,
)
from foretaste.data.reading.layouts import check_layout, layout_of, read_layout
from foretaste.data.reading.movielens import attach_tables, has_ratings, ratings_file
from foretaste.data.reading.sql import read_query
from foretaste.data.reading.tables import kind_of, parquet_files, read_columns
from foretaste.data.reading.text import read_rows, with_encoding
from foretaste.data.reading.text.sources import Chunk, Progress, TextFile, check_file
from foretaste.data.reading.text.streams import reads_anything
from foretaste.data.values import judged
from foretaste.errors import RatingsFileError, UsageError

__all__ = ["from_frame", "read"]

Wanted = Mapping[str, str | None]  # name of a column by role; None to guess, "" for none
Cleaner = Callable[..., CleanColumns]  # of a source and its columns; the rest was said to `read`


@reads_anything
def read(  # noqa: PLR0913 -- the public door; every argument has a default
    source: str | Path, *, user: str | None = None, item: str | None = None,
    value: str | None = None, time: str | None = None, separator: str | None = None,
    encoding: str = "auto", layout: str | None = None, query: str | None = None,
    bad_rows: str = "error", duplicates: str = "auto", name: str | None = None,
    progress: Progress | None = None, event: str | None = None,
    event_weights: Mapping[str, float] | None = None, target_event: str | None = None,
    time_format: str | None = None, values: str = "auto",
) -> Dataset:  # fmt: skip
    """Return the ratings or clicks of a file, a folder (MovieLens, Parquet files), or a query.

    A file is delimited text, JSON (a record a line, or an array), Parquet, Arrow, Avro or Excel;
    which one, its first bytes say.

    Args:
        source: A path, "-" for standard input, or the URL of a database together with `query`.
            Text may be packed by gzip, bzip2, xz, zstd or zip.
        user: The column of users, where the guess from names is wrong.
        item: The column of items, likewise.
        value: The column of ratings or weights, likewise; "" for clicks without a value.
        time: The column of times, likewise; "" for none.
        separator: One ASCII character, "::", or "whitespace" for any number of blanks and tabs;
            None to guess.
        encoding: "auto" for UTF-8 or else what the text seems to be, or a name that Python knows.
        layout: "table" for one interaction a line; "wide" for a matrix of users x items; "lists"
            for a user and their items a line; "netflix" for blocks under `item:`; "sessions" for
            items alone, each line a user; "mind" for impressions. None to guess; the notes of the
            report say what was guessed.
        query: The SQL that selects the rows from a database.
        bad_rows: "error" refuses rows that cannot be read; "drop" leaves them out and counts them.
        duplicates: Of several rows of one user and one item "last" keeps the newest, "mean" and
            "sum" give it the mean or the sum of the values, "keep" keeps all, "error" refuses;
            "auto" is "keep" for events of which a tenth or more are such repeats, else "last".
        name: What messages and reports call the Dataset; None for the name of the file.
        progress: Called with the bytes done and the bytes in all.
        event: The column of kinds of events (view, cart, purchase), where the guess is wrong; ""
            for none. A value is then an amount, such as a quantity or seconds.
        event_weights: What an event of each kind weighs, by name; None for 1 each.
        target_event: The kind to be predicted; None for the one of the highest weight.
        time_format: How times are written: "seconds", "milliseconds", "microseconds", "nanoseconds"
            (since 1970), "excel", "day-first", "month-first" or a pattern of strptime; None to
            judge by the cells, as `foretaste.data.time_columns` explains.
        values: "auto" leaves out marks for "not rated", and takes counts as clicks of such weights;
            "ratings" keeps all values as ratings, "rated" those that are no marks; "clicks" takes
            every row as a click.

    Raises:
        DataError: There is no such file, or it cannot be read; says which line and what to do.
        UsageError: Two arguments contradict each other.

    Example:
        >>> import foretaste as ft, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "films.csv"
        >>> _ = file.write_text("user,movie,rating\\nann,Alien,5\\nbob,Brazil,3.5\\n")
        >>> ft.read(file)
        <Dataset films: 2 ratings, 2 users, 2 items>
    """
    wanted = {"user": user, "item": item, "value": value, "time": time, "event": event}
    rules = EventRules(event_weights, target_event, named=bool(event))
    cleaner = partial(CleanColumns, bad_rows=bad_rows, events=rules, time_format=time_format)
    check_names(wanted)
    check_layout(layout)
    _check_rule(duplicates)
    if "://" in str(source):
        table, shown = read_query(str(source), query)
        name = name or Path(urlsplit(shown).path).stem
        clean = _clean_table(table, table.columns, wanted, shown, cleaner)
        return judged(clean.build(duplicates=duplicates, name=name), values)
    if query is not None:
        raise UsageError(
            "query= needs a database URL.", fix="Give one such as sqlite:///ratings.db."
        )
    path = Path(source).expanduser()
    folder = path if path.is_dir() else None
    parts = parquet_files(folder) if folder and not has_ratings(folder) else []
    path = ratings_file(path) if folder and not parts else path
    name = name or (folder.resolve().name if folder else path.name.split(".")[0])
    if kind := "Parquet" if parts else kind_of(path):
        table, names, notes = _read_typed(path, kind, wanted, parts)
        clean = _clean_table(table, names, wanted, str(path), cleaner, notes)
        ratings = clean.build(duplicates=duplicates, name=name)
        return attach_tables(judged(ratings, values), path)
    check_file(path)

    def read_text(text: TextFile) -> CleanColumns:
        return _read_text(text, wanted, separator, layout, cleaner)

    clean, found, notes = with_encoding(TextFile(path, encoding, progress), read_text)
    clean.notes += notes
    ratings = clean.build(duplicates=duplicates, name=name, encoding=found)
    return attach_tables(judged(ratings, values), path)


def from_frame(  # noqa: PLR0913 -- the public door; every argument has a default
    frame: Any, *, user: str | None = None, item: str | None = None, value: str | None = None,
    time: str | None = None, users: Any = None, items: Any = None, duplicates: str = "auto",
    bad_rows: str = "error", name: str = "frame", event: str | None = None,
    event_weights: Mapping[str, float] | None = None, target_event: str | None = None,
    values: str = "auto",
) -> Dataset:  # fmt: skip
    """Return the ratings or clicks of a table in memory.

    Args:
        frame: A polars, pandas or Arrow table, anything with an Arrow stream (a relation of
            DuckDB), a mapping of columns, or a scipy matrix together with `users` and `items`.
        user: The column of users, where the guess from names is wrong.
        item: The column of items, likewise.
        value: The column of ratings or weights, likewise; "" for clicks without a value.
        time: The column of times, likewise; "" for none.
        users: The ids of the rows of a scipy matrix.
        items: The ids of its columns.
        duplicates: What to do with several rows of one user and one item, as in `read`.
        bad_rows: "error" refuses rows that cannot be read; "drop" leaves them out and counts them.
        name: What messages and reports call the Dataset.
        event: The column of kinds of events, likewise; "" for none.
        event_weights: What an event of each kind weighs, by name; None for 1 each.
        target_event: The kind to be predicted; None for the one of the highest weight.
        values: What values mean, as in `read`.

    Raises:
        DataError: A column cannot be read; says which row and what to do.
        UsageError: It is not a table, or an argument is wrong.

    Example:
        >>> import foretaste as ft
        >>> ft.from_frame({"user": ["ann", "bob"], "item": ["Alien", "Brazil"], "rating": [5, 3]})
        <Dataset frame: 2 ratings, 2 users, 2 items>
    """
    _check_rule(duplicates)
    wanted = {"user": user, "item": item, "value": value, "time": time, "event": event}
    rules = EventRules(event_weights, target_event, named=bool(event))
    check_names(wanted)
    given = users is not None or items is not None
    table = matrix_table(frame, users, items) if given else as_polars(frame, name)
    cleaner = partial(CleanColumns, bad_rows=bad_rows, events=rules)
    clean = _clean_table(table, table.columns, wanted, name, cleaner)
    return judged(clean.build(duplicates=duplicates, name=name), values)


def _check_rule(duplicates: str) -> None:
    if duplicates not in DUPLICATES:
        raise UsageError(f"duplicates={duplicates!r}.", fix=f"Use one of {', '.join(DUPLICATES)}.")


def _clean_table(
    table: pl.DataFrame, names: list[str], wanted: Wanted, source: str, cleaner: Cleaner,
    notes: Sequence[str] = (),
) -> CleanColumns:  # fmt: skip
    """Return the columns of a typed table; `names` has columns that were not read as well."""
    columns = guess_roles(names, wanted, source)
    notes = [*notes, *unused(names, columns)]
    clean = cleaner(source, columns, by_line=False, notes=notes)
    cells = {role: plain_column(table[name], role, source) for role, name in columns.items()}
    clean.add(cells, range(1, len(table) + 1), range(len(table)))
    return clean


def _read_typed(
    path: Path, kind: str, wanted: Wanted, parts: Sequence[Path]
) -> tuple[pl.DataFrame, list[str], list[str]]:
    """Return the columns of a file of typed columns that have a role, all names, and notes."""

    def pick(names: Sequence[str]) -> list[str]:
        return list(guess_roles(names, wanted, path).values())

    names, table, notes = read_columns(path, kind, pick, parts)
    return table, names, notes


def _read_text(
    text: TextFile, wanted: Wanted, separator: str | None, layout: str | None, cleaner: Cleaner
) -> CleanColumns:
    """Return the columns of a text file with their notes, chunk by chunk."""
    chunks = text.chunks()
    first = next(chunks, Chunk(b"", 1))  # of a byte order mark alone, nothing is left
    if layout is None and separator is None and is_json(first.content):
        return _read_json(first, chunks, text.path, wanted, cleaner)
    guessed = layout or ("table" if separator else layout_of(first, text.path, wanted))
    if guessed != "table":
        note = "" if layout else f"lines look like the layout {guessed!r} (--layout, layout=)"
        return read_layout(guessed, first, chunks, text.path, separator, cleaner, note)
    return read_rows(first, chunks, text.path, wanted, separator, cleaner)


def _read_json(
    first: Chunk, chunks: Iterator[Chunk], path: Path, wanted: Wanted, cleaner: Cleaner
) -> CleanColumns:
    """Return the columns of JSON with their notes, in parts of bounded memory."""
    kind, parts = json_chunks(first, chunks, path, fits_roles(wanted))
    part = next(parts, ([], []))
    while not part[0] and (more := next(parts, None)):  # wrong lines alone name no columns
        part = (more[0], part[1] + more[1])
    names = json_names(part[0])
    if not names and part[1]:
        line, what = part[1][0]
        raise RatingsFileError(path, line, what=what, fix="Write one JSON object a line.")
    columns = guess_roles(names, by_last_key(names, wanted), path)
    notes = [f"read as {kind}", *unused(names, columns)]
    clean = cleaner(path, columns, notes=notes)
    for each in chain((part,), parts):
        cells = json_cells(each, columns)
        clean.add(cells.columns, cells.line_r, cells.row_r, cells.wrong)
    return clean
