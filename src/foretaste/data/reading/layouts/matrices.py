"""Cells of a matrix of users x items: a row for each user, a column for each item.

What stands in the first row and column, and which number stands for no rating, is judged by the
first rows. The module does not guess that a text is a matrix: the package does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from foretaste.data.reading.columns import KNOWN, NUMBER, is_number, plain
from foretaste.data.reading.layouts.lines import Reading
from foretaste.data.reading.text.delimited import Cells, Format, read_cells
from foretaste.data.reading.text.openings import first_rows
from foretaste.data.reading.text.sources import Chunk
from foretaste.errors import DataError, RatingsFileError

MISSING = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-", "?")


def wide(first: Chunk, path: Path, separator: str | None, layout: str) -> Reading:
    """Return how a matrix of users x items is read; a cell that is empty is no rating."""
    head = first_rows(first, path, separator)
    rows = [record.cells for record in head.rows if record.cells]
    if not rows or len(rows[0]) < 2:
        raise DataError("there is no matrix in it.", where=path, fix="Name another layout.")
    top = next(record for record in head.rows if record.cells)
    header = is_matrix_header(rows[0])
    body = rows[1:] if header else rows
    filler = filler_of(body)
    counted = len(body) > 1 and first_is_count(body, filler)
    ids = not counted and _has_ids(rows[0] if header else [], body)
    names = [cell.strip() for cell in rows[0]] if header else []
    width = len(rows[0])
    shift = 1 if ids or counted else 0
    items = {str(n): names[n] if header else str(n - shift + 1) for n in range(shift, width)}
    if len(set(items.values())) < len(items):
        raise RatingsFileError(path, top.line, what="two columns have one name.", fix="Rename one.")
    notes = [f"{width - shift:,} columns are items" + ("" if header else ", numbered from 1")]
    notes += ["the first column is the number of ratings"] if counted else []
    notes += [] if ids else ["users are numbered by their line"]
    notes += [f"{filler:g} stands for no rating"] if filler is not None else []
    columns = {"user": names[0] if header and ids else "first column" if ids else "number of the "
               "line", "item": "name of the column", "value": "cell"}  # fmt: skip
    form = Format(head.separator, width, {str(n): n for n in range(width)}, head.quoted)
    missing = [0]

    def cells(chunks: Iterator[Chunk]) -> Iterator[Cells]:
        start = top.end if header else 0
        line = first.line + first.content.count(b"\n", 0, start)
        rest = Chunk(first.content[start:], line)
        for cut in read_cells(rest, chunks, form, list, path):
            frame = pl.DataFrame(cut.columns).with_columns(
                line=pl.Series(np.asarray(cut.line_r, dtype=np.int64))
            )
            user = pl.col("0") if ids else pl.col("line").cast(pl.String)
            long = frame.select(user.alias("user"), "line", *items).unpivot(
                index=["user", "line"], variable_name="item", value_name="value"
            )
            text = pl.col("value").str.strip_chars()
            none = text.is_null() | text.is_in(["", *MISSING])
            if filler is not None:
                none = none | (text.cast(pl.Float64, strict=False) == filler).fill_null(False)
            kept = long.filter(~none).sort("line", maintain_order=True)
            missing[0] += len(long) - len(kept)
            series = {"user": kept["user"], "item": kept["item"].replace_strict(items),
                      "value": kept["value"]}  # fmt: skip
            yield Cells(series, kept["line"].to_numpy(), np.arange(len(kept)), cut.wrong, cut.blank)

    return Reading(columns, cells, notes, lambda: [f"{missing[0]:,} cells without a rating"])


def is_matrix_header(cells: Sequence[str]) -> bool:
    """Return whether the first row of a matrix names its items.

    Args:
        cells: The cells of the row.
    """
    numbered = all(cell.strip().isdecimal() for cell in cells[1:])
    blank = not cells[0].strip() and numbered and len(set(cells)) == len(cells)
    return blank or not all(map(is_rating, cells))


def _has_ids(head: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Return whether the first column of a matrix has the ids of the users."""
    if head and (not head[0].strip() or plain(head[0]) in KNOWN["user"] | {"id", "index"}):
        return True
    first = [row[0].strip() for row in body]
    if not all(map(is_rating, first)):
        return True
    distinct = len(set(first)) == len(first) and all(cell.isdecimal() for cell in first)
    top = max((value for row in body for value in numbers(row[1:])), default=0.0)
    return distinct and (bool(head) or max(map(float, first), default=0.0) > top)


def is_rating(cell: str) -> bool:
    """Return whether a cell may stand in a matrix: a number, or a word for none.

    Args:
        cell: The cell.
    """
    return not cell.strip() or cell.strip() in MISSING or is_number(cell.strip())


def numbers(cells: Sequence[str]) -> list[float]:
    """Return the numbers among some cells.

    Args:
        cells: The cells.
    """
    return [float(cell.strip()) for cell in cells if NUMBER.fullmatch(cell.strip())]


def filler_of(rows: list[list[str]]) -> float | None:
    """Return the number that stands for no rating in a matrix, by its distance from the others.

    Args:
        rows: Cells of some rows, without the header.
    """
    found = [value for row in rows for value in numbers(row[1:])]
    rest = {v: [w for w in found if w != v] for v in (99.0, -1.0, 0.0)}
    for value, others in rest.items():
        if len(others) in (0, len(found)):
            continue
        far = max(others) <= 20 if value == 99 else min(others) >= value + 1
        if far and (value == 99 or len(others) < 0.7 * len(found)):
            return value
    return None


def first_is_count(rows: list[list[str]], filler: float | None) -> bool:
    """Return whether the first cell of every row is the number of ratings in the others.

    Args:
        rows: Cells of some rows, without the header.
        filler: The number that stands for no rating, or None.
    """
    return all(
        row[0].strip() == str(sum(value != filler for value in numbers(row[1:]))) for row in rows
    )
