"""The service while it runs: slow models, swaps, outages, several workers, who may do what."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

import foretaste as ft
from foretaste.errors import UsageError
from foretaste.service import app as service_app
from foretaste.service.app import build
from foretaste.service.batching import Gathering
from foretaste.service.middleware import Rules
from foretaste.service.search import Catalogue
from foretaste.service.served import Served
from foretaste.service.store import SCOPES, Store
from foretaste.service.tenant import Live
from tests.processes import service, wait_for
from tests.test_service import described, served

PATIENCE = 5.0  # seconds until a call that blocks what it must not block gives up


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("running") / "bundle"
    return ft.fit(ft.EASE(l2=20), described(), progress=False).save(folder)


@pytest.fixture
def live(bundle, tmp_path) -> Live:
    return Live(Store.open(f"sqlite:///{tmp_path / 'events.sqlite'}"), bundle)


# -- a slow model


class Slow:
    """A call that begins, and ends when it is released."""

    def __init__(self, call: Any) -> None:
        self.call, self.begun, self.released = call, threading.Semaphore(0), threading.Event()

    def __call__(self, *args: Any) -> Any:
        self.begun.release()
        self.released.wait(PATIENCE)
        return self.call(*args)

    async def begins(self, times: int = 1) -> None:
        """Wait until it was called so many times."""
        for _ in range(times):
            assert await asyncio.to_thread(self.begun.acquire, timeout=PATIENCE)


@contextlib.asynccontextmanager
async def asking(live: Live) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build(live, Rules(needs_key=False)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


def test_the_service_is_alive_while_a_slow_model_makes_a_list(live, monkeypatch):
    slow = Slow(live.recommend_all)
    monkeypatch.setattr(live, "recommend_all", slow)

    async def ask() -> None:
        async with asking(live) as client:
            list_ = asyncio.create_task(client.post("/api/recommend", json={"user": "u7"}))
            await slow.begins()
            assert (await client.get("/health/live")).status_code == 200
            assert not list_.done()
            slow.released.set()
            assert (await list_).status_code == 200

    asyncio.run(ask())


def test_the_service_is_alive_while_every_thread_is_taken(live, monkeypatch):
    slow = Slow(live.recommend)
    monkeypatch.setattr(live, "recommend", slow)
    asked = {"user": "u7", "where": "year > 1970"}

    async def ask() -> None:
        async with asking(live) as client:
            lists = [
                asyncio.create_task(client.post("/api/recommend", json=asked)) for _ in range(60)
            ]
            await slow.begins(20)
            assert (await client.get("/health/live")).status_code == 200
            assert not any(one.done() for one in lists)
            slow.released.set()
            assert {answer.status_code for answer in await asyncio.gather(*lists)} == {200}

    asyncio.run(ask())


def test_while_one_batch_is_answered_the_next_gathers():
    batches: list[list[int]] = []

    def answer(questions: Sequence[int]) -> list[int]:
        batches.append(list(questions))
        return [-question for question in questions]

    slow = Slow(answer)

    async def ask() -> list[int]:
        gathering = Gathering[int, int](slow, most=3)
        first = [asyncio.create_task(gathering.ask(n)) for n in (1, 2)]
        await slow.begins()
        later = [asyncio.create_task(gathering.ask(n)) for n in (3, 4, 5, 6)]
        await asyncio.sleep(0)
        slow.released.set()
        return list(await asyncio.gather(*first, *later))

    assert asyncio.run(ask()) == [-1, -2, -3, -4, -5, -6]
    assert batches == [[1, 2], [3, 4, 5], [6]]


def test_an_error_of_a_batch_goes_to_all_who_asked_and_the_next_batch_is_answered():
    def answer(questions: Sequence[int]) -> list[Any]:
        if 1 in questions:
            raise RuntimeError("broken")
        return [ValueError("odd") if question == 2 else question for question in questions]

    async def ask() -> list[Any]:
        gathering = Gathering[int, int](answer, most=2)
        asked = [gathering.ask(n) for n in (1, 3, 2, 4)]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    first, second, third, fourth = asyncio.run(ask())
    assert (str(first), str(second), str(third), fourth) == ("broken", "broken", "odd", 4)


def test_someone_who_stopped_waiting_does_no_harm_to_the_others():
    slow = Slow(lambda questions: [-question for question in questions])

    async def ask() -> int:
        gathering = Gathering[int, int](slow, most=3)
        gone, stays = (asyncio.create_task(gathering.ask(n)) for n in (1, 2))
        await slow.begins()
        gone.cancel()
        slow.released.set()
        return await stays

    assert asyncio.run(ask()) == -2


# -- swaps and outages


def missing(served: Served) -> set[str]:
    """What the first request after a swap would have to build."""
    return {
        name
        for one in (served, served.catalogue)
        for name, value in vars(type(one)).items()
        if isinstance(value, cached_property) and name not in vars(one)
    } - {"map"}  # for the page alone, which can wait


def test_nothing_is_left_to_be_built_by_the_first_request_after_a_swap(live):
    assert missing(live.served) == set()
    before = live.served
    live.store.describe("items", "i1", {"title": "Renamed"})
    assert live.refresh()
    assert live.served is not before
    assert missing(live.served) == set()
    assert live.served.catalogue.fields[live.served.rows(["i1"])[0]]["title"] == "Renamed"


def test_a_catalogue_is_prepared_as_a_whole(live):
    old = live.served.catalogue
    fresh = Catalogue(old.ids, old.table, old.item_r)
    assert fresh.prepare() is fresh
    lazy = {name for name, v in vars(Catalogue).items() if isinstance(v, cached_property)}
    assert lazy == {"row_of", "fields", "written", "label", "group", "columns", "popularity"}
    assert lazy <= set(vars(fresh))


def test_an_outage_is_one_line_in_the_log_and_its_end_another(live, monkeypatch, caplog):
    outcomes = iter([False, OSError("disk gone\nand more"), OSError("still"), OSError("still"),
                     True, False, UsageError("again."), False])  # fmt: skip
    over = threading.Event()

    def refresh() -> bool:
        outcome = next(outcomes, None)
        if outcome is None:
            over.set()
            return False
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(live, "refresh", refresh)
    monkeypatch.setattr(service_app, "WATCH_SECONDS", 0.001)
    caplog.set_level("INFO", "foretaste.service")
    with served(live):
        assert over.wait(PATIENCE)
    logged = [
        (r.levelname, r.getMessage()) for r in caplog.records if r.name == "foretaste.service"
    ]
    assert logged == [
        ("ERROR", "what is current cannot be served, what was is served on: disk gone"),
        ("WARNING", "what is current is served again"),
        ("ERROR", "what is current cannot be served, what was is served on: again."),
        ("WARNING", "what is current is served again"),
    ]
    assert not any(record.exc_info for record in caplog.records)


# -- who may do what

NEEDED = {
    ("POST", "/api/recommend"): "read",
    ("GET", "/api/recommend/{user}"): "read",
    ("POST", "/api/predict"): "read",
    ("POST", "/api/explain"): "read",
    ("GET", "/api/items/{item}"): "read",
    ("GET", "/api/items/{item}/similar"): "read",
    ("GET", "/api/items"): "read",
    ("GET", "/api/columns"): "read",
    ("GET", "/api/map"): "read",
    ("GET", "/api/card"): "read",
    ("GET", "/api/users/{user}/feedback"): "read",
    ("GET", "/metrics"): "read",
    ("PUT", "/api/feedback"): "write",
    ("POST", "/api/feedback"): "write",
    ("PUT", "/api/users/{user}"): "write",
    ("PUT", "/api/items/{item}"): "write",
    ("DELETE", "/api/users/{user}/feedback"): "admin",
    ("DELETE", "/api/users/{user}"): "admin",
    ("GET", "/health/live"): None,
    ("GET", "/health/ready"): None,
}


def test_every_route_needs_the_scope_that_the_table_says(live):
    tokens = {scope: live.store.create_key(scope, scope) for scope in SCOPES}
    with served(live, needs_key=True) as client:
        head = {"Authorization": f"Bearer {tokens['read']}"}
        paths = client.get("/api/openapi.json", headers=head).json()["paths"]
        routes = {(m.upper(), path) for path, methods in paths.items() for m in methods}
        assert routes | {("GET", "/metrics")} == set(NEEDED)
        for (method, path), needed in NEEDED.items():
            address = path.format(user="u%2F7", item="i1")
            nobody = client.request(method, address).status_code
            assert (nobody == 401) == (needed is not None), (method, path)
            for scope, token in tokens.items():
                head = {"Authorization": f"Bearer {token}"}
                body = {} if method in ("POST", "PUT") else None
                status = client.request(method, address, json=body, headers=head).status_code
                allowed = needed is None or SCOPES.index(scope) >= SCOPES.index(needed)
                assert (status != 403) == allowed, (method, path, scope, status)
                assert status < 500, (method, path, scope, status)


def test_a_write_key_cannot_make_the_service_forget(live):
    head = {"Authorization": f"Bearer {live.store.create_key('shop', 'write')}"}
    with served(live, needs_key=True) as client:
        before = client.get("/api/users/u7/feedback", headers=head).json()["entries"]
        answer = client.delete("/api/users/u7/feedback", headers=head)
        assert answer.json()["error"] == {
            "code": "forbidden", "what": "the key may write; this needs admin.", "where": "",
            "fix": "Use a key of scope admin.",
        }  # fmt: skip
        assert client.get("/api/users/u7/feedback", headers=head).json()["entries"] == before != []


def test_two_clients_may_use_the_same_idempotency_key(live):
    tokens = [live.store.create_key(name, "write") for name in ("shop", "app")]
    event = {"user": "u1", "item": "i1", "value": 4}
    with served(live, needs_key=True) as client:
        for n, token in enumerate(tokens):
            head = {"Authorization": f"Bearer {token}", "Idempotency-Key": "order-1"}
            mine = {**event, "value": 4 - n}
            for _ in range(2):
                assert client.post("/api/feedback", json=mine, headers=head).status_code == 200
        head = {"Authorization": f"Bearer {tokens[1]}", "Idempotency-Key": "order-1"}
        changed = client.post("/api/feedback", json={**event, "value": 1}, headers=head)
        assert (changed.status_code, changed.json()["error"]["code"]) == (409, "conflict")
    assert [e.value for e in live.store.all_events()] == [4, 3]


# -- several workers


def counted(port: int, wanted: str) -> float:
    """A number of /metrics, from whichever worker takes a new connection."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    (found,) = re.findall(rf"^{re.escape(wanted)} (\S+)$", text, re.MULTILINE) or ["0"]
    return float(found)


def workers_of(parent: int) -> list[int]:
    """Processes that the service has started to answer requests, by their command line."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def test_counters_of_two_workers_never_go_down_though_one_is_killed(bundle):
    asked = 'foretaste_requests_total{method="GET",route="/api/card",status="200"}'
    pids: list[int] = []
    with service(bundle, "--workers", "2", pids=pids) as port:
        first, second = both = workers_of(pids[0])
        (folder,) = (Path(v) for v in environment(second) if "foretaste-metrics-" in v)

        def all_count(workers: list[int]) -> bool:
            return len(workers) == 2 and all((folder / f"counter_{w}.db").exists() for w in workers)

        wait_for(lambda: all_count(both), seconds=180)
        for n in range(1, 21):
            httpx.get(f"http://127.0.0.1:{port}/api/card", timeout=30)
            assert counted(port, asked) == n
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: first not in (now := workers_of(pids[0])) and all_count(now), seconds=180)
        for n in range(21, 31):
            httpx.get(f"http://127.0.0.1:{port}/api/card", timeout=30)
            assert counted(port, asked) == n
        assert counted(port, "foretaste_requests_in_flight") == 1  # the one that asks
    assert not folder.exists()


def environment(pid: int) -> list[str]:
    """Values of the environment of a process."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return [line.partition(b"=")[2].decode() for line in lines]
