"""Tables of items: one file, a folder with a known layout, or a table in memory; ids by links.

The module does not know the ratings: `Dataset.join_items` does the join.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from foretaste.data.interactions import Ids
from foretaste.data.joining import ids_like
from foretaste.data.reading.columns import KNOWN, is_header, plain
from foretaste.data.reading.frames import as_polars, plain_column
from foretaste.data.reading.json_records import is_json, json_chunks
from foretaste.data.reading.tables import kind_of, parquet_files, read_columns
from foretaste.data.reading.text import with_encoding
from foretaste.data.reading.text.delimited import Format, read_cells
from foretaste.data.reading.text.openings import first_rows
from foretaste.data.reading.text.sources import Chunk, TextFile, check_file
from foretaste.data.reading.text.streams import reads_anything
from foretaste.errors import DataError, RatingsFileError, UsageError

# Files of TMDB 5000 and The Movies Dataset from Kaggle: those that a folder has are joined by id.
IN_FOLDERS = ("tmdb_5000_movies.csv", "tmdb_5000_credits.csv", "keywords.csv", "credits.csv")
ONE_COLUMN = "\x1f"  # a character that no text has, so that a line is one cell
IDS = frozenset({"id", "tmdbid", "imdbid"})
FLOAT = r"^[+-]?(0|[1-9]\d*)?(\.\d*)?([eE][+-]?\d+)?$"


@reads_anything
def read_items(
    source: Any, *, item: str | None = None, links: Any = None, linked: str = "tmdbId",
    separator: str | None = None, encoding: str = "auto",
) -> pl.DataFrame:  # fmt: skip
    """Return a table of items with the id first, each id once.

    It is for `Dataset.join_items`, `Dataset.add_items` and `items_only`.

    Args:
        source: A file as `read` takes it (delimited text, JSON, Parquet, Arrow, Excel, Avro), a
            folder of TMDB 5000 or The Movies Dataset from Kaggle, or a table in memory.
        item: The column of ids, where the guess from names is wrong.
        links: A file or table from ids of the ratings to ids of `source`, such as the links.csv of
            MovieLens; the result has the ids of the ratings then.
        linked: The column of `links` with the ids of `source`.
        separator: What stands between two cells of a text; None to guess.
        encoding: "auto", or the name of an encoding that Python knows.

    Raises:
        DataError: The file or folder cannot be read.
        UsageError: There is no column of ids, or none of that name.

    Example:
        >>> import foretaste as ft
        >>> films = ft.read_items({"title": ["Alien", "Brazil"], "movieId": [7, 8]})
        >>> films.columns
        ['movieId', 'title']
    """
    table = _table(source, separator, encoding, item)
    key = _key(table, item, source)
    table = table.select(key, pl.exclude(key))
    table = table.with_columns(plain_column(table[key], "item", _place(source))).drop_nulls(key)
    table = table.unique(key, keep="first", maintain_order=True)
    return table if links is None else _linked(table, _table(links), linked)


def _linked(table: pl.DataFrame, links: pl.DataFrame, linked: str) -> pl.DataFrame:
    """Return the table under the ids that the links give for its own."""
    key = table.columns[0]
    if linked not in links.columns:
        raise UsageError(
            f"the links have no column {linked!r}.", fix=f"They have {', '.join(links.columns)}."
        )
    item = _key(links.drop(linked), None, "links")
    ids = Ids(table[key], "item")
    pairs = links.select(item, linked).with_columns(ids_like(ids, links[linked]))
    joined = pairs.drop_nulls().join(
        table, left_on=linked, right_on=key, suffix="_2", maintain_order="left"
    )
    return joined.drop(linked).unique(item, keep="first", maintain_order=True)


def _table(
    source: Any, separator: str | None = None, encoding: str = "auto", item: str | None = None
) -> pl.DataFrame:
    """Return a file, the joined files of a folder, or a table in memory as one table."""
    if not isinstance(source, str | Path):
        return as_polars(source, "items")
    path = Path(source).expanduser()
    if not path.is_dir():
        return _file(path, separator, encoding, item)
    parquet = parquet_files(path)
    if parquet and all(file.name.startswith("part-") for file in parquet):  # as Spark writes them
        return read_columns(path, "Parquet", list, parquet)[1]
    parts = [_file(path / name) for name in IN_FOLDERS if (path / name).is_file()]
    if not parts:
        raise DataError(
            "no table of items is known in this folder.", where=path,
            fix=f"Name one file in it; looked for {', '.join(IN_FOLDERS)}.",
        )  # fmt: skip
    table, *others = parts
    for other in others:
        right = _key(other, None, path)
        here = set(other.columns) & set(table.columns) - {right}
        left = _key(table, None, path)
        new = other.unique(right, keep="first").drop(here)
        table = table.join(
            new.with_columns(ids_like(Ids(table[left], "item"), new[right])),
            left_on=left,
            right_on=right,
            how="left",
            maintain_order="left",
        )
    return table


def _file(
    path: Path, separator: str | None = None, encoding: str = "auto", item: str | None = None
) -> pl.DataFrame:
    """Return a file as a table: of typed columns, JSON, or delimited text."""
    if kind := kind_of(path):
        try:
            return read_columns(path, kind, list)[1]
        except DataError as error:
            what = f"this is no table of items: {error.what}"
            raise DataError(what, where=path, fix=error.fix) from None
    check_file(path)
    text = TextFile(path, encoding)
    return with_encoding(text, lambda text: _text_table(text, separator, item))[0]


def _text_table(text: TextFile, separator: str | None, item: str | None) -> pl.DataFrame:
    """Return a text as a table, by the reader of ratings, with numbers where all cells are some."""
    chunks = text.chunks()
    first = next(chunks, Chunk(b"", 1))  # of a byte order mark alone, nothing is left
    if separator is None and is_json(first.content):
        return _typed(_json_table(first, chunks, text.path), item)
    separator = separator or ("\t" if ".tsv" in text.path.suffixes else None)
    try:
        head = first_rows(first, text.path, separator)
    except RatingsFileError:
        if separator is not None:
            raise
        head = first_rows(first, text.path, ONE_COLUMN)
    top = head.rows[0]
    if top.wrong:
        raise RatingsFileError(text.path, top.line, what=top.wrong, fix="Mend the first line.")
    names = [cell.strip() for cell in top.cells]
    header = any(plain(name) in KNOWN["item"] | IDS for name in names)
    header = header or (head.separator != ONE_COLUMN and is_header(names, {}))
    if not header:
        names = [f"column_{n}" for n in range(1, len(names) + 1)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"two columns are called {twice!r}.", where=text.path, fix="Rename one of them."
        )
    start = top.end if header else 0
    rest = Chunk(first.content[start:], first.line + first.content.count(b"\n", 0, start))
    places = {name: n for n, name in enumerate(names)}
    form = Format(head.separator, len(names), places, head.quoted)
    parts = [pl.DataFrame({name: [] for name in names}, schema=dict.fromkeys(names, pl.String))]
    for cells in read_cells(rest, chunks, form, list, text.path):
        if cells.wrong:
            line, what = cells.wrong[0]
            raise RatingsFileError(text.path, line, what=what, fix="Mend the line.")
        parts.append(pl.DataFrame(cells.columns))
    return _typed(pl.concat(parts), item)


def _json_table(first: Chunk, chunks: Iterator[Chunk], path: Path) -> pl.DataFrame:
    """Return the records of JSON as a table of text; lists stay JSON."""

    def fits(names: Iterable[str]) -> bool:
        return any(plain(name) in KNOWN["item"] | IDS for name in names)

    rows = []
    for part, wrong in json_chunks(first, chunks, path, fits)[1]:
        if wrong:
            raise RatingsFileError(path, wrong[0][0], what=wrong[0][1], fix="Mend the line.")
        rows += [row for _, row in part]
    cells: dict[str, list[str | None]] = {
        name: [] for name in dict.fromkeys(name for row in rows for name in row)
    }
    for row in rows:
        for name, column in cells.items():
            cell = row.get(name)
            plain_text = cell is None or isinstance(cell, str)
            column.append(cell if plain_text else json.dumps(cell, ensure_ascii=False))
    return pl.DataFrame(cells, schema=dict.fromkeys(cells, pl.String))


def _typed(table: pl.DataFrame, item: str | None) -> pl.DataFrame:
    """Return a table of text with columns of numbers, or of true and false, where no cell loses.

    `007` stays text: it is an id or a code. So does `1e3` in the column of ids.
    """
    typed = []
    ids = KNOWN["item"] | {"id", "column1"}
    for column in table:
        whole = column.cast(pl.Int64, strict=False)
        number = column.str.contains(FLOAT).fill_null(True).all()
        if column.null_count() == len(column):
            typed.append(column)
        elif bool(
            (whole.cast(pl.String) == column).fill_null(False).eq(column.is_not_null()).all()
        ):
            typed.append(whole)
        elif number and column.name != item and plain(column.name) not in ids:
            typed.append(column.cast(pl.Float64))
        elif bool(column.drop_nulls().is_in(["true", "false"]).all()):
            typed.append(column == "true")
        else:
            typed.append(column)
    return pl.DataFrame(typed)


def _key(table: pl.DataFrame, item: str | None, source: Any) -> str:
    """Return the column of ids: the one named, or the first with a usual name, or "id"."""
    if item is None and table.columns == ["column_1"]:  # an id a line
        return table.columns[0]
    if item is None:
        by_word = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(table.columns)}
        named = [name for word, name in by_word.items() if word in KNOWN["item"]]
        item = next(reversed(named), by_word.get("id", by_word.get("tmdbid")))
    if item in table.columns:
        return item
    raise UsageError(
        "there is no column of item ids." if item is None else f"there is no column {item!r}.",
        where=_place(source), fix=f"Name one of {', '.join(table.columns)}.",
    )  # fmt: skip


def _place(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "items"
