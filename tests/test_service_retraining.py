"""Training again on what was served: better or not at all, swapped in under load, and back."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

import foretaste as ft
from foretaste.cli import main
from foretaste.errors import UsageError
from foretaste.service.releases import current, go_back, promote, promoted
from foretaste.service.retraining import compare, retrain
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


def test_old_and_new_are_measured_on_events_that_neither_saw(store, bundle):
    store.add(crowd())
    compared = compare(ft.load(bundle), store)
    assert compared.tested == 84
    assert compared.new > compared.old + 0.1
    assert compared.not_worse


def test_without_new_events_there_is_nothing_to_compare(store, bundle):
    with pytest.raises(UsageError, match="no event that the bundle does not hold"):
        compare(ft.load(bundle), store)


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


def test_the_command_promotes_only_what_is_not_worse(store, bundle, tmp_path, capsys, monkeypatch):
    store.add(crowd())
    code, said = run(capsys, monkeypatch, "retrain", bundle, "--out", tmp_path / "b2")
    assert (code, said["promoted"]) == (0, True)
    assert current(bundle) == tmp_path / "b2"
    code, said = run(capsys, monkeypatch, "retrain", bundle, "--out", tmp_path / "b3")
    assert code == 2
    assert "no event that the bundle does not hold" in said["error"]["what"]
    store.add([Event(f"z{n}", f"i{n % 7 + 20}", 5.0, 1_800_000_000_000 + n) for n in range(5)])
    monkeypatch.setattr("foretaste.service.retraining.Comparison.not_worse", False)
    code, said = run(capsys, monkeypatch, "retrain", bundle, "--out", tmp_path / "b3")
    assert (code, said["promoted"]) == (1, False)
    assert current(bundle) == tmp_path / "b2"
    code, said = run(capsys, monkeypatch, "retrain", bundle, "--out", tmp_path / "b3", "--force")
    assert (code, said["promoted"]) == (0, True)
    code, said = run(capsys, monkeypatch, "retrain", bundle, "--back")
    assert current(bundle) == tmp_path / "b2"


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
