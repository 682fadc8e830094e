"""Columns as features: labels, numbers, what is missing, and what was never learned."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl

from foretaste.data.features import encode, learn_columns

TABLE = pl.DataFrame(
    {
        "item": range(20),
        "title": [f"Film {n}" for n in range(20)],
        "genres": ["War|Drama", "Drama", None, "War", ""] * 4,
        "year": [1990, 2000, None, 2010, 2020] * 4,
        "shown": [dt.date(2000, 1, 1 + n) for n in range(20)],
        "colour": [True, False] * 10,
        "same": [7] * 20,
    }
)


def test_labels_on_few_lines_titles_constants_and_ids_are_left_out():
    names = [column["name"] for column in learn_columns(TABLE)]
    assert names == ["genres", "year", "shown", "colour"]
    assert learn_columns(None) == []


def test_labels_of_a_line_have_unit_length_together():
    columns = learn_columns(TABLE.select("item", "genres"))
    assert columns == [{"name": "genres", "labels": ["Drama", "War"]}]
    half = 0.5**0.5
    expected = [[half, half], [1, 0], [0, 0], [0, 1], [0, 0]]
    np.testing.assert_allclose(encode(TABLE, columns, 20)[:5], expected, rtol=1e-6)


def test_a_number_is_standardised_and_marks_one_bin():
    (column,) = learn_columns(TABLE.select("item", "year"))
    marks = encode(TABLE, [column], 20)
    known = TABLE["year"].is_not_null().to_numpy()
    np.testing.assert_allclose(marks[known, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(marks[known, 0].std(), 1, rtol=1e-6)
    assert (marks[known, 1:].sum(axis=1) == 1).all()
    assert (marks[~known] == 0).all()
    assert len(np.unique(marks[known, 1:].argmax(axis=1))) == 4


def test_what_was_never_learned_is_zero_and_a_missing_column_too():
    columns = learn_columns(TABLE)
    new = pl.DataFrame({"item": [1], "genres": ["Opera|War"], "year": [1800]})
    marks = encode(new, columns, 1)
    assert marks.shape == (1, encode(TABLE, columns, 20).shape[1])
    np.testing.assert_allclose(marks[0, :2], [0, 1])  # War alone
    assert (marks[0, -4:] == 0).all()
    assert encode(None, columns, 3).shape == (3, marks.shape[1])
    assert encode(TABLE, [], 20).shape == (20, 0)
