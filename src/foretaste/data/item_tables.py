"""Tables of items from files: which column is the id, and links from one id to another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from foretaste.data.layouts import KNOWN
from foretaste.data.reading import as_polars
from foretaste.data.sources import check_file
from foretaste.errors import DataError, UsageError

# of a folder from Kaggle: TMDB 5000 and The Movies Dataset; what is there is joined by id
IN_FOLDERS = ("tmdb_5000_movies.csv", "tmdb_5000_credits.csv", "keywords.csv", "credits.csv")


def read_items(
    source: Any, *, item: str | None = None, links: Any = None, linked: str = "tmdbId"
) -> pl.DataFrame:
    """A table of items, the id first: for `Dataset.join_items`, `catalogue` and `add_items`.

    source: a CSV, TSV or Parquet file, a Kaggle folder of TMDB, or a frame.  item: the column of
    ids where the guess from names is wrong.  links: a table that leads from the ids of the ratings
    to those of `source`, which are in its column `linked`, as MovieLens has it for TMDB; the result
    has the ids of the ratings.
    """
    table = _table(source)
    key = _key(table, item, source)
    table = table.select(key, pl.exclude(key)).drop_nulls(key)
    table = table.unique(key, keep="first", maintain_order=True)
    return table if links is None else _linked(table, _table(links), linked)


def _linked(table: pl.DataFrame, links: pl.DataFrame, linked: str) -> pl.DataFrame:
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
    """The column of ids: the one named, or the first whose name says so, or "id"."""
    if item is None:
        plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(table.columns)}
        named = [name for said, name in plain.items() if said in KNOWN["item"]]
        item = next(reversed(named), plain.get("id", plain.get("tmdbid")))
    if item in table.columns:
        return item
    where = source if isinstance(source, str | Path) else "items"
    raise UsageError(
        "there is no column of item ids." if item is None else f"there is no column {item!r}.",
        where=where, fix=f"Name one of {', '.join(table.columns)}.",
    )  # fmt: skip
