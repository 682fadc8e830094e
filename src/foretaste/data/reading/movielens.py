"""Folders with a layout of their own: MovieLens, with its tables of items and users.

The module does not know the published sums of these files: `catalog.py` does.
"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from foretaste.data.dataset import Dataset
from foretaste.data.reading.columns import KNOWN, plain
from foretaste.data.reading.text.sources import check_file
from foretaste.errors import DataError, RatingsFileError

RATINGS = ("u.data", "ratings.dat", "ratings.csv")  # by which the layout of a folder is known
SPLIT_100K = re.compile(r"u\.data|u[1-5ab]\.(base|test)")
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
ITEMS_100K = ("item", "title", "released", "video", "url", *GENRES_100K)
MOVIES = ("item", "title", "genres")
TEXT = pl.String
Table = tuple[pl.DataFrame | None, str]  # a table, None where it has no ids, and a note or ""


def has_ratings(folder: Path) -> bool:
    """Return whether a folder has a file of ratings as MovieLens names it.

    Args:
        folder: The folder.
    """
    return any((folder / f"{name}{end}").is_file() for name in RATINGS for end in ("", ".gz"))


def ratings_file(folder: Path) -> Path:
    """Return the file of ratings in a MovieLens folder: 100K, 1M or latest.

    Args:
        folder: The folder.

    Raises:
        DataError: No such file is in it.
    """
    for name in RATINGS:
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
    names = sorted(entry.name for entry in folder.iterdir())
    has = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
    raise DataError(
        f"no layout of this folder is known. Looked for {', '.join(RATINGS)} (MovieLens 100K, 1M, "
        f"latest); it has: {has}.",
        where=folder, fix="Name one file in it.",
    )  # fmt: skip


def attach_tables(ratings: Dataset, file: Path) -> Dataset:
    """Return ratings with the tables of items and users that MovieLens has beside them.

    A table with other columns than the publisher's is taken as far as it goes, with a note.

    Args:
        ratings: The ratings.
        file: The file that they were read from; unchanged ratings where it is not of MovieLens.

    Raises:
        RatingsFileError: A table beside them is damaged.
    """
    name, beside = file.name.removesuffix(".gz"), file.parent
    if SPLIT_100K.fullmatch(name):
        readers = {"u.item": items_100k, "u.user": users_100k}
    elif name == "ratings.dat":
        readers = {"movies.dat": items_1m, "users.dat": users_1m}
    elif name == "ratings.csv" and plain(ratings.report.columns.get("item", "")) == "movieid":
        readers = {"movies.csv": items_latest}
    else:
        return ratings
    notes = list(ratings.report.notes)
    for table, read_table in readers.items():
        if (beside / table).is_file():
            frame, note = read_table(beside / table)
            notes += [note] if note else []
            if frame is not None:
                attach = ratings.with_items if frame.columns[0] == "item" else ratings.with_users
                ratings = attach(frame)
    return replace(ratings, report=replace(ratings.report, notes=tuple(notes)))


def items_100k(file: Path) -> Table:
    """Return the columns item, title, year and genres of u.item (MovieLens 100K), and a note.

    Args:
        file: Its path.
    """
    rows, note = _rows(file, "|", ITEMS_100K)
    if note:
        return _by_position(rows, ("item", "title")), note
    flags = [zip(GENRES_100K, row[5:], strict=True) for row in rows]
    genres = ["|".join(genre for genre, flag in one if flag == "1") for one in flags]
    texts = ([row[0] for row in rows], [row[1] for row in rows], genres)
    return _items(
        pl.DataFrame(dict(zip(MOVIES, texts, strict=True)), dict.fromkeys(MOVIES, TEXT))
    ), ""


def items_1m(file: Path) -> Table:
    """Return the columns item, title, year and genres of movies.dat (MovieLens 1M), and a note.

    Args:
        file: Its path.
    """
    rows, note = _rows(file, "::", MOVIES)
    return _items(_by_position(rows, ("item", "title") if note else MOVIES)), note


def items_latest(file: Path) -> Table:
    """Return item, title, year, genres and other columns of movies.csv (MovieLens latest).

    Args:
        file: Its path.

    Returns:
        The table, None where no column has the ids, and a note or "".

    Raises:
        RatingsFileError: A line has another number of cells than the first.
    """
    text = _text(file)
    rows = [row for row in csv.reader(text.split("\n"), strict=True) if row]
    head = rows[0] if rows else []
    key = next((n for n, name in enumerate(head) if plain(name) in KNOWN["item"] | {"id"}), None)
    if key is None or len(set(head)) < len(head):
        return None, f"{file.name} has no column movieId, so nothing is known of the items"
    for line, row in enumerate(rows, start=1):
        if len(row) != len(head):
            raise _ragged(file, line, len(row), len(head))
    cells = {name: [row[n] or None for row in rows[1:]] for n, name in enumerate(head)}
    table = pl.DataFrame(cells, dict.fromkeys(head, TEXT))
    table = table.select(pl.col(head[key]).alias("item"), pl.exclude(head[key], "item"))
    missing = [name for name in ("title", "genres") if name not in head]
    return _items(table), f"{file.name} has no {' and no '.join(missing)}" if missing else ""


def users_100k(file: Path) -> Table:
    """Return the columns user, age, gender, occupation and zip of u.user, and a note.

    Args:
        file: Its path.
    """
    return _users(file, "|", ("user", "age", "gender", "occupation", "zip"))


def users_1m(file: Path) -> Table:
    """Return the columns user, age, gender, occupation and zip of users.dat, and a note.

    Args:
        file: Its path.
    """
    return _users(file, "::", ("user", "gender", "age", "occupation", "zip"))


def _users(file: Path, separator: str, columns: tuple[str, ...]) -> Table:
    rows, note = _rows(file, separator, columns)
    if note:
        return _by_position(rows, ("user",)), note
    age = pl.col("age").cast(pl.Int64, strict=False)
    table = _by_position(rows, columns).select("user", age, "gender", "occupation", "zip")
    return table, ""


def _by_position(rows: list[list[str]], names: tuple[str, ...]) -> pl.DataFrame:
    """Return rows as a table; columns behind the named ones are column_2, column_3 and so on."""
    width = len(rows[0]) if rows else len(names)
    given = [*names[:width], *(f"column_{n}" for n in range(len(names) + 1, width + 1))]
    return pl.DataFrame(rows, schema=dict.fromkeys(given, TEXT), orient="row")


def _items(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table of films with the year apart, if the title has one, and no empty genres."""
    if "title" in table.columns:
        year = pl.col("title").str.extract(r"\((\d{4})[^()]*\)\s*$").cast(pl.Int64).alias("year")
        place = table.columns.index("title") + 1
        # the publisher's titles have blanks behind them that the mirror's have not
        titles, years = table["title"].str.strip_chars(), table.select(year).to_series()
        table = table.with_columns(titles)
        table = table.insert_column(place, years) if "year" not in table.columns else table
    if "genres" in table.columns:
        genre = pl.col("genres")
        genre = pl.when(~genre.is_in(["(no genres listed)", ""])).then(genre)
        table = table.with_columns(genre.alias("genres"))
    return table


def _text(file: Path) -> str:
    """Return a small file whole: UTF-8, or latin-1 as in the first editions of MovieLens."""
    check_file(file)
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return content.decode("latin-1").replace("\r\n", "\n")


def _rows(file: Path, separator: str, columns: tuple[str, ...]) -> tuple[list[list[str]], str]:
    """Return the cells of every line, and a note where all lines have other columns.

    A line that differs from the others is an error.
    """
    lines = enumerate(_text(file).split("\n"), start=1)
    rows = [(line, text.split(separator)) for line, text in lines if text]
    widths = {len(row) for _, row in rows}
    width = len(columns)
    if len(widths) > 1:
        line, row = next((line, row) for line, row in rows if len(row) != width)
        raise _ragged(file, line, len(row), width)
    note = ""
    if widths and widths != {width}:
        note = (
            f"{file.name} has {widths.pop()} columns where MovieLens has {width}: they are kept "
            "as they are"
        )
    return [row for _, row in rows], note


def _ragged(file: Path, line: int, found: int, width: int) -> RatingsFileError:
    return RatingsFileError(
        file, line, what=f"the row has {found} {'field' if found == 1 else 'fields'} where {width} "
        "belong.", fix="Restore the file, or move it away to read the ratings alone.",
    )  # fmt: skip
