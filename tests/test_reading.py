"""What reading promises: ids as given, values and times exact, and every error with its place."""

from __future__ import annotations

import gzip
import io
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from foretaste.data.reading import from_frame, read
from foretaste.data.reading.text import delimited, sources
from foretaste.errors import BadRowsError, DataError, ForetasteError, RatingsFileError, UsageError

HEADER = "user_id,item_id,rating,timestamp\n"
SECONDS = 978_300_760
ROWS = [("1", "10", 5.0, SECONDS), ("1", "20", 3.5, SECONDS + 60), ("2", "10", 1.0, SECONDS + 5)]
DAY_MS = 86_400_000


@pytest.fixture
def write(tmp_path):
    def to_file(content: str | bytes, name: str = "ratings.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def good(separator: str = ",", end: str = "\n", header: bool = True) -> str:
    rows = [[*HEADER.strip().split(",")]] if header else []
    rows += [[user, item, f"{value:g}", str(time)] for user, item, value, time in ROWS]
    return "".join(separator.join(row) + end for row in rows)


def table(ratings) -> list[tuple]:
    """Rows (user, item, value, seconds) in external ids."""
    frame = ratings.frame()
    times = (
        frame["time"].dt.timestamp("ms") // 1000 if "time" in frame.columns else [None] * len(frame)
    )
    return list(zip(frame["user"], frame["item"], frame["value"], times, strict=True))


def as_read(rows=ROWS, kind=int) -> list[tuple]:
    return [(kind(user), kind(item), value, time) for user, item, value, time in rows]


def message(source: str | Path, **options: Any) -> str:
    """The text of the error, without the folder of the file."""
    with pytest.raises(ForetasteError) as caught:
        read(source, **options)
    return str(caught.value).replace(f"{Path(source).parent}{os.sep}", "")


# Formats


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [True, False])
def test_every_separator_line_end_and_header_reads_alike(write, separator, end, header):
    ratings = read(write(good(separator, end, header)))
    assert table(ratings) == as_read()
    assert ratings.explicit
    assert ratings.report.rows == 3


def test_the_last_line_needs_no_line_end(write):
    assert table(read(write(good().rstrip("\n")))) == as_read()


def test_a_carriage_return_alone_may_end_the_file(write):
    assert table(read(write(good(end="\r\n").rstrip("\n")))) == as_read()


def test_blank_lines_are_passed_over_and_counted(write):
    lines = good().splitlines()
    ratings = read(write("\n\n" + lines[0] + "\n\n" + "\n  \n".join(lines[1:]) + "\n\n"))
    assert table(ratings) == as_read()
    assert "6 blank lines passed over" in ratings.report.notes


def test_a_header_is_seen_by_known_names_in_any_style(write):
    for header in ("userId,movieId,rating,timestamp", "reviewerID,asin,overall,unixReviewTime",
                   "user_id:token,item_id:token,rating:float,timestamp:float", "UID,SKU,Stars,TS",
                   "customer,product,score,date"):  # fmt: skip
        ratings = read(write(good().replace(HEADER.strip(), header)))
        assert table(ratings) == as_read()
        assert list(ratings.report.columns.values()) == header.split(",")


def test_columns_may_stand_in_any_order_among_others(write):
    text = "title,rating,item_id,note,user_id\nA film,4,10,,1\n,2,20,x,1\n"
    ratings = read(write(text))
    assert table(ratings) == [(1, 10, 4.0, None), (1, 20, 2.0, None)]


def test_columns_can_be_named(write):
    path = write("a,b,c,d\n1,10,5,3\n")
    ratings = read(path, user="b", item="a", value="d", time="c")
    assert table(ratings) == [(10, 1, 3.0, 5)]


def test_columns_without_a_header_can_be_named_by_position(write):
    ratings = read(write("5,1,10\n3,1,20\n"), user="column_2", item="column_3", value="column_1")
    assert table(ratings) == [(1, 10, 5.0, None), (1, 20, 3.0, None)]


def test_an_empty_name_leaves_a_column_out(write):
    ratings = read(write(good()), value="", time="")
    assert not ratings.explicit
    assert ratings.interactions.time_r is None


def test_without_values_there_are_clicks(write):
    ratings = read(write("user,item\na,x\nb,y\n"))
    assert not ratings.explicit
    assert table(ratings) == [("a", "x", 1.0, None), ("b", "y", 1.0, None)]


def test_a_third_column_of_times_is_no_rating(write):
    ratings = read(write(f"1,10,{SECONDS}\n2,20,{SECONDS}\n"))
    assert not ratings.explicit
    assert table(ratings)[0] == (1, 10, 1.0, SECONDS)


def test_quoted_cells_follow_rfc_4180(write):
    text = 'user,item,rating,note\n"a","x ""1"", y",5,"two\nlines"\n"b,c",z,"3",""\r\n'
    ratings = read(write(text))
    assert table(ratings) == [("a", 'x "1", y', 5.0, None), ("b,c", "z", 3.0, None)]


def test_plainly_quoted_cells_read_like_bare_ones(write):
    text = "\n".join(",".join(f'"{cell}"' for cell in row.split(",")) for row in good().split())
    assert table(read(write(text + "\n"))) == as_read()


def test_a_quote_inside_a_bare_cell_is_kept(write):
    assert table(read(write('user,item\n5" disk,a"b"\n'))) == [('5" disk', 'a"b"', 1.0, None)]


def test_a_quoted_cell_may_span_chunks(write, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 64)
    note = "\n".join("some words, more words" for _ in range(30))
    text = "user,item,note\n" + "".join(f'{u},{u + 1},"{note}"\n' for u in range(20))
    assert table(read(write(text))) == [(u, u + 1, 1.0, None) for u in range(20)]


def test_gzip_is_recognised_by_its_content(write):
    content = gzip.compress(good().encode())
    assert table(read(write(content, "ratings.csv.gz"))) == as_read()
    assert table(read(write(content, "ratings.csv"))) == as_read()


def test_parquet_keeps_types(tmp_path):
    path = tmp_path / "r.parquet"
    frame = pl.DataFrame({"user": ["07", "8"], "item": [1, 2], "rating": [4.5, 3.0]})
    frame.with_columns(time=pl.datetime(2015, 3, pl.col("item"), time_zone="UTC")).write_parquet(
        path
    )
    start = 1_425_168_000
    assert table(read(path)) == [("07", 1, 4.5, start), ("8", 2, 3.0, start + 86_400)]


# Encodings


def test_utf_8_with_and_without_a_mark(write):
    text = "user,item\nJosé,1\nZoë,2\n"
    for codec in ("utf-8", "utf-8-sig"):
        ratings = read(write(text.encode(codec)))
        assert [row[0] for row in table(ratings)] == ["José", "Zoë"]
        assert ratings.report.encoding == "utf-8"


def test_latin_1_is_read_and_said(write):
    ratings = read(write("user,item\nJosé,1\nZoë,2\n".encode("latin-1")))
    assert [row[0] for row in table(ratings)] == ["José", "Zoë"]
    assert ratings.report.encoding == "latin-1"
    assert "not UTF-8, so read as latin-1" in ratings.report.notes


def test_latin_1_late_in_a_long_file_is_found(write, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 64)
    text = "user,item\n" + "".join(f"u{i},{i}\n" for i in range(100)) + "José,7\n"
    ratings = read(write(text.encode("latin-1")))
    assert "José" in ratings.users.values.to_list()
    assert len(ratings) == 101


def test_utf_16_is_recognised_by_its_mark(write):
    ratings = read(write("user,item\nJosé,1\nŁ,2\n".encode("utf-16")))
    assert [row[0] for row in table(ratings)] == ["José", "Ł"]
    assert ratings.report.encoding == "utf-16"


def test_a_named_encoding_is_used(write):
    ratings = read(write("user,item\nпётр,1\n".encode("cp1251")), encoding="cp1251")
    assert table(ratings)[0][0] == "пётр"


def test_two_encodings_in_one_file_are_refused(write):
    path = write("user,item\nJosé,1\n".encode() + "Zoë,2\n".encode("latin-1"))
    assert message(path) == (
        "ratings.csv:3: the file mixes UTF-8 with another encoding. Mend it, or choose with "
        "--encoding (encoding='utf-8' or 'latin-1')."
    )
    dropped = read(path, encoding="utf-8", bad_rows="drop")
    assert dropped.report.dropped == 1


# Ids


@pytest.mark.parametrize(
    "ids", [["007", "7"], ["1.0", "2"], ["+1", "2"], ["-0", "0"], ["9223372036854775808", "1"],
            [" 1", "1"], ["1e3", "4"]],
)  # fmt: skip
def test_ids_that_are_no_canonical_integers_stay_text(write, ids):
    ratings = read(write("user,item\n" + "".join(f"{i},1\n" for i in ids)))
    assert sorted(ratings.users.values.to_list()) == sorted(ids)


def test_canonical_integers_are_integers(write):
    ids = [-(2**63), -5, 0, 7, 2**63 - 1]
    ratings = read(write("user,item\n" + "".join(f"{i},1\n" for i in ids)))
    assert ratings.users.values.to_list() == ids


def test_early_integers_turn_back_to_text_when_a_later_id_is_text(write, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 64)
    ids = [*map(str, range(50)), "x7", *map(str, range(100, 150))]
    ratings = read(write("user,item\n" + "".join(f"{i},1\n" for i in ids)))
    assert ratings.users.values.to_list() == sorted(ids)


def test_spaces_around_text_ids_are_kept_and_noted(write):
    ratings = read(write("user,item\n ann,x\nbob ,x\n"))
    assert ratings.users.values.to_list() == [" ann", "bob "]
    assert "2 user ids begin or end with a space; kept as they are" in ratings.report.notes


# Values and times


@pytest.mark.parametrize("text", ["4.5", "+4.5", "4.50", "45e-1", ".45e1", "0004.5"])
def test_a_number_may_be_written_in_many_ways(write, text):
    assert table(read(write(f"user,item,rating\n1,2,{text}\n")))[0][2] == 4.5


@pytest.mark.parametrize(
    "text", ["1,234", "nan", "inf", "-Infinity", "1e39", "four", "1_0", "4 ", "0x4"]
)
def test_what_is_no_finite_number_is_refused(write, text):
    assert message(write(f"user;item;rating\n1;2;3\n1;3;{text}\n")) == (
        "ratings.csv: 1 row cannot be read:\n"
        f"  ratings.csv:3: column 'rating': got {text!r}. Write a number such as 4.5, or name "
        "another column with --rating-column.\n"
        "Mend them, or pass --bad-rows drop (bad_rows='drop') to leave them out, counted."
    )


@pytest.mark.parametrize(
    ("text", "milliseconds", "unit"),
    [
        ("978300760", 978_300_760_000, "seconds"),
        ("978300760.25", 978_300_760_250, "seconds"),
        ("9.7830076e8", 978_300_760_000, "seconds"),
        ("-86400", -DAY_MS, "seconds"),
        ("978300760123", 978_300_760_123, "milliseconds"),
        ("978300760123456", 978_300_760_123, "microseconds"),
        ("978300760123456789", 978_300_760_123, "nanoseconds"),
        ("1970-01-02", DAY_MS, "ISO dates, UTC where no zone is given"),
        ("1970-01-02 00:00", DAY_MS, "ISO dates, UTC where no zone is given"),
        ("1970-01-02T01:30:00+01:30", DAY_MS, "ISO dates, UTC where no zone is given"),
        ("1970-01-01 22:30:00-0130", DAY_MS, "ISO dates, UTC where no zone is given"),
        ("1970-01-02T00:00:00.5Z", DAY_MS + 500, "ISO dates, UTC where no zone is given"),
        ("1970-01-02 00:00:00.123456 UTC", DAY_MS + 123, "ISO dates, UTC where no zone is given"),
    ],
)
def test_times_become_milliseconds_and_the_unit_is_noted(write, text, milliseconds, unit):
    ratings = read(write(f"user,item,time\n1,2,{text}\n"))
    times = ratings.interactions.time_r
    assert times is not None
    assert times.tolist() == [milliseconds]
    assert f"times read as {unit}" in ratings.report.notes


@pytest.mark.parametrize(
    "text",
    ["2015-02-30", "2015-13-01", "2015-01-01 24:00", "2015-01-01T10:60", "01/02/2015", "soon"],
)
def test_a_date_that_does_not_exist_is_refused(write, text):
    said = message(write(f"user,item,time\n1,2,2015-01-01\n1,3,{text}\n1,4,2015-01-03\n"))
    assert f"ratings.csv:3: column 'time': got {text!r}. Write seconds or milliseconds" in said


def test_two_units_of_time_in_one_column_are_refused(write):
    said = message(write("user,item,time\n1,2,978300760\n1,3,978300760123\n"))
    assert said == (
        "ratings.csv:3: column 'time': got 978300760123, which looks like milliseconds, but line 2 "
        "has seconds. Give all times in one unit."
    )


def test_two_units_of_time_far_apart_are_refused_with_their_lines(write, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 64)
    rows = "".join(f"1,{i},978300760\n" for i in range(100)) + "1,200,978300760123\n"
    assert message(write("user,item,time\n" + rows)).startswith("ratings.csv:102: column 'time'")


# Rows that cannot be read


def test_the_first_ten_bad_rows_are_named_with_the_total(write):
    path = write(HEADER + "".join(f"1,{i},{'x' if i % 2 else 4},5\n" for i in range(30)))
    with pytest.raises(BadRowsError) as caught:
        read(path)
    assert caught.value.total == 15
    assert [error.line for error in caught.value.errors] == [3 + 2 * i for i in range(10)]
    assert "... and 5 more" in str(caught.value)


def test_bad_rows_can_be_dropped_and_are_counted(write):
    text = HEADER + "1,10,5,1\n1,,4,2\n\n1,20,x,3\n1,30\n1,40,4,5,6\n2,50,3,7\n"
    ratings = read(write(text), bad_rows="drop")
    assert table(ratings) == [(1, 10, 5.0, 1), (2, 50, 3.0, 7)]
    assert (ratings.report.rows, ratings.report.dropped) == (6, 4)
    assert ratings.interactions.order_r.tolist() == [0, 5]


def test_each_kind_of_bad_row_has_its_text(write):
    bad = [
        "1,,4,2",
        "1,30",
        "1,40,4,5,6",
        "1,5\0,4,5",
        "1,5\r5,4,5",
        '"1"x,5,4,5',
        ",9,1,1",
        "7,8,,1",
    ]
    said = message(write(HEADER + "1,10,5,1\n" + "\n".join(bad) + "\n"))
    for line in (
        "ratings.csv:3: column 'item_id': the cell is empty. Give every row an item id.",
        "ratings.csv:4: the row has 2 fields where 4 belong.",
        "ratings.csv:5: the row has 5 fields where 4 belong.",
        "ratings.csv:6: the row holds a NUL byte.",
        "ratings.csv:7: the row holds a carriage return.",
        "ratings.csv:8: there is text after a closing quote.",
        "ratings.csv:9: column 'user_id': the cell is empty. Give every row a user id.",
        "ratings.csv:10: column 'rating': the cell is empty. Write a number such as 4.5",
    ):
        assert line in said


def test_a_row_with_two_bad_cells_counts_once(write):
    with pytest.raises(BadRowsError) as caught:
        read(write(HEADER + "1,,x,y\n1,2,3,4\n"))
    assert caught.value.total == 1


def test_nothing_left_after_dropping_is_an_error(write):
    said = message(write(HEADER + "1,2,x,4\n"), bad_rows="drop")
    assert said.startswith("ratings.csv: none of its 1 rows can be read; the first: ")


def test_a_quote_that_is_never_closed_names_its_line(write):
    text = 'user,item,note\n1,2,a\n3,4,"open\n' + "5,6,b\n" * 100
    assert message(write(text), bad_rows="drop") == (
        "ratings.csv:3: a quote is opened here and never closed. "
        'Close it, or write a quote inside a cell as "".'
    )


def test_short_and_long_rows_that_balance_are_still_found(write):
    said = message(write("user,item,note\n1,2\n3,4,,\n05,6,\n"))
    assert "ratings.csv:2: the row has 2 fields" in said
    assert "ratings.csv:3: the row has 4 fields" in said


# Columns that are not clear


def test_a_missing_role_lists_the_columns_and_the_option(write):
    assert message(write("who,what,rating\na,b,3\n")) == (
        "ratings.csv: no column is clearly the user. The columns are: who, what, rating. "
        "Name it with --user-column (Python: user=)."
    )


def test_an_ambiguous_role_lists_the_candidates(write):
    assert message(write("user_id,item_id,rating,score\n1,2,3,4\n")) == (
        "ratings.csv: the value column could be 'rating' or 'score'. The columns are: user_id, "
        "item_id, rating, score. Name it with --rating-column (Python: value=)."
    )


def test_a_named_column_must_exist(write):
    said = message(write(good()), user="uid")
    assert said.startswith(
        "ratings.csv: there is no column 'uid'. The columns are: user_id, item_id"
    )


def test_columns_without_a_role_are_noted(write):
    ratings = read(write("user,item,raiting\n1,2,3\n"))
    assert ratings.report.notes == ("columns not used: raiting",)


def test_one_column_alone_is_no_ratings_file(write):
    said = message(write("1\n2\n"), separator=",")
    assert said.startswith("ratings.csv: no column is clearly the user.")


def test_many_columns_without_a_header_must_be_named(write):
    said = message(write("1,2,3,4,5\n"))
    assert said.startswith(
        "ratings.csv: the file has no header and 5 columns: column_1 (1), column_2"
    )


def test_a_first_row_with_numbers_and_no_known_name_is_not_lost(write):
    ratings = read(write(f"A1B2,x9,5.0,{SECONDS}\nA1B3,x8,4.0,{SECONDS}\n"))
    assert len(ratings) == 2


def test_a_file_without_a_separator_says_what_was_looked_for(write):
    assert message(write("hello\nworld\n")) == (
        "ratings.csv:1: no separator found in 'hello'. Looked for ',' tab ';' '|' '::' and blanks; "
        "name another with --separator (separator=)."
    )


# Files that are no ratings


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"", "r.csv", "r.csv: the file is empty. Give a file with ratings."),
        (b"\n\n", "r.csv", "r.csv: there is no row in it. Give a file with ratings."),
        (HEADER.encode(), "r.csv", "r.csv: there is a header and no row below it."),
        (b"PK\x03\x04 zip", "r.csv", "r.csv: the zip file is damaged (File is not a zip file)."),
        (b"plain", "r.csv.gz", "r.csv.gz: the name ends in .gz but this is not a gzip file."),
        (b"\x1f\x8b" + b"junk" * 9, "r.csv", "r.csv: the gzip file is damaged ("),
        (b"junk", "r.parquet", "r.parquet: this is not a whole Parquet file ("),
        (b"PAR1 junk", "r.csv", "r.csv: this is not a whole Parquet file ("),
        (b"user,item\r1,2\r3,4\r", "r.csv", "r.csv:1: lines end in a bare carriage return."),
    ],
)
def test_what_holds_no_ratings_has_its_own_error(write, content, name, said):
    assert message(write(content, name)).startswith(said)


def test_a_truncated_gzip_is_an_error_even_where_its_rows_look_whole(write):
    content = gzip.compress((HEADER + "1,2,3,4\n" * 50_000).encode())
    said = message(write(content[:-20], "r.csv.gz"))
    assert said == "r.csv.gz: the gzip file is cut off before its end. Download or copy it again."


def test_a_missing_file_names_close_ones(write):
    path = write(good(), "ratings.csv")
    assert message(path.with_name("ratngs.csv")) == (
        "ratngs.csv: there is no such file. Did you mean ratings.csv?"
    )


def test_a_missing_folder_is_said(tmp_path):
    assert "There is no folder" in message(tmp_path / "no" / "ratings.csv")


def test_a_file_that_may_not_be_read_is_said(write, monkeypatch):
    path = write(good())

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read every file
    assert message(path) == "ratings.csv: you may not read this file. Change its permissions."


def test_wrong_options_are_usage_errors(write):
    path = write(good())
    options: dict[str, Any]
    for options in ({"bad_rows": "skip"}, {"duplicates": "first"}, {"separator": "ab"},
                    {"encoding": "klingon"}, {"query": "select 1"}):  # fmt: skip
        with pytest.raises(UsageError):
            read(path, **options)


def test_utf_16_without_a_mark_is_known_by_its_nul_bytes(write):
    ratings = read(write(good().encode("utf-16-le")))
    assert table(ratings) == as_read()
    assert ratings.report.encoding == "utf-16-le"


# Parquet and frames


def test_a_null_in_parquet_names_its_row(tmp_path):
    path = tmp_path / "r.parquet"
    pl.DataFrame({"user": [1, None], "item": [1, 2], "rating": [4.5, 3.0]}).write_parquet(path)
    assert (
        "r.parquet: column 'user': row 2: the cell is empty. Give every row a user id."
        in message(path)
    )


def test_float_ids_in_a_table_are_refused():
    with pytest.raises(DataError, match=r"column 'user' \(user\) holds Float64, such as 1\.0"):
        from_frame(pl.DataFrame({"user": [1.0], "item": [1]}))


def test_frames_of_polars_pandas_and_arrow_read_alike():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pl.DataFrame({"uid": [1, 1, 2], "sku": ["a", "b", "a"], "stars": [5.0, 3.0, 1.0]})
    columns = frame.to_dict(as_series=False)
    given = [frame, frame.lazy(), columns, frame.to_arrow(), pandas.DataFrame(columns)]
    for one in given:
        assert table(from_frame(one)) == [
            (1, "a", 5.0, None),
            (1, "b", 3.0, None),
            (2, "a", 1.0, None),
        ]


def test_a_frame_with_a_missing_value_names_its_row():
    with pytest.raises(BadRowsError, match=r"frame: column 'rating': row 2: got 'nan'"):
        from_frame(pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [1.0, float("nan")]}))


def test_what_is_no_table_is_refused():
    with pytest.raises(UsageError, match="int is not a table"):
        from_frame(7)


def test_datetime_columns_keep_their_moment():
    frame = pl.DataFrame({"user": [1], "item": [2], "time": ["1970-01-02T01:00:00+0100"]})
    moment = pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%S%z")
    for zone in ("UTC", "Asia/Tokyo"):
        ratings = from_frame(frame.with_columns(moment.dt.convert_time_zone(zone)))
        assert table(ratings)[0][3] == 86_400


# Databases


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table clicks (customer text, sku integer, stars real)")
        connection.executemany(
            "insert into clicks values (?, ?, ?)", [("a", 1, 5.0), ("b", 2, 3.0)]
        )
    connection.close()
    return path


def test_a_query_is_read(database):
    pytest.importorskip("connectorx")
    ratings = read(f"sqlite://{database}", query="select * from clicks")
    assert table(ratings) == [("a", 1, 5.0, None), ("b", 2, 3.0, None)]
    assert ratings.name == "shop"


def test_a_database_url_needs_a_query(database):
    with pytest.raises(UsageError, match="a database URL needs a query"):
        read(f"sqlite://{database}")


def test_a_failing_query_is_an_error(database):
    pytest.importorskip("connectorx")
    with pytest.raises(DataError, match="the query failed"):
        read(f"sqlite://{database}", query="select * from nothing")


def test_a_missing_database_is_not_created(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read(f"sqlite://{tmp_path}/none.db", query="select 1")
    assert not list(tmp_path.iterdir())


def test_without_connectorx_the_extra_is_named(database, monkeypatch):
    monkeypatch.setitem(sys.modules, "connectorx", None)
    with pytest.raises(DataError, match=r"pip install 'foretaste\[sql\]'"):
        read(f"sqlite://{database}", query="select * from clicks")


def test_a_password_never_shows(monkeypatch):
    pytest.importorskip("connectorx")
    url = "postgresql://ann:s3cr%21t@127.0.0.1:1/db?connect_timeout=1&sslpassword=hush"

    def fail(_query, uri, **_options):
        raise RuntimeError(f"cannot connect to {uri} as ann with s3cr!t and hush")

    monkeypatch.setattr(pl, "read_database_uri", fail)
    with pytest.raises(DataError) as caught:
        read(url, query="select 1")
    said = repr(caught.value) + str(caught.value) + str(caught.value.__dict__)
    assert not any(secret in said for secret in ("s3cr", "hush"))
    assert caught.value.__suppress_context__


def test_web_addresses_are_refused():
    with pytest.raises(UsageError, match="Download the file first"):
        read("https://example.org/ratings.csv")


# Layouts


def test_movielens_100k_is_recognised_with_its_tables(tmp_path):
    (tmp_path / "u.data").write_text("1\t1\t5\t881250949\n2\t2\t3\t881250950\n")
    flags = {1: [3, 4], 2: [0]}
    films = [
        f"{i}|{title}|01-Jan-1995||url|" + "|".join(str(int(g in flags[i])) for g in range(19))
        for i, title in ((1, "Café (1995)"), (2, "unknown"))
    ]
    (tmp_path / "u.item").write_text("\n".join(films) + "\n", encoding="latin-1")
    (tmp_path / "u.user").write_text("1|24|M|technician|05711\n2|53|F|other|94043\n")
    for source in (tmp_path, tmp_path / "u.data"):
        ratings = read(source)
        assert ratings.item_table is not None
        assert ratings.item_table.rows() == [
            (1, "Café (1995)", 1995, "Animation|Children's"), (2, "unknown", None, "unknown"),
        ]  # fmt: skip
        assert ratings.user_table is not None
        assert ratings.user_table.rows()[0] == (1, 24, "M", "technician", "05711")


def test_movielens_1m_is_recognised_with_its_tables(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::10::5::978300760\n")
    (tmp_path / "movies.dat").write_bytes("10::Élan (1990)::Drama|War\n".encode("latin-1"))
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n")
    ratings = read(tmp_path)
    assert ratings.name == tmp_path.name
    assert ratings.item_table is not None
    assert ratings.item_table.rows() == [(10, "Élan (1990)", 1990, "Drama|War")]
    assert ratings.user_table is not None
    assert ratings.user_table.columns == ["user", "age", "gender", "occupation", "zip"]


def test_movielens_latest_is_recognised_with_its_tables(tmp_path):
    (tmp_path / "ratings.csv").write_bytes(
        b"userId,movieId,rating,timestamp\r\n1,10,4.5,978300760\r\n"
    )
    (tmp_path / "movies.csv").write_bytes(
        b'movieId,title,genres\r\n10,"Film, A (1990)",(no genres listed)\r\n'
    )
    ratings = read(tmp_path)
    assert ratings.item_table is not None
    assert ratings.item_table.rows() == [(10, "Film, A (1990)", 1990, None)]


def test_a_broken_table_beside_the_ratings_names_its_line(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::10::5::978300760\n")
    (tmp_path / "movies.dat").write_text("10::A (1990)::Drama\n11::B\n")
    with pytest.raises(
        RatingsFileError, match=r"movies.dat:2: the row has 2 fields where 3 belong"
    ):
        read(tmp_path)


def test_an_unknown_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "other.txt").write_text("x")
    assert message(tmp_path) == (
        f"{tmp_path.name}: no layout of this folder is known. Looked for u.data, ratings.dat, "
        "ratings.csv (MovieLens 100K, 1M, latest); it has: other.txt. Name one file in it."
    )


def test_adjacency_lists_are_clicks(write):
    ratings = read(write("0 5 6\n1 5\n2\n", "train.txt"), layout="lists")
    assert table(ratings) == [(0, 5, 1.0, None), (0, 6, 1.0, None), (1, 5, 1.0, None)]
    assert not ratings.explicit
    assert "1 users without an item left out" in ratings.report.notes


# The whole


@pytest.mark.parametrize(("rule", "value"), [("last", 2.0), ("mean", 3.0), ("sum", 6.0)])
def test_duplicates_follow_the_rule(write, rule, value):
    ratings = read(write(HEADER + "1,1,4,10\n2,1,1,5\n1,1,2,20\n"), duplicates=rule)
    assert table(ratings) == [(1, 1, value, 20), (2, 1, 1.0, 5)]
    assert ratings.report.merged == 1


def test_duplicates_can_be_an_error(write):
    said = message(write(HEADER + "1,1,4,10\n1,1,2,20\n"), duplicates="error")
    assert "user 1 has item 1 more than once" in said


def test_a_carriage_return_in_a_text_id_is_refused(write):
    assert "ratings.csv:3: the row holds a carriage return." in message(
        write("user,item\nann,x\n\rbob,y\n")
    )


def test_progress_runs_to_the_end(write, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 64)
    seen: list[tuple[int, int]] = []
    path = write(good() * 20, "r.dat")
    path.write_text(HEADER + "".join(f"1,{i},3,4\n" for i in range(100)))
    read(path, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 5
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def random_file(rng: np.random.Generator) -> tuple[str, str]:
    """A file of odd and plain cells, and its separator."""
    separator = str(rng.choice([",", "\t", ";", "|", "::"]))
    odd = [
        "",
        "007",
        "x",
        " 1",
        '"q"',
        '"a""b"',
        f'"a{separator}b"',
        "+3",
        "-4",
        "é",
        "1.0",
        '"',
        "nan",
    ]
    rows = []
    for _ in range(int(rng.integers(1, 40))):
        cells = [str(rng.integers(0, 30)), str(rng.integers(0, 30)), str(rng.integers(1, 6)),
                 str(rng.integers(1, 9)), str(rng.choice(["", "a"]))]  # fmt: skip
        if rng.random() < 0.1:
            cells[int(rng.integers(0, 5))] = str(rng.choice(odd))
        if rng.random() < 0.03:
            cells = cells[: int(rng.integers(0, 5))] + [""] * int(rng.integers(0, 3))
        rows.append(separator.join(cells) + str(rng.choice(["\n", "\n", "\n", "\r\n"])))
    return "user,item,rating,time,note\n".replace(",", separator) + "".join(rows), separator


@pytest.mark.parametrize("seed", range(300))
def test_the_fast_and_the_exact_way_agree(write, monkeypatch, seed):
    text, separator = random_file(np.random.default_rng(seed))
    path = write(text)

    def outcome() -> object:
        try:
            ratings = read(path, separator=separator, bad_rows="drop")
        except ForetasteError as error:
            return str(error)
        return table(ratings), ratings.report

    fast = outcome()
    monkeypatch.setattr(delimited, "read_fast", lambda *_: None)
    assert outcome() == fast


def test_the_fast_way_is_taken_for_plain_files(monkeypatch, tmp_path):
    def never(*_args):
        raise AssertionError("the exact way is ten times slower")

    monkeypatch.setattr(delimited, "read_exactly", never)
    out = io.StringIO()
    for i in range(1000):
        out.write(f"{i % 7}::{i}::{i % 5 + 1}::{SECONDS + i}\n")
    (tmp_path / "ratings.dat").write_text(out.getvalue())
    assert len(read(tmp_path / "ratings.dat")) == 1000
    half = out.getvalue().replace("::5::", "::4.5::").replace("::", ",")
    (tmp_path / "half.csv").write_text('"user","item","rating","time"\n' + half)
    assert len(read(tmp_path / "half.csv")) == 1000
