"""The public object: ids in, lists out, on a catalogue small enough to know every answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.data.checking import Cost
from foretaste.errors import ModelError, UnknownIdError, UsageError
from foretaste.models.base import Model, RatingPrediction
from foretaste.recommending.request import Entry, Request, new_user, resolve_user
from tests.conftest import synthetic

FILMS = pl.DataFrame(
    {
        "item": [10, 20, 30, 40, 50, 60],
        "title": ["Alien", "Brazil", "Don't Look Now", 'The "Burbs"', "Élisa", "Fargo"],
        "year": [1979, 1985, 1973, 1989, 1995, None],
        "score": [8.5, 7.9, 7.1, 6.9, 7.0, 8.1],
        "rank": [1, 3, 4, 6, 5, 2],
        "user": ["ripley", "sam", "laura", "ray", "marie", "marge"],
    }
)


@dataclass(eq=False)
class Ladder(Model):
    """Item row i scores i + 1; a history adds ten times the value of each of its items there."""

    name: ClassVar[str] = "ladder"

    def fit(self, train, engine):
        self.n_items_ = len(train.items)
        return self

    def score(self, histories):
        return torch.arange(1.0, self.n_items_ + 1) + 10 * histories.dense(
            self.n_items_, histories.value_h
        )

    def predict(self, histories, user_p, item_p, time_p=None):
        return RatingPrediction(self.score(histories)[user_p, item_p])

    def item_vectors(self):
        angle_i = torch.arange(self.n_items_) * 0.1
        return torch.stack([angle_i.cos(), angle_i.sin()], dim=1) * (1 + angle_i[:, None])

    def cost(self, shape):
        return Cost(1.0, 1)


@pytest.fixture(scope="module")
def films():
    """User 1 has seen 10 and 60, user 42 has seen 20, user 7 all but 30."""
    frame = pl.DataFrame(
        {
            "user": [1, 1, 42, 7, 7, 7, 7, 7, 2],
            "item": [10, 60, 20, 10, 20, 40, 50, 60, 30],
            "rating": [5.0, 3, 1, 2, 3, 4, 5, 1, 3],
        }
    )
    return ft.fit(Ladder(), ft.from_frame(frame).with_items(FILMS), progress=False)


@pytest.fixture(scope="module")
def bias(ratings):
    return ft.fit(ft.Bias(), ratings, progress=False)


def listed(frame):
    return frame["item"].to_list()


def test_a_user_gets_the_best_unseen_items_best_first(films):
    table = films.recommend(1, k=3)
    assert listed(table) == [50, 40, 30]
    assert table["score"].to_list() == [5.0, 4.0, 3.0]
    assert table["rank"].to_list() == [1, 2, 3]
    assert table.columns[:5] == ["item", "score", "rank", "title", "year"]
    assert table["title"].to_list() == ["Élisa", 'The "Burbs"', "Don't Look Now"]


def test_item_columns_named_like_ours_keep_their_values_under_another_name(films):
    table = films.recommend(users=[1], k=2)
    assert table.columns == [
        "user", "item", "score", "rank", "title", "year", "item_score", "item_rank", "item_user",
    ]  # fmt: skip
    assert table.row(0) == (1, 50, 5.0, 1, "Élisa", 1995, 7.0, 5, "marie")


def test_even_two_columns_named_like_ours_do_not_collide(films):
    twice = films.dataset.with_items(FILMS.with_columns(item_score=pl.col("score") * 2))
    table = ft.Recommender(films.model, twice).recommend(1, k=1)
    assert table.select("score", "item_score", "item_item_score").row(0) == (5.0, 14.0, 7.0)


def test_a_user_has_the_same_list_alone_and_among_others(bias):
    together = bias.recommend(users=["u5", "u1", "u9"], k=6)
    for user in ("u5", "u1", "u9"):
        alone = bias.recommend(user, k=6)
        assert together.filter(user=user).drop("user").equals(alone)
    assert together["user"].to_list() == ["u5"] * 6 + ["u1"] * 6 + ["u9"] * 6


def test_users_come_in_any_sequence_and_may_repeat(films):
    expected = listed(films.recommend(users=[42, 1, 42], k=2))
    assert expected == [60, 50, 50, 40, 60, 50]
    for users in ((42, 1, 42), ["42", "1", "42"], np.array([42, 1, 42]), pl.Series([42, 1, 42])):
        assert listed(films.recommend(users=users, k=2)) == expected
    assert len(films.recommend(users=[], k=2)) == 0


def test_a_number_and_its_text_name_the_same_id(films):
    assert films.recommend("42").equals(films.recommend(42))
    assert films.recommend(users=["42"])["user"].to_list()[0] == 42
    assert films.recommend(history=["20"]).equals(films.recommend(history=[20]))
    assert films.predict(["42"], ["10"]).equals(films.predict([42], [10]))
    assert films.similar("30").equals(films.similar(30))


def test_text_that_only_looks_like_a_number_names_nobody(films):
    for user in ("042", " 42", "42.0", "+42", ""):
        with pytest.raises(UnknownIdError):
            films.recommend(user)


def test_a_new_users_history_is_left_out_and_counts(films):
    assert listed(films.recommend(history=[60, 40], k=6)) == [50, 30, 20, 10]
    seen = films.recommend(history=[60, 40], k=6, exclude_seen=False)
    assert seen["score"].to_list() == [56, 54, 5, 3, 2, 1]  # ids alone count as the top, 5 stars
    rated = films.recommend(history={60: 1, 40: 3.0}, k=6, exclude_seen=False)
    assert rated["score"].to_list() == [34, 16, 5, 3, 2, 1]


def test_someone_without_a_history_gets_a_full_list(films):
    assert listed(films.recommend(history=[], k=2)) == [60, 50]
    assert listed(films.recommend(history={}, k=2)) == [60, 50]


def test_an_item_named_twice_in_a_history_counts_once_with_its_last_rating(films):
    once = films.recommend(history={60: 2.0}, exclude_seen=False)
    assert once["score"].to_list()[0] == 26
    assert films.recommend(history={60: 5.0, "60": 2.0}, exclude_seen=False).equals(once)  # type: ignore[dict-item]
    assert films.recommend(history=[60, "60", 60]).equals(films.recommend(history=[60]))
    newest_last = new_user(films.dataset, [60, 20, "60"])[0].item_h.tolist()
    assert newest_last == films.dataset.items.rows([20, 60]).tolist()


def test_ratings_of_a_history_stay_on_the_scale_of_the_data(films):
    for value, said in [
        (6, "6"),
        (0.5, "0.5"),
        (float("nan"), "nan"),
        (None, "None"),
        ("4", "'4'"),
    ]:
        with pytest.raises(UsageError) as error:
            films.recommend(history={20: 3.0, 10: value})
        assert str(error.value) == f"history: item 10: got the value {said}. Ratings lie in 1 to 5."


def test_weights_of_clicks_may_be_any_finite_number():
    clicks = ft.from_frame(pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 3]}))
    fitted = ft.fit(Ladder(), clicks, progress=False)
    assert listed(fitted.recommend(history={3: 17}, k=3)) == [2, 1]
    for weight in (float("nan"), float("inf")):
        with pytest.raises(UsageError) as error:
            fitted.recommend(history={3: weight})
        assert (
            str(error.value)
            == f"history: item 3: got the value {weight}. Weights are finite numbers."
        )


def test_excluded_items_are_never_listed_and_candidates_are_all_there_is(films):
    assert listed(films.recommend(42, exclude=[60, 50])) == [40, 30, 10]
    assert listed(films.recommend(42, candidates=[10, 20, 50])) == [50, 10]
    assert listed(films.recommend(42, candidates=[10, 20, 50], exclude_seen=False)) == [20, 50, 10]
    assert listed(films.recommend(42, candidates=[10, 50], exclude=[50], k=5)) == [10]
    assert listed(films.recommend(42, candidates=[])) == []
    assert listed(films.recommend(1, exclude=np.array([50, 40]))) == [30, 20]


def test_seen_items_come_back_when_asked_for(films):
    assert listed(films.recommend(1, exclude_seen=False, k=2)) == [10, 60]


@pytest.mark.parametrize("k", [1, 2, 3, 10, 40, 1000])
def test_there_are_k_items_whenever_there_are_k_candidates(bias, k):
    table = bias.dataset.items.values
    catalogue = bias.dataset.with_items(
        pl.DataFrame({"item": table, "year": np.arange(len(table)) + 1980})
    )
    dated = ft.Recommender(bias.model, catalogue)
    everyone = bias.dataset.users.values.to_list()
    seen = {user: set() for user in everyone}
    for user, item in bias.dataset.frame().select("user", "item").iter_rows():
        seen[user].add(item)
    recent = set(table[15:])
    lists = dated.recommend(users=everyone, k=k, where="year >= 1995")
    for user in everyone:
        mine = lists.filter(user=user)
        assert len(mine) == min(k, len(recent - seen[user]))
        assert set(mine["item"]) <= recent - seen[user]
        assert mine["score"].is_sorted(descending=True)
        assert mine["rank"].to_list() == list(range(1, len(mine) + 1))
        assert mine["score"].is_not_nan().all()


def test_a_list_holds_items_for_which_the_condition_is_true_and_no_others(films):
    assert listed(films.recommend(history=[], where="year >= 1985")) == [50, 40, 20]
    assert listed(films.recommend(history=[], where="year IS NULL OR item = 30")) == [60, 30]
    assert listed(films.recommend(history=[], where="1 = 2")) == []
    with pytest.raises(UsageError, match=r"^where: there is no column 'yaer'\. Columns: item"):
        films.recommend(1, where="yaer > 1990")


def test_unknown_ids_are_named_with_what_to_do(films):
    look = "Ids here look like 1, 2, 7 (4 in all)."
    hint = "For someone new, give a history: what they have seen or rated."
    with pytest.raises(UnknownIdError) as error:
        films.recommend("nobody")
    assert str(error.value) == f"unknown user 'nobody'. {look} {hint}"
    with pytest.raises(UnknownIdError, match=r"unknown user 3, 'x'\. Ids"):
        films.recommend(users=[1, 3, "x"])
    look = "Ids here look like 10, 20, 30 (6 in all)."
    for ask in (
        lambda: films.predict([1], [11]),
        lambda: films.predict([1, 42], [10, 11], unknown="error"),
        lambda: films.similar(11),
        lambda: films.explain(1, item=11),
    ):
        with pytest.raises(UnknownIdError) as error:
            ask()
        assert str(error.value) == f"unknown item 11. {look}"


def test_unknown_ids_beside_the_subject_are_ignored_and_named(films):
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("history", {"history": [60, 11]}, {"history": [60]}),
        ("history", {"history": {11: 2.0, 60: 1.0}}, {"history": {60: 1.0}}),
        ("exclude", {"user": 1, "exclude": [11, 50]}, {"user": 1, "exclude": [50]}),
        ("candidates", {"user": 1, "candidates": [11, 50]}, {"user": 1, "candidates": [50]}),
        ("candidates", {"user": 1, "candidates": [11]}, {"user": 1, "candidates": []}),
    ]
    for name, asked, without in cases:
        warned = f"^{name}: unknown items were ignored: 11\\.$"
        with pytest.warns(ft.IgnoredIdsWarning, match=warned):
            found = films.recommend(**asked)
        assert found.equals(films.recommend(**without))
        (answer,) = films.answer([Request(**asked)])
        assert answer.unknown == {name: [11]}
    many = [f"x{n}" for n in range(9)]
    with pytest.warns(ft.IgnoredIdsWarning, match=r"'x0', 'x1', 'x2', 'x3', 'x4', \.\.\.\.$"):
        films.recommend(history=many)


def test_a_table_falls_back_for_what_is_unknown_and_marks_it(films, bias):
    table = bias.predict(["u1", "nobody", "u1", "nobody"], ["i3", "i3", "new", "new"])
    assert table["fallback"].to_list() == [False, True, True, True]
    assert table["user"].to_list() == ["u1", "nobody", "u1", "nobody"]
    assert table["item"].to_list() == ["i3", "i3", "new", "new"]
    known, of_item, of_user, of_neither = table["rating"].to_list()
    assert known == bias.predict(["u1"], ["i3"])["rating"][0]
    assert of_item == pytest.approx(bias.predict(items=["i3"], history=[])["rating"][0])
    user_bias = float(bias.model.user_bias(resolve_user(Request(user="u1"), bias.dataset)[0])[0])
    assert of_user == pytest.approx(bias.model.mean_ + user_bias, abs=1e-5)
    assert of_neither == pytest.approx(bias.model.mean_, abs=1e-5)
    numbers = films.predict([1, 5], [10, 20])
    assert numbers["user"].to_list() == ["1", "5"]
    with pytest.raises(UnknownIdError, match="unknown user 'nobody'"):
        bias.predict(["u1", "nobody"], ["i3", "i4"], unknown="error")
    with pytest.raises(UnknownIdError, match="unknown user 'nobody'"):
        bias.predict(["nobody"], ["i3", "i4"])
    with pytest.raises(UsageError, match=r"^unknown='skip'. Use 'fallback' or 'error'.$"):
        bias.predict(["u1"], ["i3"], unknown="skip")


def test_each_user_of_a_table_is_folded_in_once(bias, monkeypatch):
    sizes = []
    fold_in = ft.Bias.user_bias

    def counted(model, histories):
        sizes.append(len(histories))
        return fold_in(model, histories)

    monkeypatch.setattr(ft.Bias, "user_bias", counted)
    monkeypatch.setattr("foretaste.recommending.rating.USERS_AT_ONCE", 3)
    users = [f"u{n % 7}" for n in range(50)]
    items = [f"i{n % 11}" for n in range(50)]
    table = bias.predict(users, items)
    assert sizes == [3, 3, 1]
    monkeypatch.undo()
    alone = [bias.predict([u], [i])["rating"][0] for u, i in zip(users, items, strict=True)]
    np.testing.assert_allclose(table["rating"], alone, rtol=1e-6)


def test_requests_are_answered_in_their_order_each_as_if_it_were_alone(films, bias):
    asked = [
        Request(user="u1", k=3), Request(history=["i1", "i2"], k=5), Request(user="u2", k=3),
        Request(history=[Entry("i1", 5.0, 10), Entry("i2", 1.0, 20)], k=3),
        Request(user="u1", k=3, exclude=["i5"]), Request(users=["u3", "u4"], k=3),
        Request(history=[], k=3),
    ]  # fmt: skip
    for request, together in zip(asked, bias.answer(asked), strict=True):
        (alone,) = bias.answer([request])
        assert torch.equal(together.lists.item_bk, alone.lists.item_bk)
        torch.testing.assert_close(together.lists.score_bk, alone.lists.score_bk)
        assert torch.equal(together.histories.item_h, alone.histories.item_h)
    assert bias.answer([]) == []


def test_times_of_a_new_users_entries_put_them_in_order_where_all_have_one(films):
    late_first = [Entry(60, 3.0, 200), Entry(20, 4.0, 100)]
    histories, _ = new_user(films.dataset, late_first)
    assert histories.item_h.tolist() == [1, 5]
    assert histories.time_h is not None
    assert histories.time_h.tolist() == [100, 200]
    histories, _ = new_user(films.dataset, [*late_first, Entry(10)])
    assert histories.item_h.tolist() == [5, 1, 0]
    assert histories.value_h.tolist() == [3.0, 4.0, 5.0]
    assert histories.time_h is None


def test_listed_items_come_with_reasons_where_they_are_asked_for(films):
    (answer,) = films.answer([Request(history={60: 2.0, 40: 1.0}, k=3, explain=2)])
    (weight_hk,) = answer.weight_bhk
    assert weight_hk.shape == (2, 3)
    assert (weight_hk == 0).all()  # a history speaks for its own items alone here
    assert films.answer([Request(history=[60], k=3)])[0].weight_bhk == ()


def test_contradictory_questions_are_refused(films):
    one = (
        "give exactly one of user, users and history. "
        "Someone new is described by a history, [] for none."
    )
    for question in ({}, {"user": 1, "history": [10]}, {"user": 1, "users": [1]}):
        with pytest.raises(UsageError) as error:
            films.recommend(**question)
        assert str(error.value) == one
    with pytest.raises(UsageError, match=r"^k=0\. Ask for at least one item\.$"):
        films.recommend(1, k=0)
    with pytest.raises(UsageError, match=r"^k=-1\. Ask for at least one item\.$"):
        films.similar(10, k=-1)


def test_one_text_is_not_taken_for_a_list_of_its_letters(films):
    for name in ("users", "history"):
        with pytest.raises(UsageError) as error:
            films.recommend(**{name: "10"})
        assert str(error.value) == f"{name}='10' is one text. Give a list: {name}=['10']."
    for name in ("exclude", "candidates"):
        with pytest.raises(UsageError, match=f"^{name}='10' is one text"):
            films.recommend(1, **{name: "10"})
    with pytest.raises(UsageError, match=r"^items='10' is one text"):
        films.predict([1], "10")


def test_ratings_of_pairs_come_in_the_order_asked(films):
    table = films.predict([1, 42, 1], [10, 10, 30])
    assert table.columns == ["user", "item", "rating", "std", "fallback"]
    assert table["user"].to_list() == [1, 42, 1]
    assert table["item"].to_list() == [10, 10, 30]
    assert table["rating"].to_list() == [51.0, 1.0, 3.0]
    assert table["std"].to_list() == [None] * 3


def test_one_user_may_be_asked_about_many_items_and_a_new_user_too(films):
    assert films.predict([42], [30, 10])["rating"].to_list() == [3.0, 1.0]
    new_user = films.predict(items=[30, 10], history={10: 2.0})
    assert new_user["rating"].to_list() == [3.0, 21.0]
    assert new_user["user"].to_list() == [None, None]
    assert new_user.schema["user"] == pl.Int64
    assert films.predict(np.array([42, 1]), pl.Series([30, 10]))["rating"].to_list() == [3.0, 51.0]


def test_a_list_and_a_prediction_agree_on_what_an_item_is_worth(bias):
    best = bias.recommend("u3", k=5)
    inside = (best["score"] >= 1) & (best["score"] <= 5)
    rated = bias.predict(["u3"], best["item"].to_list())
    np.testing.assert_allclose(
        rated["rating"].filter(inside), best["score"].filter(inside), rtol=1e-6
    )


def test_predicting_needs_one_user_for_each_item(films):
    with pytest.raises(UsageError) as error:
        films.predict([1, 42, 7], [10, 20])
    assert str(error.value) == "3 users and 2 items. Give one user for each item."
    either = "give either users or a history. A new user is a history."
    for question in ({"items": [10]}, {"users": [1], "items": [10], "history": [20]}):
        with pytest.raises(UsageError) as error:
            films.predict(**question)
        assert str(error.value) == either
    assert len(films.predict([1], [])) == 0


def test_similar_items_are_the_nearest_by_angle_whatever_their_length(films):
    table = films.similar(30, k=3)
    assert sorted(listed(table)[:2]) == [20, 40]
    assert listed(table)[2] in (10, 50)
    np.testing.assert_allclose(table["score"], np.cos([0.1, 0.1, 0.2]), rtol=1e-6)
    assert table["rank"].to_list() == [1, 2, 3]
    assert table["title"][0] in ("Brazil", 'The "Burbs"')
    assert len(films.similar(30, k=100)) == 5


def test_a_model_without_the_ability_says_which_have_it(bias):
    popular = ft.fit(ft.Popularity(), bias.dataset, progress=False)
    with pytest.raises(ModelError, match=r"popularity is no model that predicts ratings\. Train "):
        popular.predict(["u1"], ["i1"])


def test_a_dataset_without_item_columns_lists_ids_and_filters_on_them(bias):
    table = bias.recommend("u1", k=3, where="item IN ('i1', 'i2', 'i3', 'i4')")
    assert table.columns == ["item", "score", "rank"]
    assert set(listed(table)) <= {"i1", "i2", "i3", "i4"}


def test_text_and_number_ids_give_the_same_lists(ratings):
    numbers = ratings.frame().with_columns(
        pl.col("user").str.strip_prefix("u").cast(pl.Int64),
        pl.col("item").str.strip_prefix("i").cast(pl.Int64),
    )
    by_number = ft.fit(ft.Bias(), ft.from_frame(numbers), progress=False)
    by_text = ft.fit(ft.Bias(), ratings, progress=False)
    for user in (0, 7, 59):
        of_number, of_text = by_number.recommend(user), by_text.recommend(f"u{user}")
        np.testing.assert_allclose(of_number["score"], of_text["score"], atol=1e-5)
        assert [f"i{i}" for i in listed(of_number)] == listed(of_text)


def test_fitting_prints_nothing_when_told_so_and_keeps_how_it_was_done(capfd):
    fitted = ft.fit(ft.Bias(), synthetic(n_users=9, n_rows=80), seed=4, progress=False)
    assert fitted.training["seed"] == 4
    assert fitted.training["seconds"] >= 0
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def ease(ratings):
    return ft.fit(ft.EASE(l2=5.0), ratings, progress=False)


def test_a_diverse_list_starts_with_the_best_and_repeats_itself_less(ease, ratings):
    user = ratings.users.values[0]
    plain = ease.recommend(user, k=8)
    diverse = ease.recommend(user, k=8, diversity=0.9)
    assert diverse["item"][0] == plain["item"][0]
    assert set(diverse["item"]) != set(plain["item"])
    assert len(set(diverse["item"])) == 8
    assert ease.recommend(user, k=8, diversity=0.0).equals(plain)


def test_diversity_out_of_range_says_so(ease, ratings):
    user = ratings.users.values[0]
    with pytest.raises(UsageError, match=r"diversity=1\.5\. It goes from 0 \(none\) to 1\."):
        ease.recommend(user, diversity=1.5)


def test_the_place_of_an_item_is_its_rank_in_the_list(ease, ratings):
    user = ratings.users.values[3]
    listed = ease.recommend(user, k=5)
    assert ease.place(Request(user=user), listed["item"][4]).rank == 5
    seen = ease.explain(user, item=listed["item"][0])["item"]
    assert set(seen) == set(ratings.frame().filter(pl.col("user") == user)["item"])
    assert ease.place(Request(user=user), seen[0]).rank is None


def test_what_is_told_of_someone_new_has_the_columns_of_the_user_table(films):
    with pytest.raises(UsageError) as none:
        films.recommend(history=[10], user_features={"age": 3})
    assert str(none.value) == "users have no column 'age'. Columns here: none."
    table = pl.DataFrame({"user": [1, 7, 42], "age": [20, 30, 40], "sex": ["f", "m", "f"]})
    described = replace(films, dataset=films.dataset.with_users(table))
    about = new_user(described.dataset, [], {"age": "25"})[0].user_features
    assert about is not None
    assert about.to_dicts() == [{"age": 25}]
    columns = "Columns here: age (Int64), sex (String)."
    with pytest.raises(UsageError) as wrong:
        described.recommend(history=[10], user_features={"age": "old"})
    assert str(wrong.value).startswith(
        "user_features={'age': 'old'}: conversion from `str` to `i64` failed"
    )
    assert str(wrong.value).endswith(columns)
    with pytest.raises(
        UsageError, match=r"user_features describe someone new. Give a history with them, \[\]"
    ):
        described.recommend(user=1, user_features={"age": 25})
    with pytest.raises(UsageError, match="user_features describe someone new"):
        described.predict([1], [10], user_features={"age": 25})
    plain, told = (described.recommend(history=[10], user_features=a) for a in (None, {"sex": "f"}))
    assert plain.equals(told)  # the model looks at histories alone
