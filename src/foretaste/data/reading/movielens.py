"""Folders with a layout of their own: MovieLens, with its tables of items and users.

The module does not know the published sums of these files: `catalog.py` does.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import polars as pl

from foretaste.data.dataset import Dataset
from foretaste.data.reading.sources import check_file
from foretaste.errors import DataError, RatingsFileError

RATINGS = ("u.data", "ratings.dat", "ratings.csv")  # by which the layout of a folder is known
SPLIT_100K = re.compile(r"u\.data|u[1-5ab]\.(base|test)")
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip


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
    elif name == "ratings.csv" and ratings.report.columns.get("item") == "movieId":
        readers = {"movies.csv": items_latest}
    else:
        return ratings
    for table, read_table in readers.items():
        if (beside / table).is_file():
            frame = read_table(beside / table)
            attach = ratings.with_items if frame.columns[0] == "item" else ratings.with_users
            ratings = attach(frame)
    return ratings


def items_100k(file: Path) -> pl.DataFrame:
    """Return the columns item, title, year and genres of u.item (MovieLens 100K).

    Args:
        file: Its path.
    """
    rows = _rows(file, "|", 5 + len(GENRES_100K))
    flags = [zip(GENRES_100K, row[5:], strict=True) for row in rows]
    genres = ["|".join(genre for genre, flag in one if flag == "1") for one in flags]
    return _items([row[0] for row in rows], [row[1] for row in rows], genres)


def items_1m(file: Path) -> pl.DataFrame:
    """Return the columns item, title, year and genres of movies.dat (MovieLens 1M).

    Args:
        file: Its path.
    """
    rows = _rows(file, "::", 3)
    return _items(*([row[i] for row in rows] for i in range(3)))


def items_latest(file: Path) -> pl.DataFrame:
    """Return the columns item, title, year and genres of movies.csv (MovieLens latest).

    Args:
        file: Its path.
    """
    text = _text(file)
    rows = list(csv.reader(text.split("\n"), strict=True)) if text else []
    rows = [row for row in rows if row]
    if not rows or rows[0][:3] != ["movieId", "title", "genres"]:
        raise RatingsFileError(
            file, 1, what="the columns movieId, title, genres are not here.",
            fix="Restore the file, or move it away to read the ratings alone.",
        )  # fmt: skip
    return _items(*([row[i] for row in rows[1:]] for i in range(3)))


def users_100k(file: Path) -> pl.DataFrame:
    """Return the columns user, age, gender, occupation and zip of u.user (MovieLens 100K).

    Args:
        file: Its path.
    """
    columns = ("user", "age", "gender", "occupation", "zip")
    return _users(pl.DataFrame(_rows(file, "|", 5), schema=columns, orient="row"))


def users_1m(file: Path) -> pl.DataFrame:
    """Return the columns user, age, gender, occupation and zip of users.dat (MovieLens 1M).

    Args:
        file: Its path.
    """
    columns = ("user", "gender", "age", "occupation", "zip")
    return _users(pl.DataFrame(_rows(file, "::", 5), schema=columns, orient="row"))


def _users(table: pl.DataFrame) -> pl.DataFrame:
    age = pl.col("age").cast(pl.Int64, strict=False)
    return table.select("user", age, "gender", "occupation", "zip")


def _items(ids: list[str], titles: list[str], genres: list[str]) -> pl.DataFrame:
    table = pl.DataFrame({"item": ids, "title": titles, "genres": genres}, schema_overrides={
        "item": pl.String, "title": pl.String, "genres": pl.String})  # fmt: skip
    year = pl.col("title").str.extract(r"\((\d{4})[^()]*\)\s*$").cast(pl.Int64).alias("year")
    genre = pl.col("genres").replace({"(no genres listed)": None, "": None})
    # the publisher's titles have blanks behind them that the mirror's have not
    return table.select("item", pl.col("title").str.strip_chars(), year, genre)


def _text(file: Path) -> str:
    """Return a small file whole: UTF-8, or latin-1 as in the first editions of MovieLens."""
    check_file(file)
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return content.decode("latin-1").replace("\r\n", "\n")


def _rows(file: Path, separator: str, width: int) -> list[list[str]]:
    """Return the cells of every line; a line with another number of them is an error."""
    rows: list[list[str]] = []
    for line, text in enumerate(_text(file).split("\n"), start=1):
        if text:
            rows.append(text.split(separator))
            if len(rows[-1]) != width:
                raise RatingsFileError(
                    file, line, what=f"the row has {len(rows[-1])} fields where {width} belong.",
                    fix="Restore the file, or move it away to read the ratings alone.",
                )  # fmt: skip
    return rows
