"""Training again on what was served: better or not at all, swapped in under load, and back."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.cli import main
from foretaste.data.dataset import Dataset
from foretaste.data.splitting import Split
from foretaste.errors import UsageError
from foretaste.recommending.recommender import Recommender
from foretaste.service.releases import current, go_back, promote, promoted
from foretaste.service.retraining import LEAST_USERS, Comparison, compare, retrain
from foretaste.service.store import Event, Store
from tests.processes import service
from tests.test_service import described


@pytest.fixture
def store(tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'bundle.sqlite'}")
    yield store
    store.close()


@pytest.fixture
def bundle(tmp_path):
    return ft.fit(ft.EASE(l2=20), described(), progress=False).save(tmp_path / "bundle")


def crowd(n_users: int = 60, first_user: int = 0) -> list[Event]:
    """People who all like the same ten items: something to learn that the bundle cannot know."""
    rng = np.random.default_rng(first_user)
    return [
        Event(f"n{first_user + u}", f"i{i}", 5.0, 1_700_000_000_000 + 1000 * n + u)
        for u in range(n_users)
        for n, i in enumerate(rng.permutation(10)[:7])
    ]


def test_it_trains_on_the_bundle_and_every_event(store, bundle):
    store.add([*crowd(), Event("u7", "i1", 2.0, 1_700_000_000_000)])
    store.describe("items", "i2", {"title": "Renamed"})
    store.describe("items", "fresh", {"title": "Fresh", "year": 2026})
    store.add([Event("n0", "fresh", 5.0, 1_700_000_000_000)])
    dataset = retrain(ft.load(bundle), store).dataset
    rows = dataset.frame()
    assert {"n0", "u7"} <= set(dataset.users.values)
    assert rows.filter(user="u7", item="i1")["value"].to_list() == [2.0]
    assert dataset.item_table is not None
    titles = dict(dataset.item_table.select("item", "title").iter_rows())
    assert (titles["i2"], titles["fresh"], titles["i3"]) == (
        "Renamed",
        "Fresh",
        "Film 23 of the Sea",
    )


def test_a_person_removed_is_not_trained_on(store, bundle):
    store.remove_events("u7", and_user=True)
    store.add(crowd(5))
    dataset = retrain(ft.load(bundle), store).dataset
    assert "u7" not in set(dataset.users.values)
    assert "u8" in set(dataset.users.values)


SHAPES = {
    "ratings": {"value": [5.0, 3.5, 1.0, 2.0], "time": [4, 3, 2, 1]},
    "ratings without times": {"value": [5.0, 3.5, 1.0, 2.0]},
    "clicks": {"time": [4, 3, 2, 1]},
    "clicks without times": {},
    "clicks with weights": {"value": [7.0, 1.0, -3.0, 0.5], "time": [4, 3, 2, 1]},
    "clicks with weights, without times": {"value": [7.0, 1.0, -3.0, 0.5]},
}
IDS = {
    "integers": ([30, 4, 4, 30], [9, 9, 10, 10]),
    "texts": (["b", "a", "a", "b"], ["x", "x", "é", "é"]),
}


def shaped(shape: str, ids: str) -> Dataset:
    """Four interactions in one of the shapes that a Dataset can have, with tables."""
    users, items = IDS[ids]
    ratings = ft.from_frame({"user": users, "item": items, **SHAPES[shape]})
    ratings = replace(ratings, explicit="ratings" in shape)
    years = pl.DataFrame({"item": ratings.items.values, "year": [1990, None]})
    ages = pl.DataFrame({"user": ratings.users.values, "age": [None, 44.5]})
    return ratings.with_items(years).with_users(ages)


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_new_event_the_data_come_back_as_they_were(store, shape, ids):
    ratings = shaped(shape, ids)
    old = Recommender(ft.Popularity(), ratings, {})
    again = retrain(old, store).dataset
    assert again.fingerprint == ratings.fingerprint
    assert (again.explicit, again.name, again.report) == (
        ratings.explicit, ratings.name, ratings.report,
    )  # fmt: skip
    assert again.item_frame.equals(ratings.item_frame)
    assert again.user_frame.equals(ratings.user_frame)
    for array, before in zip(
        vars(again.interactions).values(), vars(ratings.interactions).values(), strict=True
    ):
        np.testing.assert_array_equal(array, before)


def test_what_clicks_weigh_survives_beside_new_events(store):
    plays = replace(ft.from_frame({"user": ["a", "b"], "item": ["x", "x"], "value": [7, -3]}),
                    explicit=False)  # fmt: skip
    store.add([Event("a", "y", -2.5, 1000), Event("b", "y", None, 1000)])
    rows = retrain(Recommender(ft.Popularity(), plays, {}), store).dataset.frame()
    weights = {
        (user, item): value for user, item, value in rows.select("user", "item", "value").rows()
    }
    assert weights == {("a", "x"): 7, ("b", "x"): -3, ("a", "y"): -2.5, ("b", "y"): 1}


def test_counts_of_merged_rows_are_those_of_the_source_after_a_retraining(store):
    clicks = ft.from_frame({"user": ["a", "a", "b"], "item": ["x", "x", "x"]}, duplicates="sum")
    report = retrain(Recommender(ft.Popularity(), clicks, {}), store).dataset.report
    assert (report.rows, report.merged, report.duplicates) == (3, 1, "sum")


def test_an_item_that_nobody_has_used_yet_stays_in_the_catalogue(store):
    ratings = shaped("ratings", "texts").add_items(pl.DataFrame({"item": ["new"], "year": [2026]}))
    store.add([Event("a", "fresh", 5.0, 1000)])
    again = retrain(Recommender(ft.Popularity(), ratings, {}), store).dataset
    assert again.items.values.to_list() == ["fresh", "x", "é", "new"]
    assert again.item_frame["year"].to_list()[-1] == 2026


def test_old_and_new_are_measured_on_events_that_neither_saw(store, bundle):
    store.add(crowd())
    compared = compare(ft.load(bundle), store)
    assert (compared.users, compared.events, compared.verdict) == (60, 84, "promoted")
    old, new, difference, low, high = list(vars(compared).values())[:5]
    assert difference == pytest.approx(new - old)
    assert 0.1 < low < difference < high


def test_the_interval_is_that_of_the_paired_bootstrap_over_the_same_users(store, bundle):
    store.add(crowd())
    compared, old = compare(ft.load(bundle), store), ft.load(bundle)
    events = sorted(crowd(), key=lambda e: e.time)
    before, test = events[:-84], events[-84:]
    columns = {
        name: [getattr(e, name) for e in before] for name in ("user", "item", "value", "time")
    }
    past = ft.from_frame(pl.concat([
        old.dataset.frame().with_columns(pl.col("time").dt.epoch("ms")),
        pl.DataFrame(columns, schema_overrides={"value": pl.Float32}),
    ]))  # fmt: skip
    held_out = ft.from_frame({"user": [e.user for e in test], "item": [e.item for e in test],
                              "value": [e.value for e in test]})  # fmt: skip
    new = ft.fit(ft.EASE(l2=20), past, progress=False)
    table = ft.compare({
        name: ft.evaluate(one, Split(one.dataset, past, held_out, "newest"), k=10)
        for name, one in (("new", new), ("old", old))
    }, ["ndcg@10"])  # fmt: skip
    expected = table.row(0, named=True)
    assert compared.difference == pytest.approx(expected["difference"], abs=1e-3)
    assert compared.low == pytest.approx(expected["low"], abs=0.02)
    assert compared.high == pytest.approx(expected["high"], abs=0.02)


def test_without_new_events_nothing_was_measured(store, bundle):
    compared = compare(ft.load(bundle), store)
    assert compared == Comparison(None, None, None, None, None, users=0, events=0)
    assert compared.verdict == "not enough evidence"
    assert compared.sentence == (
        "Not promoted for want of evidence: the newest events that the bundle does not hold have "
        "0 users with something to find, and a comparison needs 30. Wait for more, or use --force."
    )


def test_one_event_is_not_enough_evidence_to_promote(store, bundle):
    store.add([Event("u7", "i1", 5.0, 1_800_000_000_000)])
    compared = compare(ft.load(bundle), store)
    assert compared.verdict == "not enough evidence"


def test_dislikes_are_no_evidence(store, bundle):
    store.add([Event(e.user, e.item, 1.0, e.time) for e in crowd()])
    compared = compare(ft.load(bundle), store)
    assert (compared.users, compared.events, compared.old, compared.new) == (0, 84, None, None)


@pytest.mark.parametrize("value", [-3.0, 0.0])
def test_weights_that_are_not_positive_are_no_evidence_though_the_bundle_has_some(store, value):
    clicks = replace(ft.from_frame({"user": ["a", "b", "c"], "item": ["x", "x", "y"],
                                    "value": [2.0, -3.0, 1.0]}), explicit=False)  # fmt: skip
    store.add([Event(e.user, e.item, value, e.time) for e in crowd()])
    compared = compare(ft.fit(ft.Popularity(), clicks, progress=False), store)
    assert (compared.users, compared.events, compared.old) == (0, 84, None)


def test_a_rating_that_was_changed_is_not_tested_on_as_the_bundle_learned_from_it(store, bundle):
    rows = ft.load(bundle).dataset.frame()
    store.add([Event(user, item, 5.0 if value < 5 else 4.0, 1_800_000_000_000)
               for user, item, value in rows.select("user", "item", "value").rows()])  # fmt: skip
    assert compare(ft.load(bundle), store).events == 0


@pytest.mark.parametrize(
    ("low", "high", "users", "verdict"),
    [
        (-0.2, -0.01, 40, "refused"),
        (-0.2, 0.01, 40, "promoted"),
        (-0.2, 0.0, 40, "promoted"),
        (0.1, 0.2, 40, "promoted"),
        (0.1, 0.2, LEAST_USERS - 1, "not enough evidence"),
        (0.0, 0.0, LEAST_USERS, "promoted"),
    ],
)
def test_only_what_is_worse_with_certainty_is_refused(low, high, users, verdict):
    compared = Comparison(0.5, 0.45, -0.05, low, high, users, 100)
    assert compared.verdict == verdict


def test_the_sentence_says_what_was_measured_on_whom_and_what_follows():
    refused = Comparison(0.5, 0.375, -0.125, -0.2, -0.05, 1200, 3400)
    assert refused.sentence == (
        "NDCG@10 of the 1,200 users with something to find in the 3,400 newest events: 0.5000 as "
        "served, 0.3750 trained again, difference -0.1250 (95 % interval -0.2000 to -0.0500). "
        "Not promoted: it is worse with 95 % certainty (--force would)."
    )
    equal = Comparison(0.0, 0.0, 0.0, 0.0, 0.0, 1200, 3400)
    assert equal.sentence.endswith("Promoted: it is not worse with 95 % certainty.")


def test_integer_ids_stay_integers_until_an_event_brings_others(store):
    numbers = ft.from_frame({"user": [1, 1, 2, 2, 3], "item": [7, 8, 8, 9, 7], "rating": [5.0] * 5})
    old = ft.fit(ft.Popularity(), numbers, progress=False)
    store.add([Event("4", "7", 5.0, 9)])
    assert retrain(old, store).dataset.users.values.to_list() == [1, 2, 3, 4]
    store.add([Event("007", "x", 5.0, 9)])
    again = retrain(old, store).dataset
    assert "007" in again.users.values.to_list()
    assert "x" in again.items.values.to_list()


def test_what_was_promoted_is_served_until_one_goes_back(bundle, tmp_path):
    assert current(bundle) == bundle
    promote(bundle, tmp_path / "b2")
    promote(bundle, tmp_path / "b3")
    assert current(bundle) == tmp_path / "b3"
    assert go_back(bundle) == tmp_path / "b2"
    assert go_back(bundle) == bundle
    with pytest.raises(UsageError, match="nothing was promoted"):
        go_back(bundle)


def run(capsys, monkeypatch, *words: object) -> tuple[int, dict]:
    monkeypatch.setattr("sys.argv", ["foretaste", *map(str, words), "--json"])
    try:
        main()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    return code, json.loads(capsys.readouterr().out)


def test_the_command_promotes_what_is_not_worse_and_says_why(
    store, bundle, tmp_path, capsys, monkeypatch
):
    store.add(crowd())
    code, said = run(capsys, monkeypatch, "retrain", bundle, "--out", tmp_path / "b2")
    assert (code, said["promoted"], said["verdict"], said["users"]) == (0, True, "promoted", 60)
    assert current(bundle) == tmp_path / "b2"
    kept = ft.load(tmp_path / "b2").metrics["newest_events"]
    assert kept == {name: said[name] for name in kept}
    assert set(kept) == {
        "old", "new", "difference", "low", "high", "users", "events", "verdict", "sentence",
    }  # fmt: skip


def test_the_command_refuses_without_evidence_and_prints_nulls(
    bundle, tmp_path, capsys, monkeypatch
):
    code, said = run(capsys, monkeypatch, "retrain", bundle, "--out", tmp_path / "b2")
    assert (code, said["promoted"], said["verdict"]) == (1, False, "not enough evidence")
    assert [said[name] for name in ("old", "new", "difference", "low", "high")] == [None] * 5
    assert current(bundle) == bundle
    code, said = run(capsys, monkeypatch, "retrain", bundle, "--out", tmp_path / "b2", "--force")
    assert (code, said["promoted"], said["verdict"]) == (0, True, "not enough evidence")
    assert said["said"].endswith("Promoted all the same (--force).")
    assert current(bundle) == tmp_path / "b2"
    code, said = run(capsys, monkeypatch, "retrain", bundle, "--back")
    assert current(bundle) == bundle


def test_the_command_refuses_what_is_worse_with_certainty(
    store, bundle, tmp_path, capsys, monkeypatch
):
    store.add(crowd())
    worse = Comparison(0.5, 0.4, -0.1, -0.2, -0.05, 60, 84)
    monkeypatch.setattr("foretaste.service.retraining.compare", lambda *_, **__: worse)
    code, said = run(capsys, monkeypatch, "retrain", bundle, "--out", tmp_path / "b2")
    assert (code, said["promoted"], said["verdict"]) == (1, False, "refused")
    assert current(bundle) == bundle
    assert ft.load(tmp_path / "b2").metrics["newest_events"]["verdict"] == "refused"


def test_a_swap_under_load_fails_no_request_and_one_command_goes_back(
    store, bundle, tmp_path, capsys, monkeypatch
):
    store.add(crowd())
    seen, failed, stop = [], [], threading.Event()

    def ask(port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            while not stop.is_set():
                answer = client.post("/api/recommend", json={"user": "n3", "k": 5})
                if answer.status_code == 200:
                    seen.append(answer.json()["model_version"])
                else:
                    failed.append(answer.text)

    def until(version_count: int) -> None:
        deadline = time.monotonic() + 20
        while len(dict.fromkeys(seen)) < version_count:
            assert time.monotonic() < deadline, "the swap was never seen"
            time.sleep(0.05)

    with service(bundle) as port:
        askers = [threading.Thread(target=ask, args=(port,)) for _ in range(3)]
        for asker in askers:
            asker.start()
        until(1)
        code, _ = run(capsys, monkeypatch, "retrain", bundle, "--out", tmp_path / "b2")
        assert code == 0
        until(2)
        run(capsys, monkeypatch, "retrain", bundle, "--back")
        deadline = time.monotonic() + 20
        while seen[-1] != seen[0]:
            assert time.monotonic() < deadline, "it never went back"
            time.sleep(0.05)
        stop.set()
        for asker in askers:
            asker.join()
    assert failed == []
    assert len(set(seen)) == 2


def test_a_service_that_is_stopped_finishes_what_it_began(bundle):
    history = [{"item": f"i{n}"} for n in range(30)]
    asked = {"history": history * 20, "k": 40, "explain": True, "exclude_seen": False}
    body = json.dumps(asked).encode()
    head = "POST /api/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with service(bundle) as port:
        asker = socket.create_connection(("127.0.0.1", port), timeout=30)
        asker.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
        time.sleep(0.5)
        threading.Timer(1.0, asker.sendall, args=(body[-1:],)).start()  # after the SIGTERM
    answer = asker.recv(64)
    asker.close()
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_killed_service_has_every_event_it_acknowledged(bundle, store):
    told: list[str] = []

    def tell(port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for n in range(10**9):
                event = {"user": "w", "item": f"e{n}", "value": 5}
                key = {"Idempotency-Key": f"k{n}"}
                client.post("/api/feedback", json=event, headers=key).raise_for_status()
                told.append(f"e{n}")

    with service(bundle, kill=True) as port, contextlib.suppress(httpx.HTTPError):
        tell(port)
    kept = [event.item for event in store.all_events()]
    assert len(told) > 10
    assert set(told) <= set(kept)
    assert len(kept) == len(set(kept))


def test_of_promotions_at_once_none_is_lost(tmp_path):
    bundle = tmp_path / "bundle"
    successors = [tmp_path / f"bundle-{n}" for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda successor: promote(bundle, successor), successors))
    assert sorted(promoted(bundle)) == successors
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.promoted.json"]
