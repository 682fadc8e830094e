"""What the first lines of a delimited file tell: its separator, its columns, their roles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from foretaste.data.delimited import OpenQuoteError, Record, records
from foretaste.data.roles import guess_roles, is_header, roles_by_position
from foretaste.data.sources import Chunk
from foretaste.errors import DataError, RatingsFileError, UsageError

SEPARATORS = ("::", "\t", ";", "|", ",")
LOOKED_AT = 20  # lines


@dataclass(frozen=True)
class Opening:
    """How a file begins: separator, column names, roles, and where its rows start."""

    separator: str
    columns: list[str]
    roles: dict[str, str]
    header: bool
    start: int  # byte of the first row
    line: int  # and its line


def sniff(
    chunk: Chunk, path: Path, separator: str | None, told: Mapping[str, str | None]
) -> Opening:
    """How a file begins, from its first chunk."""
    if separator not in (None, "::") and not (separator.isascii() and len(separator) == 1):
        raise UsageError(f"separator={separator!r}.", fix="Use one ASCII character, or '::'.")
    if b"\n" not in chunk.content[:-1] and b"\r" in chunk.content[:-2]:
        raise RatingsFileError(
            path,
            1,
            what="lines end in a bare carriage return.",
            fix="Save it with line ends LF or CRLF.",
        )
    if not chunk.content.strip():
        raise DataError("there is no row in it.", where=path, fix="Give a file with ratings.")
    head = _head(chunk, separator) if separator else _best_head(chunk, path)
    chosen, rows = head
    first = next((row for row in rows if row.cells or row.wrong), None)
    if first is None:
        raise DataError("there is no row in it.", where=path, fix="Give a file with ratings.")
    if first.wrong:
        raise RatingsFileError(path, first.line, what=first.wrong, fix="Mend the first line.")
    header = is_header(first.cells, told)
    if header:
        columns = [cell.strip() for cell in first.cells]
        roles = guess_roles(columns, told, path)
        line = chunk.line + chunk.content.count(b"\n", 0, first.end)
        return Opening(chosen, columns, roles, True, first.end, line)
    columns = [f"column_{i}" for i in range(1, len(first.cells) + 1)]
    whole = [row.cells for row in rows if len(row.cells) == len(columns)]
    roles = roles_by_position(columns, whole, told, path)
    return Opening(chosen, columns, roles, False, 0, chunk.line)


def _best_head(chunk: Chunk, path: Path) -> tuple[str, list[Record]]:
    """The separator that cuts most of the first lines alike, into the most cells."""
    heads = [_head(chunk, separator) for separator in SEPARATORS]
    best = max(heads, key=lambda head: _fit(head[1]))
    if _fit(best[1])[1] < 2:
        first = (
            chunk.content.lstrip(b"\r\n ")
            .split(b"\n")[0][:60]
            .decode(errors="replace")
            .rstrip("\r")
        )
        raise RatingsFileError(
            path, chunk.line, what=f"no separator found in {first!r}.",
            fix="Looked for ',' tab ';' '|' and '::'; name another with --separator (separator=).",
        )  # fmt: skip
    return best


def _head(chunk: Chunk, separator: str) -> tuple[str, list[Record]]:
    found: list[Record] = []
    try:
        for record in islice(records(chunk.content, chunk.line, separator), LOOKED_AT):
            found.append(record)
    except OpenQuoteError as open_quote:
        if not found:
            found.append(Record(open_quote.line, [], "a quote is opened and never closed.", 0))
    return separator, found


def _fit(rows: Sequence[Record]) -> tuple[float, int]:
    counts = Counter(len(row.cells) for row in rows if row.cells)
    if not counts:
        return 0.0, 0
    width, n = max(counts.items(), key=lambda item: (item[0] > 1, item[1]))
    return (n / counts.total() if width > 1 else 0.0), width
