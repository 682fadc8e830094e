from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste import cli
from foretaste.cli.cold import baselines
from foretaste.data.histories import Histories, histories_of
from foretaste.errors import DataError, UsageError
from foretaste.evaluation.cold_start import first, with_new_items


def worlds(n_users: int = 120, n_items: int = 60, seed: int = 0) -> ft.Dataset:
    """Even users choose among red items, odd ones among blue items; the colour is a column."""
    rng = np.random.default_rng(seed)
    kinds = np.array(["red", "blue"])
    frame = pl.DataFrame(
        [
            {"user": u, "item": int(2 * i + u % 2), "time": t}
            for u in range(n_users)
            for t, i in enumerate(rng.choice(n_items // 2, 15, replace=False))
        ]
    )
    table = pl.DataFrame({"item": range(n_items), "kind": kinds[np.arange(n_items) % 2]})
    return ft.from_frame(frame).with_items(table)


@pytest.fixture(scope="module")
def items():
    models = {"popular": ft.Popularity(), "aligned": ft.AlignedALS(n_factors=4), "als": ft.ALS()}
    return ft.evaluate_cold_items(models, worlds(), k=5)


def value(cold, model, case, metric):
    return cold.frame().filter(model=model, case=case, metric=metric)["value"].item()


def test_new_items_are_found_by_their_columns_alone(items):
    assert value(items, "aligned", "cold", "precision@5") > 0.25
    better = items.ratio("recall@5", ("aligned", "cold"), ("popular", "cold"))
    assert better.low > 1.2
    assert better.low < better.value < better.high


def test_who_cannot_place_new_items_gets_what_chance_gives_among_them(items):
    ratings = worlds()
    held = int(items.protocol.split("(")[1].split()[0])
    assert held == 12  # a fifth of 60
    for model in ("popular", "als"):
        assert value(items, model, "cold in all", "recall@5") == 0
    # 15 of 30 items of a world are chosen, so 3 of 12 new items each
    chance = items.tallies["popular", "cold"]["precision@5"].value
    other = items.tallies["als", "cold"]["precision@5"].value
    assert chance == pytest.approx(other)
    assert chance == pytest.approx(15 / len(ratings.items), abs=0.03)


def test_models_that_place_no_new_items_lose_nothing_by_them(items):
    for metric in ("recall@5", "ndcg@5"):
        assert value(items, "als", "warm", metric) == value(items, "als", "warm in all", metric)


def test_every_case_has_the_same_users(items):
    lengths = {len(t.total_b) for case in items.tallies.values() for t in case.values()}
    assert lengths == {len(items.users)}


def test_newcomers_are_served_better_the_more_they_have_said():
    users = ft.evaluate_cold_users(
        {"ease": ft.EASE(l2=10), "popular": ft.Popularity()}, worlds(), lengths=(0, 3), test=0.3
    )
    assert set(users.tallies) == {(m, c) for m in ("ease", "popular") for c in ("0", "3", "all")}
    nothing, three, everything = (value(users, "ease", c, "ndcg@10") for c in ("0", "3", "all"))
    assert nothing < three
    assert three > 0.8 * everything
    assert len({value(users, "popular", c, "ndcg@10") for c in ("0", "3", "all")}) == 1


def test_the_oldest_entries_are_shown_to_the_model_as_of_a_new_user():
    batch = Histories(
        torch.tensor([0, 3, 3, 4]), torch.tensor([5, 6, 7, 8]), torch.ones(4), None,
        torch.tensor([0, 1, 2]),
    )  # fmt: skip
    shown = first(batch, 2)
    assert shown.pointer_b.tolist() == [0, 2, 2, 3]
    assert shown.item_h.tolist() == [5, 6, 8]
    assert shown.train_row_b.tolist() == [-1, -1, -1]
    assert len(first(batch, 0).item_h) == 0


def test_what_is_drawn_is_shown_to_the_model_in_the_order_of_time():
    drawn = Histories(
        torch.tensor([0, 3]), torch.tensor([7, 5, 6]), torch.tensor([3.0, 1.0, 2.0]),
        torch.tensor([30, 10, 20]), torch.tensor([0]),
    )  # fmt: skip
    shown = first(drawn, 2)
    assert shown.item_h.tolist() == [5, 7]
    assert shown.value_h.tolist() == [1, 3]


def test_what_is_known_of_users_goes_with_them():
    ratings = worlds(n_users=6)
    table = pl.DataFrame({"user": range(6), "age": [3, 1, 4, 1, 5, 9]})
    known, others = ratings, ratings.with_users(table)
    batch = histories_of(others, np.array([2, -1, 0]), known)
    asked = (batch, batch[1:], batch.take(torch.tensor([2, 0])), first(batch, 1))
    ages = [b.user_features["age"].to_list() for b in asked if b.user_features is not None]
    assert ages == [[4, None, 3], [None, 3], [3, 4], [4, None, 3]]
    assert histories_of(known, np.array([2]), known).user_features is None


def test_each_case_adds_to_what_the_last_one_showed():
    ratings, seen = worlds(), {}

    class Spy(ft.Popularity):
        def score(self, histories):
            if (histories.train_row_b < 0).all():
                sets = [set(histories[b : b + 1].item_h.tolist()) for b in range(len(histories))]
                seen.setdefault(int(histories.length_b.max()), sets)
            return super().score(histories)

    for shown in ("random", "oldest"):
        seen.clear()
        ft.evaluate_cold_users({"spy": Spy()}, ratings, lengths=(1, 3), shown=shown, test=0.3)
        assert all(one <= three for one, three in zip(seen[1], seen[3], strict=True))


def test_lists_for_newcomers_hold_nothing_they_did_even_where_it_was_not_shown():
    ratings = worlds()
    users = ft.evaluate_cold_users({"popular": ft.Popularity()}, ratings, lengths=(0,), test=0.3)
    # the same candidates: popularity, which sees no history, cannot differ
    tallies = users.tallies["popular", "0"], users.tallies["popular", "all"]
    one, other = (t["ndcg@10"].total_b for t in tallies)
    np.testing.assert_array_equal(one, other)


def test_new_items_stand_last_with_a_model_that_cannot_tell(ratings):
    known = ft.fit(ft.Popularity(), ratings, progress=False)
    grown = with_new_items(known, pl.DataFrame({"item": ["x", "y"]}))
    everything = grown.recommend("u1", k=100, exclude_seen=False)
    assert everything["item"].to_list()[-2:] == ["x", "y"]
    assert len(everything) == len(ratings.items) + 2
    assert everything["score"][-2] == everything["score"][-1] < everything["score"][-3]


def test_what_was_not_measured_is_an_error_that_says_what_was(items):
    with pytest.raises(UsageError, match=r"ndcg@3 of \('aligned', 'cold'\) was not measured"):
        items.ratio("ndcg@3", ("aligned", "cold"), ("als", "cold"))


def test_a_share_that_leaves_nothing_is_an_error(ratings):
    with pytest.raises(DataError, match="holding out 0% of 40 items leaves nothing to learn or"):
        ft.evaluate_cold_items({"p": ft.Popularity()}, ratings, test=0.0001)
    with pytest.raises(DataError, match="no held-out user has 99 interactions to show"):
        ft.evaluate_cold_users({"p": ft.Popularity()}, ratings, lengths=(99,))


def test_the_command_prints_draws_and_gives_json(tmp_path, monkeypatch, capfd):
    ratings = worlds(n_users=40)
    ratings.frame().drop("time").write_csv(tmp_path / "clicks.csv")
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> str:
        monkeypatch.setattr("sys.argv", ["foretaste", *line.split()])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert not exit_.value.code
        return capfd.readouterr().out

    line = "cold-start clicks.csv --of users --model ease --k 5 --set l2=10"
    said = run(f"{line} --picture curve")
    assert "held out" in said
    assert "ndcg@5" in said
    assert (tmp_path / "curve.svg").is_file()
    rows = json.loads(run(f"{line} --json"))["rows"]
    assert {row["model"] for row in rows} == {"random", "popularity", "ease"}
    assert {row["case"] for row in rows} == {"0", "1", "3", "10", "all"}


def test_plain_similarity_stands_beside_models_of_new_items_where_there_is_something_to_compare():
    genres = pl.col("kind").alias("genres")
    ratings = worlds()
    assert list(baselines("items", ratings)) == ["random", "popularity"]
    described = ratings.with_items(ratings.item_frame.with_columns(genres, overview=genres))
    similar = ["plot-similarity", "metadata-similarity"]
    assert list(baselines("items", described)) == ["random", "popularity", *similar]
    assert list(baselines("users", described)) == ["random", "popularity"]
