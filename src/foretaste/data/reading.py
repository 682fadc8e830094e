"""Reading: from a file, a folder, a table in memory or a database to a Dataset, and item tables.

The module does not know how cells are cut (`delimited.py`) or judged (`casting.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import polars as pl

from foretaste.data.building import DUPLICATES
from foretaste.data.casting import CleanColumns
from foretaste.data.columns import KNOWN, guess_roles, sniff, unused
from foretaste.data.dataset import Dataset
from foretaste.data.delimited import Format, read_cells
from foretaste.data.movielens import attach_tables, ratings_file, read_adjacency
from foretaste.data.sources import Chunk, NotUtf8Error, Progress, TextFile, check_file, first_bytes
from foretaste.errors import DataError, UsageError

__all__ = ["as_polars", "from_frame", "read", "read_adjacency"]

SECRET = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)
Wanted = Mapping[str, str | None]  # name of a column by role; None to guess, "" for none


def read(  # noqa: PLR0913 -- the public door; every argument has a default
    source: str | Path, *, user: str | None = None, item: str | None = None,
    value: str | None = None, time: str | None = None, separator: str | None = None,
    encoding: str = "auto", query: str | None = None, bad_rows: str = "error",
    duplicates: str = "last", name: str | None = None, progress: Progress | None = None,
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
        return _read_sql(str(source), query, wanted, bad_rows, duplicates, name)
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
    return attach_tables(ratings, path)


def from_frame(
    frame: Any, *, user: str | None = None, item: str | None = None, value: str | None = None,
    time: str | None = None, duplicates: str = "last", bad_rows: str = "error", name: str = "frame",
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
    return _from_polars(table, table.columns, wanted, bad_rows, duplicates, name, name)


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


def as_polars(frame: Any, name: str) -> pl.DataFrame:
    """Return a table in memory as a polars frame.

    Args:
        frame: A polars, pandas or Arrow table, or a mapping of columns.
        name: What messages call it.

    Raises:
        UsageError: It is not a table.
        DataError: A column cannot be converted, or a library for it is missing.
    """
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    kind = type(frame).__module__.split(".")[0]
    try:
        if kind == "pandas":
            return pl.from_pandas(frame)
        if isinstance(frame, Mapping) or hasattr(frame, "__arrow_c_stream__"):
            return pl.DataFrame(frame)
        table = pl.from_arrow(frame) if kind == "pyarrow" else None
    except ImportError as error:
        raise DataError(
            f"{error}.", where=name, fix="Install it, or give a polars frame or an Arrow table."
        ) from None
    except Exception as error:  # what polars, pandas and Arrow raise here has no common root
        raise DataError(
            f"the {kind} table cannot be read: {error}", where=name,
            fix="Give every column one type, or a polars frame.",
        ) from error  # fmt: skip
    if isinstance(table, pl.DataFrame):
        return table
    raise UsageError(
        f"{type(frame).__name__} is not a table.", fix="Give a polars, pandas or Arrow table."
    )


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


def _read_sql(
    url: str, query: str | None, wanted: Wanted, bad_rows: str, duplicates: str, name: str | None
) -> Dataset:
    """Return the Dataset of a query; no message of an error shows the password in the URL."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme in ("http", "https", "ftp", "s3", "gs", "file"):
        raise UsageError(
            "only local files and databases are read.", where=shown, fix="Download the file first."
        )
    if query is None:
        raise UsageError(
            "a database URL needs a query.", where=shown,
            fix="Add query='select user, item, rating from ratings' (--query).",
        )  # fmt: skip
    if parts.scheme == "sqlite":
        first_bytes(Path(unquote(parts.path)))  # a missing database would be created, empty
    try:
        table = pl.read_database_uri(query, url, engine="connectorx")
    except ImportError:
        raise DataError(
            "reading a database needs connectorx.", where=shown, fix="pip install 'foretaste[sql]'"
        ) from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # connectorx also panics, which is no Exception
        raise DataError(
            f"the query failed: {_without_secrets(str(error), url)}", where=shown,
            fix="Check the URL and the query.",
        ) from None  # fmt: skip
    return _from_polars(
        table, table.columns, wanted, bad_rows, duplicates, name or Path(parts.path).stem, shown
    )


def _without_secrets(message: str, url: str) -> str:
    """Return a message without the URL, its password, and the values of its parameters."""
    parts = urlsplit(url)
    secrets = [url, parts.netloc.rpartition("@")[0], parts.password or "", parts.query]
    secrets += [value for key, value in parse_qsl(parts.query) if SECRET.search(key)]
    for secret in sorted({*secrets, *map(unquote, secrets)}, key=len, reverse=True):
        if secret:
            message = message.replace(secret, "***")
    return message


# Files of TMDB 5000 and The Movies Dataset from Kaggle: those that a folder has are joined by id.
IN_FOLDERS = ("tmdb_5000_movies.csv", "tmdb_5000_credits.csv", "keywords.csv", "credits.csv")


def read_items(
    source: Any, *, item: str | None = None, links: Any = None, linked: str = "tmdbId"
) -> pl.DataFrame:
    """Return a table of items with the id first, each id once.

    It is for `Dataset.join_items`, `Dataset.add_items` and `items_only`.

    Args:
        source: A CSV, TSV or Parquet file, a folder of TMDB 5000 or The Movies Dataset from Kaggle,
            or a table in memory.
        item: The column of ids, where the guess from names is wrong.
        links: A file or table from ids of the ratings to ids of `source`, such as the links.csv of
            MovieLens; the result has the ids of the ratings then.
        linked: The column of `links` with the ids of `source`.

    Raises:
        DataError: The file or folder cannot be read.
        UsageError: There is no column of ids, or none of that name.

    Example:
        >>> import foretaste as ft
        >>> films = ft.read_items({"title": ["Alien", "Brazil"], "movieId": [7, 8]})
        >>> films.columns
        ['movieId', 'title']
    """
    table = _table(source)
    key = _key(table, item, source)
    table = table.select(key, pl.exclude(key)).drop_nulls(key)
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
    pairs = links.select(item, pl.col(linked).cast(table.schema[key], strict=False))
    joined = pairs.drop_nulls().join(
        table, left_on=linked, right_on=key, suffix="_2", maintain_order="left"
    )
    return joined.drop(linked).unique(item, keep="first", maintain_order=True)


def _table(source: Any) -> pl.DataFrame:
    """Return a file, the joined files of a folder, or a table in memory as one table."""
    if not isinstance(source, str | Path):
        return as_polars(source, "items")
    path = Path(source).expanduser()
    if not path.is_dir():
        return _file(path)
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
        new = other.unique(right, keep="first").drop(here)
        table = table.join(
            new, left_on=_key(table, None, path), right_on=right, how="left", maintain_order="left"
        )
    return table


def _file(path: Path) -> pl.DataFrame:
    try:
        if check_file(path).startswith(b"PAR1"):
            return pl.read_parquet(path)
        separator = "\t" if ".tsv" in path.suffixes else ","
        return pl.read_csv(path, separator=separator, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"this is no table of items ({str(error).splitlines()[0]}).", where=path,
            fix="Give CSV with a header, TSV or Parquet.",
        ) from None  # fmt: skip


def _key(table: pl.DataFrame, item: str | None, source: Any) -> str:
    """Return the column of ids: the one named, or the first with a usual name, or "id"."""
    if item is None:
        plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(table.columns)}
        named = [name for word, name in plain.items() if word in KNOWN["item"]]
        item = next(reversed(named), plain.get("id", plain.get("tmdbid")))
    if item in table.columns:
        return item
    where = source if isinstance(source, str | Path) else "items"
    raise UsageError(
        "there is no column of item ids." if item is None else f"there is no column {item!r}.",
        where=where, fix=f"Name one of {', '.join(table.columns)}.",
    )  # fmt: skip
