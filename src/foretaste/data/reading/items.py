"""Tables of items: one file, a folder with a known layout, or a table in memory; ids by links.

The module does not know the ratings: `Dataset.join_items` does the join.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from foretaste.data.reading.columns import KNOWN
from foretaste.data.reading.frames import as_polars
from foretaste.data.reading.sources import check_file
from foretaste.errors import DataError, UsageError

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
