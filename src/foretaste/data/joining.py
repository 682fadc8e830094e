"""Ids of one table looked up in another: which are the same, and what a join loses.

An id is text: `0108775015` and `108775015` are two ids, `42` and `"42"` are one.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import polars as pl

from foretaste.data.interactions import Ids

SHOWN = 3  # pairs of ids in a note


def same_ids(key: pl.Series) -> pl.Series:
    """Return ids as integers or text; a number that is not whole, and an infinite one, is no id.

    Args:
        key: A column of ids, of any type.
    """
    if key.dtype.is_float():  # as pandas has integers beside empty cells
        whole = key.cast(pl.Int64, strict=False)
        return whole.set((whole.cast(pl.Float64) != key).fill_null(False), None)
    return key if key.dtype.is_integer() else key.cast(pl.String)


def ids_like(ids: Ids, key: pl.Series) -> pl.Series:
    """Return a column of ids in the type of some others, null where it cannot be.

    Args:
        ids: The others, integers or text.
        key: A column of ids, of any type.
    """
    key = same_ids(key)
    if ids.values.dtype == pl.Int64 and key.dtype == pl.String:
        number = key.cast(pl.Int64, strict=False)
        return number.set((number.cast(pl.String) != key).fill_null(True), None)
    return key.cast(ids.values.dtype, strict=False)


def find_ids(ids: Ids, key: pl.Series) -> np.ndarray:
    """Return the row of each cell among some ids, (cells,) int64, -1 where it is none of them.

    Args:
        ids: External ids.
        key: A column of ids, of any type.
    """
    return ids.find(same_ids(key))


def lost_in_join(ids: Ids, key: pl.Series) -> str:
    """Return a sentence about what a join loses, with three pairs of ids; "" for nothing.

    Args:
        ids: The ids of the interactions.
        key: The ids of the table that is joined, each once.
    """
    row = find_ids(ids, key)
    joined = np.zeros(len(ids), dtype=bool)
    joined[row[row >= 0]] = True
    without, left = int((~joined).sum()), int((row < 0).sum())
    if not without and not left:
        return ""
    n_lines, n_items = f"{left:,} of {len(key):,} lines", f"{without:,} of {len(ids):,} items"
    if not without:
        return f"{n_lines} of the table of items belong to no item here"
    text = f"{n_items} have no line in the table of items"
    if not left:
        return text
    here = ids.values.filter(pl.Series(~joined)).cast(pl.String)
    there = same_ids(key).filter(pl.Series(row < 0)).cast(pl.String).drop_nulls()
    shown = "; ".join(f"{ours!r} here, {theirs!r} there" for ours, theirs in _pairs(here, there))
    return f"{text}, and {n_lines} of it belong to no item here (ids: {shown})"


def _pairs(here: pl.Series, there: pl.Series) -> list[tuple[str, str]]:
    """Return three pairs of ids: such as differ in zeros, blanks or case, or else the first."""
    near = pl.DataFrame({"plain": _plain(here), "ours": here}).join(
        pl.DataFrame({"plain": _plain(there), "theirs": there}), on="plain", maintain_order="left"
    )
    alike = near.select("ours", "theirs").head(SHOWN).rows()
    return alike or list(islice(zip(here, there, strict=False), SHOWN))


def _plain(ids: pl.Series) -> pl.Series:
    text = ids.str.to_lowercase().str.replace_all(r"[\s\-_]", "").str.replace(r"\.0$", "")
    return text.str.replace(r"^0+(.)", "${1}")


def align(table: pl.DataFrame, ids: Ids) -> pl.DataFrame:
    """Return the rows of a table in the order of some ids; an id without a row gets nulls.

    Args:
        table: Its first column is the id; of an id with several rows the first counts.
        ids: The ids, whose column takes the place of the first.
    """
    key = table.columns[0]
    row = find_ids(ids, table[key])
    own = ids.values.gather(row[row >= 0]).alias(ids.kind)
    table = table.filter(pl.Series(row >= 0)).drop(key).insert_column(0, own)
    table = table.unique(ids.kind, keep="first", maintain_order=True)
    return pl.DataFrame({ids.kind: ids.values}).join(
        table, on=ids.kind, how="left", maintain_order="left"
    )
