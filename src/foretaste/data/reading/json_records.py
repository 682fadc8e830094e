"""JSON to cells: a record a line (JSON Lines), an array, or an array under a key of one object.

Every number stays as it is written, and keys inside each other are named `reviewer.id`. The module
does not know what a cell means: `casting.py` judges that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.reading.columns import KNOWN, NEEDED, plain
from foretaste.data.reading.text.delimited import Cells
from foretaste.data.reading.text.sources import Chunk
from foretaste.errors import DataError, RatingsFileError

OPENING = re.compile(rb'\s*(\{\s*["}]|\{\s*$|\[\s*[\[{\]]|\[\s*$)')
HEAD = 200  # records from which the names of columns are collected
ROWS = 20_000  # rows of a document that become cells at a time
NAMED = 8  # columns named in a message, at most
BLANKS = re.compile(r"[ \t\r\n]*")
ONE_A_LINE = "Write one record a line (JSON Lines), for example with jq -c '.KEY[]'."

Flat = dict[str, Any]  # names of columns to text, true, false, null, or a list
Row = tuple[int, Flat]  # the line that a record begins at, and the record
Part = tuple[list[Row], list[tuple[int, str]]]  # records, and line and fault of what is none


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


# Numbers stay text: 5.0 and 0.10 as they are written, and no limit on digits.
DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_no_constant)


def is_json(content: bytes) -> bool:
    """Return whether a text begins as JSON does: with an object, or an array of objects or arrays.

    Args:
        content: The first lines of the text, in UTF-8.
    """
    if OPENING.match(content):
        return True
    line = content.lstrip().partition(b"\n")[0]
    return line.startswith(b"[") and isinstance(_parsed(line)[0], list)


def json_chunks(
    first: Chunk, chunks: Iterator[Chunk], path: Path, fits: Callable[[Iterable[str]], bool]
) -> tuple[str, Iterator[Part]]:
    """Return what kind of JSON it is, and its records in parts, with line and fault of wrong ones.

    Args:
        first: The first chunk of the file.
        chunks: The other chunks.
        path: The file, for messages.
        fits: Returns whether columns of such names are those that are looked for.

    Raises:
        RatingsFileError: The JSON is broken, and it is not known where the next record begins.
    """
    lines = [line for line in islice(first.content.split(b"\n"), HEAD) if line.strip()][:2]
    found = [value for value, _ in map(_parsed, lines) if isinstance(value, dict)]
    if len(found) == 2 or (found and (len(lines) == 2 or _all_fit(found[0], fits))):
        return "JSON Lines", (_lines(chunk) for chunk in chain((first,), chunks))
    text = first.content.decode(errors="replace")
    return "one JSON document", _parts(_Document(path, chunks, fits, text, first.line).records())


def _all_fit(record: Mapping[str, Any], fits: Callable[[Iterable[str]], bool]) -> bool:
    return not _arrays(record) or any(map(fits, _exploded(record)))


def _parsed(line: bytes) -> tuple[Any, str]:
    """Return the value of a line, and what is wrong with it or ""."""
    try:
        text = line.decode().strip()
        value, end = DECODER.raw_decode(text)
    except UnicodeDecodeError as error:
        return None, f"byte 0x{line[error.start]:02x} is not UTF-8."
    except json.JSONDecodeError as error:
        return None, f"this is not JSON ({error.msg}, character {error.pos + 1})."
    except ValueError as error:
        return None, f"this is not JSON ({error})."
    except RecursionError:
        return None, "this is JSON of too many levels."
    if end < len(text):
        return None, f"there is text behind the JSON, at character {end + 1}."
    return value, ""


def _lines(chunk: Chunk) -> Part:
    """Return the records of JSON Lines, and line and fault of each line that has none."""
    rows: list[Row] = []
    wrong: list[tuple[int, str]] = []
    for line, text in enumerate(chunk.content.split(b"\n"), start=chunk.line):
        if not text.strip():
            continue
        value, fault = _parsed(text)
        if isinstance(value, dict):
            rows += [(line, one) for one in _exploded(value)]
        else:
            wrong.append((line, fault or "this is JSON, but no object."))
    return rows, wrong


def _parts(rows: Iterator[Row]) -> Iterator[Part]:
    while part := list(islice(rows, ROWS)):
        yield part, []


def _arrays(record: Mapping[str, Any]) -> list[str]:
    """Return the keys of a record under which there are arrays of objects."""
    return [
        key
        for key, value in record.items()
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
    ]


def flat(record: Mapping[str, Any], prefix: str = "") -> Flat:
    """Return a record without objects in objects: the id in reviewer is `reviewer.id`.

    Args:
        record: The record.
        prefix: What names begin with.
    """
    found: Flat = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _exploded(record: Mapping[str, Any]) -> list[Flat]:
    """Return the rows of a record: one, or one for each entry of the array that has the items."""
    if any(plain(key) in KNOWN["item"] for key in record):
        return [flat(record)]
    parts = _arrays(record)
    if len(parts) == 1:
        rest = flat({key: value for key, value in record.items() if key != parts[0]})
        rows = []
        for one in record[parts[0]]:
            own = flat(one)
            twice = {name: f"{parts[0]}.{name}" for name in own if name in rest}
            rows.append({**rest, **{twice.get(name, name): cell for name, cell in own.items()}})
        return rows
    lists = [
        key
        for key, value in record.items()
        if isinstance(value, list) and plain(key).removesuffix("s") in KNOWN["item"]
    ]
    if len(lists) == 1:
        rest = flat({key: value for key, value in record.items() if key != lists[0]})
        return [{**rest, lists[0].rstrip("sS"): one} for one in record[lists[0]] or [None]]
    return [flat(record)]


@dataclass
class _Document:
    """One JSON value over many lines, read in pieces of whole lines.

    Args:
        path: The file, for messages.
        chunks: What follows, in whole lines, so that no number and no text is cut.
        fits: Returns whether columns of such names are those that are looked for.
        text: What is read and not yet used.
        line: The line at which `text` begins.
    """

    path: Path
    chunks: Iterator[Chunk]
    fits: Callable[[Iterable[str]], bool]
    text: str
    line: int
    at: int = field(default=0, init=False)
    counted: int = field(default=0, init=False)  # line ends before here are part of `line`
    passed: list[str] = field(default_factory=list, init=False)

    def records(self) -> Iterator[Row]:
        """Yield the records of an array, or of the one array of an object that has interactions."""
        if self._next() == "[":
            for line, value in self._array():
                yield from self._rows(line, value)
        else:
            yield from self._object()
        if self._next():
            raise self._broken("there is text behind the end of the JSON document.", ONE_A_LINE)

    def _object(self) -> Iterator[Row]:
        self._take("{")
        chosen = ""
        while self._next() != "}":
            key = self._value()
            self._take(":")
            if self._next() == "[":
                for n, (line, value) in enumerate(self._array()):
                    row = flat(value) if isinstance(value, dict) else {}
                    fits = self.fits(row) if n == 0 else key == chosen
                    if n == 0 and fits and chosen:
                        what = f"both {chosen!r} and {key!r} look like interactions."
                        fix = "Write the one that is meant to a file."
                        raise RatingsFileError(self.path, line, what=what, fix=fix)
                    if fits:
                        chosen = str(key)
                        yield from self._rows(line, value)
                    elif n == 0:
                        self.passed.append(f"{key} ({', '.join(list(row)[:NAMED])})")
            else:
                self._value()
            if self._next() != "}":
                self._take(",")
        self._take("}")
        if not chosen:
            has = f", only {'; '.join(self.passed)}" if self.passed else ""
            raise DataError(
                f"this JSON document has no array of records with the columns looked for{has}.",
                where=self.path, fix=ONE_A_LINE,
            )  # fmt: skip

    def _array(self) -> Iterator[tuple[int, Any]]:
        """Yield the entries of an array, each with its line."""
        self._take("[")
        while self._next() != "]":
            line = self._here()
            yield line, self._value()
            if self._next() != "]":
                self._take(",")
        self._take("]")

    def _rows(self, line: int, value: Any) -> Iterator[Row]:
        if not isinstance(value, dict):
            what = "this entry of the array is no object."
            raise RatingsFileError(self.path, line, what=what, fix=ONE_A_LINE)
        yield from ((line, one) for one in _exploded(value))

    def _next(self) -> str:
        """Return the next character that is no blank; "" at the end."""
        while True:
            self.at = BLANKS.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text) or not self._more():
                return self.text[self.at : self.at + 1]

    def _take(self, wanted: str) -> None:
        found = self._next()
        if found != wanted:
            got = f"got {found!r}" if found else "the file ends"
            raise self._broken(f"this is not JSON ({got} where {wanted!r} belongs).", "Mend it.")
        self.at += 1

    def _value(self) -> Any:
        """Return the value that begins at the next character."""
        self._next()
        while True:
            try:
                value, self.at = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # No text is cut between two lines, so only an error at the end asks for more.
                if BLANKS.fullmatch(self.text, error.pos) and self._more():
                    continue
                self.at = max(self.at, error.pos)
                raise self._broken(f"this is not JSON ({error.msg}).", "Mend it.") from None
            except (ValueError, RecursionError) as error:
                fault = str(error) if isinstance(error, ValueError) else "too many levels"
                raise self._broken(f"this is not JSON ({fault}).", "Mend it.") from None
            return value

    def _here(self) -> int:
        """Return the line of the next character."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def _more(self) -> bool:
        """Read the next chunk, and forget what is used."""
        chunk = next(self.chunks, None)
        if chunk is None:
            return False
        self._here()
        self.text = self.text[self.at :] + chunk.content.decode(errors="replace")
        self.at = self.counted = 0
        return True

    def _broken(self, what: str, fix: str) -> RatingsFileError:
        return RatingsFileError(self.path, self._here(), what=what, fix=fix)


def json_names(rows: Sequence[Row]) -> list[str]:
    """Return the names of the columns of some records, each once, in the order of the file.

    Args:
        rows: The records.
    """
    return list(dict.fromkeys(name for _, row in rows[:HEAD] for name in row))


def by_last_key(names: Iterable[str], wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the columns by role, with `product.asin` named where no other column is the item.

    Args:
        names: The names of all columns.
        wanted: Name of the column by role; None to guess, "" for no such column.
    """
    chosen, names = dict(wanted), list(names)
    for role, known in KNOWN.items():
        if chosen.get(role) is None and not any(plain(name) in known for name in names):
            last = [n for n in names if plain(n.rpartition(".")[2]) in known - {"count", "score"}]
            if len(last) == 1:
                chosen[role] = last[0]
    return chosen


def fits_roles(wanted: Mapping[str, str | None]) -> Callable[[Iterable[str]], bool]:
    """Return what tells whether columns of some names have a user and an item.

    Args:
        wanted: Name of the column by role; None to guess.
    """

    def fits(names: Iterable[str]) -> bool:
        names = list(names)
        found = by_last_key(names, wanted)
        return all(
            found.get(role) in names
            if found.get(role)
            else any(plain(n) in KNOWN[role] for n in names)
            for role in NEEDED
        )

    return fits


def json_cells(part: Part, columns: Mapping[str, str]) -> Cells:
    """Return the cells of some records as text.

    Args:
        part: Records with their lines, and line and fault of what is none.
        columns: Name of the column by role.
    """
    rows, wrong = part[0], list(part[1])
    kept: dict[str, list[str | None]] = {role: [] for role in columns}
    lines: list[int] = []
    for line, row in rows:
        cells = {role: row.get(name) for role, name in columns.items()}
        fault = next((f for f in map(_fault, columns.values(), cells.values()) if f), "")
        if fault:
            wrong.append((line, fault))
            continue
        lines.append(line)
        for role, cell in cells.items():
            kept[role].append(_text(cell, role) or None)
    series = {role: pl.Series(role, cells, dtype=pl.String) for role, cells in kept.items()}
    return Cells(series, np.array(lines, int), np.arange(len(lines)), sorted(wrong))


def _fault(name: str, cell: Any) -> str:
    if isinstance(cell, list):
        return f"column {name!r} holds a list."
    if isinstance(cell, str) and not cell.isascii():
        half = any("\ud800" <= letter <= "\udfff" for letter in cell)
        return f"column {name!r} holds half of a character." if half else ""
    if isinstance(cell, str) and "\0" in cell:
        return f"column {name!r} holds a NUL character."
    return ""


def _text(cell: Any, role: str) -> str | None:
    """Return a cell as text; as a value true is 1 and false is 0."""
    if isinstance(cell, bool):
        return str(int(cell)) if role == "value" else str(cell).lower()
    return cell
