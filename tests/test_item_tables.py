# pyright: reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false
"""Tables of items: read, joined by id or by links, without interactions, and added later."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.data.interactions import Ids
from foretaste.errors import DataError, UsageError

RATINGS = ft.from_frame({"user": ["a", "a", "b"], "item": [1, 2, 4], "rating": [5, 3, 4]})
FILMS = pl.DataFrame({"movieId": [2, 1, 9], "title": ["Heat", "Toy Story", "Ran"]})


def test_a_file_of_items_has_its_id_first_and_each_item_once(tmp_path):
    (tmp_path / "films.csv").write_text(
        "title,movie_id,year\nHeat,2,1995\nHeat,2,1995\nRan,,1985\n"
    )
    table = ft.read_items(tmp_path / "films.csv")
    assert table.columns == ["movie_id", "title", "year"]
    assert table.rows() == [(2, "Heat", 1995)]
    table.write_parquet(tmp_path / "films.parquet")
    table.write_csv(tmp_path / "films.tsv", separator="\t")
    assert ft.read_items(tmp_path / "films.parquet").equals(table)
    assert ft.read_items(tmp_path / "films.tsv").equals(table)


def test_the_column_of_ids_is_guessed_or_named():
    table = pl.DataFrame({"id": [7], "movieId": [1], "slug": ["ran"]})
    assert ft.read_items(table).columns[0] == "movieId"
    assert ft.read_items(table.drop("movieId")).columns[0] == "id"
    assert ft.read_items(table, item="slug").columns[0] == "slug"
    with pytest.raises(
        UsageError, match=r"items: there is no column of item ids. Name one of slug"
    ):
        ft.read_items(table.select("slug"))
    with pytest.raises(
        UsageError, match=r"there is no column 'sku'. Name one of id, movieId, slug"
    ):
        ft.read_items(table, item="sku")


def test_links_lead_from_the_ids_of_the_ratings_to_those_of_the_table():
    links = pl.DataFrame({"movieId": [1, 2, 3], "imdbId": [5, 6, 7], "tmdbId": [862, 949, None]})
    tmdb = pl.DataFrame({"id": [949, 862, 1], "title": ["Heat", "Toy Story", "x"]})
    assert ft.read_items(tmdb, links=links).rows() == [(1, "Toy Story"), (2, "Heat")]
    by_imdb = tmdb.with_columns(id=pl.Series([6, 5, 1]))
    assert ft.read_items(by_imdb, links=links, linked="imdbId").height == 2
    with pytest.raises(UsageError, match=r"no column 'tmdb'. They have movieId, imdbId, tmdbId"):
        ft.read_items(tmdb, links=links, linked="tmdb")


def test_what_is_no_table_of_items_says_so(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"bad.parquet: this is no table of items"):
        ft.read_items(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"Name one file in it; looked for tmdb_5000_movies.csv"):
        ft.read_items(tmp_path)


def test_a_kaggle_folder_joins_what_it_has(tmp_path):
    (tmp_path / "tmdb_5000_movies.csv").write_text("budget,id,title\n1,10,Heat\n2,11,Ran\n")
    credits = "movie_id,title,cast\n11,Ran,[]\n"
    (tmp_path / "tmdb_5000_credits.csv").write_text(credits)
    table = ft.read_items(tmp_path)
    assert table.columns == ["id", "budget", "title", "cast"]
    assert table["cast"].to_list() == [None, "[]"]


def test_a_joined_table_keeps_the_columns_that_were_there():
    first = RATINGS.join_items(FILMS)
    assert first.item_table.rows() == [(1, "Toy Story"), (2, "Heat"), (4, None)]
    both = first.join_items(pl.DataFrame({"id": [4], "title": ["Ran"], "year": [1985]}))
    assert both.item_table.columns == ["item", "title", "title_2", "year"]
    assert both.item_table.row(2) == (4, None, "Ran", 1985)
    with pytest.raises(
        DataError, match=r"none of the 3 items .* such as 77, the interactions 1, 2"
    ):
        RATINGS.join_items(pl.DataFrame({"id": [77]}))


def test_a_catalogue_has_items_and_no_interaction():
    films = ft.items_only(FILMS)
    assert len(films) == 0
    assert films.items.values.to_list() == [1, 2, 9]
    assert films.item_table["title"].to_list() == ["Toy Story", "Heat", "Ran"]
    assert films.scale == (0.0, 1.0)


def test_items_added_later_come_last_and_are_found():
    grown = RATINGS.join_items(FILMS).add_items(
        pl.DataFrame({"sku": [3, 0], "title": ["Alien", None], "colour": ["red", "blue"]})
    )
    assert grown.items.values.to_list() == [1, 2, 4, 3, 0]
    assert grown.item_table.columns == ["item", "title"]
    assert grown.item_table["title"].to_list() == ["Toy Story", "Heat", None, "Alien", None]
    assert grown.items.find(["0", "1", "2", "3", "4", "5"]).tolist() == [4, 0, 1, 3, 2, -1]
    assert len(grown) == len(RATINGS)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"item": [1, 7]}, "item 1 is there already, or twice. Give a line for each item that"),
        ({"item": [7, 7]}, "item 7 is there already, or twice"),
        ({"item": [7, None]}, "an id is empty"),
        ({"item": ["x"]}, r"the new items do not fit those here: .* Columns here: item \(Int64\)"),
    ],
)
def test_new_items_that_are_not_new_or_do_not_fit_are_refused(table, says):
    with pytest.raises(UsageError, match=says):
        RATINGS.add_items(pl.DataFrame(table))


def test_ids_in_any_order_are_found_like_ascending_ones():
    values = np.random.default_rng(0).permutation(1000)
    ids = Ids(pl.Series("item", values), "item")
    np.testing.assert_array_equal(ids.find(pl.Series(values)), np.arange(1000))
    assert ids.find(["1000"]).tolist() == [-1]


def test_movielens_joins_tmdb_by_its_links(data_folder):
    small, tmdb = data_folder / "ml-latest-small", data_folder / "tmdb5000"
    if not (small / "links.csv").is_file() or not (tmdb / "tmdb_5000_movies.csv").is_file():
        pytest.skip("FORETASTE_DATA does not hold ml-latest-small and tmdb5000")
    films = ft.read_items(tmdb, links=small / "links.csv")
    joined = ft.read(small).join_items(films).item_table
    toy_story = joined.filter(pl.col("item") == 1)
    assert toy_story["title"].item() == "Toy Story (1995)"
    assert toy_story["title_2"].item() == "Toy Story"
    assert joined["overview"].is_not_null().sum() > 3000
