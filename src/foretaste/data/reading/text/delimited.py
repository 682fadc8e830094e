"""Delimited text to cells: a fast way by polars that accounts for every byte, and an exact way.

A chunk goes the fast way when the widths of its cells, its separators and its line ends add up to
its size, which shows that polars passed over no quote, space, sign, leading zero, blank line or
ragged row. Any other chunk goes the exact way, row by row, which knows line numbers and what is
wrong with a row. The module does not know what a cell means: `casting.py` judges that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from foretaste.data.interactions import IntArray
from foretaste.data.reading.text.sources import Chunk, line_ends
from foretaste.errors import RatingsFileError

LONGEST_RECORD = 16 << 20  # bytes; a longer quoted cell counts as never closed
MOST_DIGITS = 18  # the largest number of digits that Int64 always holds
AHEAD = 2  # chunks parsed at the same time, because polars parses a small one on one thread


class OpenQuoteError(Exception):
    """A quote is still open where the chunk ends.

    Args:
        line: The line of the row with the quote.
        start: The byte of the chunk at which that row begins.
    """

    def __init__(self, line: int, start: int) -> None:
        super().__init__(line, start)
        self.line, self.start = line, start


@dataclass(frozen=True)
class Record:
    """One row of text.

    Args:
        line: The number of its first line in the file, from 1.
        cells: Its cells; none where the line is blank or the row is wrong.
        wrong: What is wrong with it, a sentence, or "".
        end: The byte of the chunk after it.
        comment: Whether it is a line of comment, which has no cells.
    """

    line: int
    cells: list[str]
    wrong: str
    end: int
    comment: bool = False


@dataclass
class Cells:
    """The cells of a chunk.

    Args:
        columns: Cells by role, (rows,) each: text, or Int64 where every cell is written as polars
            would write the number.
        line_r: The line of each row in the file, (rows,).
        row_r: The position of each row among the rows of the chunk, (rows,).
        wrong: Line and fault of each row that could not be cut into cells.
        blank: The number of blank lines that were passed over.
        comments: The number of lines of comment that were passed over.
        inner: The number of lines that are not the first of their row, because a cell in quotes
            holds a line end.
    """

    columns: dict[str, pl.Series]
    line_r: IntArray | range
    row_r: IntArray | range
    wrong: list[tuple[int, str]] = field(default_factory=list)
    blank: int = 0
    comments: int = 0
    inner: int = 0


@dataclass(frozen=True)
class Format:
    """How rows are cut into cells.

    Args:
        separator: One ASCII character, or "::".
        width: The number of cells in a row.
        place: The number of the cell by role, from 0.
        quoted: Whether a quote at the beginning of a cell encloses it.
        comment: The character with which a line of comment begins, or "" where there are none.
    """

    separator: str
    width: int
    place: dict[str, int]
    quoted: bool = True
    comment: str = ""


def records(
    content: bytes, line: int, separator: str, *, quoted: bool = True, comment: str = ""
) -> Iterator[Record]:
    """Yield every row of a chunk; a blank line is a row without cells.

    Args:
        content: Whole lines in UTF-8.
        line: The number of the first line.
        separator: One ASCII character, or "::", where quotes never count.
        quoted: Whether a quote at the beginning of a cell encloses it.
        comment: The character with which a line of comment begins, or "".

    Raises:
        OpenQuoteError: A quoted cell does not end in the chunk.
    """
    quoted = quoted and len(separator) == 1
    start, mark = 0, comment.encode()
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        if mark and content.startswith(mark, start):
            record = Record(line, [], "", end + 1, comment=True)
        elif quoted and content.find(b'"', start, end) >= 0:
            record = _quoted(content, line, separator.encode(), start)
        else:
            record = _plain(content[start:end], line, separator, end + 1)
        yield record
        line += content.count(b"\n", start, record.end)
        start = record.end


def _plain(row: bytes, line: int, separator: str, end: int) -> Record:
    """Return a row without quotes."""
    row = row.removesuffix(b"\r")
    try:
        text = row.decode()
    except UnicodeDecodeError as error:
        return Record(line, [], f"byte 0x{row[error.start]:02x} is not UTF-8.", end)
    if "\0" in text:
        return Record(line, [], "the row holds a NUL byte.", end)
    if "\r" in text:
        return Record(line, [], "the row holds a carriage return.", end)
    return Record(line, text.split(separator) if text.strip(" ") else [], "", end)


def _quoted(content: bytes, line: int, separator: bytes, start: int) -> Record:
    """Return a row by RFC 4180: a cell in quotes ends with one, and "" in it stands for a quote."""
    cells: list[bytes] = []
    at, wrong = start, ""
    while True:
        if content[at : at + 1] == b'"':
            close = _closing_quote(content, at)
            if close < 0:
                raise OpenQuoteError(line, start)
            cells.append(content[at + 1 : close].replace(b'""', b'"'))
            at = close + 1
            stop = _end_of_cell(content, at, separator)
            at_line_end = content[stop : stop + 1] != separator
            if content[at:stop] not in ((b"", b"\r") if at_line_end else (b"",)):
                wrong = "there is text after a closing quote."
        else:
            stop = _end_of_cell(content, at, separator)
            cell = content[at:stop]
            cell = cell if content[stop : stop + 1] == separator else cell.removesuffix(b"\r")
            wrong = wrong or ("the row holds a carriage return." if b"\r" in cell else "")
            cells.append(cell)
        at = stop + 1
        if content[stop : stop + 1] != separator:
            return _decoded(line, cells, wrong, min(at, len(content)))


def _closing_quote(content: bytes, opening: int) -> int:
    """Return the byte of the quote that closes the one at `opening`, or -1."""
    at = content.find(b'"', opening + 1)
    while at >= 0 and content[at + 1 : at + 2] == b'"':
        at = content.find(b'"', at + 2)
    return at


def _end_of_cell(content: bytes, start: int, separator: bytes) -> int:
    """Return the byte of the next separator or line end."""
    line_end = content.find(b"\n", start)
    line_end = len(content) if line_end < 0 else line_end
    cell_end = content.find(separator, start, line_end)
    return line_end if cell_end < 0 else cell_end


def _decoded(line: int, cells: list[bytes], wrong: str, end: int) -> Record:
    for cell in cells:
        if b"\0" in cell:
            wrong = wrong or "the row holds a NUL byte."
        try:
            cell.decode()
        except UnicodeDecodeError as error:
            wrong = wrong or f"byte 0x{cell[error.start]:02x} is not UTF-8."
    return Record(line, [] if wrong else [cell.decode() for cell in cells], wrong, end)


def read_cells(
    first: Chunk, chunks: Iterator[Chunk], form: Format, integers: Callable[[], list[str]],
    path: Path,
) -> Iterator[Cells]:  # fmt: skip
    """Yield the cells of every chunk in order, and parse the next chunks meanwhile.

    Args:
        first: The first chunk, without the header.
        chunks: The other chunks.
        form: How rows are cut.
        integers: Returns the roles to try as Int64; called for every chunk.
        path: The file, for messages.

    Raises:
        RatingsFileError: A quote is never closed.
    """
    ahead: deque[tuple[Chunk, Future[Cells | None]]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        rest: Chunk | None = None
        for chunk in chain((first,), chunks, (None,) * AHEAD):
            if chunk is not None:
                ahead.append((chunk, pool.submit(read_fast, chunk, form, integers())))
            if ahead and (chunk is None or len(ahead) > AHEAD):
                taken, parsed = ahead.popleft()
                cells, rest = _taken(taken, parsed, rest, form)
                yield cells
                if rest is not None and (
                    not (ahead or chunk) or len(rest.content) > LONGEST_RECORD
                ):
                    raise _never_closed(path, rest.line)


def _taken(
    chunk: Chunk, parsed: Future[Cells | None], rest: Chunk | None, form: Format
) -> tuple[Cells, Chunk | None]:
    """Return the cells of what was left over and a chunk, and what the chunk leaves over itself.

    Left over is a row at the end of a chunk whose quote closes in the next one.
    """
    cells = parsed.result()
    if rest is not None:
        chunk = Chunk(rest.content + chunk.content, rest.line)
    elif cells is not None:
        return cells, None
    try:
        return read_exactly(chunk, form), None
    except OpenQuoteError as left:
        whole = Chunk(chunk.content[: left.start], chunk.line)
        return read_exactly(whole, form), Chunk(chunk.content[left.start :], left.line)


def _never_closed(path: Path, line: int) -> RatingsFileError:
    return RatingsFileError(
        path, line, what="a quote is opened here and never closed.",
        fix='Close it, or write a quote inside a cell as "".',
    )  # fmt: skip


def read_exactly(chunk: Chunk, form: Format) -> Cells:
    """Return the cells of a chunk as text, cut row by row.

    Args:
        chunk: Whole lines.
        form: How rows are cut.

    Raises:
        OpenQuoteError: A quoted cell does not end in the chunk.
    """
    kept: list[list[str]] = []
    lines: list[int] = []
    places: list[int] = []
    wrong: list[tuple[int, str]] = []
    rows = blank = comments = 0
    for record in records(
        chunk.content, chunk.line, form.separator, quoted=form.quoted, comment=form.comment
    ):
        if not record.cells and not record.wrong:
            blank += not record.comment
            comments += record.comment
            continue
        if record.wrong:
            wrong.append((record.line, record.wrong))
        elif len(record.cells) != form.width:
            fields = "field" if len(record.cells) == 1 else "fields"
            what = f"the row has {len(record.cells)} {fields} where {form.width} belong."
            wrong.append((record.line, what))
        else:
            kept.append(record.cells)
            lines.append(record.line)
            places.append(rows)
        rows += 1
    columns = {
        role: pl.Series(role, [cells[place] or None for cells in kept], dtype=pl.String)
        for role, place in form.place.items()
    }
    inner = line_ends(chunk.content) - rows - blank - comments
    return Cells(
        columns, np.array(lines, int), np.array(places, int), wrong, blank, comments, inner
    )


def read_fast(chunk: Chunk, form: Format, integers: Sequence[str]) -> Cells | None:
    """Return the cells of a chunk by polars, or None where a single byte is not accounted for.

    Args:
        chunk: Whole lines.
        form: How rows are cut.
        integers: Roles to try as Int64. They are text where a cell is not written as polars would
            write the number, for example with a leading zero.
    """
    mark = form.comment.encode()
    if mark and (chunk.content.startswith(mark) or b"\n" + mark in chunk.content):
        return None
    content = _without_plain_quotes(chunk.content, form.separator) if form.quoted else chunk.content
    if content is None or b"\0" in content or (not content.isascii() and not _is_utf8(content)):
        return None
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n")
        if b"\r" in content:
            return None
    for typed in (integers, ()) if integers else ((),):
        frame = _parse(content, form, typed)
        if frame is not None:
            n = len(frame)
            columns = {role: frame[f"c{place}"] for role, place in form.place.items()}
            return Cells(columns, range(chunk.line, chunk.line + n), range(n))
    return None


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _without_plain_quotes(content: bytes, separator: str) -> bytes | None:
    """Return the chunk without its quotes, or None where one encloses more than a plain cell."""
    if len(separator) > 1 or b'"' not in content:
        return content
    byte = np.frombuffer(content, np.uint8)
    quote = np.flatnonzero(byte == ord('"'))
    limit = np.flatnonzero((byte == ord(separator)) | (byte == ord("\n")))
    if len(quote) % 2:
        return None
    opening, closing = quote[::2], quote[1::2]
    before, after = np.searchsorted(limit, opening), np.searchsorted(limit, closing)
    starts = np.append(0, limit + 1)[before] == opening
    ends = limit[np.minimum(after, len(limit) - 1)] == closing + 1
    plain = starts.all() and ends.all() and (before == after).all()
    return content.replace(b'"', b"") if plain else None


def _parse(content: bytes, form: Format, integers: Sequence[str]) -> pl.DataFrame | None:
    """Return the frame of a chunk without quotes, if cells and separators add up to its bytes."""
    gap = len(form.separator)  # a::b is read as a, nothing, b with separator ":"
    places = range((form.width - 1) * gap + 1)
    names = [f"gap{i}" if i % gap else f"c{i // gap}" for i in places]
    typed = {f"c{form.place[role]}" for role in integers}
    try:
        frame = pl.read_csv(
            content, has_header=False, separator=form.separator[0], quote_char=None,
            schema={name: pl.Int64 if name in typed else pl.String for name in names},
            columns=list(range(0, len(names), gap)) if gap > 1 else None,
        )  # fmt: skip
    except pl.exceptions.PolarsError:
        return None
    n, last = len(frame), frame.to_series(form.width - 1)
    if last.null_count() and (
        gap > 1 or content.count(form.separator.encode()) != n * (form.width - 1)
    ):
        return None
    cells = 0
    for column in frame:
        width = _digits(column) if column.dtype == pl.Int64 else int(column.str.len_bytes().sum())
        if width is None:
            return None
        cells += width
    return frame if cells + n * len(names) == len(content) else None


def _digits(column: pl.Series) -> int | None:
    """Return the number of digits in all cells; None where some are null, negative or too large."""
    if column.null_count() or not len(column):
        return None
    low, high = int(column.min()), int(column.max())  # type: ignore[arg-type]
    if low < 0 or high >= 10**MOST_DIGITS:
        return None
    least, most = len(str(low)), len(str(high))
    return len(column) * least + sum(
        int((column >= 10**power).sum()) for power in range(least, most)
    )
