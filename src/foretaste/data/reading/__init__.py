"""Reading: from a file, a folder, a table in memory or a database to a Dataset, and item tables.

The module does not know how cells are cut (`delimited.py`) or judged (`casting.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from foretaste.data.building import DUPLICATES
from foretaste.data.casting import CleanColumns
from foretaste.data.dataset import Dataset
from foretaste.data.reading.columns import guess_roles, sniff, unused
from foretaste.data.reading.delimited import Format, read_cells
from foretaste.data.reading.frames import as_polars
from foretaste.data.reading.movielens import attach_tables, ratings_file, read_adjacency
from foretaste.data.reading.sources import Chunk, NotUtf8Error, Progress, TextFile, check_file
from foretaste.data.reading.sql import read_query
from foretaste.data.values import judged
from foretaste.errors import DataError, UsageError

__all__ = ["from_frame", "read", "read_adjacency"]

Wanted = Mapping[str, str | None]  # name of a column by role; None to guess, "" for none


def read(  # noqa: PLR0913 -- the public door; every argument has a default
    source: str | Path, *, user: str | None = None, item: str | None = None,
    value: str | None = None, time: str | None = None, separator: str | None = None,
    encoding: str = "auto", query: str | None = None, bad_rows: str = "error",
    duplicates: str = "last", name: str | None = None, progress: Progress | None = None,
    values: str = "auto",
) -> Dataset:  # fmt: skip
    """Return the ratings or clicks of a text or Parquet file, a MovieLens folder, or a query.

    Args:
        source: A path, or the URL of a database together with `query`.
        user: The column of users, where the guess from names is wrong.
        item: The column of items, likewise.
        value: The column of ratings or weights, likewise; "" for clicks without a value.
        time: The column of times, likewise; "" for none. Numbers are seconds, milliseconds,
            microseconds or nanoseconds since 1970 by their size; text is ISO 8601.
        separator: One ASCII character or "::"; None to guess.
        encoding: "auto" for UTF-8 or else latin-1, or a name that Python knows.
        query: The SQL that selects the rows from a database.
        bad_rows: "error" refuses rows that cannot be read; "drop" leaves them out and counts them.
        duplicates: Of several rows of one user and one item "last" keeps the newest, "mean" and
            "sum" give it the mean or the sum of the values, "keep" keeps all, "error" refuses.
        name: What messages and reports call the Dataset; None for the name of the file.
        progress: Called with the bytes done and the bytes in all.
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
    wanted = {"user": user, "item": item, "value": value, "time": time}
    _check_rule(duplicates)
    if "://" in str(source):
        table, shown = read_query(str(source), query)
        name = name or Path(urlsplit(shown).path).stem
        ratings = _from_polars(table, table.columns, wanted, bad_rows, duplicates, name, shown)
        return judged(ratings, values)
    if query is not None:
        raise UsageError(
            "query= needs a database URL.", fix="Give one such as sqlite:///ratings.db."
        )
    path = Path(source).expanduser()
    folder = path if path.is_dir() else None
    path = ratings_file(path) if folder else path
    name = name or (folder.resolve().name if folder else path.name.split(".")[0])
    magic = check_file(path)
    if magic.startswith(b"PAR1") or path.suffix == ".parquet":
        names, table = _read_parquet(path, wanted)
        ratings = _from_polars(table, names, wanted, bad_rows, duplicates, name, str(path))
    else:
        text = TextFile(path, encoding, progress)
        try:
            clean = _read_text(text, wanted, separator, bad_rows)
        except NotUtf8Error:
            text = TextFile(path, encoding, progress, encoding="latin-1")
            clean = _read_text(text, wanted, separator, bad_rows)
            clean.notes.append("not UTF-8, so read as latin-1")
        ratings = clean.build(duplicates=duplicates, name=name, encoding=text.encoding)
    return attach_tables(judged(ratings, values), path)


def from_frame(  # noqa: PLR0913 -- the public door, as `read`
    frame: Any, *, user: str | None = None, item: str | None = None, value: str | None = None,
    time: str | None = None, duplicates: str = "last", bad_rows: str = "error", name: str = "frame",
    values: str = "auto",
) -> Dataset:  # fmt: skip
    """Return the ratings or clicks of a table in memory.

    Args:
        frame: A polars, pandas or Arrow table, or a mapping of columns.
        user: The column of users, where the guess from names is wrong.
        item: The column of items, likewise.
        value: The column of ratings or weights, likewise; "" for clicks without a value.
        time: The column of times, likewise; "" for none.
        duplicates: What to do with several rows of one user and one item, as in `read`.
        bad_rows: "error" refuses rows that cannot be read; "drop" leaves them out and counts them.
        name: What messages and reports call the Dataset.
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
    wanted = {"user": user, "item": item, "value": value, "time": time}
    table = as_polars(frame, name)
    ratings = _from_polars(table, table.columns, wanted, bad_rows, duplicates, name, name)
    return judged(ratings, values)


def _check_rule(duplicates: str) -> None:
    if duplicates not in DUPLICATES:
        raise UsageError(f"duplicates={duplicates!r}.", fix=f"Use one of {', '.join(DUPLICATES)}.")


def _from_polars(
    table: pl.DataFrame, names: list[str], wanted: Wanted, bad_rows: str, duplicates: str,
    name: str, source: str,
) -> Dataset:  # fmt: skip
    """Return the Dataset of a typed table; `names` has columns that were not read as well."""
    columns = guess_roles(names, wanted, source)
    clean = CleanColumns(source, columns, bad_rows, by_line=False, notes=unused(names, columns))
    cells = {role: table[column] for role, column in columns.items()}
    clean.add(cells, range(1, len(table) + 1), range(len(table)))
    return clean.build(duplicates=duplicates, name=name)


def _read_parquet(path: Path, wanted: Wanted) -> tuple[list[str], pl.DataFrame]:
    """Return the names of all columns, and the table of those that have a role."""
    try:
        names = list(pl.read_parquet_schema(path))
        columns = guess_roles(names, wanted, path)
        return names, pl.read_parquet(path, columns=list(columns.values()))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"this is not a whole Parquet file ({str(error).splitlines()[0]}).", where=path,
            fix="Write or download it again.",
        ) from None  # fmt: skip


def _read_text(
    text: TextFile, wanted: Wanted, separator: str | None, bad_rows: str
) -> CleanColumns:
    """Return the columns of a text file with their notes, chunk by chunk."""
    chunks = text.chunks()
    first = next(chunks)
    opening = sniff(first, text.path, separator, wanted)
    notes = unused(opening.columns, opening.roles)
    clean = CleanColumns(text.path, opening.roles, bad_rows, notes=notes)
    place = {role: opening.columns.index(name) for role, name in opening.roles.items()}
    form = Format(opening.separator, len(opening.columns), place)
    blank = opening.line - 2 if opening.header else 0
    first = Chunk(first.content[opening.start :], opening.line)
    for cells in read_cells(first, chunks, form, clean.integers, text.path):
        blank += cells.blank
        clean.add(cells.columns, cells.line_r, cells.row_r, cells.wrong)
    if blank:
        clean.notes.append(f"{blank:,} blank {'line' if blank == 1 else 'lines'} passed over")
    if not opening.header:
        clean.notes.append("no header, so columns by position")
    if not clean.rows and opening.header:
        raise DataError(
            "there is a header and no row below it.",
            where=text.path,
            fix="Give a file with ratings.",
        )
    return clean
