"""Text files as people have them: every encoding, separator, packing, pipe and layout of times.

`MADE` is the table of them: name -> what the file holds -> the rows that it means.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
import re
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foretaste.data import times
from foretaste.data.reading import from_frame, read
from foretaste.data.reading.text import encodings, sources, streams
from foretaste.errors import ForetasteError

Row = tuple[str, str, float, int | None]  # user, item, value, seconds

START = 978_300_760
ROWS: list[Row] = [
    ("ann", "Alien", 5.0, START), ("ann", "Brazil", 3.5, START + 60), ("bob", "Alien", 1.0, START),
    ("cid", "Cube", 4.0, START + 7), ("cid", "Alien", 2.0, START + 9),
]  # fmt: skip
NUMBERS: list[Row] = [
    ("1", "10", 5.0, START), ("1", "20", 3.5, START + 60), ("2", "10", 1.0, START + 5)
]  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A file, and what a reader must find in it."""

    content: bytes
    rows: list[Row]
    name: str = "ratings.csv"
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def text_of(rows: list[Row], separator: str = ",", header: str = "user,item,rating,time") -> str:
    lines = [header.replace(",", separator)] if header else []
    for row in rows:
        cells = [f"{c:g}" if isinstance(c, float) else str(c) for c in row if c is not None]
        lines.append(separator.join(cells))
    return "".join(line + "\n" for line in lines)


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


# Texts of each script that the frequent characters in encodings.py were not chosen for.
SCRIPTS: dict[str, list[tuple[str, str]]] = {
    "latin-1": [("Zoë", "Les Misérables"), ("Jürgen", "Der Schuh des Manitu"), ("Inês", "Cidade")],
    "cp1252": [("Hélène", "Cléo de 5 à 7"), ("Sean", "The ‘Burbs’ – a director’s"), ("X", "€uro")],
    "cp1250": [("Małgorzata", "Wesele"), ("Krzyś", "Kingsajz i żółw"), ("Wojtek", "Miś")],
    "iso8859-2": [("Grzegorz", "Ścibor i śledź"), ("Kąty", "Łódź"), ("Święta", "Źródło")],
    "cp1251": [("Ольга", "Москва слезам не верит"), ("Юрий", "Служебный роман"), ("Max", "Брат")],
    "koi8-r": [("Ольга", "Москва слезам не верит"), ("Юрий", "Служебный роман"), ("Max", "Брат")],
    "cp1253": [("Ελένη", "Ο Θίασος"), ("Νίκος", "Στέλλα"), ("Kostas", "Κυνόδοντας")],
    "cp1254": [("Gülşah", "Kışın Işığı"), ("Ağah", "Yeşilçam"), ("Ömer", "Babam ve Oğlum")],
    "cp932": [("健二", "もののけ姫"), ("さくら", "千年女優"), ("Ken", "東京物語")],
    "euc_jp": [("健二", "もののけ姫"), ("さくら", "千年女優"), ("Ken", "東京物語")],
    "gb18030": [("陈晓明", "大红灯笼高高挂"), ("赵薇", "让子弹飞"), ("Li", "活着")],
    "big5": [("陳小春", "無間道"), ("蔡明亮", "愛情萬歲"), ("Li", "飲食男女")],
    "cp949": [("지영", "괴물"), ("서준", "아가씨"), ("Kim", "봄날은 간다")],
    "utf-16": [("健二", "もののけ姫"), ("Zoë", "Les Misérables")],
    "utf-16-le": [("健二", "もののけ姫"), ("Zoë", "Les Misérables")],
    "utf-16-be": [("健二", "もののけ姫"), ("Zoë", "Les Misérables")],
    "utf-32": [("健二", "もののけ姫"), ("Zoë", "Les Misérables")],
    "utf-32-le": [("健二", "もののけ姫"), ("Zoë", "Les Misérables")],
    "utf-32-be": [("健二", "もののけ姫"), ("Zoë", "Les Misérables")],
    "utf-8": [("健二", "もののけ姫"), ("Zoë", "Les Misérables")],
    "utf-8-sig": [("健二", "もののけ姫"), ("Zoë", "Les Misérables")],
}  # fmt: skip


def in_script(codec: str) -> list[Row]:
    names = SCRIPTS[codec]
    rows: list[Row] = [(u, i, float(1 + n % 5), START + n) for n, (u, i) in enumerate(names * 3)]
    return rows[: len(names)]


def encoded(codec: str) -> Made:
    content = text_of(in_script(codec)).encode(codec)
    plain = codec in ("utf-8", "utf-8-sig") or codec[:5] in ("utf-1", "utf-3")
    return Made(content, in_script(codec), note="" if plain else f"not UTF-8, so read as {codec}")


PLAIN = text_of(ROWS).encode()
HALF = len(PLAIN) // 2
ENCODED = {f"in {codec}": encoded(codec) for codec in SCRIPTS}
PACKED = {
    "gzip": Made(gzip.compress(PLAIN), ROWS, "ratings.csv.gz"),
    "gzip of two members": Made(
        gzip.compress(PLAIN[:HALF]) + gzip.compress(PLAIN[HALF:]), ROWS, "r.gz"
    ),
    "gzip with zeros behind it": Made(gzip.compress(PLAIN) + b"\0" * 512, ROWS, "ratings.csv.gz"),
    "bzip2": Made(bz2.compress(PLAIN), ROWS, "ratings.csv.bz2"),
    "bzip2 of two streams": Made(bz2.compress(PLAIN[:HALF]) + bz2.compress(PLAIN[HALF:]), ROWS),
    "xz": Made(lzma.compress(PLAIN), ROWS, "ratings.csv.xz"),
    "zstd": Made(streams.zstd.compress(PLAIN), ROWS, "ratings.csv.zst"),
    "zstd of two frames": Made(
        streams.zstd.compress(PLAIN[:HALF]) + streams.zstd.compress(PLAIN[HALF:]), ROWS
    ),
    "zip": Made(zipped({"ratings.csv": PLAIN}), ROWS, "ratings.zip"),
    "zip with a readme": Made(
        zipped({"data/": b"", "data/README.txt": b"read me", "data/ratings.csv": PLAIN,
                "__MACOSX/data/._ratings.csv": b"\0\5", ".DS_Store": b"\0"}), ROWS, "ratings.zip"
    ),
    "zip with a gzip file": Made(zipped({"ratings.csv.gz": gzip.compress(PLAIN)}), ROWS, "r.zip"),
    "gzip of cp1251": Made(
        gzip.compress(ENCODED["in cp1251"].content), ENCODED["in cp1251"].rows, "r.csv.gz"
    ),
}  # fmt: skip
SEPARATED = {
    "commas": Made(PLAIN, ROWS),
    "no header": Made(text_of(NUMBERS, header="").encode(), NUMBERS, note="no header"),
    "tabs": Made(text_of(ROWS, "\t").encode(), ROWS, "ratings.tsv"),
    "tabs and a stray quote": Made(
        b'user\titem\trating\ttitle\n1\t2\t3\t"Weird Al\n1\t3\t4\tB\n2\t2\t5\tThe "Burbs"\n'
        b'2\t4\t1\tC\n3\t2\t2\t12" Remix\n', [("1", "2", 3.0, None), ("1", "3", 4.0, None),
        ("2", "2", 5.0, None), ("2", "4", 1.0, None), ("3", "2", 2.0, None)], "r.tsv",
    ),
    "tabs and quoted cells": Made(
        b'user\titem\trating\ttitle\n"1"\t2\t3\t"Weird Al"\n1\t3\t4\t"A ""B"""\n2\t2\t5\t"a\tb"\n',
        [("1", "2", 3.0, None), ("1", "3", 4.0, None), ("2", "2", 5.0, None)], "r.tsv",
    ),
    "tabs and cells of two lines": Made(
        b'user\titem\trating\ttitle\n1\t2\t3\t"Weird\nAl"\n1\t3\t4\t"A"\n2\t2\t5\tb\n',
        [("1", "2", 3.0, None), ("1", "3", 4.0, None), ("2", "2", 5.0, None)], "r.tsv",
        note="1 further line of quoted cells",
    ),
    "semicolons": Made(text_of(ROWS, ";").encode(), ROWS),
    "sep= of Excel": Made(b"sep=;\r\n" + text_of(ROWS, ";").replace("\n", "\r\n").encode(), ROWS,
                          note="the first line names the separator"),
    "sep= in quotes, a tab": Made(b'"sep=\t"\n' + text_of(ROWS, "\t").encode(), ROWS),
    "SNAP": Made(
        b"# Directed graph: soc-Epinions1.txt\n# Nodes: 3 Edges: 3\n# FromNodeId\tToNodeId\n"
        b"0\t4\n0\t5\n1\t4\n",
        [("0", "4", 1.0, None), ("0", "5", 1.0, None), ("1", "4", 1.0, None)],
        "soc.txt", note="3 comment lines passed over",
    ),
    "KONECT": Made(
        b"% bip weighted\n% 3 2 2\n1 10 5 978300760\n1 20 3.5 978300820 \n2 10 1 978300765\n",
        NUMBERS, "out.movies", note="2 comment lines passed over",
    ),
    "KONECT with a tab": Made(
        b"% bip weighted\n1 10\t5 978300760\n1 20\t3.5 978300820\n2 10\t1 978300765\n", NUMBERS,
        "out.movies",
    ),
    "aligned columns": Made(
        b"  user   item  rating       time\n     1     10     5   978300760\n     1     20   3.5   "
        b"978300820\n     2     10     1   978300765\n", NUMBERS, "r.txt",
    ),
    "a header in a comment": Made(
        b"# made on Monday\n# time, user, item, rating\n978300760,ann,Alien,5\n", ROWS[:1],
        note="the columns are named in a comment",
    ),
    "a header in a comment, blanks": Made(
        b"% user item rating time\n1 10 5 978300760\n1 20 3.5 978300820\n2 10 1 978300765\n",
        NUMBERS, "r.txt", note="the columns are named in a comment",
    ),
    "comments between rows": Made(
        b"# user,item,rating,time\nann,Alien,5,978300760\n# half\nann,Brazil,3.5,978300820\n",
        ROWS[:2], note="2 comment lines passed over",
    ),
    "comments above a header": Made(b"# exported\n\n" + PLAIN, ROWS, note="1 comment line passed"),
    "ids with a hash": Made(
        b"#cats,5,3\n#dogs,5,4\nbirds,6,1\n",
        [("#cats", "5", 3.0, None), ("#dogs", "5", 4.0, None), ("birds", "6", 1.0, None)],
    ),
}  # fmt: skip
MADE = ENCODED | PACKED | SEPARATED

AT = 1_110_879_000  # 2005-03-15 09:30:00 UTC
LATER_AT = 1_112_347_805  # 2005-04-01 09:30:05 UTC
MIDNIGHT, APRIL = 1_110_844_800, 1_112_313_600
TIMES: dict[str, tuple[str, str, int, int, str]] = {  # two cells, their seconds, the note
    "ISO": ("2005-03-15T09:30:00Z", "2005-04-01 09:30:05", AT, LATER_AT, "ISO dates"),
    "ISO with a comma": ("2005-03-15 09:30:00,5", "2005-04-01 09:30:05,25", AT, LATER_AT, "ISO"),
    "PostgreSQL": ("2005-03-15 09:30:00+00", "2005-04-01 11:30:05.25+02", AT, LATER_AT, "ISO"),
    "Go": ("2005-03-15 09:30:00 +0000 UTC", "2005-04-01 11:30:05.5 +0200 CEST m=+0.01", AT,
           LATER_AT, "ISO"),
    "Java": ("2005-03-15T10:30:00+01:00[Europe/Berlin]", "2005-04-01T11:30:05+02:00[Europe/Paris]",
             AT, LATER_AT, "ISO"),
    "a named zone": ("2005-03-15 10:30:00 Europe/Berlin", "2005-04-01 11:30:05 Europe/Berlin", AT,
                     LATER_AT, "ISO"),
    "RFC 2822": ("Tue, 15 Mar 2005 09:30:00 +0000", "Fri, 1 Apr 2005 04:30:05 EST", AT, LATER_AT,
                 "RFC 2822"),
    "RFC 7231": ("Tue, 15 Mar 2005 09:30:00 GMT", "Fri, 01 Apr 2005 09:30:05 GMT", AT, LATER_AT,
                 "RFC 2822"),
    "day, month in words": ("15-Mar-2005", "1 April 2005", MIDNIGHT, APRIL, "RFC 2822"),
    "month in words": ("Mar 15, 2005", "April 1, 2005", MIDNIGHT, APRIL, "month in words"),
    "ctime": ("Tue Mar 15 09:30:00 2005", "Fri Apr  1 09:30:05 2005", AT, LATER_AT, "ctime"),
    "Twitter": ("Tue Mar 15 09:30:00 +0000 2005", "Fri Apr 01 09:30:05 +0000 2005", AT, LATER_AT,
                "ctime"),
    "year first": ("2005/03/15 09:30", "2005/4/1 9:30:05", AT, LATER_AT, "year first"),
    "Amazon": ("03 15, 2005", "04 1, 2005", MIDNIGHT, APRIL, "Amazon"),
    "points": ("15.03.2005 09:30", "1.4.2005 9:30:05", AT, LATER_AT, "the day first"),
    "day first": ("15/03/2005 09:30", "01/04/2005 09:30:05", AT, LATER_AT, "day-first"),
    "month first": ("3/15/2005 9:30 AM", "4/1/2005 9:30:05 AM", AT, LATER_AT, "month-first"),
    "day first, dashes": ("15-03-2005", "01-04-2005", MIDNIGHT, APRIL, "day-first"),
    "8 digits": ("20050315", "20050401", MIDNIGHT, APRIL, "dates of 8 digits"),
    "10 digits": ("2005031500", "2005040100", MIDNIGHT, APRIL, "dates of 10 digits"),
    "12 digits": ("200503150930", "200504010000", AT, APRIL, "dates of 12 digits"),
    "14 digits": ("20050315093000", "20050401093005", AT, LATER_AT, "dates of 14 digits"),
    "17 digits": ("20050315093000123", "20050401093005999", AT, LATER_AT, "dates of 17 digits"),
    "Excel": ("38426.39583", "38443", AT, APRIL, "days of Excel"),
}  # fmt: skip


def timed(first: str, second: str, separator: str = ";") -> bytes:
    rows = [("user", "item", "time"), ("1", "2", first), ("1", "3", second)]
    return "".join(separator.join(row) + "\n" for row in rows).encode()


for _name, (_first, _second, _at, _later, _note) in TIMES.items():
    MADE[f"times: {_name}"] = Made(
        timed(_first, _second), [("1", "2", 1.0, _at), ("1", "3", 1.0, _later)], note=_note
    )


def rows_of(ratings: Any) -> list[Row]:
    """The rows of a Dataset, ids as text, sorted."""
    frame = ratings.frame()
    times = (
        frame["time"].dt.timestamp("ms") // 1000 if "time" in frame.columns else [None] * len(frame)
    )
    users, items = frame["user"].cast(pl.String), frame["item"].cast(pl.String)
    return sorted(zip(users, items, frame["value"], times, strict=True), key=lambda row: row[:2])


def counted(notes: tuple[str, ...], what: str) -> int:
    """The number in the note about `what`."""
    found = [note for note in notes if f" {what}" in note]
    return sum(int(note.split()[0].replace(",", "")) for note in found)


def lines_accounted_for(ratings: Any) -> int:
    """How many lines of the file the report speaks of."""
    notes = ratings.report.notes
    headless = any(note.startswith(("no header", "the columns are named")) for note in notes)
    return (
        ratings.report.rows + (not headless) + counted(notes, "blank line")
        + counted(notes, "comment line") + counted(notes, "further line")
        + any(note.startswith("the first line names") for note in notes)
    )  # fmt: skip


def lines_in(content: bytes) -> int:
    return content.count(b"\n") + (not content.endswith(b"\n"))


@pytest.fixture
def write(tmp_path):
    def to_file(content: bytes, name: str = "ratings.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return to_file


def message(source: Any, **options: Any) -> str:
    """The text of the error, without the folder of the file."""
    with pytest.raises(ForetasteError) as caught:
        read(source, **options)
    return str(caught.value).replace(f"{Path(source).parent}{os.sep}", "")


@pytest.mark.parametrize("name", list(MADE))
def test_every_made_file_is_read_as_it_is_meant(write, name):
    made = MADE[name]
    ratings = read(write(made.content, made.name), **made.options)
    assert rows_of(ratings) == sorted(made.rows, key=lambda row: row[:2])
    assert any(made.note in note for note in ratings.report.notes)


@pytest.mark.parametrize("block", [1 << 20, 97])
@pytest.mark.parametrize("name", list(SEPARATED))
def test_every_line_of_a_made_file_is_accounted_for(write, monkeypatch, name, block):
    monkeypatch.setattr(sources, "BLOCK", block)
    made = SEPARATED[name]
    ratings = read(write(made.content, made.name), **made.options)
    assert lines_accounted_for(ratings) == lines_in(made.content)


# Pipes


COMMAND = [sys.executable, "-c", "from foretaste.cli import main; main()"]
LONG = text_of([(f"u{i % 90}", f"i{i // 90}", float(1 + i % 5), START + i) for i in range(9000)])


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [*COMMAND, *arguments]
    return subprocess.run(command, check=False, capture_output=True, timeout=120, **options)


@pytest.mark.parametrize("source", ["/dev/stdin", "-"])
@pytest.mark.parametrize("content", [LONG.encode(), gzip.compress(LONG.encode())])
def test_a_pipe_to_the_command_is_read_from_its_first_byte(source, content):
    found = run("check", source, "--json", input=content)
    assert found.returncode == 0, found.stderr
    assert b'"rows": 9000' in found.stdout


def test_an_empty_pipe_and_a_broken_one_are_errors_that_name_the_pipe():
    empty = run("check", "/dev/stdin", input=b"")
    assert empty.returncode == 1
    assert b"error: /dev/stdin: the file is empty." in empty.stderr
    broken = run("check", "/dev/stdin", input=b"user,item,rating\n1,2,x\n1,3,4\n")
    assert b"/dev/stdin:2: column 'rating': got 'x'." in broken.stderr
    assert b"foretaste-" not in broken.stderr


@pytest.mark.parametrize("name", ["in cp1251", "in utf-16", "zstd", "KONECT", "tabs"])
def test_a_fifo_is_read_like_the_file(tmp_path, name):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(MADE[name].content,))
    writer.start()
    ratings = read(path)
    writer.join()
    assert rows_of(ratings) == sorted(MADE[name].rows, key=lambda row: row[:2])
    assert ratings.report.source == str(path)
    assert ratings.name == "fifo"


def test_parquet_comes_through_a_pipe_and_out_of_an_archive(write, tmp_path):
    out = io.BytesIO()
    pl.DataFrame({"user": [1, 2], "item": [3, 4], "rating": [5.0, 1.0]}).write_parquet(out)
    whole = [("1", "3", 5.0, None), ("2", "4", 1.0, None)]
    for content in (gzip.compress(out.getvalue()), zipped({"r.parquet": out.getvalue()})):
        assert (
            rows_of(read(write(content, "r.parquet.gz" if content[0] == 31 else "r.zip"))) == whole
        )
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(out.getvalue(),))
    writer.start()
    assert rows_of(read(path)) == whole
    writer.join()


def test_a_device_is_refused():
    assert message("/dev/zero").endswith("this is a device. Give a file or a pipe.")
    assert message("/dev/null").endswith("the file is empty. Give a file with ratings.")


# Packed files


@pytest.mark.parametrize("name", [n for n in PACKED if "zeros" not in n])
def test_a_packed_file_that_is_cut_off_or_damaged_is_a_clear_error(write, name):
    made = PACKED[name]
    for content in (made.content[:-12], made.content[: len(made.content) // 2]):
        said = message(write(content, "packed"))
        assert "packed: the " in said
        assert "cut off" in said or "damaged" in said


def test_archives_with_several_tables_or_none_or_a_password_say_what_to_do(write):
    several = zipped({"ratings.csv": PLAIN, "movies.csv": PLAIN, "README.txt": b"x"})
    assert message(write(several, "r.zip")) == (
        "r.zip: the zip archive holds 2 files: ratings.csv, movies.csv. Unpack it (unzip) and name "
        "one of them."
    )
    assert "the zip archive holds no file." in message(write(zipped({}), "r.zip"))
    locked = bytearray(zipped({"ratings.csv": PLAIN}))
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    assert "the zip archive needs a password." in message(write(bytes(locked), "r.zip"))
    book = zipped({"[Content_Types].xml": b"", "xl/workbook.xml": b""})
    assert "this is not a whole Excel file" in message(write(book, "r.zip"))
    tar = b"ratings.csv".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 248
    assert "the file is a tar archive." in message(write(gzip.compress(tar), "r.tar.gz"))


def test_a_packed_bomb_is_bounded_in_memory(write, monkeypatch):
    monkeypatch.setattr(sources, "LONGEST_LINE", 1 << 20)
    path = write(gzip.compress(b"x" * (1 << 25)), "bomb.csv.gz")
    assert "the line is longer than 1 MiB." in message(path)


# Encodings


def test_an_encoding_that_cannot_be_told_asks_for_its_name(write):
    said = message(write("user,item\nיוסי,1\nלבנון,2\n".encode("cp1255")))  # Hebrew
    assert "ratings.csv:2: the text is not UTF-8, and its encoding cannot be judged." in said
    assert "Name it with --encoding (encoding=), for example --encoding " in said


@pytest.mark.parametrize(
    ("codec", "user", "item"),
    [("cp874", "สมชาย", "พี่มาก"), ("cp1255", "מרים", "לבנון"), ("cp1256", "محمد", "المومياء"),
     ("cp866", "Ольга", "Брат"), ("cp850", "José", "Amélie"), ("mac_roman", "José", "Amélie"),
     ("iso8859_5", "Ольга", "Брат")],
)  # fmt: skip
def test_an_encoding_that_is_not_looked_for_is_refused_and_can_be_named(write, codec, user, item):
    path = write(f"user,item\n{user},{item}\n".encode(codec))
    assert "its encoding cannot be judged" in message(path)
    assert rows_of(read(path, encoding=codec)) == [(user, item, 1.0, None)]


@pytest.mark.parametrize("codec", [c for c in SCRIPTS if not c.startswith("utf")])
def test_no_reading_by_a_guess_gives_control_characters_or_another_script(write, codec):
    """Each text alone: read as it is, or refused."""
    for user, item in SCRIPTS[codec]:
        if not (user + item).isascii():
            try:
                ratings = read(write(f"user,item,note\n{user},1,x\n{item},2,y\n".encode(codec)))
            except ForetasteError as error:
                assert "--encoding" in str(error)  # noqa: PT017 -- either outcome is right
            else:
                assert set(ratings.users.values.to_list()) == {user, item}


@pytest.mark.parametrize("codec", ["cp1251", "gb18030", "cp932", "euc_jp", "cp949", "latin-1"])
def test_a_line_of_utf_8_in_another_encoding_is_an_error_with_its_line(write, codec):
    rows = text_of(in_script(codec) * 30).encode(codec)
    other = "Привет,もののけ姫千年,3,978300760\n".encode()
    said = message(write(rows + other))
    assert f"ratings.csv:{lines_in(rows) + 1}: the file mixes UTF-8 with another encoding." in said


def test_a_late_line_in_another_encoding_than_the_guess_is_an_error_with_its_line(
    write, monkeypatch
):
    monkeypatch.setattr(sources, "LOOKED_AT", 64)
    monkeypatch.setattr(sources, "BLOCK", 128)
    rows = text_of(in_script("cp932") * 30).encode("cp932")
    said = message(write(rows + b"\xfd\xfe,1,3,978300760\n"))
    assert f"ratings.csv:{lines_in(rows) + 1}: the text is not cp932" in said


def test_a_named_encoding_is_taken_by_its_usual_name(write):
    for codec, asked in (("cp932", "Shift-JIS"), ("gb18030", "gbk"), ("cp949", "euc-kr")):
        ratings = read(write(text_of(in_script(codec)).encode(codec)), encoding=asked)
        assert ratings.report.encoding == codec
        assert rows_of(ratings) == sorted(in_script(codec), key=lambda row: row[:2])


def test_every_encoding_that_is_guessed_has_a_made_file():
    assert set(encodings.READINGS) <= set(SCRIPTS)


# Quotes: lines read and lines in the file agree, and rows are those of an independent reader


CELL = st.text(alphabet='ab1"', min_size=1, max_size=4)
TABLE = st.lists(
    st.lists(st.one_of(CELL, st.sampled_from(['"a"', '"a""b"', '"', '"a\nb"', "", "#x"])),
             min_size=2, max_size=3), min_size=1, max_size=8,
)  # fmt: skip


def independent(text: str, separator: str, quoted: bool) -> list[list[str]]:
    """Rows by Python's csv, or by hand where quotes do not count."""
    if quoted:
        return [
            row for row in csv.reader(io.StringIO(text), delimiter=separator, strict=True) if row
        ]
    return [line.split(separator) for line in text.split("\n") if line.strip(" ")]


@settings(max_examples=300, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(table=TABLE, separator=st.sampled_from([",", "\t", ";", "|", "::"]), blank=st.booleans())
def test_lines_read_and_lines_in_the_file_always_agree(tmp_path, table, separator, blank):
    lines = [separator.join(["user", "item"]), *(separator.join(row) for row in table)]
    text = ("\n\n" if blank else "\n").join([*lines, separator.join(["z", "z"])]) + "\n"
    path = tmp_path / "ratings.csv"
    path.write_bytes(text.encode())
    try:
        ratings = read(path, separator=separator, bad_rows="drop", duplicates="keep")
    except ForetasteError as error:
        assert "ratings.csv" in str(error) and '"' in text  # noqa: PT017, PT018 -- by a quote alone
        return
    assert lines_accounted_for(ratings) == lines_in(text.encode())
    quoted = len(separator) == 1 and (separator != "\t" or text_is_quoted(text))
    try:
        rows = independent(text, separator, quoted)
    except csv.Error:
        assert ratings.report.dropped > 0
        return
    assert ratings.report.rows == len(rows) - 1
    whole = [row for row in rows[1:] if len(row) == 2 and row[0].strip() and row[1].strip()]
    assert sorted((u, i) for u, i, *_ in rows_of(ratings)) == sorted(map(tuple, whole))


def text_is_quoted(text: str) -> bool:
    """Whether every quote at the start of a cell encloses it, or makes rows of equal width."""
    try:
        widths = {
            len(row) for row in csv.reader(io.StringIO(text), delimiter="\t", strict=True) if row
        }
    except csv.Error:
        return False
    starts = [c for line in text.split("\n") for c in line.split("\t") if c.startswith('"')]
    closed = [
        c
        for c in starts
        if len(c) > 1 and c.endswith('"') and not c[1:-1].replace('""', "").count('"')
    ]
    return bool(closed) and (len(closed) == len(starts) or len(widths) == 1)


@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_an_open_quote_is_an_error_with_its_line(write, separator):
    text = text_of(ROWS, separator) + f'"dan{separator}Alien{separator}3{separator}4\n' + "x\n" * 3
    assert message(write(text.encode()), separator=separator).startswith(
        "ratings.csv:7: a quote is opened here and never closed."
    )


# Times: one table of layouts, a file for each


def test_every_layout_of_times_has_a_file():
    for layout in times.LAYOUTS.values():
        assert any(
            re.search(layout.pattern.replace("(?<", "(?P<"), one[0]) for one in TIMES.values()
        )
        assert times.is_date(layout.example)


@pytest.mark.parametrize("name", list(TIMES))
def test_a_layout_of_times_is_known_without_a_header(write, name):
    first, second, at, later, _ = TIMES[name]
    if name in ("10 digits", "Excel"):
        return  # 2005031500 is a time by its size, and 38426.39583 could be a weight
    content = timed(first, second).split(b"\n", 1)[1]
    assert rows_of(read(write(content))) == [("1", "2", 1.0, at), ("1", "3", 1.0, later)]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [("01/02/2005", "03/04/2005", "every date could have the day first or the month. Choose with "
      "--time-format day-first or month-first (time_format=)."),
     ("15/02/2005", "02/15/2005", "some dates have the day first, and others the month. Choose"),
     ("38426", "38443", "numbers such as 38426 could be days of Excel or seconds since 1970. "
      "Choose with --time-format excel or --time-format seconds (time_format=).")],
)  # fmt: skip
def test_times_that_two_layouts_fit_are_asked_for(write, first, second, said):
    assert f"ratings.csv: column 'time': {said}" in message(write(timed(first, second)))


@pytest.mark.parametrize(
    ("cell", "asked", "seconds"),
    [("01/02/2005", "day-first", 1_107_216_000), ("01/02/2005", "month-first", 1_104_624_000),
     ("38426", "excel", MIDNIGHT), ("38426", "seconds", 38_426), ("20050315", "seconds", 20050315),
     ("15/3/05 9.30", "%d/%m/%y %H.%M", AT), ("2005", "%Y", 1_104_537_600), ("200503", "%Y%m",
      1_109_635_200), ("2005-03-15 10:30 +0100", "%Y-%m-%d %H:%M %z", AT), ("1", "milliseconds", 0),
     ("20050315", "%Y%m%d", MIDNIGHT)],
)  # fmt: skip
def test_a_format_of_times_can_be_given(write, cell, asked, seconds):
    ratings = read(write(timed(cell, cell)), time_format=asked)
    assert {row[3] for row in rows_of(ratings)} == {seconds}


def test_a_format_of_times_that_is_none_is_a_usage_error(write):
    said = message(write(timed("1", "2")), time_format="iso9000")
    assert said.startswith("time_format='iso9000'. Use seconds, milliseconds, microseconds, ")


@pytest.mark.parametrize("bad", ["20051399", "2005", "-1", "978300760", "20050315.5"])
def test_what_is_no_date_among_dates_of_digits_is_a_bad_row(write, bad):
    rows = "".join(f"1,{i},2005031{i}\n" for i in range(5))
    said = message(write(f"user,item,time\n{rows}1,9,{bad}\n".encode()))
    assert said.startswith("ratings.csv: 1 row cannot be read:")
    assert "ratings.csv:7: column 'time'" in said


@given(st.lists(st.integers(1, 10**8 - 1), min_size=4, max_size=40))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_numbers_that_are_no_dates_stay_seconds(numbers):
    frame = {"user": list(range(len(numbers))), "item": [1] * len(numbers), "time": numbers}
    digits = [f"{n:08d}" for n in numbers]
    dates = sum("1970" <= d[:4] <= "2100" and times.is_date(d) for d in digits)
    if dates * 2 < len(numbers) and not all(25_569 <= n < 73_415 for n in numbers):
        read_times = from_frame(frame).interactions.time_r
        assert read_times is not None
        assert sorted(read_times.tolist()) == sorted(n * 1000 for n in numbers)


# Values


def test_values_with_a_decimal_comma_are_read_and_said(write):
    ratings = read(write(b"user;item;rating\n1;2;4,5\n1;3;3\n1;4;1,125\n"))
    assert [row[2] for row in rows_of(ratings)] == [4.5, 3.0, 1.125]
    assert "values read with a decimal comma" in ratings.report.notes


@pytest.mark.parametrize("cells", [("1,234", "2,000"), ("4,5", "4.5"), ("4.5", "4,5")])
def test_a_comma_that_could_be_of_thousands_is_refused(write, cells):
    text = "user;item;rating\n" + "".join(f"1;{i};{cell}\n" for i, cell in enumerate(cells))
    assert "column 'rating': got '" in message(write(text.encode()))


def test_a_decimal_comma_after_values_with_points_is_refused(write, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 64)
    text = "user;item;rating\n" + "".join(f"1;{i};3.5\n" for i in range(99)) + "2;1;4,5\n"
    assert "ratings.csv:101: column 'rating': got '4,5'" in message(write(text.encode()))


# Mutations of every made file


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with one thing wrong with it."""
    n = len(content)
    at = int(rng.integers(0, n))
    end = min(n, at + int(rng.integers(1, 40)))
    insert = [b'"', b"\n", b"\0", b"\r", b",", b"\t", b" ", b"\xe9", "é".encode(), b"#", b"%",
              b"9", b"sep=;\n", b"\n# x\n", b'\n"\n', b"\xff\xfe", b"\xe6", b"\n\n"]  # fmt: skip
    kind = int(rng.integers(0, len(insert) + 5))
    if kind < len(insert):
        return content[:at] + insert[kind] + content[at:]
    lines = content.split(b"\n")
    line, other = (int(i) for i in rng.integers(0, len(lines), 2))
    if kind == len(insert):
        flipped = bytes([content[at] ^ (1 << int(rng.integers(0, 8)))])
        return content[:at] + flipped + content[at + 1 :]
    if kind == len(insert) + 1:
        return content[:at] + content[end:]
    if kind == len(insert) + 2:
        return content[:at] or b"x"
    if kind == len(insert) + 3:
        lines[line], lines[other] = lines[other], lines[line]
    else:
        lines.insert(line, lines[other])
    return b"\n".join(lines)


def unpacked(content: bytes) -> bytes | None:
    """What a packed file holds, by its libraries; None where that is not text in one layer."""
    readers = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7z": lzma.decompress,
               b"\x28\xb5": streams.zstd.decompress}  # fmt: skip
    if content.startswith(b"PK"):
        return None
    return next((f(content) for magic, f in readers.items() if content.startswith(magic)), content)


def mutate_and_read(path: Path, seed: int) -> bool:
    """Whether a mutated file is read; then each of its lines is accounted for, none made up."""
    rng = np.random.default_rng([13, seed])
    made = MADE[list(MADE)[seed % len(MADE)]]
    content = made.content
    for _ in range(int(rng.integers(1, 3))):
        content = mutated(content, rng)
    path.write_bytes(content)
    bad_rows = str(rng.choice(["error", "drop"]))
    try:
        ratings = read(path, bad_rows=bad_rows, duplicates="keep", **made.options)
    except ForetasteError as error:
        assert str(path) in str(error), f"seed {seed}: {error}"  # noqa: PT017 -- either is right
        return False
    text = unpacked(content)
    if text is not None:
        codec = ratings.report.encoding
        whole = text.decode("utf-8" if codec == "utf-8" else codec, errors="replace")
        assert lines_accounted_for(ratings) == lines_in(whole.encode()), f"seed {seed}"
        ids = [*ratings.users.values.cast(pl.String), *ratings.items.values.cast(pl.String)]
        bare = whole.replace('""', '"')
        assert all(i in bare for i in ids), f"seed {seed}: an id that is not in the file"
        controls = [i for i in ids if re.search("[\x80-\x9f]", i)]
        assert not controls or codec.startswith("utf"), f"seed {seed}: {controls}"
    left_out = ratings.report.dropped + ratings.report.unrated
    assert len(ratings) == ratings.report.rows - left_out, f"seed {seed}"
    return True


def test_a_chunk_of_zeros_before_dates_whose_order_shows_late_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 64)
    rows = [f"u{n},i{n},3,0" for n in range(12)] + [
        f"v{n},j{n},4,{n + 5}/03/2005" for n in range(20)
    ]
    path = tmp_path / "ratings.csv"
    path.write_text("user,item,rating,time\n" + "\n".join(rows) + "\n")
    times = read(path).frame()["time"].dt.strftime("%Y-%m-%d").to_list()
    assert times[:12] == ["1970-01-01"] * 12
    assert sorted(times[12:]) == [f"2005-03-{n + 5:02}" for n in range(20)]


@pytest.mark.parametrize("block", [1 << 20, 64])
def test_a_mutated_file_is_refused_or_every_line_of_it_is_accounted_for(
    tmp_path, monkeypatch, block
):
    monkeypatch.setattr(sources, "BLOCK", block)
    seeds = range(0, 400) if block == 64 else range(400, 800)
    outcomes = [mutate_and_read(tmp_path / "ratings.csv", seed) for seed in seeds]
    assert 50 < sum(outcomes) < 350


@pytest.mark.fuzz
def test_twenty_thousand_mutations_are_refused_or_accounted_for(tmp_path):
    outcomes = [mutate_and_read(tmp_path / "ratings.csv", seed) for seed in range(800, 20_800)]
    assert 2_000 < sum(outcomes) < 18_000


def test_a_chunk_of_numbers_among_dates_is_bad_rows(write, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 64)
    dates = "".join(f"1,{i},2005-03-15\n" for i in range(9))
    text = "user,item,time\n" + dates + "".join(f"2,{i},978300760\n" for i in range(9))
    assert "9 rows cannot be read" in message(write(text.encode()))
