"""Text files: from one with its encoding to clean columns, chunk by chunk.

The module does not know how a file begins (`openings.py`), how rows are cut (`delimited.py`) or
cells judged (`casting.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from foretaste.data.casting import CleanColumns
from foretaste.data.reading.columns import unused
from foretaste.data.reading.text.delimited import Format, read_cells
from foretaste.data.reading.text.openings import WHITESPACE, sniff, squeezed
from foretaste.data.reading.text.sources import Chunk, NotUtf8Error, TextFile
from foretaste.errors import DataError

Read = TypeVar("Read")


def with_encoding(text: TextFile, read: Callable[[TextFile], Read]) -> tuple[Read, str, list[str]]:
    """Return what a function reads of a text file, the encoding of the file, and a note of it.

    Args:
        text: The file.
        read: Reads it; called again with another encoding where the first turns out to be wrong.

    Raises:
        DataError: The file cannot be read; says where and what to do.
    """
    try:
        return read(text), text.encoding, []
    except NotUtf8Error:
        text = text.with_guess()
    return read(text), text.encoding, [f"not UTF-8, so read as {text.encoding}"]


def read_rows(
    first: Chunk, chunks: Iterator[Chunk], path: Path, wanted: Mapping[str, str | None],
    separator: str | None, cleaner: Callable[..., CleanColumns],
) -> CleanColumns:  # fmt: skip
    """Return the columns of delimited text with their notes.

    Args:
        first: The first chunk.
        chunks: The other chunks.
        path: The file, for messages.
        wanted: Name of the column by role; None to guess, "" for no such column.
        separator: What stands between two cells; None to guess.
        cleaner: Makes clean columns of a source and the columns by role.

    Raises:
        DataError: The text cannot be read; says where and what to do.
    """
    opening = sniff(first, path, separator, wanted)
    notes = unused(opening.columns, opening.roles)
    clean = cleaner(path, opening.roles, notes=notes)
    place = {role: opening.columns.index(name) for role, name in opening.roles.items()}
    width = len(opening.columns)
    form = Format(opening.separator, width, place, opening.quoted, opening.comment)
    first = Chunk(first.content[opening.start :], opening.line)
    if opening.separator == WHITESPACE:
        form = Format("\t", width, place, quoted=False, comment=opening.comment)
        first, chunks = squeezed(first), map(squeezed, chunks)
    blank, comments, inner = opening.blank, opening.comments, opening.inner
    for cells in read_cells(first, chunks, form, clean.integers, path):
        blank += cells.blank
        comments += cells.comments
        inner += cells.inner
        clean.add(cells.columns, cells.line_r, cells.row_r, cells.wrong)
    clean.notes += _passed_over(blank, comments, inner)
    clean.notes += opening.notes
    if not clean.rows and opening.header:
        raise DataError(
            "there is a header and no row below it.",
            where=path,
            fix="Give a file with ratings.",
        )
    return clean


def _passed_over(blank: int, comments: int, inner: int) -> list[str]:
    """Return the notes of lines that are no rows: with them every line of a file is counted."""
    found = ((blank, "blank {}"), (comments, "comment {}"), (inner, "further {} of quoted cells"))
    counted = [(n, what.format("line" if n == 1 else "lines")) for n, what in found if n]
    return [f"{n:,} {what} passed over" for n, what in counted if "quoted" not in what] + [
        f"{n:,} {what}" for n, what in counted if "quoted" in what
    ]
