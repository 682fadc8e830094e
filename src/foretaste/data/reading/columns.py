"""What a file looks like: its separator, its header, and which column has which role.

The module judges by the first lines and the names of columns; it does not know the other rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from foretaste.data.reading.delimited import OpenQuoteError, Record, records
from foretaste.data.reading.sources import Chunk
from foretaste.errors import DataError, RatingsFileError, UsageError

SEPARATORS = ("::", "\t", ";", "|", ",")
LOOKED_AT = 20  # lines from which separator and roles are guessed
NAMES = {
    "user": "user userid uid username customer customerid cid reviewer reviewerid member memberid "
            "account accountid visitor visitorid person personid client clientid buyer buyerid "
            "reader readerid listener listenerid player playerid",
    "item": "item itemid iid movie movieid mid film filmid sku asin product productid productcode "
            "stockcode book bookid isbn article articleid song songid track trackid artist "
            "artistid game gameid business businessid venue venueid poi poiid show showid anime "
            "animeid recipe recipeid content contentid",
    "value": "rating ratings rate stars star starrating score value overall bookrating userrating "
             "reviewscore count plays playcount weight quantity",
    "time": "timestamp time date datetime ts unixtime unixreviewtime reviewtime unixtimestamp "
            "timestampms createdat ratedat eventtime ratingtime ratingtimestamp invoicedate",
}  # fmt: skip
LIKES = {  # of true and false, where no column has the name of a rating
    "liked", "like", "isliked", "thumb", "thumbs", "thumbsup", "upvoted", "recommended",
    "isrecommended",
}  # fmt: skip
KNOWN = {role: frozenset(names.split()) for role, names in NAMES.items()}
OPTION = {"user": "user", "item": "item", "value": "rating", "time": "time"}  # --OPTION-column
NEEDED = ("user", "item")
TIME_SIZE = 10**8  # a number from here on is a time; as seconds it is March 1973
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")


@dataclass(frozen=True)
class Opening:
    """How a file begins.

    Args:
        separator: What stands between two cells.
        columns: The names of the columns; column_1, column_2 and so on without a header.
        roles: Name of the column by role: user, item, value and time.
        header: Whether the first row names the columns.
        start: The byte at which the rows begin.
        line: The line at which the rows begin.
    """

    separator: str
    columns: list[str]
    roles: dict[str, str]
    header: bool
    start: int
    line: int


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
        UsageError: The separator is not one ASCII character or "::".
        RatingsFileError: No separator is found, or the first line is broken.
        DataError: There is no row, or a role is not clear.
    """
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
    header = is_header(first.cells, wanted)
    if header:
        columns = [cell.strip() for cell in first.cells]
        roles = guess_roles(columns, wanted, path)
        line = chunk.line + chunk.content.count(b"\n", 0, first.end)
        return Opening(chosen, columns, roles, True, first.end, line)
    columns = [f"column_{i}" for i in range(1, len(first.cells) + 1)]
    whole = [row.cells for row in rows if len(row.cells) == len(columns)]
    roles = roles_by_position(columns, whole, wanted, path)
    return Opening(chosen, columns, roles, False, 0, chunk.line)


def _best_head(chunk: Chunk, path: Path) -> tuple[str, list[Record]]:
    """Return the separator that cuts the largest part of the first lines alike, and those lines."""
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
    """Return the separator and the first lines of a chunk as it cuts them."""
    found: list[Record] = []
    try:
        for record in islice(records(chunk.content, chunk.line, separator), LOOKED_AT):
            found.append(record)
    except OpenQuoteError as open_quote:
        if not found:
            found.append(Record(open_quote.line, [], "a quote is opened and never closed.", 0))
    return separator, found


def _fit(rows: Sequence[Record]) -> tuple[float, int]:
    """Return the share of rows that have the usual number of cells, and that number."""
    counts = Counter(len(row.cells) for row in rows if row.cells)
    if not counts:
        return 0.0, 0
    width, n = max(counts.items(), key=lambda item: (item[0] > 1, item[1]))
    return (n / counts.total() if width > 1 else 0.0), width


def plain(name: str) -> str:
    """Return the name of a column as names are compared.

    Args:
        name: A name: `User_ID` and the `user_id:token` of RecBole are both `userid`.
    """
    return re.sub(r"[\W_]", "", name.partition(":")[0].lower())


def is_header(cells: Sequence[str], wanted: Mapping[str, str | None]) -> bool:
    """Return whether a first row names columns: by a known name, or because it has no number.

    Args:
        cells: The cells of the row.
        wanted: Name of the column by role; a cell with such a name makes the row a header.
    """
    known = any(plain(cell) in names for cell in cells for names in KNOWN.values())
    given = any(cell.strip() == name for cell in cells for name in wanted.values() if name)
    return known or given or not any(is_number(cell) or DATE.fullmatch(cell) for cell in cells)


def is_number(cell: str) -> bool:
    """Return whether a cell is the text of a number.

    Args:
        cell: The text.
    """
    return NUMBER.fullmatch(cell) is not None


def guess_roles(
    columns: Sequence[str], wanted: Mapping[str, str | None], where: str | Path
) -> dict[str, str]:
    """Return the name of the column by role: user, item, and value and time where there are any.

    Args:
        columns: The names of all columns.
        wanted: Name of the column by role; None to guess, "" for no such column.
        where: The source, for messages.

    Raises:
        DataError: A role is not clear, or two roles name one column.
    """
    chosen: dict[str, str] = {}
    taken = {name for name in wanted.values() if name}
    for role, names in KNOWN.items():
        name = wanted.get(role)
        if name:
            if columns.count(name) != 1:
                what = "there is no column" if name not in columns else "there are several columns"
                raise _unclear(f"{what} {name!r}.", role, columns, where)
            chosen[role] = name
        elif name is None:
            fitting = [c for c in columns if plain(c) in names and c not in taken]
            if role == "value" and not fitting:
                fitting = [c for c in columns if plain(c) in LIKES and c not in taken]
            if len(fitting) > 1:
                either = " or ".join(repr(c) for c in fitting)
                raise _unclear(f"the {role} column could be {either}.", role, columns, where)
            if fitting:
                chosen[role] = fitting[0]
    for role in NEEDED:
        if role not in chosen:
            raise _unclear(f"no column is clearly the {role}.", role, columns, where)
    if len(set(chosen.values())) < len(chosen):
        raise DataError(f"two roles name one column: {chosen}.", where=where, fix="Name each once.")
    return chosen


def unused(columns: Sequence[str], roles: Mapping[str, str]) -> list[str]:
    """Return a note of the columns without a role, where a misspelt name shows; none without any.

    Args:
        columns: The names of all columns.
        roles: Name of the column by role.
    """
    left = [c for c in columns if c not in roles.values()]
    listed = ", ".join(left[:20]) + (", ..." if len(left) > 20 else "")
    return [f"columns not used: {listed}"] if left else []


def roles_by_position(
    columns: Sequence[str], rows: Sequence[Sequence[str]], wanted: Mapping[str, str | None],
    where: str | Path,
) -> dict[str, str]:  # fmt: skip
    """Return the name of the column by role for a file without a header.

    The order is user, item, value and time, or user, item and time where the third is a time.

    Args:
        columns: The names column_1, column_2 and so on.
        rows: Cells of the first rows.
        wanted: Name of the column by role; None to guess, "" for no such column.
        where: The source, for messages.

    Raises:
        DataError: There are more than four columns, or a role is not clear.
    """
    if any(wanted.values()) or len(columns) < len(NEEDED):
        return guess_roles(columns, wanted, where)
    if len(columns) > 4:
        first = ", ".join(f"{c} ({cell})" for c, cell in zip(columns, rows[0], strict=False))
        raise DataError(
            f"the file has no header and {len(columns)} columns: {first}.", where=where,
            fix="Name them with --user-column, --item-column and so on (Python: user=, item=).",
        )  # fmt: skip
    rest = [c for i, c in enumerate(columns) if i >= 2]
    times = [c for i, c in enumerate(columns) if i >= 2 and all(_is_time(row[i]) for row in rows)]
    order = ("value", "time")
    if times and rest and times[0] == rest[0] and len(times) < 2:
        order = ("time", "value")
    roles = dict(zip(("user", "item", *order), columns, strict=False))
    return {role: roles[role] for role in KNOWN if role in roles and wanted.get(role) != ""}


def _is_time(cell: str) -> bool:
    return DATE.fullmatch(cell) is not None or (is_number(cell) and float(cell) >= TIME_SIZE)


def _unclear(what: str, role: str, columns: Sequence[str], where: str | Path) -> DataError:
    listed = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    return DataError(
        f"{what} The columns are: {listed}.", where=where,
        fix=f"Name it with --{OPTION[role]}-column (Python: {role}=).",
    )  # fmt: skip
