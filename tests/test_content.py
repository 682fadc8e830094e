# pyright: reportAttributeAccessIssue=false
"""The three recommenders of the Kaggle starter, exact to its numbers, and their hybrid."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.errors import ModelError

FILMS = pl.DataFrame(
    {
        "id": [10, 11, 12, 13, 14],
        "title": ["Dark", "Darker", "Ship", "Shore", "Law"],
        "overview": [
            "a knight guards the dark city", "the dark knight and the dark city",
            "two lovers sail on a ship", "the ship and its lovers reach the shore", None,
        ],
        "genres": ["Action|War", "Action|War", "Love", "Love|War", None],
        "cast": [
            json.dumps([{"name": name, "order": n} for n, name in enumerate(names)])
            for names in (["Ann", "Bob", "Cid", "Dan"], ["Ann"], ["Eve"], ["Eve", "Dan"], [])
        ],
        "crew": [
            json.dumps([{"job": "Director", "name": "Kim"}, {"job": "Editor", "name": "Lee"}])
        ] * 2 + [json.dumps([{"job": "Editor", "name": "Lee"}])] * 3,
        "vote_count": [100, 80, 10, 5, None],
        "vote_average": [8.0, 9.0, 10.0, 2.0, None],
    }
)  # fmt: skip
CATALOGUE = ft.items_only(FILMS, "films")


def ratings_of(films: pl.DataFrame = FILMS) -> ft.Dataset:
    rows = [("a", 10, 5), ("a", 12, 1), ("b", 10, 4), ("b", 11, 5), ("b", 13, 2), ("b", 14, 3)]
    frame = pl.DataFrame(rows, schema=["user", "item", "rating"], orient="row")
    return ft.from_frame(frame).join_items(films)


# -- weighted rating


def test_the_chart_follows_imdbs_formula_and_the_others_come_after():
    fitted = ft.fit(ft.WeightedRating(quantile=0.5), CATALOGUE)
    C, m = (8 + 9 + 10 + 2) / 4, 45.0  # numpy's median of 100, 80, 10, 5
    assert fitted.model.mean_ == C
    assert fitted.model.votes_needed_ == m
    chart = fitted.recommend(history=[], k=5)
    assert chart["title"].to_list() == ["Darker", "Dark", "Ship", "Law", "Shore"]
    expected = [(80 * 9 + m * C) / (80 + m), (100 * 8 + m * C) / (100 + m)]
    np.testing.assert_allclose(chart["score"][:2], expected, rtol=1e-6)
    assert chart["score"][2] < 2


def test_without_vote_columns_the_chart_is_of_the_ratings():
    bare = ratings_of().with_items(FILMS.select("id", "title"))
    fitted = ft.fit(ft.WeightedRating(quantile=0.0), bare)
    assert fitted.model.votes_needed_ == 1
    means = [4.5, 5.0, 1.0, 2.0, 3.0]
    assert fitted.model.mean_ == np.mean(means)
    np.testing.assert_allclose(fitted.model.score_i_[0], (2 * 4.5 + 3.1) / 3, rtol=1e-6)
    clicks = ft.from_frame(bare.frame().drop("value"))
    with pytest.raises(ModelError, match="needs the columns 'vote_count' and 'vote_average' of"):
        ft.fit(ft.WeightedRating(), clicks)


# -- plots and metadata


def test_scores_are_the_mean_cosine_to_what_was_liked():
    fitted = ft.fit(ft.PlotSimilarity(fallback="none"), ratings_of())
    X_if = fitted.model.features_if().toarray()
    np.testing.assert_allclose(np.linalg.norm(X_if, axis=1), [1, 1, 1, 1, 0], rtol=1e-6)
    cosine_ij = X_if @ X_if.T
    listed = fitted.recommend("b", k=5, exclude_seen=False)  # likes 10 and 11
    expected = cosine_ij[[0, 1]].mean(axis=0)
    got = dict(zip(listed["item"], listed["score"], strict=True))
    np.testing.assert_allclose([got[i] for i in FILMS["id"]], expected, rtol=1e-5, atol=1e-7)
    disliked = fitted.recommend(history={12: 1.0}, k=5)
    assert (disliked["score"] == 0).all()


def test_similar_plots_are_exact_cosines_and_vectors_keep_them_apart():
    fitted = ft.fit(ft.PlotSimilarity(), CATALOGUE)
    near = fitted.similar(10, k=2)
    assert near["title"].to_list()[0] == "Darker"
    X_if = fitted.model.features_if().toarray()
    np.testing.assert_allclose(near["score"][0], X_if[0] @ X_if[1], rtol=1e-6)
    assert fitted.item_vectors.shape[0] == 5


def test_vectors_of_many_features_are_their_leading_directions():
    rng = np.random.default_rng(0)
    words = np.array([f"w{n}" for n in range(300)])
    plots = [" ".join(rng.choice(words[: 10 + 29 * (i % 10)], 12)) for i in range(120)]
    films = ft.items_only(pl.DataFrame({"item": range(120), "overview": plots}))
    fitted, again = (ft.fit(ft.PlotSimilarity(), films) for _ in range(2))
    V_id = fitted.item_vectors
    assert V_id.shape == (120, 64)
    torch.testing.assert_close(V_id, again.item_vectors)
    X_if = fitted.model.features_if().toarray()
    _, S_k, _ = np.linalg.svd(X_if)
    np.testing.assert_allclose(np.sort(np.linalg.norm(V_id, axis=0))[::-1], S_k[:64], rtol=1e-3)


def test_metadata_counts_labels_the_first_three_of_the_cast_and_directors():
    fitted = ft.fit(ft.MetadataSimilarity(), CATALOGUE)
    (column,) = fitted.model.columns_
    assert column["labels"] == [
        "cast: ann", "cast: bob", "cast: cid", "cast: dan", "cast: eve", "crew: kim",
        "genres: action", "genres: love", "genres: war",
    ]  # fmt: skip
    near = fitted.similar(10, k=4)
    assert near["title"].to_list()[0] == "Darker"
    alike = 4 / np.sqrt(6 * 4)  # of 6 and 4 labels
    np.testing.assert_allclose(near["score"][0], alike, rtol=1e-6)


def test_columns_that_are_not_there_are_left_out_with_a_note():
    fitted = ft.fit(ft.MetadataSimilarity(), ft.items_only(FILMS.drop("cast", "crew")))
    assert fitted.training["notes"] == [
        "metadata-similarity does without keywords, cast, crew: no such column."
    ]
    assert fitted.similar(10, k=1)["title"].to_list() == ["Darker"]


def test_a_table_that_says_nothing_is_refused():
    bare = ft.items_only(FILMS.select("id", "title"), "bare")
    with pytest.raises(ModelError, match=r"'overview', and the items have none. Set .* of title"):
        ft.fit(ft.PlotSimilarity(), bare)
    with pytest.raises(ModelError, match="bare: metadata-similarity reads keywords, genres, cast"):
        ft.fit(ft.MetadataSimilarity(), bare)
    empty = bare.with_items(FILMS.select("id", overview=pl.lit("the")))
    with pytest.raises(ModelError, match="the column 'overview' says nothing of any item"):
        ft.fit(ft.PlotSimilarity(), empty)


def test_a_model_of_interactions_refuses_a_catalogue():
    able = "metadata-similarity, plot-similarity, weighted-rating"
    with pytest.raises(ModelError, match=rf"ease .* films has items alone.* one of {able}"):
        ft.fit(ft.EASE(), CATALOGUE)


def test_a_catalogue_survives_the_bundle(tmp_path):
    fitted = ft.fit(ft.PlotSimilarity(), CATALOGUE)
    fitted.save(tmp_path / "bundle")
    again = ft.load(tmp_path / "bundle")
    assert again.similar(10).equals(fitted.similar(10))
    assert again.recommend(history=[10, 12]).equals(fitted.recommend(history=[10, 12]))


# -- the hybrid


def test_the_hybrid_lists_what_is_alike_by_its_predicted_rating():
    hybrid = ft.Hybrid(candidates=2, content="plot-similarity", rater="bias")
    fitted = ft.fit(hybrid, ratings_of())
    liked = {10: 5.0, 12: 5.0}
    listed = fitted.recommend(history=liked, k=5)
    rated = fitted.predict(history=liked, items=listed["item"][:2].to_list())["rating"]
    assert set(listed["item"][:2]) == {11, 13}
    np.testing.assert_allclose(listed["score"][:2], rated, rtol=1e-6)
    assert listed["score"].is_sorted(descending=True)
    assert listed["score"][2] < 1


def test_a_new_film_is_recommended_for_what_it_is_about():
    new = pl.DataFrame({"id": [20], "title": ["Darkest"], "overview": ["a dark knight, a city"]})
    for model in (ft.PlotSimilarity(), ft.Hybrid(content="plot-similarity", rater="bias")):
        grown = ft.fit(model, ratings_of()).with_items(new)
        assert "Darkest" in grown.recommend("a", k=2)["title"]
    plots = ft.fit(ft.PlotSimilarity(), ratings_of()).with_items(new)
    assert plots.recommend("a", k=1)["item"].to_list() in ([11], [20])
    assert plots.similar(20, k=2)["title"].to_list() in (["Dark", "Darker"], ["Darker", "Dark"])
    assert plots.recommend(history=[20], k=1)["title"].item() in ("Dark", "Darker")


# -- golden


@pytest.fixture(scope="module")
def tmdb(data_folder):
    if not (data_folder / "tmdb5000" / "tmdb_5000_movies.csv").is_file():
        pytest.skip("FORETASTE_DATA does not hold tmdb5000")
    return ft.items_only(ft.read_items(data_folder / "tmdb5000"), "tmdb5000")


def test_the_chart_of_tmdb_5000_is_the_published_one(tmdb):
    fitted = ft.fit(ft.WeightedRating(), tmdb)
    assert fitted.model.mean_ == pytest.approx(6.092171559442011, rel=1e-14)
    assert fitted.model.votes_needed_ == pytest.approx(1838.4, rel=1e-14)
    assert int((fitted.model.score_i_ > 0).sum()) == 481
    chart = fitted.recommend(history=[], k=5)
    assert chart["title"].to_list() == [
        "The Shawshank Redemption", "Fight Club", "The Dark Knight", "Pulp Fiction", "Inception",
    ]  # fmt: skip
    expected = [8.059258, 7.939256, 7.920020, 7.904645, 7.863239]
    np.testing.assert_allclose(chart["score"], expected, atol=1e-6)


def test_the_plots_near_the_dark_knight_rises_are_the_published_ones(tmdb):
    fitted = ft.fit(ft.PlotSimilarity(), tmdb)
    assert fitted.model.features_if().shape == (4803, 20978)
    (rises,) = tmdb.item_table.filter(title="The Dark Knight Rises")["item"]
    assert fitted.similar(rises)["title"].to_list() == [
        "The Dark Knight", "Batman Forever", "Batman Returns", "Batman",
        "Batman: The Dark Knight Returns, Part 2", "Batman Begins", "Slow Burn",
        "Batman v Superman: Dawn of Justice", "JFK", "Batman & Robin",
    ]  # fmt: skip


def test_metadata_of_tmdb_finds_the_same_heroes_without_a_credits_file(tmdb):
    fitted = ft.fit(ft.MetadataSimilarity(), tmdb)
    (rises,) = tmdb.item_table.filter(title="The Dark Knight Rises")["item"]
    assert fitted.similar(rises)["title"][0] == "The Dark Knight"
    assert fitted.training["notes"] == [
        "metadata-similarity does without cast, crew: no such column."
    ]
