"""Conditions on the columns of items: what they mean, and that nothing else can be reached."""

from __future__ import annotations

import ast
import contextlib
import datetime as dt
import doctest
import re
import resource
import socket
import sqlite3
import sys
import threading
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from foretaste.errors import UsageError
from foretaste.recommending import filters
from foretaste.recommending.filters import Condition, conditions, expressions, matching
from foretaste.recommending.filters.conditions import DEEPEST, FUNCTIONS, syntax_tree
from foretaste.recommending.filters.expressions import _FUNCTIONS, _NODES, Builder

SRC = Path(__file__).parents[1] / "src" / "foretaste"
FILMS = pl.DataFrame(
    {
        "item": [10, 20, 30, 40, 50, 60],
        "title": ["Alien", "Brazil", "Don't Look Now", 'The "Burbs"', "Élisa", "Fargo"],
        "year": [1979, 1985, 1973, 1989, 1995, None],
        "score": [8.5, 7.9, 7.1, 6.9, 7.0, 8.1],
        "rank": [1, 3, 4, 6, 5, 2],
        "user": ["ripley", "sam", "laura", "ray", "marie", "marge"],
        "genres": ["Horror|Sci-Fi", "Sci-Fi", "Drama|Horror", "Comedy", "Drama", "Crime|Drama"],
        "seen": [True, False, None, True, False, True],
        "date": [dt.date(1979, 5, 25), dt.date(1985, 2, 20), None, dt.date(1989, 2, 17),
                 dt.date(1995, 2, 1), dt.date(1996, 3, 8)],
    }
)  # fmt: skip
COLUMNS = "Columns: item, title, year, score, rank, user, genres, seen, date."
CALLS = (
    "Functions: abs, ceil, coalesce, contains, date, ends_with, floor, length, lower, "
    "regexp_like, round, starts_with, trim, upper."
)
EXAMPLE = "Write one like year >= 1990 AND genres LIKE '%Drama%'."
TYPES = "Write a text in quotes, a number without, and a date as DATE '1995-12-31'."


def chosen(where: str, table: pl.DataFrame = FILMS) -> list:
    return table["item"].filter(pl.Series(matching(where, table))).to_list()


def refused(where: str, table: pl.DataFrame = FILMS) -> str:
    with pytest.raises(UsageError) as error:
        matching(where, table)
    message = str(error.value)
    assert message.startswith("where: ")
    assert "\n" not in message
    return message


# What conditions mean


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("year >= 1985", [20, 40, 50]),
        ("year <= 1979 OR year IS NULL", [10, 30, 60]),
        ("NOT (year >= 1985)", [10, 30]),
        ("year <> 1985", [10, 30, 40, 50]),
        ("year != 1985 AND year == 1979", [10]),
        ("year > 1979 AND year < 1995", [20, 40]),
        ("title = 'Don''t Look Now'", [30]),
        ("title LIKE '%\"%'", [40]),
        ("title = 'Élisa'", [50]),
        ("title > 'E' AND title < 'G'", [60]),
        ("year IN (1979, 1985) AND title <> 'Brazil'", [10]),
        ("year IN (rank + 1978, 1985)", [10, 20]),
        ("year IN (1979, 1985.0, 'x' IS NULL)", [10, 20]),
        ("year IN (1979, NULL)", [10]),
        ("year NOT IN (1979, 1985)", [30, 40, 50]),
        ("year NOT IN (1979, NULL)", []),
        ("1 IN (1, 2) AND rank = 1", [10]),
        ("year BETWEEN 1979 AND 1985", [10, 20]),
        ("year NOT BETWEEN 1979 AND 1985", [30, 40, 50]),
        ("item = 30", [30]),
        ("score > 8", [10, 60]),
        ("score > .8e1", [10, 60]),
        ("\"user\" = 'sam'", [20]),
        ("user = 'sam' -- a comment\n /* AND 1 = 2 */", [20]),
        ("1 = 1", [10, 20, 30, 40, 50, 60]),
        ("true", [10, 20, 30, 40, 50, 60]),
        ("1 = 2", []),
        ("NULL", []),
        ("NULL = NULL", []),
        ("NULL OR rank = 1", [10]),
        ("NOT NULL", []),
        ("year = (0/0)", []),
        ("year / 0 IS NULL AND rank = 1", [10]),
        ("year / (rank - rank) IS NULL AND rank = 1", [10]),
        ("year % 0 IS NULL AND rank = 1", [10]),
        ("year % 10 = 5", [20, 50]),
        ("(2 - rank) % 3 = -1", [20, 40]),
        ("rank / 2 = 1.5", [20]),
        ("rank - 1 - 1 = 1", [20]),
        ("1 + rank * 2 = 7", [20]),
        ("-rank < -5", [40]),
        ("- -rank = +6", [40]),
        ("genres LIKE '%Drama%'", [30, 50, 60]),
        ("genres NOT LIKE '%Drama%'", [10, 20, 40]),
        ("genres LIKE 'drama%'", []),
        ("genres ILIKE 'drama%'", [30, 50]),
        ("genres NOT ILIKE '%DRAMA'", [10, 20, 30, 40]),
        ("title LIKE '_razil'", [20]),
        ("title LIKE 'Brazi'", []),
        ("title LIKE '%il'", [20]),
        ("title LIKE 'F%o'", [60]),
        ("title LIKE 'A.*'", []),
        ("seen", [10, 40, 60]),
        ("NOT seen", [20, 50]),
        ("seen = 1", [10, 40, 60]),
        ("seen IS TRUE", [10, 40, 60]),
        ("seen IS FALSE", [20, 50]),
        ("seen IS NOT TRUE", [20, 30, 50]),
        ("NOT (seen IS TRUE)", [20, 30, 50]),
        ("seen IS NOT NULL AND seen IS NOT FALSE", [10, 40, 60]),
        ("(year > 1980) = seen", [40]),
        ("CASE WHEN year > 1990 THEN seen WHEN year > 1980 THEN NOT seen END", [20]),
        ("CASE rank WHEN 1 THEN 'a' WHEN 2 THEN 'b' ELSE title END IN ('a', 'b', 'Élisa')",
         [10, 50, 60]),
        ("date > '1989-01-01'", [40, 50, 60]),
        ("date = DATE '1985-02-20'", [20]),
        ("date = DATE('1985-02-20')", [20]),
        ("date BETWEEN '1979-01-01' AND '1985-02-20'", [10, 20]),
        ("date IN ('1979-05-25', DATE '1996-03-08')", [10, 60]),
        ("date < '1979-05-25 00:00:01'", [10]),
        ("date >= '1979-05-25T02:00:00+02:00' AND rank = 1", [10]),
        ("DATE '1995-01-01' < date AND rank = 5", [50]),
        ("year = 99999999999999999999999", []),
        ("year < 99999999999999999999999999999999999999999999999999 AND rank = 1", [10]),
        ("NOT rank = 1 AND NOT rank = 2 AND rank < 4", [20]),
        ("rank = 1 OR rank = 3 AND year = 0", [10]),
    ],
)  # fmt: skip
def test_a_condition_keeps_the_items_for_which_it_is_true(where, expected):
    assert chosen(where) == expected


CALLED = {
    "abs": ("ABS(rank - 4) = 1", [20, 50]),
    "ceil": ("CEIL(score) = 9", [10, 60]),
    "coalesce": ("COALESCE(year, rank) = 2", [60]),
    "contains": ("CONTAINS(title, '.') OR CONTAINS(title, 'la')", []),
    "date": ("DATE(date) = DATE(COALESCE(title, '1') )", []),
    "ends_with": ("ENDS_WITH(title, 'o')", [60]),
    "floor": ("FLOOR(year / 10) = 198", [20, 40]),
    "length": ("LENGTH(title) = 5", [10, 50, 60]),
    "lower": ("LOWER(title) = 'élisa'", [50]),
    "regexp_like": ("REGEXP_LIKE(title, '^[AB]') OR REGEXP_LIKE(title, 'É', 'i')", [10, 20, 50]),
    "round": ("ROUND(score) = 8 OR ROUND(score * 1.11, 1) = 7.7", [10, 20, 40, 60]),
    "starts_with": ("STARTS_WITH(title, 'The')", [40]),
    "trim": ("TRIM('  ' || 'x')", None),
    "upper": ("UPPER(title) = 'ÉLISA'", [50]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_that_an_error_lists_can_be_called(name):
    where, expected = CALLED[name]
    if expected is None:
        where, expected = "TRIM(t) = 'x'", [1]
        assert chosen(where, pl.DataFrame({"item": [1, 2], "t": [" x\n", "x."]})) == expected
    else:
        assert chosen(where) == expected
    assert chosen(where.lower() if "'" not in where else "1 = 1") is not None
    assert set(FUNCTIONS) == set(_FUNCTIONS)


def test_text_is_a_date_only_where_it_reads_as_one():
    table = pl.DataFrame({"item": [1, 2, 3], "t": ["1995-02-01", "soon", None]})
    assert chosen("DATE(t) = '1995-02-01'", table) == [1]
    assert chosen("DATE(t) IS NULL", table) == [2, 3]


ODD_TYPES = pl.DataFrame(
    {
        "item": [1, 2, 3],
        "big": pl.Series([2**64 - 1, 2**63, 5], dtype=pl.UInt64),
        "long": [2**53 + 1, 2**53, -(2**63)],
        "tiny": pl.Series([1, None, -128], dtype=pl.Int8),
        "nan": [float("nan"), 1.0, float("inf")],
        "money": pl.Series([Decimal("1.50"), Decimal("2.50"), None]),
        "kind": pl.Series(["a", None, "b"], dtype=pl.Categorical),
        "level": pl.Series(["lo", "hi", "lo"], dtype=pl.Enum(["lo", "hi"])),
        "zoned": pl.Series([dt.datetime(2020, 1, 1, 1)] * 3).dt.replace_time_zone("Europe/Paris"),
        "at": [dt.datetime(1995, 2, 1, 18), None, dt.datetime(1995, 2, 2)],
        "tags": [["x"], None, []],
        "nothing": pl.Series([None, None, None], dtype=pl.Null),
        "^.*$": [1, 2, 3],
        "*": [3, 2, 1],
        'a "b".c': [7, 8, 9],
        "matched": [True, False, True],
        "0": ["x", "y", "z"],
        "vote.average": [1.0, 2.0, 3.0],
    }
)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("big = 18446744073709551615", [1]),
        ("big > 9223372036854775808", [1]),
        ("big IN (5, 18446744073709551615)", [1, 3]),
        ("long = 9007199254740993", [1]),
        ("long <= -9223372036854775808", [3]),
        ("ABS(long) > 9e18", [3]),
        ("tiny - 1 < -128", [3]),
        ("nan > 0", [2, 3]),
        ("nan IS NULL", [1]),
        ("nan - nan IS NULL", [1, 3]),
        ("money > 1.5", [2]),
        ("kind = 'a' OR kind LIKE 'b%'", [1, 3]),
        ("level = 'lo' AND level < 'x'", [1, 3]),
        ("zoned = '2020-01-01'", [1, 2, 3]),
        ("DATE(zoned) = DATE '2020-01-01'", [1, 2, 3]),
        ("DATE(at) = '1995-02-01'", [1]),
        ("at > '1995-02-01 17:59'", [1, 3]),
        ("tags IS NULL", [2]),
        ("nothing IS NULL AND nothing = 1", []),
        ('"^.*$" = 2', [2]),
        ('"*" = 3', [1]),
        ('"a ""b"".c" = 9', [3]),
        ("matched", [1, 3]),
        ("\"0\" = 'y'", [2]),
        ("vote.average = 3", [3]),
    ],
)
def test_columns_of_every_type_and_name_can_be_asked(where, expected):
    assert chosen(where, ODD_TYPES) == expected


def test_the_answer_is_a_bool_per_row_also_of_no_rows():
    for where in ("year > 1", "1 = 1", "NULL", "title LIKE '%'"):
        for table in (FILMS, FILMS.clear(), FILMS.head(1)):
            found = matching(where, table)
            assert (found.shape, found.dtype) == ((len(table),), np.dtype(bool))


def test_a_condition_can_be_kept_for_tables_with_its_columns():
    kept = Condition.parse("year >= 1990 OR score > 8", FILMS.schema)
    assert dict(kept.schema) == {"year": pl.Int64, "score": pl.Float64}
    assert kept.matching(FILMS.reverse()).tolist() == kept.matching(FILMS)[::-1].tolist()
    for other in (FILMS.drop("year"), FILMS.with_columns(pl.col("year").cast(pl.String))):
        with pytest.raises(UsageError, match="column 'year' is not Int64 in this table"):
            kept.matching(other)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(filters).failed == 0
    assert doctest.testmod(filters).attempted > 0


# What is refused, and how


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("yaer > 1990", f"there is no column 'yaer'. {COLUMNS}"),
        ("films.year > 1990", f"there is no column 'films.year'. {COLUMNS}"),
        ("YEAR > 1990", f"there is no column 'YEAR'. {COLUMNS}"),
        ("year + 1", f"'year + 1' is not a condition. {EXAMPLE}"),
        ("title", f"'title' is not a condition. {EXAMPLE}"),
        ("", f"the condition is empty. {EXAMPLE}"),
        ("-- nothing", f"the condition is empty. {EXAMPLE}"),
        ("year >=", f"the condition ends too early, after 'year >='. {EXAMPLE}"),
        ("year > 1 )", f"character 10, ')', is not expected there. {EXAMPLE}"),
        ("year >= AND 1", f"character 9, 'AND', is not expected there. {EXAMPLE}"),
        ("title > 5", f"'title > 5' has a number beside a text. {TYPES}"),
        ("date > 5", f"'date > 5' has a date beside a number. {TYPES}"),
        ("date > title", f"'date > title' has a date beside a text. {TYPES}"),
        ("date > 'x'", "'x' is not a date. Write '1995-12-31', or '1995-12-31 18:00:00'."),
        ("LOWER(year) = 'x'", f"'LOWER(year)' needs a text, and 'year' is a number. {EXAMPLE}"),
        ("NOT year", f"'NOT year' needs a truth value, and 'year' is a number. {EXAMPLE}"),
        ("seen + 1 = 2", f"'seen + 1' needs a number, and 'seen' is a truth value. {EXAMPLE}"),
        ("title LIKE user", "the pattern in 'title LIKE user' is not a text. Write it in quotes: "
         "title LIKE '%Night%'."),
        ("REGEXP_LIKE(title, '(')", "'(' is not a regular expression. Close its brackets, and "
         "escape what stands for itself: '\\('."),
        ("REGEXP_LIKE(title, 'a', 'x')", "'x' are no flags of a pattern. Use 'i' (without case), "
         "'m' and 's'."),
        ("ROUND(year, year) = 1", "'ROUND(year, year)' has no number of decimals. Write 0 to 15."),
        ("LENGTH(title, 1) = 1", "'LENGTH(title, 1)' has 2 arguments. length takes 1."),
        ("ROUND() = 1", "'ROUND()' has 0 arguments. round takes 1 to 2."),
        ("year IN ()", "'year IN ()' has no list of values. Write year IN (1990, 1991)."),
        ("year IS 1", "'year IS 1' tests for what is not NULL, TRUE or FALSE. Write = in place of "
         "IS."),
        ("CASE year ELSE 1 END", "the condition ends too early, after 'CASE year ELSE 1 END'. "
         + EXAMPLE),
        ("year = 1e999", f"the number '1e999' is too large. {EXAMPLE}"),
        ("year IN (SELECT year FROM t)", f"'select' cannot be called in a condition. {CALLS}"),
        ("READ_CSV('x') = 1", f"'read_csv' cannot be called in a condition. {CALLS}"),
        ('"lower"(title) = 1', f"'lower' cannot be called in a condition. {CALLS}"),
        ("title = 'x", "a quotation or a comment in the condition is not closed. Write text as "
         "'Don''t Look Now', and quote names as \"my column\"."),
        ("title = 'a' || 'b'", "character 13, '|', has no place in a condition. Write comparisons, "
         "AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL, CASE, + - * / % and the functions "
         + CALLS.removeprefix("Functions: ")),
        ("(year, 1) = 1", f"'(year, 1)' has no place in a condition. {EXAMPLE}"),
        ("title = '\ud800'", f"the condition holds half of a character. {EXAMPLE}"),
        ("year > 1 AND " * 200 + "year > 1", "the condition has 2,608 characters, 2,000 at most. "
         "Give a long list of items as candidates, or as exclude."),
        ("(" * 17 + "seen" + ")" * 17, "the condition is nested more than 16 deep. Write "
         "fewer parentheses, calls, CASE, NOT and signs inside each other, shorter sums, and fewer "
         "WHEN."),
        ("LOWER(title) = 'a' OR " * 29 + "seen", "the condition takes "
         "more than 256 steps. Write x IN (1, 2) in place of x = 1 OR x = 2, or give items as "
         "candidates. A LIKE counts 4, a LOWER 8."),
    ],
)  # fmt: skip
def test_a_condition_that_is_none_says_what_is_wrong(where, message):
    assert refused(where) == f"where: {message}"


ODD = r"""
year > 1990; DROP TABLE items|1; --|title = '|title = "a"|(SELECT 1)|EXISTS (SELECT 1)|*|-|NULL|''
count(*) > 1|sum(year) > 1|year > (SELECT max(year))|year > ALL (SELECT 1)|items.year > 3|a.b.c = 1
read_csv('/etc/passwd')|foo(year)|title ~ '('|regexp_like(title, '(')|year / 0 > 1|year % 0 = 1
CAST(title AS INT) = 1|title::int = 1|date(title) > 1|row_number() over () > 3|rank() over () > 3
unnest(array[true])|[1]|array[1, 2] = 3|CASE WHEN year > 2000 THEN 1 END|INTERVAL '1 day' > 3
year > ?|year > $1|:a|@a|\|x'zz' = 1|year ->> 'a'|extract(year from title) = 3|title LIKE year
title LIKE '%' ESCAPE 'x'|title IN ()|year IN ('1990', 'x')|year = 99999999999999999999999|year as x
year = ''|title = 1|case|case when|case end|end|in|not|and|like ''|is null|between 1 and 2|'a' 'b'
(year rank)|(1, 2) = (1, 2)|()|lower(x -> 3)|{'a': 1}|N'x' = title|a at time zone b|date date '1'
round(rank => 1)|f(*)|if(seen, 1, 2)|year AT TIME ZONE 'x'|²=1|1²=1|٣ = 1|\0|.|..|1..2 = 1|1.2.3 = 1
"""


@pytest.mark.parametrize("where", ODD.strip().replace("\n", "|").split("|"))
def test_odd_conditions_give_a_list_or_one_of_our_errors(where):
    assert listed_or_refused(where)


def listed_or_refused(where: str) -> bool:
    """Whether there is a bool per row, or one of our errors in one line."""
    try:
        found = matching(where, FILMS)
    except UsageError as error:
        return str(error).startswith("where: ") and "\n" not in str(error)
    return found.dtype == bool and found.shape == (len(FILMS),)


def test_no_function_of_sql_but_the_listed_ones_can_be_called():
    names = {name.lower() for name in exp.FUNCTION_BY_NAME} | {
        "read_csv", "read_parquet", "scan_csv", "lpad", "rpad", "replace", "repeat", "concat",
        "concat_ws", "exists", "cast", "unnest", "array", "struct", "row", "if", "any", "all",
    }  # fmt: skip
    for name in sorted(names - set(FUNCTIONS) - {"case", "and", "or", "not", "in", "like", "is"}):
        for call in (f"{name}(title)", f"{name}/**/('x', 9)", f"{name} \n (1) = 1", f'"{name}"(1)'):
            refused(call)


def test_no_node_of_a_tree_but_the_listed_ones_is_evaluated():
    kinds = [kind for kind in vars(exp).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, exp.Expr) and kind not in _NODES]
    assert len(kinds) > 500
    for kind in kinds:
        if kind is not exp.Paren:
            with pytest.raises((UsageError, NotImplementedError), match=r"no place|^$"):
                Builder(FILMS.schema).value(kind())


def test_a_listed_node_with_an_argument_that_is_not_listed_is_refused():
    for kind, (_, allowed) in _NODES.items():
        node = syntax_tree("title LIKE 'a'") if kind is exp.Like else kind()
        for name in {*kind.arg_types, "query", "unnest", "zone"} - set(allowed.split()):
            extra = node.copy()
            extra.set(name, exp.true())
            with pytest.raises(UsageError, match="has no place in a condition"):
                Builder(FILMS.schema).value(extra)


# Nothing else can be reached

WATCHED: dict[int, list[str]] = {}


def _hear(event: str, args: tuple) -> None:
    heard = WATCHED.get(threading.get_ident())
    if heard is not None and event.startswith(("open", "socket.", "subprocess.", "os.", "exec")):
        heard.append(f"{event} {args!r}")


sys.addaudithook(_hear)


@contextlib.contextmanager
def nothing_opened():
    """Fail where Python opens a file or a socket, or polars' SQL or readers are called."""
    heard = WATCHED[threading.get_ident()] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sql_expr", "SQLContext", "sql", "read_csv", "scan_csv", "read_parquet"):
            patch.setattr(pl, name, lambda *_, name=name, **__: heard.append(name))
        try:
            yield
        finally:
            del WATCHED[threading.get_ident()]
    assert not heard


ATTACKS = [
    "year > 0 /* ' */ AND year IN (SELECT nosuch FROM read_csv('{file}')) AND title <> 'z'",
    "year IN (SELECT nosuch FROM read_csv('{file}'))",
    "year IN (SELECT nosuch FROM read_csv('http://127.0.0.1:{port}/x.csv'))",
    "year IN (FROM read_csv('{file}'))",
    "FROM read_csv('{file}')",
    "EXISTS (FROM read_parquet('{file}'))",
    "read_csv('{file}') = 1",
    "year IN (SELECT 1 FROM '{file}')",
    "title = $$ ' $$ AND year IN (SELECT nosuch FROM read_csv('{file}')) AND title <> $$ ' $$",
    "title = $a$ ' $a$ AND year IN (SELECT nosuch FROM read_csv('{file}'))",
    "`a'` = 1 OR year IN (SELECT nosuch FROM read_csv('{file}')) OR `'` = 1",
    "\"a'\" = 1 OR year IN (SELECT nosuch FROM read_csv('{file}')) OR \"'\" = 1",
    "year > 0 -- '\n AND year IN (SELECT nosuch FROM read_csv('{file}')) AND title <> 'z'",
    "year > 0 {{# ' #}} AND year IN (SELECT nosuch FROM read_csv('{file}')) AND title <> 'z'",
    "year > 0 /*+ ' */ AND year IN (WITH a AS (SELECT 1 FROM read_csv('{file}')) SELECT 1)",
    "title = E'\\'' AND year IN (SELECT nosuch FROM read_csv('{file}')) -- '",
    "title = '\\' OR year IN (SELECT nosuch FROM read_csv('{file}')) --'",
    "read_csv/**/('{file}') = 1",
    "read_csv -- x\n ('{file}') = 1",
    "lower(read_csv('{file}')) = 'x'",
    "CASE WHEN seen THEN read_csv('{file}') END = 1",
    "date read_csv('{file}')",
    "year IN (TABLE read_csv('{file}'))",
    "year IN (VALUES (1))",
    "(SELECT 1) = 1",
    "year = ANY(SELECT 1 FROM read_csv('{file}'))",
    "1; SELECT * FROM read_csv('{file}')",
    "year = 1 UNION SELECT * FROM read_csv('{file}')",
    "lpad/**/(title, 400000000, 'x') = 'y'",
    "repeat(title, 400000000) = 'y'",
    "title" + "||title" * 200 + " = 'y'",
    "concat(title, title) = 'y'",
    "replace(title, 'a', 'aaaaaaaaaaaaaaaa') = 'y'",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_condition_reads_a_file_calls_a_host_or_makes_long_text(attack, tmp_path):
    file = tmp_path / "keys.csv"
    file.write_text("the-secret-of-the-file,b\n1,2\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        where = attack.format(file=file, port=server.getsockname()[1])
        with nothing_opened():
            assert "the-secret" not in refused(where)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()


def test_the_text_of_a_condition_goes_through_this_door_alone():
    for file in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node, "attr", getattr(node, "id", ""))
            assert name not in ("sql_expr", "SQLContext"), f"{file}: polars' SQL reads files"


_WORDS = """year title seen date item nix ' '' " ` ( ) ( ) , . ; * + - / % = <> <= < || :: ? @ $$
AND OR NOT IN LIKE ILIKE BETWEEN IS NULL TRUE CASE WHEN THEN ELSE END SELECT FROM DATE lower( ABS(
COALESCE( regexp_like( round( read_csv( WITH UNION EXISTS( any( /* */ -- {# #} {{ [ ] { } \\ \0 é ²
'a%_' '(a{9}){9}' '1995-01-01' '/etc/passwd' 1990 0 1e9 x'ff' N'a' E'\\'' \ud800"""
PIECES = [*_WORDS.split(), "\n", " ", "9" * 40]
VALID = [
    "year >= 1990 AND genres LIKE '%Drama%'",
    "CASE WHEN year > 1990 THEN seen WHEN year > 1980 THEN NOT seen END",
    "NOT (ROUND(score * 2, 1) BETWEEN 1 AND 20) OR date IN ('1979-05-25', DATE '1996-03-08')",
    "COALESCE(LOWER(TRIM(title)), 'x') = 'alien' OR REGEXP_LIKE(title, '^[A-C]{2,3}', 'i')",
    "year IN (1979, NULL, rank + 1) AND -rank % 3 <> 1 AND title IS NOT NULL",
]


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A valid condition or an attack with pieces put in, taken out, or doubled."""
    text = draw(st.sampled_from(VALID + ATTACKS))
    for _ in range(draw(st.integers(1, 4))):
        start, stop = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        text = text[:start] + draw(st.sampled_from([*PIECES, "", text[start:stop]])) + text[stop:]
    return text


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join)
       | st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | mutants())  # fmt: skip
@example("CASE" + " WHEN seen THEN" * 9)
@example("f" + "(f" * 90)
def test_whatever_the_text_there_is_a_bool_per_row_or_a_usage_error(text):
    with nothing_opened():
        assert listed_or_refused(text)


# It stays small

LONG = {
    "(": "(" * 2000, "parens": "(" * 900 + "seen" + ")" * 900, "not": "NOT " * 490 + "seen",
    "a = not a": "seen = NOT " * 180 + "seen", "-": "- " * 990 + "1 = 1", "f(": "lower(" * 330,
    "case": "CASE WHEN " * 200, "date(": "DATE(" * 400, "dates": "DATE " * 400,
    "in (": "item IN (" * 200, "+": "rank+" * 380 + "rank = 1", "dots": "a." * 900 + "a = 1",
    "between": "rank BETWEEN 1 AND NOT " * 80 + "seen", "case chain": "CASE " + "WHEN seen THEN 1 "
    * 110 + "END = 1", "quotes": "'" * 2000, "comments": "/*" * 1000, "braces": "{{" * 1000,
    "brackets": "[" * 2000, "semicolons": ";" * 2000, "nine": "9" * 1996 + "= 1",
    "case in case": "CASE " * 15 + "rank" + " WHEN 1 THEN 1 WHEN 2 THEN 2 END" * 15 + " = 1",
    "alias": "(" + "+".join(["rank"] * 390) + " a)",
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_the_deepest_and_longest_texts_are_refused_without_a_traceback(name, caplog, capfd):
    refused(LONG[name])
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_a_deep_stack_of_the_caller_is_no_traceback():
    def deeper(levels: int) -> bool:
        return deeper(levels - 1) if levels else listed_or_refused("((((((((seen))))))))")

    here = len(__import__("inspect").stack())
    for levels in range(sys.getrecursionlimit() - here - 260, sys.getrecursionlimit() - here - 150):
        assert deeper(levels)


@pytest.mark.parametrize(
    "where",
    ["(" * DEEPEST + "seen" + ")" * DEEPEST, "NOT " * DEEPEST + "seen", "- " * 3 + "1 < 0 OR seen",
     " OR ".join(f"rank={n}" for n in range(150)), f"item IN ({','.join('1' * 900)})",
     " OR ".join(["title LIKE '%a%'"] * 42)],
)  # fmt: skip
def test_what_is_just_within_the_limits_is_answered(where):
    assert matching(where, FILMS).shape == (6,)


@pytest.mark.parametrize(
    "where",
    [f"rank + 1 IN ({'rank,' * 99} 1)", f"CASE rank + 1 {'WHEN rank THEN 1 ' * 90} END = 1",
     " OR ".join(["LOWER(title) = 'a'"] * 29), " OR ".join(["title LIKE 'a'"] * 65),
     " OR ".join(["rank % 2 % 2 % 2 = 1"] * 9)],
)  # fmt: skip
def test_what_takes_more_steps_than_it_has_words_is_refused(where):
    assert re.search(r"takes more than 256 steps|nested more than 16 deep", refused(where))


@pytest.mark.parametrize(
    ("where", "made"),
    [("title = 'abcd'", 0), ("CASE WHEN seen THEN 'é' ELSE title END = 'abcd'", 2),
     ("COALESCE(title, 'abc') = COALESCE(user, 'a', 'abcd')", 7), ("COALESCE(year, 1) = 1", 0)],
)  # fmt: skip
def test_text_that_a_condition_gives_to_rows_counts_as_theirs(where, made):
    assert Condition.parse(where, FILMS.schema)._made_bytes == made


@pytest.mark.parametrize(
    ("pattern", "characters"),
    [
        ("abc", 3), (r"\(\d{4}\)", 13), ("^a{2,5}$", 13), ("a{3,}", 8), ("(ab){3}", 21),
        ("((a{2}){3}){4}", 192), ("a{2}{3}", 27), ("a*{5}", 25), (r"\){5}", 10), ("a{0}", 5),
        (r"\p{Greek}", 9),
    ],
)  # fmt: skip
def test_a_pattern_is_as_long_as_it_is_with_its_repetitions_written_out(pattern, characters):
    assert conditions.positions(pattern) == characters


@pytest.mark.parametrize("pattern", ["a{ 9}", "a{,9}", "a{99999}", "[{]", "(?x)a {9}", "(?ix:a)"])
def test_a_pattern_whose_length_is_in_doubt_is_refused(pattern):
    assert "has a brace that is no {n}, or the flag x" in refused(
        f"REGEXP_LIKE(title, '{pattern}')"
    )


@pytest.mark.parametrize(
    "where",
    ["REGEXP_LIKE(title, '(a?){50}')", "REGEXP_LIKE(title, '" + "a?" * 65 + "')",
     "title LIKE '" + "_" * 65 + "'", "title LIKE '" + "%a" * 130 + "'",
     " OR ".join(["title ILIKE '%a__________b'"] * 8)],
)  # fmt: skip
def test_patterns_that_are_slow_to_match_are_refused(where):
    assert f"longer than {expressions.LONGEST_PATTERN} characters" in refused(where)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.lists(st.text("ab", max_size=30) | st.none(), max_size=30))
def test_chunks_change_nothing_and_hold_no_more_bytes_than_they_may(largest, cells):
    table = pl.DataFrame({"item": range(len(cells)), "t": pl.Series(cells, dtype=pl.String)})
    table = table.with_columns(c=pl.col("t").cast(pl.Categorical))
    where = "t LIKE '%a%' OR CASE WHEN c = 'b' THEN 'bb' ELSE c END = 'bb'"
    whole = matching(where, table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "LARGEST_CHUNK", largest)
        np.testing.assert_array_equal(matching(where, table), whole)
        for columns in (table, table.select("item")):
            covered = 0
            for rows in filters._chunks(columns, 2):
                cut = table[rows]
                text = 2 * int(cut["t"].str.len_bytes().sum() or 0) if "t" in columns else 0
                assert 10 * len(cut) + text <= largest or len(cut) == 1
                assert rows.start == covered
                covered = rows.stop
            assert covered == len(table)


def test_a_condition_that_takes_too_long_is_stopped_between_chunks(monkeypatch):
    monkeypatch.setattr(filters, "SLOWEST", -1.0)
    assert refused("title LIKE '%a%'") == (
        "where: the condition takes more than -1 s on 6 items. "
        "Write it with fewer or simpler patterns and functions of text."
    )


def test_the_greediest_condition_takes_no_more_memory_than_chunks_need():
    table = pl.DataFrame(
        {"title": ["ΐ" * 200, "b" * 100] * 20_000}
    )  # UPPER makes three characters of ΐ
    text = f"CASE WHEN title < 'c' THEN '{'x' * 1500}' ELSE UPPER(title) END"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not matching(f"LENGTH(UPPER({text})) = 1", table).any()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 60_000  # KiB: alone 16 MiB, and 121 in one piece


# The same as another database says

NUMBERS = st.integers(-3, 3) | st.none()
TEXTS = st.text("aAb %_", max_size=4) | st.none()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def numbers_of(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    sums = st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner)
    return (
        sums
        | st.builds("({} / {})".format, st.just("x"), inner)
        | st.builds("(a % {})".format, st.sampled_from(["b", "2", "-3", "0"]))
        | st.builds("ABS({})".format, inner)
        | st.builds("(- {})".format, inner)
        | st.builds("COALESCE({}, {})".format, inner, inner)
        | st.builds("CASE {} WHEN {} THEN {} WHEN 1 THEN {} END".format, inner, inner, inner, inner)
    )


NUMBER = st.recursive(
    st.sampled_from(["a", "b", "x", "LENGTH(s)", "0", "1", "-2", "0.5", "NULL"]), numbers_of,
    max_leaves=4,
)  # fmt: skip
TEXT = st.recursive(
    st.sampled_from(["s", "t", "NULL"]) | TEXTS.map(lambda t: _quoted(t or "")),
    lambda inner: (
        st.builds("{}({})".format, st.sampled_from(["LOWER", "UPPER", "TRIM"]), inner)
        | st.builds("COALESCE({}, {})".format, inner, inner)
        | st.builds("CASE WHEN a > 0 THEN {} ELSE {} END".format, inner, inner)
    ),
    max_leaves=3,
)
COMPARE = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">=", "=="])
BASE = (
    st.builds("{} {} {}".format, NUMBER, COMPARE, NUMBER)
    | st.builds("{} {} {}".format, TEXT, COMPARE, TEXT)
    | st.builds("{} {}BETWEEN {} AND {}".format, NUMBER, st.sampled_from(["", "NOT "]), NUMBER,
                NUMBER)
    | st.builds("{} {}IN ({}, {}, {})".format, NUMBER, st.sampled_from(["", "NOT "]), NUMBER,
                NUMBER, NUMBER)
    | st.builds("{} IN ({}, {})".format, TEXT, TEXT, TEXT)
    | st.builds("{} {}LIKE {}".format, TEXT, st.sampled_from(["", "NOT "]),
                TEXTS.map(lambda t: _quoted(t or "%")))
    | st.builds("{} IS {}NULL".format, NUMBER | TEXT, st.sampled_from(["", "NOT "]))
)  # fmt: skip
CONDITION = st.recursive(
    BASE,
    lambda inner: st.builds("{} AND {}".format, inner, inner)
    | st.builds("{} OR {}".format, inner, inner)
    | st.builds("NOT ({})".format, inner)
    | st.builds("NOT {}".format, inner)
    | st.builds("({})".format, inner)
    | st.builds("({}) IS {}{}".format, inner, st.sampled_from(["", "NOT "]),
                st.sampled_from(["TRUE", "FALSE", "NULL"]))
    | st.builds("CASE WHEN {} THEN {} ELSE {} END".format, inner, inner, inner),
    max_leaves=4,
)  # fmt: skip
ROWS = st.lists(
    st.tuples(NUMBERS, NUMBERS, st.sampled_from([-1.5, 0.0, 0.5, 2.0, None]), TEXTS, TEXTS),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(CONDITION, ROWS)
def test_conditions_mean_what_they_mean_to_sqlite(where, rows):
    schema = {"a": pl.Int64, "b": pl.Int64, "x": pl.Float64, "s": pl.String, "t": pl.String}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    ours = matching(where, table).tolist()
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA case_sensitive_like = ON")
        database.execute("CREATE TABLE t (a INT, b INT, x REAL, s TEXT, t TEXT)")
        database.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
        theirs = [bool(row[0]) for row in database.execute(f"SELECT ({where}) FROM t")]  # noqa: S608
    assert ours == theirs
