"""Cells of texts in layouts that are no table: lists, sessions, blocks and impressions.

Every reader goes from chunks of whole lines to cells, in the order of the file, which is the order
of a history where there are no times. The module does not guess a layout: the package does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from foretaste.data.reading.columns import is_number
from foretaste.data.reading.text.delimited import Cells
from foretaste.data.reading.text.sources import Chunk
from foretaste.errors import RatingsFileError

BLOCK = re.compile(r"\S+:\s*")
PAIR = re.compile(r"[^\s:]+:[+-]?\d+(\.\d+)?")
IMPRESSIONS = re.compile(r"\S+-[01]( \S+-[01])*")
MIND_TIME = "%m/%d/%Y %I:%M:%S %p"
Found = dict[str, list[str]]  # cells by role
LEAST_LINES = 5  # from which a layout, or a count in each line, is guessed


@dataclass
class Reading:
    """How one file of a layout is read.

    Args:
        columns: What stands for a column of the source, by role.
        cells: Makes cells of the chunks that follow the first.
        notes: What was assumed.
        counted: Returns what was found by the end, sentences.
    """

    columns: dict[str, str]
    cells: Callable[[Iterator[Chunk]], Iterator[Cells]]
    notes: list[str] = field(default_factory=list)
    counted: Callable[[], list[str]] = list


def text_lines(content: bytes) -> list[str]:
    """Return the lines of a text without their ends.

    Args:
        content: Whole lines in UTF-8.
    """
    text = content.decode(errors="replace")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _is_text(line: str) -> bool:
    return "\0" not in line and "\ufffd" not in line


def _by_line(
    first: Chunk, chunks: Iterator[Chunk], roles: Iterable[str],
    take: Callable[[int, str, Found], int | str],
) -> Iterator[Cells]:  # fmt: skip
    """Yield the cells of each chunk, line by line; blank lines are counted.

    Args:
        first: The first chunk.
        chunks: The chunks that follow it.
        roles: Which cells a line gives.
        take: Adds the cells of a line, by its number and text, and returns how many rows they are;
            or what is wrong with the line.
    """
    for chunk in chain((first,), chunks):
        found: Found = {role: [] for role in roles}
        lines: list[int] = []
        wrong: list[tuple[int, str]] = []
        blank = 0
        for line, text in enumerate(text_lines(chunk.content), start=chunk.line):
            if not text.strip():
                blank += 1
                continue
            taken = take(line, text, found)
            if isinstance(taken, str):
                wrong.append((line, taken))
            else:
                lines += [line] * taken
        series = {
            role: pl.Series(role, [cell or None for cell in cells], dtype=pl.String)
            for role, cells in found.items()
        }
        n = len(lines)
        yield Cells(series, np.asarray(lines, dtype=int), np.arange(n), wrong, blank)


# Lists and sessions


def lists(first: Chunk, path: Path, separator: str | None, layout: str) -> Reading:
    """Return how `user item item ...` is read, or sessions, whose user is the line.

    The number of items may stand first (then the user is the line) or behind the user, and items
    may have ratings, as in `user item:rating item:rating`.
    """
    filled = [line for line in text_lines(first.content) if line.strip()]
    separator = separator or separator_of(filled[:1_000])
    rows = [words_of(line, separator) for line in filled]
    place = count_place(rows) if layout == "lists" and len(rows) >= LEAST_LINES else 0
    skip = {0: 0 if layout == "sessions" else 1, 1: 1, 2: 2}[place]
    own = layout == "lists" and place != 1  # whether the user is in the line
    items = [word for row in rows for word in row[skip:]]
    pairs = sum(PAIR.fullmatch(word) is not None for word in items)
    valued = layout == "lists" and pairs > 0.5 * len(items)
    columns = {"user": "first word" if own else "number of the line", "item": "the other words"}
    columns |= {"value": "number behind the item"} if valued else {}
    alone = [0]

    def take(line: int, text: str, found: Found) -> int | str:
        words = words_of(text, separator)
        if not _is_text(text):
            return "this is not text."
        if place and (len(words) < place or words[place - 1] != str(len(words) - place)):
            return "the number of items is not the one that the line states."
        items = words[skip:]
        if valued and not all(map(PAIR.fullmatch, items)):
            return "an item is not written as item:rating."
        alone[0] += not items
        found["user"] += [words[0] if own else str(line)] * len(items)
        if valued:
            pairs = [item.split(":") for item in items]
            found["value"] += [value for _, value in pairs]
            items = [item for item, _ in pairs]
        found["item"] += items
        return len(items)

    def cells(chunks: Iterator[Chunk]) -> Iterator[Cells]:
        return _by_line(first, chunks, columns, take)

    notes = (
        [f"the {('first', 'second')[place - 1]} word of a line counts its items"] if place else []
    )
    return Reading(columns, cells, notes, lambda: _left_out(alone[0]))


def _left_out(n: int) -> list[str]:
    return [f"{n:,} users without an item left out"] if n else []


# Blocks under "item:"


def netflix(first: Chunk, path: Path, separator: str | None, layout: str) -> Reading:
    """Return how blocks are read: `item:`, and under it a line of user, rating and date for each.

    A line may also be the user alone, or user and date.
    """
    rows = [line for line in text_lines(first.content) if line.strip()]
    if not rows or not BLOCK.fullmatch(rows[0]):
        raise RatingsFileError(
            path, first.line, what="the first line is not the id of an item and a colon.",
            fix="This is not the layout netflix; name another, or none.",
        )  # fmt: skip
    separator = separator or ","
    inner = next((row.split(separator) for row in rows if not BLOCK.fullmatch(row)), [""])
    dated = len(inner) == 2 and not is_number(inner[1])
    roles = ["user", "time"] if dated else ["user", "value", "time"][: len(inner)]
    columns = {"user": "first cell", "item": "line above, with a colon"}
    columns |= {role: f"cell {n}" for n, role in enumerate(roles, start=1) if role != "user"}
    item, empty, used = "", 0, True

    def take(line: int, text: str, found: Found) -> int | str:
        nonlocal item, empty, used
        if BLOCK.fullmatch(text):
            empty += not used
            item, used = text.strip()[:-1], False
            return 0
        used = True
        row = text.split(separator)
        if len(row) != len(roles) or not _is_text(text):
            return f"the row has {len(row)} cells where {len(roles)} belong."
        found["item"].append(item)
        for role, cell in zip(roles, row, strict=True):
            found[role].append(cell)
        return 1

    def cells(chunks: Iterator[Chunk]) -> Iterator[Cells]:
        nonlocal empty
        yield from _by_line(first, chunks, columns, take)
        empty += not used

    return Reading(columns, cells, [], lambda: (
        [f"{empty:,} items without a rating left out"] if empty else []))  # fmt: skip


# Impressions of MIND


def mind(first: Chunk, path: Path, separator: str | None, layout: str) -> Reading:
    """Return how behaviors.tsv is read: the history of each user once, and what they clicked on."""
    columns = {"user": "column_2", "item": "column_4, column_5", "time": "column_3"}
    seen: set[str] = set()
    passed = [0, 0]

    def take(line: int, text: str, found: Found) -> int | str:
        row = text.split("\t")
        if not _is_text(text) or not is_impression(text):
            return "this is no line of id, user, time, history and clicks."
        past = [] if row[1] in seen else row[3].split()
        seen.add(row[1])
        shown = row[4].split()
        clicked = [word[:-2] for word in shown if word.endswith("-1")]
        passed[0] += len(shown) - len(clicked)
        passed[1] += len(past)
        items = past + clicked
        found["item"] += items
        found["user"] += [row[1]] * len(items)
        found["time"] += [row[2]] * len(items)
        return len(items)

    def cells(chunks: Iterator[Chunk]) -> Iterator[Cells]:
        for cut in _by_line(first, chunks, columns, take):
            cut.columns["time"] = cut.columns["time"].str.to_datetime(
                MIND_TIME, strict=False, time_unit="ms"
            )
            yield cut

    def counted() -> list[str]:
        what = ("impressions without a click left out",
                "clicks of histories got the time of the user's first impression")  # fmt: skip
        return [f"{n:,} {text}" for n, text in zip(passed, what, strict=True) if n]

    return Reading(columns, cells, [], counted)


# Judges of words


def is_impression(line: str) -> bool:
    """Return whether a line is one of MIND's behaviors.tsv.

    Args:
        line: The line.
    """
    cells = line.split("\t")
    return len(cells) == 5 and IMPRESSIONS.fullmatch(cells[4]) is not None


def separator_of(lines: list[str]) -> str:
    """Return what stands between the words of lists: what most of the lines have.

    Args:
        lines: Some lines.
    """
    return max("\t;|, ", key=lambda separator: sum(separator in line for line in lines))


def words_of(line: str, separator: str) -> list[str]:
    """Return the words of a line.

    Args:
        line: The line.
        separator: What stands between two words; a blank stands for several.
    """
    return line.split() if separator == " " else [w.strip() for w in line.split(separator)]


def count_place(rows: list[list[str]]) -> int:
    """Return where nearly all rows count the words behind: 1 first, 2 second, 0 nowhere.

    Args:
        rows: The words of some lines.
    """
    for place in (1, 2):
        right = sum(len(row) >= place and row[place - 1] == str(len(row) - place) for row in rows)
        if right > 0.9 * len(rows) and len(set(map(len, rows))) > 1:
            return place
    return 0
