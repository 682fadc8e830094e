"""Every kind of file and every layout of text: read as meant, refused by name, or an error."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.data.reading import from_frame, read
from foretaste.errors import DataError, ForetasteError, UsageError
from foretaste.recommending.filters import matching

T = 978_300_760  # seconds
Row = tuple[str, str, float, int | None]
ROWS: list[Row] = [
    ("007", "0108775015", 5.0, T), ("007", "x, y", 3.5, T + 60), ("b=2", "0108775015", 1.0, T + 5)
]  # fmt: skip
CLICKS: list[Row] = [(u, i, 1.0, None) for u, i in (("1", "5"), ("1", "7"), ("2", "5"))]
FRAME = pl.DataFrame(ROWS, schema=["user", "item", "rating", "ts"], orient="row")


@dataclass(frozen=True)
class Made:
    """A small file of a kind, and what must be found in it."""

    name: str
    content: bytes
    rows: list[Row]
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def flat_records() -> list[dict]:
    return [{"user": u, "item": i, "rating": v, "ts": t, "x": [1, {"y": 2}]} for u, i, v, t in ROWS]


def nested() -> list[dict]:
    return [
        {"reviewer": {"id": u, "name": "N"}, "product": {"asin": i}, "overall": v,
         "unixReviewTime": t, "helpful": [0, 1]}
        for u, i, v, t in ROWS
    ]  # fmt: skip


def in_memory(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def workbook(rows: Sequence[Sequence[object]], sheet: str = "ratings") -> bytes:
    """The smallest workbook that Excel would open: text inline, numbers as numbers."""

    def cell(value: object) -> str:
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        return f"<c><v>{value}</v></c>"

    body = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default '
        'Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet '
        f'name="{sheet}" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
        "</Relationships>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData>'
        "</worksheet>",
    }

    def write(buffer: io.BytesIO) -> None:
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in parts.items():
                archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{text}')

    return in_memory(write)


def jester() -> bytes:
    """Users x items; 99 is no rating, and the first column counts the ratings."""
    rows = [[7.5, 99, -3.25] + [99] * 9, [99, 1, 2] + [99] * 8 + [-9.5], [5] + [99] * 11]
    made = [",".join(map(str, [sum(c != 99 for c in row), *row])) for row in rows]
    return ("\n".join(made) + "\n").encode()


MIND = (
    "1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0\n"
    "2\tU91836\t11/12/2019 6:11:30 PM\t\tN20678-0 N39317-1 N58114-1\n"
    "3\tU13740\t11/13/2019 9:00:00 AM\tN55189 N42782\tN20678-1 N1-0\n"
)
AM, PM, LATER = 1573463158, 1573582290, 1573635600
MADE = {
    "json-lines": Made("a.jsonl", lines(*flat_records()), ROWS, note="JSON Lines"),
    "json-lines-nested": Made("a.data", lines(*nested()), ROWS),
    "json-lines-gz": Made("a.json.gz", gzip.compress(lines(*nested())), ROWS),
    "json-lines-utf16": Made("a.json", lines(*nested()).decode().encode("utf-16"), ROWS),
    "json-lines-of-users": Made("a.json", lines(
        {"user_id": 1, "events": [{"item": 5, "time": T}, {"item": 7, "time": T + 1}]},
        {"user_id": 2, "events": [{"item": 5, "time": T}]},
    ), [("1", "5", 1.0, T), ("1", "7", 1.0, T + 1), ("2", "5", 1.0, T)]),
    "json-lines-of-lists": Made("a.json", lines({"user": 1, "items": [5, 7]},
                                                {"user": 2, "items": [5]}), CLICKS),
    "json-array": Made("a.json", json.dumps(flat_records()).encode(), ROWS),
    "json-array-pretty": Made("a.json", json.dumps(nested(), indent=2).encode(), ROWS),
    "json-events": Made("a.json", json.dumps({"version": 2, "events": flat_records()}).encode(),
                        ROWS),
    "json-reviews-pretty": Made("a.json", json.dumps(
        {"users": [{"id": 1}], "tags": ["a"], "reviews": nested(), "n": 3}, indent=1).encode(),
        ROWS),
    "feather": Made("a.feather", in_memory(FRAME.write_ipc), ROWS, note="Arrow"),
    "arrow-stream": Made("a.arrows", in_memory(FRAME.write_ipc_stream), ROWS, note="Arrow stream"),
    "parquet": Made("a.anything", in_memory(FRAME.write_parquet), ROWS),
    "avro": Made("a.avro", in_memory(FRAME.write_avro), ROWS, note="Avro"),
    "excel": Made("a.xlsx", workbook([["user", "item", "rating", "ts"], *map(list, ROWS)]), ROWS,
                  note="Excel"),
    "wide": Made("a.csv", b'user,Alien,"Brazil, cut"\nann,5,\nbob,NA,3.5\n',
                 [("ann", "Alien", 5.0, None), ("bob", "Brazil, cut", 3.5, None)],
                 {"layout": "wide"}, "2 cells without a rating"),
    "wide-ids": Made("a.csv", b"user,10,20,30\n007,5,,1\n8,,4,\n9,,,2\n",
                     [("007", "10", 5.0, None), ("007", "30", 1.0, None), ("8", "20", 4.0, None),
                      ("9", "30", 2.0, None)], note="'wide'"),
    "wide-jester": Made("jester.csv", jester(), [
        ("1", "1", 7.5, None), ("1", "3", -3.25, None), ("2", "2", 1.0, None),
        ("2", "3", 2.0, None), ("2", "12", -9.5, None), ("3", "1", 5.0, None),
    ], note="99 stands for no rating"),
    "lists": Made("a.txt", b"1 5 7\n2 5\n", CLICKS, {"layout": "lists"}),
    "lists-guessed": Made("a.txt", b"0 5 6 7\n1 5\n2 9 1 8 3\n3 4 2\n4 4 1 8\n5 2 3 4 5 6\n", [
        (str(u), str(i), 1.0, None) for u, found in enumerate(
            [(5, 6, 7), (5,), (9, 1, 8, 3), (4, 2), (4, 1, 8), (2, 3, 4, 5, 6)]) for i in found
    ], note="'lists'"),
    "lists-counted": Made("a.dat", b"2 5 7\n1 5\n3 1 2 3\n0\n4 9 8 7 6\n1 4\n", [
        ("1", "5", 1.0, None), ("1", "7", 1.0, None), ("2", "5", 1.0, None),
        *(("3", i, 1.0, None) for i in "123"), *(("5", i, 1.0, None) for i in "9876"),
        ("6", "4", 1.0, None),
    ], {"layout": "lists"}, "first word of a line counts"),
    "lists-user-count": Made("a.dat", b"9 2 5 7\n8 1 5\n7 3 1 2 3\n6 0\n5 1 4\n", [
        ("9", "5", 1.0, None), ("9", "7", 1.0, None), ("8", "5", 1.0, None),
        *(("7", i, 1.0, None) for i in "123"), ("5", "4", 1.0, None),
    ], {"layout": "lists"}, "second word of a line counts"),
    "lists-rated": Made("a.svm", b"u1 5:4.5 7:3\nu2 5:1\nu3 1:2 2:2 3:2 4:2\nu4 1:5\nu5 2:3 3:3\n",
                        [("u1", "5", 4.5, None), ("u1", "7", 3.0, None), ("u2", "5", 1.0, None),
                         *(("u3", i, 2.0, None) for i in "1234"), ("u4", "1", 5.0, None),
                         ("u5", "2", 3.0, None), ("u5", "3", 3.0, None)]),
    "netflix": Made("combined_data_1.txt", b"1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n2:\n"
                    b"885013,4,2005-10-19\n3:\n", [
                        ("1488844", "1", 3.0, 1125964800), ("822109", "1", 5.0, 1115942400),
                        ("885013", "2", 4.0, 1129680000)], note="'netflix'"),
    "netflix-probe": Made("probe.txt", b"5:\n1\n2\n7:\n1\n",
                          [("1", "5", 1.0, None), ("2", "5", 1.0, None), ("1", "7", 1.0, None)]),
    "sessions": Made("a.csv", b"5,7\n5\n", [("1", "5", 1.0, None), ("1", "7", 1.0, None),
                                            ("2", "5", 1.0, None)], {"layout": "sessions"}),
    "sessions-words": Made("a.txt", b"tea milk\r\n\r\nmilk jam\r\n", [
        ("1", "tea", 1.0, None), ("1", "milk", 1.0, None), ("3", "milk", 1.0, None),
        ("3", "jam", 1.0, None)], {"layout": "sessions"}),
    "mind": Made("behaviors.tsv", MIND.encode(), [
        ("U13740", "N55189", 1.0, AM), ("U13740", "N42782", 1.0, AM), ("U13740", "N55689", 1.0, AM),
        ("U13740", "N20678", 1.0, LATER), ("U91836", "N39317", 1.0, PM),
        ("U91836", "N58114", 1.0, PM)], note="3 impressions without a click left out"),
}  # fmt: skip


def found(ratings: ft.Dataset) -> list[Row]:
    """The rows of a Dataset, ids as text, times in seconds."""
    frame = ratings.frame()
    times = frame["time"].dt.timestamp("ms") // 1000 if "time" in frame.columns else [None] * len(
        frame
    )  # fmt: skip
    rows = zip(frame["user"].cast(str), frame["item"].cast(str), frame["value"], times, strict=True)
    return list(rows)


@pytest.fixture
def write(tmp_path) -> Callable[[str, bytes], Path]:
    def to_file(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return to_file


def message(call: Callable[[], object]) -> str:
    with pytest.raises(ForetasteError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("kind", MADE)
def test_every_kind_and_layout_is_read_as_it_was_made(write, kind):
    made = MADE[kind]
    ratings = read(write(made.name, made.content), **made.options)
    assert sorted(found(ratings)) == sorted(made.rows)
    assert ratings.report.rows == len(made.rows)
    assert made.note in "; ".join(ratings.report.notes)


@pytest.mark.parametrize("kind", ["lists-guessed", "sessions", "json-lines-of-lists", "mind"])
def test_the_order_of_a_layout_is_the_order_of_the_history(write, kind):
    made = MADE[kind]
    ratings = read(write(made.name, made.content), **made.options)
    for user in {row[0] for row in made.rows}:
        assert [r[1] for r in found(ratings) if r[0] == user] == [
            r[1] for r in made.rows if r[0] == user
        ]


# Refused by name


REFUSED = {
    "numpy": (b"\x93NUMPY\x01\x00v\x00{'descr'", "this is a NumPy array, which has no ids"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\x00\x00", "this is an HDF5 file"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00", "this is a pickle, which may run any code"),
    "rdata": (gzip.compress(b"RDX3\nX\n\x00\x00\x00\x03"), "this is a file of R"),
    "rds": (gzip.compress(b"X\n\x00\x00\x00\x03\x00\x04\xff\n"), "this is a file of R"),
    "matlab": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "this is a MATLAB file"),
    "orc": (b"ORC\x08\x03\x10\x00", "this is an ORC file"),
    "feather-1": (b"FEA1\x00\x00\x00\x00", "this is a file of Feather's first version"),
    "duckdb": (b"\x11\x22\x33\x44\x55\x66\x77\x88DUCK\x40\x00", "this is a DuckDB database"),
    "html": (b"<!DOCTYPE html><html><head>", "this is a web page, not the file behind it"),
    "xml": (b'<?xml version="1.0"?><ratings/>', "this is XML"),
    "pdf": (b"%PDF-1.7\n", "this is a PDF"),
    "stata": (b"<stata_dta><header>", "this is a Stata file"),
    "json-arrays": (b"[1, 2, 5]\n[1, 3, 4]\n", "this entry of the array is no object"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_table_is_refused_by_its_own_name(write, kind):
    content, what = REFUSED[kind]
    said = message(lambda: read(write("ratings.bin", content)))
    assert what in said
    assert said.startswith(str(write("ratings.bin", content)))
    assert "no separator" not in said


@pytest.mark.parametrize("end", [".npy", "archive/data.pkl"])
def test_archives_that_are_no_archive_of_tables_are_refused_by_name(write, end):
    def archive(buffer: io.BytesIO) -> None:
        with zipfile.ZipFile(buffer, "w") as opened:
            opened.writestr(f"a{end}", "x")

    said = message(lambda: read(write("a.npz", in_memory(archive))))
    assert ("NumPy archive" if end == ".npy" else "PyTorch") in said


@pytest.mark.parametrize("kind", ["feather", "arrow-stream", "parquet", "avro", "excel"])
def test_a_file_of_columns_that_is_cut_off_says_so(write, kind):
    made = MADE[kind]
    said = message(lambda: read(write(made.name, made.content[: len(made.content) // 2])))
    assert "this is not a whole" in said or "the zip file is damaged" in said


BROKEN = {
    "a line": (b'{"user": 1, "item": 2}\n{"user": 1, "item"\n{"user": 2, "item": 2}\n', 2),
    "behind": (b'{"user": 1, "item": 2}\n{"user": 1, "item": 3} x\n', 2),
    "no object": (b'{"user": 1, "item": 2}\n\n[1, 2]\n', 3),
    "not a number": (b'{"user": 1, "item": 2, "rating": NaN}\n{"user": 1, "item": 3}\n', 1),
    "an array": (b'[\n {"user": 1, "item": 2},\n {"user": 1 "item": 3}\n]\n', 3),
    "an open array": (b'[\n {"user": 1, "item": 2},\n {"user": 1, "item": 3}\n', 4),
    "an entry": (b'[\n {"user": 1, "item": 2},\n 7\n]\n', 3),
    "behind an array": (b'[\n {"user": 1, "item": 2}\n]\n{"user": 1}\n', 4),
    "half of a character": (b'{"user": 1, "item": 2}\n{"user": 1, "item": "\\ud800"}\n', 2),
    "a list": (b'{"user": 1, "item": 2}\n{"user": 1, "item": [3]}\n', 2),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_json_is_an_error_with_its_line(write, kind):
    content, line = BROKEN[kind]
    path = write("a.json", content)
    assert f"{path}:{line}: " in message(lambda: read(path))
    if kind in ("a line", "behind", "no object", "half of a character", "a list"):
        report = read(path, bad_rows="drop").report
        assert (report.rows, report.dropped) == (content.strip().count(b"\n") + 1 - (
            b"\n\n" in content), 1)  # fmt: skip


def test_a_json_document_without_interactions_says_what_it_has(write):
    path = write("a.json", json.dumps({"users": [{"id": 1, "age": 3}], "n": 2}, indent=1).encode())
    said = message(lambda: read(path))
    assert "no array of records with the columns looked for, only users (id, age)." in said
    two = {"views": [{"user": 1, "item": 2}], "buys": [{"user": 1, "item": 2}]}
    said = message(lambda: read(write("b.json", json.dumps(two, indent=1).encode())))
    assert "b.json:9: both 'views' and 'buys' look like interactions." in said


def test_json_over_many_chunks_is_read_alike(write, monkeypatch):
    records = [{"user": f"ü{n % 7}", "item": n, "rating": n % 5 + 0.5} for n in range(500)]
    monkeypatch.setattr("foretaste.data.reading.text.sources.BLOCK", 97)
    for content in (lines(*records), json.dumps(records, indent=1).encode(),
                    json.dumps({"a": 1, "reviews": records}, indent=2).encode()):  # fmt: skip
        ratings = read(write("a.json", content))
        assert sorted(found(ratings)) == sorted(
            (r["user"], str(r["item"]), r["rating"], None) for r in records
        )


def test_a_folder_of_parquet_files_is_read_as_one(tmp_path):
    parts = tmp_path / "ratings"
    for year, rows in ((2019, FRAME[:1]), (2020, FRAME[1:])):
        (parts / f"year={year}").mkdir(parents=True)
        rows.write_parquet(parts / f"year={year}" / "part-0.parquet")
    for name in ("_SUCCESS", ".part-0.crc", "_temporary/0/part-9.parquet", "notes.txt"):
        (parts / name).parent.mkdir(parents=True, exist_ok=True)
        (parts / name).write_bytes(b"" if name == "_SUCCESS" else b"PAR1 left over")
    (parts / "notes.txt").write_text("about")
    ratings = read(parts)
    assert sorted(found(ratings)) == sorted(ROWS)
    assert ratings.name == "ratings"
    assert "2 Parquet files as one" in ratings.report.notes
    assert "columns not used: year" in ratings.report.notes
    (parts / "year=2020" / "part-1.parquet").write_bytes(b"PAR1 broken")
    assert "this is not a whole Parquet file" in message(lambda: read(parts))
    pl.DataFrame({"id": [1]}).write_parquet(parts / "year=2020" / "part-1.parquet")
    assert (
        "these Parquet files are not parts of one table: year=2019/part-0.parquet (user, item, "
        in (message(lambda: read(parts)))
    )
    (parts / "_delta_log").mkdir()
    assert "this is a Delta table, whose files do not all count" in message(lambda: read(parts))


def test_a_workbook_without_the_reader_for_it_says_what_to_install(write, monkeypatch):
    def missing(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'fastexcel'")

    monkeypatch.setattr(pl, "read_excel", missing)
    made = MADE["excel"]
    said = message(lambda: read(write(made.name, made.content)))
    assert "reading a workbook needs fastexcel. pip install 'foretaste[excel]'" in said


# Guesses


NORMAL = {
    "ratings": b"user,item,rating,timestamp\n1,2,5,978300760\n1,3,4,978300761\n2,2,1,978300762\n",
    "no header": b"1,2,5,978300760\n1,3,4,978300761\n2,2,1,978300762\n3,2,1,978300762\n4,2,1,9\n",
    "spaces of ids": b"1\t2\n1\t3\n2\t2\n3\t4\n5\t6\n",
    "tags": b"user\titem\tcount\n1\tA-1\t3\n2\tB-0\t4\n",
    "one number each": b"1::5::4::978300760\n2::5::4::978300761\n3::5::4::978300762\n",
}


@pytest.mark.parametrize("kind", NORMAL)
def test_a_plain_table_is_never_taken_for_another_layout(write, kind):
    guessed, given = (
        read(write("a.csv", NORMAL[kind]), layout=layout) for layout in (None, "table")
    )
    assert found(guessed) == found(given)
    assert guessed.report == given.report


def test_lists_that_could_be_either_ask_for_the_layout(write):
    path = write("a.csv", b"1,2,3,4\n10,11\n18,19,20,18,21\n3,2\n5,6,1\n1,9,8,7,6,5,4\n")
    said = message(lambda: read(path))
    assert "it is not clear whether a user comes first. Say --layout lists" in said
    assert len(read(path, layout="sessions", duplicates="keep")) == 23
    assert len(read(path, layout="lists")) == 16
    assert message(lambda: read(path, layout="list")).startswith("layout='list'. Use one of table")


def test_lines_that_do_not_fit_the_layout_are_errors_with_their_line(write):
    counted = write("a.txt", b"2 5 7\n1 5\n3 1 2 3\n1 9\n2 4 3\n" * 300 + b"3 1 2\n")
    said = message(lambda: read(counted, layout="lists"))
    assert f"{counted}:1501: the number of items is not the one that the line states." in said
    assert read(counted, layout="lists", bad_rows="drop").report.dropped == 1
    blocks = write("b.txt", b"1:\n5,3,2005-09-06\n6,3\n")
    assert f"{blocks}:3: the row has 2 cells where 3 belong." in message(lambda: read(blocks))
    said = message(lambda: read(write("c.txt", b"5,3,2005-09-06\n"), layout="netflix"))
    assert "the first line is not the id of an item and a colon" in said
    pairs = write("d.txt", MADE["lists-rated"].content * 200 + b"u1 5\n")
    said = message(lambda: read(pairs, layout="lists"))
    assert f"{pairs}:1001: an item is not written as item:rating." in said


# Tables of items


BOOKS = [("0108775015", "Emma", 1815), ("007", "Ü-Boot; drama", 1954), ("x-1", "Dune", 1965)]


def books(separator: str) -> str:
    rows = [separator.join(['"ISBN"', "title", '"Year-Of-Publication"'])]
    rows += [separator.join([f'"{i}"', f'"{title}"', str(year)]) for i, title, year in BOOKS]
    return "\r\n".join(rows) + "\r\n"


def multi_member(text: bytes) -> bytes:
    return gzip.compress(text[:50]) + gzip.compress(text[50:])


ITEMS = {
    "csv": ("a.csv", books(",").encode()),
    "semicolons in latin-1": ("a.csv", books(";").encode("latin-1")),
    "tab": ("a.tsv", books("\t").encode()),
    "json lines": ("a.jl", lines(*({"ISBN": i, "title": t, "Year-Of-Publication": y}
                                   for i, t, y in BOOKS))),
    "json array": ("a.json", json.dumps([{"title": t, "ISBN": i, "Year-Of-Publication": y}
                                         for i, t, y in BOOKS], indent=1).encode()),
    "multi-member gzip": ("a.csv.gz", multi_member(books(",").encode())),
    "json lines, multi-member gzip": ("a.gz", multi_member(lines(
        *({"ISBN": i, "title": t, "Year-Of-Publication": y} for i, t, y in BOOKS)))),
    "feather": ("a.feather", in_memory(pl.DataFrame(
        BOOKS, schema=["ISBN", "title", "Year-Of-Publication"], orient="row").write_ipc)),
    "excel": ("a.xlsx", workbook([["ISBN", "title", "Year-Of-Publication"], *map(list, BOOKS)])),
}  # fmt: skip
SOLD = from_frame({"user": ["a", "a", "b"], "item": ["0108775015", "007", "x-1"]})


@pytest.mark.parametrize("kind", ITEMS)
def test_a_table_of_items_is_read_like_ratings_and_its_ids_are_text(write, kind):
    table = ft.read_items(write(*ITEMS[kind]))
    assert table.columns[0] == "ISBN"
    assert set(table.rows()) >= {(i, t, y) for i, t, y in BOOKS} or set(
        table.select("ISBN", "title", "Year-Of-Publication").rows()
    ) == set(BOOKS)
    joined = SOLD.join_items(table)
    assert joined.item_table is not None
    assert joined.item_table["title"].null_count() == 0
    assert joined.report.notes == SOLD.report.notes


def test_a_code_with_leading_zeros_stays_text_in_any_column(write):
    table = ft.read_items(
        write("a.csv", b"id,zip,n,x,ok\n1,01234,3,2.50,true\n2,50000,,1e3,false\n")
    )
    assert table.rows() == [(1, "01234", 3, 2.5, True), (2, "50000", None, 1000.0, False)]


def test_a_join_that_loses_lines_says_how_many_and_shows_three_pairs():
    numbers = pl.DataFrame({"ISBN": [108775015, 7, 12, 13], "title": ["Emma", "U", "A", "B"]})
    more = from_frame({"user": ["a"] * 4, "item": ["0108775015", "007", "x-1", "12"]})
    joined = more.join_items(numbers)
    assert joined.report.notes[-1] == (
        "3 of 4 items have no line in the table of items, and 3 of 4 lines of it belong to no item "
        "here (ids: '007' here, '7' there; '0108775015' here, '108775015' there)"
    )
    assert joined.item_table is not None
    assert joined.item_table.filter(pl.col("title").is_not_null()).rows() == [("12", "A")]
    only = more.join_items(pl.DataFrame({"id": ["007"], "t": ["x"]}))
    assert only.report.notes[-1] == "3 of 4 items have no line in the table of items"
    full = pl.DataFrame({"id": [*more.items.values, "new"], "t": list("abcde")})
    note = more.join_items(full).report.notes[-1]
    assert note == "1 of 5 lines of the table of items belong to no item here"


def test_text_with_leading_zeros_is_no_integer_id():
    ratings = from_frame({"user": [1, 1], "item": [7, 8]})
    table = pl.DataFrame({"id": ["007", "8"], "t": ["a", "b"]})
    assert ratings.join_items(table).item_frame["t"].to_list() == [None, "b"]
    joined = ratings.join_items(pl.DataFrame({"id": [7.0, 8.5, None], "t": ["a", "b", "c"]}))
    assert joined.item_frame["t"].to_list() == ["a", None]
    with pytest.raises(UsageError, match="id '007' is no whole number as it is written"):
        joined.add_items(pl.DataFrame({"id": ["007"], "t": ["x"]}))


def test_a_wrong_line_of_a_table_of_items_is_an_error_with_its_line(write):
    path = write("a.csv", b"id,title\n1,A\n2\n")
    assert f"{path}:3: the row has 1 field where 2 belong." in message(lambda: ft.read_items(path))
    path = write("b.json", b'{"id": 1}\n{"id": 2\n')
    assert f"{path}:2: this is not JSON" in message(lambda: ft.read_items(path))


@pytest.mark.parametrize("where", [
    "Year-Of-Publication > 1990", "year = 1 AND Year-Of-Publication > 1", "release date = 'x'",
    "`release date` = 'x'", "[Year-Of-Publication] > 3",
])  # fmt: skip
def test_a_name_that_needs_quotes_is_shown_with_them(where):
    table = pl.DataFrame({"Year-Of-Publication": [1980, 1995], "release date": ["x", "y"]})
    name = "Year-Of-Publication" if "Year" in where else "release date"
    said = message(lambda: matching(where, table))
    assert said.endswith(f'Quote the name of this column: "{name}".')
    assert matching('"Year-Of-Publication" > 1990', table).tolist() == [False, True]


# Tables in memory


def _typed(dtype: Any) -> Any:
    return lambda cells: pl.Series(cells).cast(dtype)


COLUMNS = {  # role, cells as they come, cells as they are read
    "Int128 ids": ("user", pl.Series([1, 2, 3], dtype=pl.Int128), [1, 2, 3]),
    "Int128 ids too large for 64 bits": (
        "user", pl.Series([2**80, 2, 3], dtype=pl.Int128), [str(2**80), "2", "3"]),
    "UInt64 ids": (
        "item", pl.Series([2**63 + 1, 2, 3], dtype=pl.UInt64), [str(2**63 + 1), "2", "3"]),
    "decimal ids": ("item", pl.Series(["10", "2", "3"]).cast(pl.Decimal(20, 2)), [10, 2, 3]),
    "categories": ("user", pl.Series(["b", "a", "c"], dtype=pl.Categorical), ["b", "a", "c"]),
    "an Enum": (
        "item", pl.Series(["b", "a", "c"], dtype=pl.Enum(["a", "b", "c"])), ["b", "a", "c"]),
    "bytes": ("user", pl.Series([b"b", "ü".encode(), b"c"]), ["b", "ü", "c"]),
    "decimal values": ("rating", pl.Series(["4.5", "2", "3"]).cast(pl.Decimal(10, 1)), [4.5, 2, 3]),
    "Int128 values": ("rating", pl.Series([5, 4, 3], dtype=pl.Int128), [5, 4, 3]),
    "categories as values": (
        "rating", pl.Series(["4.5", "2", "3"], dtype=pl.Categorical), [4.5, 2, 3]),
    "Int128 times": ("time", pl.Series([T, T + 1, T + 2], dtype=pl.Int128), [T, T + 1, T + 2]),
    "dates": ("time", pl.Series([T // 86400] * 3).cast(pl.Date), [T // 86400 * 86400] * 3),
    "decimal times": ("time", pl.Series([str(T)] * 3).cast(pl.Decimal(20, 0)), [T] * 3),
}  # fmt: skip


def plain_frame() -> dict[str, Any]:
    return {"user": ["u1", "u2", "u3"], "item": ["i1", "i2", "i3"], "rating": [5.0, 4.0, 3.0],
            "time": [T, T, T]}  # fmt: skip


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_type_of_column_is_read(kind):
    role, column, expected = COLUMNS[kind]
    ratings = from_frame(plain_frame() | {role: column})
    place = ["user", "item", "rating", "time"].index(role)
    got: list[Any] = [row[place] for row in found(ratings)]
    assert sorted(got) == sorted(map(str, expected) if role in ("user", "item") else expected)


WRONG = {
    "lists": ("user", pl.Series([[1], [2], [3]])),
    "structs": ("item", pl.Series([{"a": 1}, {"a": 2}, {"a": 3}])),
    "objects": ("user", pl.Series([object()] * 3, dtype=pl.Object)),
    "fractions": ("item", pl.Series(["1.5", "2", "3"]).cast(pl.Decimal(10, 1))),
    "bytes that are no text": ("user", pl.Series([b"\xff", b"a", b"b"])),
    "durations": ("time", pl.Series([1, 2, 3]).cast(pl.Duration("ms"))),
    "times of day": ("time", pl.Series([1, 2, 3]).cast(pl.Time)),
    "truth": ("user", pl.Series([True, False, True])),
    "lists as values": ("rating", pl.Series([[1], [2], [3]])),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_type_that_cannot_be_read_is_an_error_that_names_the_column(kind):
    role, column = WRONG[kind]
    with pytest.raises(DataError, match=f"column '{role}'") as caught:
        from_frame(plain_frame() | {role: column})
    assert caught.value.fix


def _pandas_frames() -> dict[str, Any]:
    import pandas as pd
    import pyarrow as pa

    plain = pd.DataFrame(plain_frame())
    arrow = pa.table(plain_frame())
    return {
        "pandas": plain,
        "pandas, nullable": plain.convert_dtypes(),
        "pandas, categories": plain.astype({"user": "category", "item": "category"}),
        "pandas, Arrow": plain.convert_dtypes(dtype_backend="pyarrow"),
        "pandas, another index": plain.set_index(pd.Index([7, 7, 9])),
        "pandas columns": {name: plain[name] for name in plain},
        "Arrow": arrow,
        "Arrow, dictionary": arrow.set_column(0, "user", arrow["user"].dictionary_encode()),
        "Arrow, large_string": arrow.set_column(1, "item", arrow["item"].cast(pa.large_string())),
        "Arrow, string_view": arrow.set_column(1, "item", arrow["item"].cast(pa.string_view())),
        "Arrow, a batch": arrow.to_batches()[0],
        "Arrow, a reader": arrow.to_reader(),
        "lazy": pl.DataFrame(plain_frame()).lazy(),
    }


@pytest.mark.parametrize("kind", list(_pandas_frames()))
def test_every_kind_of_table_in_memory_is_read_alike(kind):
    rows = found(from_frame(_pandas_frames()[kind]))
    assert rows == found(from_frame(pl.DataFrame(plain_frame())))


def test_any_arrow_stream_and_a_relation_of_duckdb_are_tables():
    class Stream:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pl.DataFrame(plain_frame()).__arrow_c_stream__(requested_schema)

    expected = found(from_frame(plain_frame()))
    assert found(from_frame(Stream())) == expected
    duckdb = pytest.importorskip("duckdb")
    frame = pl.DataFrame(plain_frame())  # noqa: F841 -- DuckDB finds it by its name
    assert found(from_frame(duckdb.sql("select * from frame"))) == expected


def test_a_sparse_matrix_with_ids_is_a_table():
    from scipy import sparse

    cells = sparse.csr_array(np.array([[5.0, 0, 3.5], [0, 1.0, 0]]))
    ratings = from_frame(cells, users=["007", "b"], items=[10, 20, 30])
    assert found(ratings) == [("007", "10", 5.0, None), ("007", "30", 3.5, None),
                              ("b", "20", 1.0, None)]  # fmt: skip
    clicks = from_frame(cells.astype(bool), users=pl.Series(["a", "b"]), items=np.arange(3))
    assert not clicks.explicit
    for given in (cells, cells.toarray(), cells.tocoo()):
        with pytest.raises(UsageError, match=r"is a matrix, which has no ids. Give the ids"):
            from_frame(given)
    for users, items, what in (
        (["a"], [1, 2, 3], r"1 users for a matrix of shape \(2, 3\). Give 2, one for each row"),
        (["a", "b"], None, r"items=None. Give the ids of the matrix's axis 1"),
        ("ab", [1, 2, 3], r"users='ab'. Give the ids"),
        (["a", "a"], [1, 2, 3], "the users are not all different"),
    ):
        with pytest.raises(UsageError, match=what):
            from_frame(cells, users=users, items=items)
    with pytest.raises(UsageError, match="ndarray is not a sparse matrix"):
        from_frame(cells.toarray(), users=["a", "b"], items=[1, 2, 3])


def test_what_is_no_table_is_a_usage_error_that_says_what_to_give(tmp_path):
    import pandas as pd

    for column in (pd.Series([1, 2]), pl.Series([1, 2])):
        with pytest.raises(UsageError, match="Series is one column, not a table"):
            from_frame(column)
    for other in (3, "ratings.csv", [1, 2], None, object()):
        with pytest.raises(UsageError, match=r"is not a table. Give a polars, pandas or Arrow"):
            from_frame(other)
    for role in ("user", "item", "value", "time"):
        named: dict[str, Any] = {role: 0}
        with pytest.raises(UsageError, match=f"{role}=0 is no name of a column"):
            from_frame(plain_frame(), **named)
        with pytest.raises(UsageError, match=f"{role}=0 is no name of a column"):
            read(tmp_path / "a.csv", **named)


# Folders like MovieLens


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


def test_ratings_without_times_beside_films_without_genres_are_read(tmp_path):
    ratings = read(folder(
        tmp_path, ratings__csv="userId,movieId,rating\n1,10,4.5\n",
        movies__csv="movieId,title,studio\n10,Alien (1979),Fox\n",
    ))  # fmt: skip
    assert found(ratings) == [("1", "10", 4.5, None)]
    assert ratings.item_frame.rows(named=True) == [
        {"item": 10, "title": "Alien (1979)", "year": 1979, "studio": "Fox"}
    ]
    assert "movies.csv has no genres" in ratings.report.notes


def test_films_without_ids_leave_the_ratings_alone_with_a_note(tmp_path):
    ratings = read(folder(
        tmp_path, ratings__csv="userId,movieId,rating\n1,10,4.5\n", movies__csv="title\nAlien\n"
    ))  # fmt: skip
    assert ratings.item_table is None
    assert "movies.csv has no column movieId" in ratings.report.notes[-1]


@pytest.mark.parametrize(("name", "separator"), [("ratings.dat", "::"), ("u.data", "\t")])
def test_tables_with_other_columns_are_kept_with_a_note(tmp_path, name, separator):
    (tmp_path / name).write_text(separator.join(["1", "10", "5"]) + "\n")
    items, users = ("movies.dat", "users.dat") if separator == "::" else ("u.item", "u.user")
    inner = "::" if separator == "::" else "|"
    (tmp_path / items).write_text(inner.join(["10", "Alien (1979)"]) + "\n")
    (tmp_path / users).write_text(inner.join(["1", "F", "25"]) + "\n")
    ratings = read(tmp_path)
    assert found(ratings) == [("1", "10", 5.0, None)]
    assert ratings.item_frame["title"].to_list() == ["Alien (1979)"]
    assert ratings.user_frame.rows(named=True) == [{"user": 1, "column_2": "F", "column_3": "25"}]
    assert sum("columns where MovieLens has" in note for note in ratings.report.notes) == 2


def test_a_damaged_line_beside_the_ratings_is_still_an_error(tmp_path):
    folder(tmp_path, ratings__csv="userId,movieId,rating\n1,10,4.5\n",
           movies__csv="movieId,title,genres\n10,Alien (1979),Horror\n11,B\n")  # fmt: skip
    assert "movies.csv:3: the row has 2 fields where 3 belong" in message(lambda: read(tmp_path))


# Mutations


MUTATIONS, MANY = 400, 20_000
PIECES = (b"\n", b"\r", b"\0", b" ", b'"', b",", b":", b"::", b"\t", b"{", b"}", b"[", b"]",
          b"9" * 25, b"-", b"\xe9", "é".encode(), b"null", b"%", b"1e999", b"\xff\xfe",
          b"\\ud800")  # fmt: skip


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """The file with one thing wrong with it."""
    at, length = int(rng.integers(0, len(content) + 1)), int(rng.integers(1, 40))
    end = min(len(content), at + length)
    piece = PIECES[int(rng.integers(0, len(PIECES)))]
    choices = (
        content[:at] + piece + content[at:], content[:at] + content[end:], content[:at],
        content[:at] + content[at:end] + content[at:], content[:at] + piece + content[end:],
        content[:at] + bytes([int(rng.integers(0, 256))]) + content[at + 1 :],
    )  # fmt: skip
    return choices[int(rng.integers(0, len(choices)))]


def expected_rows(kind: str, content: bytes) -> int | None:
    """How many rows a plain reader counts, where that is simple to say; else None."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    filled = [line for line in text.split("\n") if line.strip()]
    if kind == "json-lines" and "\r" not in text and all(
        line.startswith("{") for line in filled
    ):  # fmt: skip
        return len(filled)
    if kind == "lists" and text.isascii() and not set(text) - set("0123456789 \n"):
        return sum(len(line.split()) - 1 for line in filled)
    return None


def check_mutations(path: Path, seeds: range) -> dict[str, int]:
    """Read files with faults; each is an error of ours, or all its rows count."""
    outcomes = {"refused": 0, "read": 0, "counted": 0}
    kinds = list(MADE)
    for seed in seeds:
        rng = np.random.default_rng([17, seed])
        kind = kinds[seed % len(kinds)]
        made = MADE[kind]
        content = made.content
        for _ in range(int(rng.integers(1, 3))):
            content = mutate(content, rng) or b"x"
        path.write_bytes(content)
        bad_rows = ("error", "drop")[int(rng.integers(0, 2))]
        ratings, said = None, ""
        try:
            ratings = read(path, bad_rows=bad_rows, **made.options)
        except ForetasteError as error:
            said = str(error)
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {kind}: {error!r}") from error
        if ratings is None:
            outcomes["refused"] += 1
            assert path.stem in said, f"seed {seed}, {kind}: {said}"
            continue
        report = ratings.report
        outcomes["read"] += 1
        left_out = report.merged + report.dropped + report.unrated
        assert report.rows == len(ratings) + left_out, f"seed {seed}, {kind}"
        expected = expected_rows(kind, content)
        if expected is not None:
            outcomes["counted"] += 1
            assert report.rows == expected, f"seed {seed}, {kind}: {content!r}"
    return outcomes


@pytest.mark.parametrize("block", [1 << 20, 37])
def test_a_file_with_a_fault_is_refused_or_all_its_rows_are_accounted_for(
    tmp_path, monkeypatch, block
):
    monkeypatch.setattr("foretaste.data.reading.text.sources.BLOCK", block)
    start = 0 if block > 37 else MUTATIONS
    outcomes = check_mutations(tmp_path / "mutated.bin", range(start, start + MUTATIONS))
    assert min(outcomes.values()) > 0


@pytest.mark.fuzz
def test_twenty_thousand_files_with_a_fault_are_refused_or_accounted_for(tmp_path):
    outcomes = check_mutations(tmp_path / "mutated.bin", range(10_000, 10_000 + MANY))
    assert min(outcomes.values()) > 100


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"])
def test_a_file_of_a_byte_order_mark_alone_has_no_row(write, mark):
    path = write("a.csv", mark)
    assert "there is no row in it" in message(lambda: read(path))
    assert message(lambda: ft.read_items(path)).startswith(str(path))
