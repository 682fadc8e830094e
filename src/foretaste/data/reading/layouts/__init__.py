"""Which layout a text has that does not have one interaction a line, and its reading.

A layout is guessed only where a table is out of the question; else `layout=` names it. The module
does not know how lines become cells: `lines.py` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from foretaste.data.casting import CleanColumns
from foretaste.data.reading.columns import KNOWN, plain
from foretaste.data.reading.layouts import lines, matrices
from foretaste.data.reading.layouts.lines import BLOCK, LEAST_LINES, PAIR, text_lines
from foretaste.data.reading.text.openings import first_rows
from foretaste.data.reading.text.sources import Chunk
from foretaste.errors import DataError, RatingsFileError, UsageError

READERS = {
    "wide": matrices.wide, "lists": lines.lists, "netflix": lines.netflix,
    "sessions": lines.lists, "mind": lines.mind,
}  # fmt: skip
LAYOUTS = ("table", *READERS)
LOOKED_AT = 5_000  # lines by which lists and sessions are told apart
USUAL = 0.6  # share of lines of one width from which the others may be damaged lines of a table
WIDE = 10  # columns from which a matrix without a header is guessed


def check_layout(layout: str | None) -> None:
    """Refuse the name of a layout that there is not.

    Args:
        layout: The name; None to guess.

    Raises:
        UsageError: There is no such layout.
    """
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"layout={layout!r}.", fix=f"Use one of {', '.join(LAYOUTS)}.")


def layout_of(first: Chunk, path: Path, wanted: Mapping[str, str | None]) -> str:
    """Return the layout of a text by its first lines; "table" where no other is beyond doubt.

    Args:
        first: The first chunk of the file.
        path: The file, for messages.
        wanted: Name of the column by role; a text whose columns are named is a table.

    Raises:
        RatingsFileError: The lines are lists, but of what cannot be said; asks for the layout.
    """
    head = b"\n".join(first.content.split(b"\n", LOOKED_AT)[:LOOKED_AT])
    filled = [line for line in text_lines(head) if line.strip()]
    if any(wanted.values()) or not filled:
        return "table"
    if BLOCK.fullmatch(filled[0]) and len(filled) > 1 and not BLOCK.fullmatch(filled[1]):
        return "netflix"
    if all(lines.is_impression(line) for line in filled[:20]):
        return "mind"
    return _lists_of(filled, path) or _wide_of(first, path)


def _lists_of(filled: list[str], path: Path) -> str:
    """Return "lists" or "sessions" where lines have words of unequal number; "" for a table."""
    separator = lines.separator_of(filled[:LOOKED_AT])
    rows = [lines.words_of(line, separator) for line in filled[:LOOKED_AT]]
    width = Counter(map(len, rows))
    if len(rows) < LEAST_LINES or max(width.values()) > USUAL * len(rows):
        return ""
    ids = all(word.isdecimal() for row in rows for word in row)
    paired = all(PAIR.fullmatch(word) for row in rows for word in row[1:])
    if len(width) < 3 or max(width) < 4 or not (ids or paired):
        return ""
    if paired or lines.count_place(rows):
        return "lists"
    heads = [row[0] for row in rows]
    number = [int(head) for head in heads]
    if number == list(range(number[0], number[0] + len(rows))) and number[0] in (0, 1):
        return "lists"
    twice = len(set(heads)) < len(heads)
    inside = {word for row in rows for word in row[1:]}
    if twice and number != sorted(number) and len(set(heads) & inside) > 0.9 * len(set(heads)):
        return "sessions"
    raise RatingsFileError(
        path, 1, what="the lines are lists of ids, and it is not clear whether a user comes first.",
        fix="Say --layout lists (a user and their items) or --layout sessions (items alone); "
        "Python: layout=.",
    )  # fmt: skip


def _wide_of(first: Chunk, path: Path) -> str:
    """Return "wide" for a matrix without doubt, else "table"."""
    try:
        rows = first_rows(first, path, None).rows
    except DataError:
        return "table"
    cells = [row.cells for row in rows if row.cells]
    if len(cells) < 3 or len({len(row) for row in cells}) > 1:
        return "table"
    head, body = cells[0], cells[1:]
    if not all(matrices.is_rating(cell) for row in body for cell in row[1:]):
        return "table"
    numbered = all(cell.strip().isdecimal() for cell in head[1:]) and len(set(head)) == len(head)
    if numbered and len(head) > 3 and (not head[0].strip() or plain(head[0]) in KNOWN["user"]):
        return "wide"
    if len(head) > WIDE and all(matrices.is_rating(cell) for cell in head):
        matrix = [head, *body]
        if matrices.first_is_count(matrix, 99.0) or matrices.filler_of(matrix) == 99.0:
            return "wide"
    return "table"


def read_layout(
    layout: str, first: Chunk, chunks: Iterator[Chunk], path: Path, separator: str | None,
    cleaner: Callable[..., CleanColumns], note: str = "",
) -> CleanColumns:  # fmt: skip
    """Return the columns of a text in a layout that is no table.

    Args:
        layout: One of `LAYOUTS`, but for "table".
        first: The first chunk.
        chunks: The other chunks.
        path: The file, for messages.
        separator: What stands between two words or cells; None to guess.
        cleaner: Makes clean columns of a source and the columns by role.
        note: What is said of the layout in the report.

    Raises:
        RatingsFileError: A line is not of this layout.
    """
    reading = READERS[layout](first, path, separator, layout)
    clean = cleaner(path, reading.columns, notes=[*filter(None, [note]), *reading.notes])
    blank = 0
    for cells in reading.cells(chunks):
        blank += cells.blank
        clean.add(cells.columns, cells.line_r, cells.row_r, cells.wrong)
    clean.notes += [text for text in reading.counted() if text]
    if blank:
        clean.notes.append(f"{blank:,} blank {'line' if blank == 1 else 'lines'} passed over")
    return clean
