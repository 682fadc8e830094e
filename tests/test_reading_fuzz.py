"""A thousand malformed files: a clear error, or what an independent, slow reader finds in them."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from foretaste.data.reading import read
from foretaste.data.reading.text import sources
from foretaste.errors import ForetasteError

FILES = 1_000
START = 978_300_760
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
TOO_LARGE = 2.0**128 - 2.0**103  # rounds to infinity in single precision
NAMES = {"userid", "itemid", "user", "item", "rating", "time", "timestamp"}
Row = tuple[str, str, float, int | None]

PLAIN = "user_id,item_id,rating,timestamp\n" + "".join(
    f"{u},{i},{(u * i) % 9 / 2 + 0.5},{START + 60 * u + i}\n"
    for u in range(1, 9)
    for i in range(1, 6)
)
NAMED = "user;item;rating;time;title\n" + "".join(
    f'ann{u};"sku {i}";{1 + (u + i) % 5};{START + u * i};"A ""great"" film; or é{i}"\r\n'
    for u in range(6)
    for i in range(6)
)
MOVIELENS = "".join(
    f"{u}::{i}::{1 + (u + i) % 5}::{START + u * i}\n" for u in range(1, 9) for i in range(1, 6)
)
GOOD = {",": PLAIN, ";": NAMED, "::": MOVIELENS}


class Malformed(Exception):
    """The oracle finds something that no reader may pass over."""


def cells_of(text: str, separator: str) -> list[list[str]]:  # noqa: PLR0912 -- one state machine
    """Rows of cells, character by character, by RFC 4180; no quotes where the separator is `::`."""
    rows, row, cell = [], [], ""
    at, quoted, after_quote, fresh = 0, False, False, True
    while at < len(text):
        here = text[at]
        if quoted:
            if text.startswith('""', at):
                cell, at = cell + '"', at + 2
                continue
            if here == '"':
                quoted, after_quote = False, True
            else:
                cell += here
        elif here == '"' and fresh and len(separator) == 1:
            quoted, fresh = True, False
        elif text.startswith(separator, at):
            row, cell, fresh, after_quote = [*row, cell], "", True, False
            at += len(separator)
            continue
        elif here == "\n" or (here == "\r" and text[at + 1 : at + 2] in ("\n", "")):
            at += len("\r\n") if text.startswith("\r\n", at) else 1
            if row or cell.strip(" ") or after_quote:
                rows.append([*row, cell])
            row, cell, fresh, after_quote = [], "", True, False
            continue
        elif here == "\r" or after_quote:
            raise Malformed("a carriage return, or text after a quote")
        else:
            cell, fresh = cell + here, False
        at += 1
    if quoted:
        raise Malformed("an open quote")
    if row or cell.strip(" ") or after_quote:
        rows.append([*row, cell])
    return rows


def number(cell: str) -> float:
    value = float(cell) if NUMBER.fullmatch(cell) else math.inf
    if abs(value) >= TOO_LARGE:
        raise Malformed("no number")
    return value


def oracle(content: bytes, separator: str) -> list[Row]:
    """What a reader must find, ids as text; Malformed where it must refuse."""
    if b"\0" in content:
        raise Malformed("a NUL byte")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    rows = cells_of(text, separator)
    names = ["user", "item", "rating", "time"][: len(rows[0])] if rows else []
    first = [re.sub(r"[\W_]", "", cell.lower()) for cell in rows[0]] if rows else []
    if NAMES & set(first):
        names = first
        rows.pop(0)
    kept: list[Row] = []
    for row in rows:
        if len(row) != len(names) or not row[0].strip() or not row[1].strip():
            raise Malformed("a ragged row or an empty id")
        cell = dict(zip(names, row, strict=True))
        times = [cell[name] for name in ("time", "timestamp") if name in cell]
        value = number(cell["rating"]) if "rating" in cell else 1.0
        kept.append((row[0], row[1], value, int(number(times[0]) * 1000) if times else None))
    return kept


def as_text(rows: list[Row]) -> dict[tuple[str, str], tuple[float, int | None]]:
    """(user, item) -> value and time, the last in time winning."""
    last: dict[tuple[str, str], tuple[float, int | None]] = {}
    for user, item, value, time in rows:
        before = last.get((user, item), (0.0, None))[1]
        if before is None or time is None or time >= before:
            last[user, item] = (float(np.float32(value)), time)
    return last


def mutate(content: bytes, separator: str, rng: np.random.Generator) -> bytes:
    """The file with one thing wrong with it."""
    n = len(content)
    at = int(rng.integers(0, n))
    end = min(n, at + int(rng.integers(1, 60)))
    cut = separator.encode()
    lines = content.split(b"\n")
    line = int(rng.integers(0, len(lines)))
    other = bytes(rng.choice([b",", b";", b"\t", b"|", b"::", b" "]))
    kind = int(rng.integers(0, 18))
    insert = {
        0: b'"', 1: b"\n", 2: b"\0", 3: b"\r", 4: cut, 5: b" ", 6: b'"' + b"x" * 300_000,
        7: b"\xe9", 8: "é".encode(), 9: b"-", 10: b"e5",
    }  # fmt: skip
    if kind in insert:
        return content[:at] + insert[kind] + content[at:]
    if kind == 11:
        return (
            content[:at] + bytes([content[at] ^ (1 << int(rng.integers(0, 8)))]) + content[at + 1 :]
        )
    if kind == 12:
        return content[:at] + content[end:]
    if kind == 13:
        return content[:at] + content[at:end] + content[at:]
    if kind == 14:
        return content[:at]
    if kind == 15:
        lines[line] = lines[line].replace(cut, other)
        return b"\n".join(lines)
    if kind == 16:
        codec = str(rng.choice(["utf-16", "utf-16-le", "utf-8-sig", "latin-1", "utf-32"]))
        return content.decode(errors="replace").encode(codec, errors="replace")
    lines[line] = lines[line][: int(rng.integers(0, len(lines[line]) + 1))] + b"9" * 400
    return b"\n".join(lines)


def found(path, separator: str) -> tuple[dict, int]:
    ratings = read(path, separator=separator)
    frame = ratings.frame()
    timed = "time" in frame.columns
    rows = zip(
        frame["user"].cast(str), frame["item"].cast(str), frame["value"],
        frame["time"].dt.timestamp("ms") if timed else [None] * len(frame), strict=True,
    )  # fmt: skip
    return {(u, i): (v, t) for u, i, v, t in rows}, ratings.report.rows


@pytest.mark.parametrize("block", [1 << 20, 97])
def test_a_malformed_file_is_refused_or_read_as_the_oracle_reads_it(tmp_path, monkeypatch, block):
    monkeypatch.setattr(sources, "BLOCK", block)
    path = tmp_path / "ratings.csv"
    outcomes = {"refused": 0, "read": 0}
    for seed in range(FILES // 2):
        rng = np.random.default_rng([block, seed])
        separator = str(rng.choice(list(GOOD)))
        content = GOOD[separator].encode()
        for _ in range(int(rng.integers(1, 3))):
            content = mutate(content, separator, rng) or b"x"
        path.write_bytes(content)
        try:
            got, rows = found(path, separator)
        except ForetasteError as error:
            outcomes["refused"] += 1
            said = str(error)
        else:
            outcomes["read"] += 1
            if content[:4] == b"\xff\xfe\0\0":
                content = content.decode("utf-32").encode()
            elif content[:2] in (b"\xff\xfe", b"\xfe\xff"):
                content = content.decode("utf-16").encode()
            elif b"\0" in content[:2]:
                content = content.decode("utf-16-le").encode()
            expected = oracle(content, separator)
            assert (got, rows) == (as_text(expected), len(expected)), f"seed {seed}"
            continue
        assert str(path) in said, f"seed {seed}: {said}"
    assert min(outcomes.values()) > FILES // 20


@pytest.mark.parametrize("separator", list(GOOD))
def test_the_good_files_read_as_the_oracle_reads_them(tmp_path, separator):
    path = tmp_path / "ratings.csv"
    path.write_bytes(GOOD[separator].encode())
    expected = oracle(GOOD[separator].encode(), separator)
    assert found(path, separator) == (as_text(expected), len(expected))


def test_the_oracle_refuses_what_it_must():
    for row in ("1,2,3", "1,2,x,4", '"1"x,2,3,4', '1,"2,3,4', ",2,3,4", "1,2,nan,4", "1,2\r,3,4"):
        with pytest.raises(Malformed):
            oracle(f"{PLAIN}{row}\n".encode(), ",")
