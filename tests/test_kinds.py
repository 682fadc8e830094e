"""Kinds of events, from a column of a file to what is seen, liked and relevant."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foretaste as ft
from foretaste.bundle import MANIFEST
from foretaste.data.histories import Histories, histories_of
from foretaste.data.kinds import kinds_from, kinds_of
from foretaste.errors import BadRowsError, DataError, UsageError
from foretaste.evaluation.evaluate import relevant_rows
from foretaste.models import MODELS
from foretaste.recommending.request import Request
from tests.test_models_contract import films, small

WEIGHTS = {"view": 1.0, "cart": 3.0, "purchase": 5.0}
LISTS = [
    name
    for name, model in MODELS.items()
    if not model.needs_ratings and model.needs_interactions and name != "embedding-net"
]


def shop(n_users: int = 60, n_items: int = 30, n_rows: int = 900, seed: int = 0) -> pl.DataFrame:
    """Events of two camps of users; repeated rows are part of it."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, n_users, n_rows)
    kind = rng.choice(["view", "cart", "purchase", "skip"], n_rows, p=[0.6, 0.15, 0.15, 0.1])
    camp = (user % 2) ^ (kind == "skip") ^ (rng.random(n_rows) < (kind == "view") * 0.4)
    item = 2 * rng.integers(0, n_items // 2, n_rows) + camp
    return pl.DataFrame(
        {
            "user": [f"u{u}" for u in user],
            "item": [f"i{i}" for i in item],
            "event": kind,
            "time": rng.integers(1_500_000_000, 1_600_000_000, n_rows),
        }
    )


SHOP_WEIGHTS = {**WEIGHTS, "skip": -2.0}


def one_user(*events: tuple[str, str, float], **options) -> ft.Dataset:
    table = pl.DataFrame(list(events), schema=["item", "event", "quantity"], orient="row")
    return ft.from_frame(table.with_columns(user=pl.lit("u")), **options)


# -- reading


@pytest.mark.parametrize(
    "name",
    ["event", "Event_Type", "action", "behavior", "behaviour", "BehaviorType", "interaction",
     "interaction_type", "feedback", "feedback_type:token"],
)  # fmt: skip
def test_a_column_of_kinds_is_recognised_by_its_name(name, tmp_path):
    file = tmp_path / "shop.csv"
    file.write_text(f"user,item,{name}\nu,a,view\nu,a,purchase\nv,b,view\n")
    data = ft.read(file)
    assert data.kinds is not None
    assert data.kinds.names == ("purchase", "view")
    assert data.kinds.target == "purchase"
    assert not data.explicit
    assert len(data) == 3, "a view and a purchase of one item are no duplicates"
    assert any("purchase (1), view (2)" in note for note in data.report.notes)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["1", "0", "1"], "numbers"),
        (["view"] * 3, "one kind"),
        (["view", "", "cart"], "an empty cell"),
        ([f"k{n}" for n in range(51)], "too many"),
    ],
)
def test_a_guessed_column_that_holds_no_kinds_is_left_alone_with_a_note(cells, why, tmp_path):
    file = tmp_path / "shop.csv"
    rows = "".join(f"u{n},a{n},{cell}\n" for n, cell in enumerate(cells))
    file.write_text("user,item,action\n" + rows)
    data = ft.read(file)
    assert data.kinds is None, why
    assert "event" not in data.report.columns
    assert "column 'action' is not read as kinds of events (--event-column)" in data.report.notes


def test_ratings_beside_a_column_of_events_stay_ratings_until_it_is_named():
    table = {"user": [1, 2], "item": [1, 2], "rating": [5, 3], "event": ["view", "buy"]}
    assert ft.from_frame(table).explicit
    assert ft.from_frame(table).kinds is None
    assert ft.from_frame(table, event="event").kinds is not None
    assert ft.from_frame({**table, "quantity": [1, 2]}, value="", event="").kinds is None


def test_numbers_are_kinds_where_the_column_is_named():
    data = ft.from_frame({"user": [1, 2], "item": [1, 2], "what": [4, 1]}, event="what")
    assert data.kinds is not None
    assert data.kinds.names == ("1", "4")


def test_a_row_without_a_kind_is_named_by_its_line(tmp_path):
    file = tmp_path / "shop.csv"
    file.write_text("user,item,event\nu,a,view\nu,b,\n")
    with pytest.raises(BadRowsError, match=r"shop.csv:3: column 'event'.*Give every row a kind"):
        ft.read(file, event="event")
    assert len(ft.read(file, event="event", bad_rows="drop")) == 1


def test_a_named_column_with_too_many_kinds_is_refused():
    many = {"user": range(60), "item": range(60), "event": [f"k{n}" for n in range(60)]}
    with pytest.raises(DataError, match=r"event: the column has 60 kinds of events, such as 'k0'"):
        ft.from_frame(many, event="event")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_weights": {"view": 1}}, r"no weight for 'cart'\. Give a weight for each kind"),
        ({"event_weights": {"view": 1, "cart": 2, "by": 3}}, r"no kind of event is called 'by'"),
        ({"event_weights": {"view": 1, "cart": np.inf}}, r"cart=inf\. Give finite numbers"),
        ({"target_event": "buy"}, r"no kind of event 'buy'\. Use one of 'cart', 'view'"),
        ({"event_weights": {"view": 1, "cart": -1}, "target_event": "cart"}, r"weighs -1"),
        ({"event": "", "target_event": "cart"}, r"no column of kinds.*--event-column"),
    ],
)
def test_weights_and_targets_that_do_not_fit_are_refused_by_name(options, message):
    table = {"user": [1, 1], "item": [1, 2], "event": ["view", "cart"]}
    with pytest.raises(UsageError, match=message):
        ft.from_frame(table, **options)


@pytest.mark.parametrize(
    ("counts", "weights", "target"),
    [
        ({"view": 9, "addtocart": 2, "transaction": 3}, None, "transaction"),
        ({"impression": 9, "like": 3, "skip": 1}, None, "like"),
        ({"dislike": 1, "listen": 5, "share": 2}, None, "share"),
        ({"skip": 1, "impression": 2}, None, "skip"),
        ({"view": 9, "cart": 5, "purchase": 2}, {"view": 1, "cart": 9, "purchase": 5}, "cart"),
        ({"buy": 5, "order": 2}, {"buy": 5, "order": 5}, "order"),
    ],
)
def test_the_target_is_the_heaviest_kind_or_the_rarest_strong_one(counts, weights, target):
    assert kinds_of(counts, weights, None).target == target


# -- values


def test_a_value_is_the_amount_times_the_weight_of_the_kind():
    data = one_user(
        ("a", "view", 3), ("a", "purchase", 2), event_weights={"view": 2, "purchase": 5}
    )
    assert data.interactions.value_r.tolist() == [6.0, 10.0]
    assert data.frame()["value"].to_list() == [3.0, 2.0]
    assert data.liked == 5.0
    again = data.with_event_weights({"view": -1, "purchase": 1})
    assert again.interactions.value_r.tolist() == [-3.0, 2.0]
    back = again.with_event_weights({"view": 2, "purchase": 5})
    assert back.fingerprint == data.fingerprint


def test_amounts_behind_a_weight_of_0_cannot_come_back():
    counted = one_user(("a", "view", 3), ("a", "buy", 1), event_weights={"view": 0, "buy": 1})
    with pytest.raises(UsageError, match=r"amounts of 'view' are not known any more"):
        counted.with_event_weights({"view": 1, "buy": 1})
    plain = one_user(("a", "view", 1), ("a", "buy", 1), event_weights={"view": 0, "buy": 1})
    assert plain.with_event_weights({"view": 2, "buy": 1}).interactions.value_r.tolist() == [2, 1]


def test_duplicates_are_rows_of_one_user_one_item_and_one_kind():
    rows = [("a", "view", 1), ("a", "buy", 1), ("a", "view", 3), ("b", "view", 1)]
    kept = {rule: one_user(*rows, duplicates=rule) for rule in ("last", "sum", "mean", "keep")}
    assert [len(data) for data in kept.values()] == [3, 3, 3, 4]
    views = {rule: data.frame().filter(item="a", event="view") for rule, data in kept.items()}
    assert [views[rule]["value"].to_list() for rule in kept] == [[3], [4], [2], [1, 3]]
    with pytest.raises(DataError, match=r"user 'u' has item 'a' more than once \(1 such rows"):
        one_user(*rows, duplicates="error")


def test_a_split_a_bundle_and_a_summary_keep_the_kinds(tmp_path):
    data = ft.from_frame(shop(), event_weights=SHOP_WEIGHTS)
    parts = ft.split(data)
    assert parts.train.kinds == parts.test.kinds == data.kinds
    assert data.kinds is not None
    assert kinds_from(json.loads(json.dumps(data.kinds.summary()))) == data.kinds
    folder = ft.fit(ft.EASE(), data, progress=False).save(tmp_path / "bundle")
    loaded = ft.load(folder).dataset
    assert loaded.kinds == data.kinds
    assert loaded.fingerprint == data.fingerprint
    assert (
        json.loads((folder / MANIFEST).read_text())["values"]["data"]["kinds"]["target"]
        == "purchase"
    )


def test_kinds_weights_and_the_target_are_in_the_fingerprint():
    data = ft.from_frame(shop(), event_weights=SHOP_WEIGHTS)
    others = [
        ft.from_frame(shop().with_columns(event=pl.col("event").replace("view", "look")),
                      event_weights={"look": 1, "cart": 3, "purchase": 5, "skip": -2}),
        data.with_event_weights({**SHOP_WEIGHTS, "view": 2}),
        data.with_event_weights(SHOP_WEIGHTS, "cart"),
    ]  # fmt: skip
    assert len({d.fingerprint for d in [data, *others]}) == 4


# -- histories

entry = st.tuples(st.integers(0, 5), st.sampled_from([1.0, 2.5]), st.integers(0, 9),
                  st.integers(0, 2))  # fmt: skip
users_of = st.lists(st.lists(entry, max_size=6), max_size=5)


def made(users) -> Histories:
    flat = [e for user in users for e in user]
    item, value, time, kind = zip(*flat, strict=True) if flat else [()] * 4
    return Histories(
        torch.tensor(np.cumsum([0, *map(len, users)])),
        torch.tensor(item, dtype=torch.int64),
        torch.tensor(value, dtype=torch.float32),
        torch.tensor(time, dtype=torch.int64),
        torch.arange(len(users)),
        kind_h=torch.tensor(kind, dtype=torch.int64),
    )


def lists(histories: Histories) -> list[list[tuple]]:
    assert histories.time_h is not None
    assert histories.kind_h is not None
    columns = (histories.item_h, histories.value_h, histories.time_h, histories.kind_h)
    flat = list(zip(*(column.tolist() for column in columns), strict=True))
    bounds = histories.pointer_b.tolist()
    return [flat[low:high] for low, high in pairwise(bounds)]


@given(users_of, users_of, st.data())
def test_kinds_stay_with_their_entries_whatever_is_done_to_histories(users, others, data):
    histories = made(users)
    assert lists(histories) == users
    assert lists(Histories.concat([histories, made(others)])) == users + others
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(users))] * 2)))
    assert lists(histories[start:stop]) == users[start:stop]
    assert lists(histories.first(2)) == [user[:2] for user in users]
    assert lists(histories.seen(1)) == [[e for e in user if e[3] == 1] for user in users]
    assert histories.seen(None) is histories
    by_time = [sorted(user, key=lambda e: e[2]) for user in users]
    assert histories.time_h is not None
    assert lists(histories.sorted_by(histories.time_h)) == by_time
    if users:
        chosen = data.draw(st.lists(st.integers(0, len(users) - 1), max_size=7))
        taken = histories.take(torch.tensor(chosen, dtype=torch.int64))
        assert lists(taken) == [users[b] for b in chosen]


@given(st.lists(entry, max_size=6), st.lists(entry, max_size=6))
def test_a_newer_event_takes_the_place_of_the_same_item_and_kind(old, new):
    newer = {(e[0], e[3]): e for e in new}
    columns = list(zip(*newer.values(), strict=True)) or [()] * 4
    item, value, time, kind = (
        torch.tensor(c, dtype=d)
        for c, d in zip(columns, [torch.int64, torch.float32, torch.int64, torch.int64],
                        strict=True)
    )  # fmt: skip
    grown = made([old]).with_events(item, value, time, kind)
    kept = [e for e in old if (e[0], e[3]) not in newer]
    assert lists(grown) == [sorted([*kept, *newer.values()], key=lambda e: e[2])]


def test_histories_of_another_dataset_speak_the_kinds_of_training():
    known = ft.from_frame(shop(), event_weights=SHOP_WEIGHTS)
    other = ft.from_frame(shop(seed=1).filter(pl.col("event") != "cart"))
    batch = histories_of(other, np.arange(len(other.users)), known)
    assert known.kinds is not None
    assert batch.kind_h is not None
    rows = other.frame().filter(pl.col("item").is_in(known.items.values.implode()))
    assert [known.kinds.names[k] for k in batch.kind_h.tolist()] == rows["event"].to_list()


# -- likes, lists and relevance


def weights(model, data: ft.Dataset) -> list[float]:
    return model.learn_likes(data).toarray()[0].tolist()


def test_entries_of_one_item_are_summed_before_what_is_not_above_0_is_left_out():
    rows = [("a", "view", 1), ("a", "skip", 1), ("b", "view", 2), ("c", "skip", 1)]
    data = one_user(*rows, event_weights={"view": 3, "skip": -2}, target_event="view")
    model = ft.EASE()
    assert weights(model, data) == [1, 6, 0]
    batch = histories_of(data, np.array([0]), data)
    assert model.dislikes(batch, 3).toarray().tolist() == [[0, 0, 2]]
    assert weights(ft.EASE(positive_threshold=2), data) == [0, 6, 0]


def test_log_weighs_amounts_before_the_weight_of_the_kind():
    rows = [("a", "view", 7), ("b", "buy", 1), ("c", "none", 3)]
    data = one_user(*rows, event_weights={"view": 0.5, "buy": 5, "none": 0})
    np.testing.assert_allclose(weights(ft.EASE(weighting="log"), data), [1.5, 5, 0])


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("duplicates", ["last", "keep"])
def test_every_model_for_lists_takes_kinds_and_repeated_events(name, duplicates, tmp_path):
    table = pl.concat([shop(), shop().head(200)])
    data = ft.from_frame(table, event_weights=SHOP_WEIGHTS, duplicates=duplicates)
    data = data.with_items(films(30))
    fitted = ft.fit(small(name), data, progress=False)
    everyone = histories_of(data, np.arange(len(data.users)), data)
    score_ui = fitted.model.score(everyone)
    assert torch.isfinite(score_ui).all()
    loaded = ft.load(fitted.save(tmp_path / "bundle"))
    assert torch.equal(loaded.model.score(everyone), score_ui)
    report = ft.evaluate(
        ft.fit(small(name), (parts := ft.split(data)).train, progress=False), parts, ratings=False
    )
    assert np.isfinite(report.metrics["ndcg@10"].value)


@pytest.mark.parametrize("name", LISTS)
def test_repeated_clicks_do_not_break_a_model(name):
    table = pl.concat([shop(), shop().head(300)]).drop("event")
    data = ft.from_frame(table, duplicates="keep").with_items(films(30))
    fitted = ft.fit(small(name), data, progress=False)
    everyone = histories_of(data, np.arange(len(data.users)), data)
    assert torch.isfinite(fitted.model.score(everyone)).all()


@pytest.mark.parametrize("model", [ft.EASE(), ft.ALS(), ft.ItemKNN()])
def test_the_matrix_of_likes_holds_each_pair_once(model):
    table = pl.concat([shop(), shop().head(300)])
    for data in (
        ft.from_frame(table.drop("event"), duplicates="keep"),
        ft.from_frame(table, duplicates="keep", event_weights=SHOP_WEIGHTS),
    ):
        X_ui = model.learn_likes(data)
        pairs = np.repeat(np.arange(X_ui.shape[0]), np.diff(X_ui.indptr)) * 1000 + X_ui.indices
        assert len(set(pairs.tolist())) == len(pairs)
        assert (X_ui.data > 0).all()


def test_summed_entries_stay_in_the_order_in_which_items_were_met_last():
    rows = [("d", "view", 1), ("a", "view", 1), ("c", "view", 1), ("a", "view", 1)]
    for data in (
        one_user(*rows, ("b", "buy", 1), duplicates="keep"),
        ft.from_frame(pl.DataFrame({"user": "u", "item": list("dcab")})),
    ):
        X_ui = ft.Item2Vec().learn_likes(data)
        assert data.items[X_ui.indices].to_list() == ["d", "c", "a", "b"]


def test_what_was_viewed_may_be_listed_and_what_was_bought_may_not():
    data = ft.from_frame(shop(), event_weights=SHOP_WEIGHTS)
    recommender = ft.fit(ft.EASE(l2=1), data, progress=False)
    bought = data.frame().filter(user="u7", event="purchase")["item"]
    met = data.frame().filter(user="u7")["item"].unique()
    listed = recommender.recommend("u7", k=100)["item"]
    assert not set(listed) & set(bought)
    assert len(listed) == len(data.items) - bought.n_unique()
    viewed = met.filter(~met.is_in(bought.implode()))[0]
    assert recommender.place(Request(user="u7"), viewed).rank is not None
    assert recommender.place(Request(user="u7"), bought[0]).rank is None


def test_relevant_is_what_is_of_the_target_kind_whatever_it_weighs():
    data = ft.from_frame(shop(), event_weights=SHOP_WEIGHTS)
    parts = ft.split(data)
    kinds = parts.test.frame()["event"]
    relevant_r = relevant_rows(parts.test, parts.train, 0.0)
    assert relevant_r.tolist() == (kinds == "purchase").to_list()
    fitted = ft.fit(ft.Popularity(), parts.train, progress=False)
    report = ft.evaluate(fitted, parts, k=5)
    users = parts.test.frame().filter(event="purchase")["user"].n_unique()
    assert report.per_user["ndcg@5"].count() == users
    views = replace(parts, test=parts.test.take((kinds == "view").to_numpy()))
    with pytest.raises(DataError, match=r"no test event is of the kind 'purchase'"):
        ft.evaluate(fitted, views, k=5)
