"""How a text file begins: `sep=;`, comments, separator, quotes, and whether it has a header.

All of it is judged by the first lines. The module does not know the other rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from foretaste.data.reading.columns import (
    KNOWN,
    guess_roles,
    is_header,
    is_number,
    plain,
    roles_by_position,
)
from foretaste.data.reading.text.delimited import (
    OpenQuoteError,
    Record,
    records,
)
from foretaste.data.reading.text.sources import Chunk, line_ends
from foretaste.errors import DataError, RatingsFileError, UsageError

SEPARATORS = ("::", "\t", ";", "|", ",")
WHITESPACE = "whitespace"  # any number of blanks and tabs
LOOKED_AT = 20  # rows from which separator and roles are guessed
CHECKED = 1000  # rows in which quotes must make sense, where a file with tabs is to have them
EXCEL = re.compile(rb'"?sep=([\x20-\x7e\t])"?\r?\n', re.IGNORECASE)  # a first line
COMMENTS = "#%"
ENCLOSED = re.compile(rb'(?m)(?:^|\t)"(?:[^"\n]|"")*"(?=\t|\r?$)')
OPENED = re.compile(rb'(?m)(?:^|\t)"(?!(?:[^"\n]|"")*"(?:\t|\r?$))')
BLANKS = re.compile(rb"[ \t]+")
MARGINS = re.compile(rb"(?m)^[ \t]+|[ \t]+(?=\r?$)")


@dataclass
class Opening:
    """How a file begins.

    Args:
        separator: What stands between two cells.
        columns: The names of the columns; column_1, column_2 and so on without a header.
        roles: Name of the column by role: user, item, value and time.
        header: Whether the first row names the columns, or a comment above it does.
        start: The byte at which the rows begin.
        line: The line at which the rows begin.
        quoted: Whether a quote at the beginning of a cell encloses it.
        comment: The character with which a line of comment begins, or "".
        comments: The number of lines of comment above the rows.
        blank: The number of blank lines above the rows.
        inner: The number of lines of the header after its first.
        notes: Sentences about what was assumed.
    """

    separator: str
    columns: list[str]
    roles: dict[str, str]
    header: bool
    start: int
    line: int
    quoted: bool = True
    comment: str = ""
    comments: int = 0
    blank: int = 0
    inner: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Head:
    """The first rows of a file as one separator cuts them.

    Args:
        separator: What stands between two cells.
        quoted: Whether a quote at the beginning of a cell encloses it.
        rows: The rows, without lines of comment.
        passed: The lines of comment and blank lines above the first row.
    """

    separator: str
    quoted: bool
    rows: list[Record]
    passed: list[Record]

    def fit(self) -> tuple[float, int]:
        """Return the share of rows that have the usual number of cells, and that number."""
        counts = Counter(len(row.cells) for row in self.rows if row.cells)
        if not counts:
            return 0.0, 0
        width, n = max(counts.items(), key=lambda item: (item[0] > 1, item[1]))
        return (n / counts.total() if width > 1 else 0.0), width


def squeezed(chunk: Chunk) -> Chunk:
    """Return a chunk with one tab for each run of blanks, and none at the ends of a line.

    Args:
        chunk: Whole lines.
    """
    return Chunk(BLANKS.sub(b"\t", MARGINS.sub(b"", chunk.content)), chunk.line)


def sniff(
    chunk: Chunk, path: Path, separator: str | None, wanted: Mapping[str, str | None]
) -> Opening:
    """Return how a file begins.

    Args:
        chunk: Its first lines.
        path: The file, for messages.
        separator: What stands between two cells; None to guess.
        wanted: Name of the column by role; None to guess, "" for no such column.

    Raises:
        UsageError: The separator is not one ASCII character, "::" or "whitespace".
        RatingsFileError: No separator is found, or the first line is broken.
        DataError: There is no row, or a role is not clear.
    """
    _check(chunk, path, separator)
    excel = EXCEL.match(chunk.content)
    if excel:
        separator = separator or excel.group(1).decode()
        chunk = Chunk(chunk.content[excel.end() :], chunk.line + 1)
    head, comment = _best_head(chunk, path, separator)
    if not head.rows:
        raise DataError("there is no row in it.", where=path, fix="Give a file with ratings.")
    first = head.rows[0]
    if first.wrong:
        raise RatingsFileError(path, first.line, what=first.wrong, fix="Mend the first line.")
    opening = Opening(head.separator, [], {}, False, 0, chunk.line, head.quoted, comment)
    named = _named_in_comment(chunk, head, comment, wanted)
    opening.header = bool(named) or is_header(first.cells, wanted)
    if excel:
        opening.notes.append("the first line names the separator, as Excel writes it")
    if named:
        opening.notes.append("the columns are named in a comment")
    if opening.header and not named:
        opening.start, opening.line = _after(first, head, chunk)
        opening.blank = sum(not row.comment for row in head.passed)
        opening.comments = sum(row.comment for row in head.passed)
        opening.inner = opening.line - first.line - 1
    if opening.header:
        opening.columns = named or [cell.strip() for cell in first.cells]
        opening.roles = guess_roles(opening.columns, wanted, path)
    else:
        opening.notes.append("no header, so columns by position")
        opening.columns = [f"column_{i}" for i in range(1, len(first.cells) + 1)]
        whole = [row.cells for row in head.rows if len(row.cells) == len(opening.columns)]
        opening.roles = roles_by_position(opening.columns, whole, wanted, path)
    opening.start += excel.end() if excel else 0
    return opening


def first_rows(chunk: Chunk, path: Path, separator: str | None) -> Head:
    """Return the first rows of a text that has no comments, of which one at least has cells.

    Args:
        chunk: Its first lines.
        path: The file, for messages.
        separator: What stands between two cells; None to guess.

    Raises:
        UsageError: The separator is none.
        RatingsFileError: No separator is found.
        DataError: There is no row.
    """
    _check(chunk, path, separator)
    if separator:
        head = _head(chunk, separator, "")
    else:
        head = max((_head(chunk, one, "") for one in SEPARATORS), key=Head.fit)
        head = _with_cells(head, chunk, path)
    if not head.rows:
        raise DataError("there is no row in it.", where=path, fix="Give a file with ratings.")
    return head


def _check(chunk: Chunk, path: Path, separator: str | None) -> None:
    """Refuse a separator that is none, and content without rows."""
    known = separator in (None, "::", WHITESPACE)
    if not known and not (separator.isascii() and len(separator) == 1):
        raise UsageError(
            f"separator={separator!r}.", fix="Use one ASCII character, '::' or 'whitespace'."
        )
    if b"\n" not in chunk.content[:-1] and b"\r" in chunk.content[:-2]:
        raise RatingsFileError(
            path,
            1,
            what="lines end in a bare carriage return.",
            fix="Save it with line ends LF or CRLF.",
        )
    if not chunk.content.strip():
        raise DataError("there is no row in it.", where=path, fix="Give a file with ratings.")


def _best_head(chunk: Chunk, path: Path, separator: str | None) -> tuple[Head, str]:
    """Return the first rows as the best separator cuts them, and the character of comments.

    The first line begins with that character. It is a row all the same where it has as many cells
    as the other rows and no blank after the character: `#cats,5,3`.
    """
    first = chunk.content.lstrip(b" \t\r\n")
    mark = first[:1].decode(errors="replace") if first[:1] in (b"#", b"%") else ""
    mark = mark if mark and re.search(rb"(?m)^[^#%\s]", chunk.content) else ""
    head = _head_of(chunk, path, separator, mark)
    if mark and head.separator != WHITESPACE and first[1:2] not in (b" ", b"\t", mark.encode()):
        bare = _head_of(chunk, path, separator, "")
        usual = bare.fit()[1]
        if bare.rows and usual > 1 and len(bare.rows[0].cells) == usual == head.fit()[1]:
            return bare, ""
    return head, mark


def _head_of(chunk: Chunk, path: Path, separator: str | None, mark: str) -> Head:
    """Return the first rows of a chunk, cut by a separator that is given or guessed."""
    if separator:
        return _head(chunk, separator, mark)
    best = max((_head(chunk, one, mark) for one in SEPARATORS), key=Head.fit)
    blanks = _head(chunk, WHITESPACE, mark)
    if best.fit()[1] < 2 and blanks.fit() > (0.99, 1):
        return blanks
    if best.separator == "\t" and blanks.fit()[0] == 1.0 and blanks.fit()[1] > best.fit()[1]:
        cells = [cell for row in blanks.rows for cell in row.cells]
        best = blanks if all(map(is_number, cells)) else best  # KONECT: "1 2<tab>3"
    return _with_cells(best, chunk, path)


def _with_cells(best: Head, chunk: Chunk, path: Path) -> Head:
    """Return the rows of the best separator; refuse those that it does not cut at all."""
    if best.fit()[1] < 2 and best.rows and not best.rows[0].wrong:
        shown = chunk.content.splitlines()[best.rows[0].line - chunk.line]
        raise RatingsFileError(
            path, best.rows[0].line,
            what=f"no separator found in {shown[:60].decode(errors='replace').strip()!r}.",
            fix="Looked for ',' tab ';' '|' '::' and blanks; name another with --separator "
            "(separator=).",
        )  # fmt: skip
    return best


def _head(chunk: Chunk, separator: str, mark: str) -> Head:
    """Return the first rows of a chunk as a separator cuts them."""
    quoted = separator != "\t" or tabs_are_quoted(chunk)
    found: list[Record] = []
    cut = separator
    if separator == WHITESPACE:
        quoted, cut, chunk = False, "\t", squeezed(_lines(chunk, CHECKED))
    rows = records(chunk.content, chunk.line, cut, quoted=quoted, comment=mark)
    passed: list[Record] = []
    try:
        for record in rows:
            if record.cells or record.wrong:
                found.append(record)
            elif not found:
                passed.append(record)
            if len(found) == LOOKED_AT:
                break
    except OpenQuoteError as open_quote:
        if not found:
            found.append(Record(open_quote.line, [], "a quote is opened and never closed.", 0))
    return Head(separator, quoted, found, passed)


def _after(first: Record, head: Head, chunk: Chunk) -> tuple[int, int]:
    """Return the byte of a chunk behind its first row, and the number of the line there."""
    end = first.end
    if head.separator == WHITESPACE:  # whose places are those of the squeezed chunk
        end = len(_lines(chunk, first.line - chunk.line + 1).content)
    return end, chunk.line + line_ends(chunk.content[:end])


def _lines(chunk: Chunk, n: int) -> Chunk:
    """Return the first lines of a chunk."""
    return Chunk(b"".join(islice(_each_line(chunk.content), n)), chunk.line)


def _each_line(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start) + 1 or len(content)
        yield content[start:end]
        start = end


def tabs_are_quoted(chunk: Chunk) -> bool:
    """Return whether a file with tabs has cells in quotes; else a quote is part of its cell.

    It has where some cell on its first lines begins and ends with a quote, and where every cell
    that begins with one either ends with one on its line or makes rows of equal width when it is
    read on. A title such as `"Weird Al` then swallows no rows.

    Args:
        chunk: The first lines.
    """
    if b'"' not in chunk.content or not ENCLOSED.search(chunk.content):
        return False
    if not OPENED.search(chunk.content):
        return True
    widths: set[int] = set()
    try:
        for row in islice(records(chunk.content, chunk.line, "\t"), CHECKED):
            widths |= {-1} if row.wrong else {len(row.cells)} if row.cells else set()
    except OpenQuoteError as left:
        if left.start * 2 < len(chunk.content):
            return False
    return len(widths) == 1 and widths != {-1}


def _named_in_comment(
    chunk: Chunk, head: Head, mark: str, wanted: Mapping[str, str | None]
) -> list[str]:
    """Return the names of columns from a comment above the rows: `# user item rating`."""
    comments = [row for row in head.passed if row.comment]
    if (
        not mark
        or not comments
        or (is_header(head.rows[0].cells, wanted) and _known(head.rows[0].cells, wanted))
    ):
        return []
    for row in reversed(comments):
        line = chunk.content.split(b"\n", row.line - chunk.line + 1)[row.line - chunk.line]
        text = line.decode(errors="replace").lstrip(mark).strip()
        cells = text.split() if head.separator == WHITESPACE else text.split(head.separator)
        names = [cell.strip() for cell in cells]
        if len(names) == len(head.rows[0].cells) and _known(names, wanted):
            return names
    return []


def _known(names: Sequence[str], wanted: Mapping[str, str | None]) -> bool:
    """Return whether names have a user and an item among them."""
    return all(
        any(plain(name) in KNOWN[role] or name == wanted.get(role) for name in names)
        for role in ("user", "item")
    )
