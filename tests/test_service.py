"""The service as a client sees it: a real application on a real store, over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

import foretaste as ft
from foretaste.models import MODELS
from foretaste.recommending.request import Request
from foretaste.service.app import build
from foretaste.service.middleware import Rules
from foretaste.service.store import Store
from foretaste.service.tenant import Tenant
from tests.conftest import synthetic
from tests.test_models_contract import films, small


def described():
    """Ratings whose items have a title, a year and genres."""
    ratings = synthetic()
    n = np.arange(len(ratings.items))
    table = pl.DataFrame(
        {
            "item": ratings.items.values,
            "title": [f"Film {i} of the {'Sea' if i % 3 else 'Hills'}" for i in n],
            "year": 1960 + n,
            "genres": [("Drama|War", "Comedy", "Drama")[i % 3] for i in n],
        }
    )
    return ratings.with_items(table)


def served(tenant: Tenant, **rules) -> TestClient:
    app = build(tenant, Rules(**{"needs_key": False, **rules}))
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service") / "bundle"
    return ft.fit(ft.ALS(n_factors=8), described(), progress=False).save(folder)


@pytest.fixture
def tenant(bundle, tmp_path) -> Tenant:
    return Tenant(Store.open(f"sqlite:///{tmp_path / 'events.sqlite'}"), bundle)


@pytest.fixture
def client(tenant) -> Iterator[TestClient]:
    with served(tenant) as client:
        yield client


def listed(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_a_list_has_ids_scores_ranks_and_fields(client):
    answer = client.post("/api/recommend", json={"user": "u7", "k": 3})
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    first, *_, last = answer.json()["items"]
    assert (first["rank"], last["rank"]) == (1, 3)
    assert first["score"] >= last["score"]
    assert set(first["fields"]) == {"title", "year", "genres"}
    assert listed(client.get("/api/recommend/u7?k=3")) == listed(answer)


def camps(folder) -> ft.Recommender:
    """Two halves of the users like different items, and a column says who belongs where."""
    frame = pl.DataFrame(
        [
            {"user": f"u{u}", "item": f"i{2 * i + u % 2}"}
            for u in range(40)
            for i in range(20)
            if (u + i) % 3
        ]
    )
    ratings = ft.from_frame(frame)
    camp = pl.Series([("even", "odd")[int(u[1:]) % 2] for u in ratings.users.values])
    users = pl.DataFrame({"user": ratings.users.values, "camp": camp})
    model = ft.TwoTower(n_factors=8, hidden=8, epochs=10, batch_size=8)
    fitted = ft.fit(model, ratings.with_users(users), progress=False)
    fitted.save(folder)
    return fitted


def test_what_is_known_of_users_counts_for_new_users_and_after_an_event(tmp_path):
    fitted = camps(tmp_path / "bundle")
    with served(Tenant(Store.open(f"sqlite:///{tmp_path / 'e.sqlite'}"), tmp_path / "bundle")) as c:
        for camp in ("even", "odd"):
            answer = c.post("/api/recommend", json={"history": [], "user_features": {"camp": camp}})
            ours = fitted.recommend(history=[], user_features={"camp": camp})
            assert listed(answer) == ours["item"].to_list()
        c.post("/api/feedback", json={"user": "u7", "item": "i0"})
        entries = c.get("/api/users/u7/feedback").json()["entries"]
        history = [entry["item"] for entry in entries]
        scores = [item["score"] for item in c.get("/api/recommend/u7?k=5").json()["items"]]
        told = fitted.recommend(history=history, user_features={"camp": "odd"}, k=5)
        assert scores == pytest.approx(told["score"].to_list(), abs=1e-4)
        silent = fitted.recommend(history=history, k=5)
        assert scores != pytest.approx(silent["score"].to_list(), abs=1e-4)
        wrong = c.post("/api/recommend", json={"history": [], "user_features": {"town": "York"}})
        assert (wrong.status_code, wrong.json()["error"]["what"]) == (
            400, "users have no column 'town'.",
        )  # fmt: skip
        both = c.post("/api/recommend", json={"user": "u7", "user_features": {"camp": "odd"}})
        assert "user_features go with a history" in both.text


ASKED = {"recommend": {}, "predict": {"items": ["i1"]}, "explain": {"item": "i1"}}


@pytest.mark.parametrize("route", ASKED)
def test_about_is_still_understood_as_user_features_and_the_schema_has_the_new_name(client, route):
    asked = {"history": [], **ASKED[route]}
    old, new = (
        client.post(f"/api/{route}", json={**asked, name: {"town": "York"}}).json()
        for name in ("about", "user_features")
    )
    assert old == new
    assert old["error"]["code"] in (
        "bad_request",
        "not_found",
    )  # understood: there is no such column
    both = {**asked, "about": {"town": "York"}, "user_features": {"town": "York"}}
    assert client.post(f"/api/{route}", json=both).status_code == 422
    fields = client.get("/api/openapi.json").json()["components"]["schemas"][route.capitalize()]
    assert "user_features" in fields["properties"]
    assert "about" not in fields["properties"]


def test_an_event_changes_the_next_list(client):
    before = listed(client.post("/api/recommend", json={"user": "u7", "k": 5}))
    event = {"user": "u7", "item": before[0], "value": 5}
    assert client.post("/api/feedback", json=event).json() == {"accepted": 1}
    after = listed(client.post("/api/recommend", json={"user": "u7", "k": 5}))
    assert before[0] not in after


def test_a_user_the_bundle_never_saw_is_their_events(client, tenant):
    client.put("/api/feedback", json=[{"user": "new", "item": i, "value": 5} for i in ("i1", "i4")])
    by_user = listed(client.post("/api/recommend", json={"user": "new"}))
    history = [{"item": "i1", "value": 5}, {"item": "i4", "value": 5}]
    assert by_user == listed(client.post("/api/recommend", json={"history": history}))
    expected = tenant.snapshot.recommender.recommend(history={"i1": 5.0, "i4": 5.0})
    assert by_user == expected["item"].to_list()


def test_filters_hold_before_the_list_is_cut(client):
    found = client.post("/api/recommend", json={"user": "u7", "k": 8, "where": "year >= 1985"})
    assert [item["fields"]["year"] >= 1985 for item in found.json()["items"]] == [True] * 8


def test_a_user_removed_is_gone_from_lists_and_histories(client):
    assert client.get("/api/users/u7/feedback").json()["entries"]
    new_user = listed(client.post("/api/recommend", json={"user": "nobody"}))
    client.post("/api/feedback", json={"user": "u7", "item": "i1"})
    assert client.delete("/api/users/u7").json() == {"removed": 1}
    assert client.get("/api/users/u7/feedback").json()["entries"] == []
    assert listed(client.post("/api/recommend", json={"user": "u7"})) == new_user


def test_items_are_found_by_words_page_by_page(client):
    first = client.get("/api/items", params={"q": "film sea", "limit": 2}).json()
    again = client.get("/api/items", params={"q": "film sea", "cursor": first["next"]}).json()
    titles = [item["fields"]["title"] for item in first["items"] + again["items"]]
    assert len(set(titles)) == 22
    assert all("Sea" in title for title in titles)


def test_the_page_learns_columns_map_and_card(client):
    kinds = {column["name"]: column["kind"] for column in client.get("/api/columns").json()}
    assert kinds == {"title": "text", "year": "number", "genres": "labels"}
    places = client.get("/api/map").json()["items"]
    assert len(places) == 40
    assert max(abs(point["x"]) for point in places) == 1
    assert client.get("/api/card").json()["model"] == "als"


def test_an_error_says_what_where_and_what_to_do(client):
    cases = [
        (client.post("/api/recommend", json={"user": "u7", "where": "yeer > 1"}), 400, "yeer"),
        (client.get("/api/items/nix/similar"), 404, "unknown item 'nix'."),
        (client.post("/api/recommend", json={"user": "u7", "k": 0}), 422, "greater than"),
        (client.get("/nowhere"), 404, "not found."),
        (client.post("/api/feedback", json={"user": "u", "item": "i1", "value": 9}), 400, "value"),
        (client.post("/api/recommend", content="{}"), 415, "JSON"),
        (client.post("/api/recommend", json={"user": "u" * 2_000_000}), 413, "larger"),
    ]
    for answer, status, what in cases:
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"code", "what", "where", "fix"}
        assert what in answer.json()["error"]["what"]


HOSTILE = [
    "'; DROP TABLE events; --", "a/b?c#d%2e", "..%2f", "\u202eevil", "💥" * 60, "%", "_", " ",
    "\\", '"', "\x01", "<script>alert(1)</script>", "None", "-1", "i1\n",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_ids_of_any_characters_are_ids_and_nothing_else(client, name):
    path = f"/api/users/{quote(name, safe='')}"
    assert client.put(path, json={"fields": {"age": 3}}).json() == {"accepted": 1}
    assert client.post("/api/feedback", json={"user": name, "item": name}).status_code == 200
    (entry,) = client.get(f"{path}/feedback").json()["entries"]
    assert entry["item"] == name
    assert len(listed(client.get(f"/api/recommend/{quote(name, safe='')}"))) == 10
    assert client.delete(path).json() == {"removed": 1}


@pytest.mark.parametrize("name", ["", "x" * 257, "a\0b"])
def test_ids_beyond_the_limits_are_refused(client, name):
    answer = client.post("/api/feedback", json={"user": name, "item": "i1"})
    assert (answer.status_code, answer.json()["error"]["where"]) == (422, "body.Feedback.user")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("year >= ", "ends too early"),
        ("REPLACE(title, 'a', 'aaaaaaaa') = 'x'", "'replace' cannot be called"),
        ("LPAD(title, 999999999, 'x') = 'x'", "'lpad' cannot be called"),
        ("year IN (SELECT 1)", "'select' cannot be called"),
        ("read_csv('/etc/passwd') = 1", "'read_csv' cannot be called"),
        ('"lpad" (title, 9, 1) = 1', "cannot be called"),
        ("year >= 1990; DROP TABLE events", "';', has no place"),
        ("(" * 900 + "1" + ")" * 900, "nested more than"),
        ("NOT " * 490 + "year = 1", "nested more than"),
        ("title > 1", "a number beside a text"),
        ("nix = 1", "no column 'nix'"),
        ("1 + 1", "is not a condition"),
    ],
)
def test_a_hostile_condition_is_a_400_that_says_which_part(client, where, said):
    started = time.monotonic()
    answer = client.post("/api/recommend", json={"user": "u1", "where": where})
    assert time.monotonic() - started < 3
    if said or answer.status_code != 200:
        assert answer.status_code == 400
        assert said in answer.json()["error"]["what"]
        assert "/" not in answer.json()["error"]["what"].replace("/etc/passwd", "")


def test_keys_open_what_they_are_for(tenant):
    tokens = {scope: tenant.store.create_key(scope, scope) for scope in ("read", "write", "admin")}
    asks = [("GET", "/api/recommend/u1", None), ("POST", "/api/recommend", {"user": "u1"})]
    tells = [("PUT", "/api/feedback", {"user": "u", "item": "i1"})]
    removes = [("DELETE", "/api/users/u", None)]
    with served(tenant, needs_key=True) as client:
        for token, allowed in (("read", 2), ("write", 3), ("admin", 4)):
            for n, (method, path, body) in enumerate(asks + tells + removes):
                head = {"Authorization": f"Bearer {tokens[token]}"}
                status = client.request(method, path, json=body, headers=head).status_code
                assert status == (200 if n < allowed else 403), (token, path)
        for head in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}):
            answer = client.get("/api/card", headers=head)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/api/card", headers={"X-API-Key": tokens["read"]}).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/health/ready").status_code == 200


def test_a_revoked_key_opens_nothing(tenant, monkeypatch):
    monkeypatch.setattr("foretaste.service.middleware.TRUSTED_FOR", 0.0)
    head = {"Authorization": f"Bearer {tenant.store.create_key('a', 'admin')}"}
    with served(tenant, needs_key=True) as client:
        assert client.get("/api/card", headers=head).status_code == 200
        tenant.store.revoke_key("a")
        assert client.get("/api/card", headers=head).status_code == 401


def test_without_keys_only_this_machine_is_answered(client):
    answer = client.get("/api/card", headers={"host": "evil.example"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_other_sites_may_call_only_where_they_are_named(tenant):
    ask = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    with served(tenant) as client:
        assert "access-control-allow-origin" not in client.get("/api/card", headers=ask).headers
    with served(tenant, origins=["https://shop.example"]) as client:
        allowed = client.options("/api/recommend", headers=ask)
        assert allowed.headers["access-control-allow-origin"] == "https://shop.example"


def test_a_failure_inside_says_nothing_of_the_inside(client, tenant, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(tenant, "card", fail)
    answer = client.get("/api/card")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "/secret/path" in caplog.text


def test_a_repeated_request_counts_once_and_a_changed_one_is_a_conflict(client):
    head, event = {"Idempotency-Key": "k1"}, {"user": "u1", "item": "i1", "value": 4}
    for _ in range(2):
        assert client.post("/api/feedback", json=event, headers=head).json() == {"accepted": 1}
    events = client.get("/api/users/u1/feedback").json()["entries"]
    assert sum(entry["source"] == "event" for entry in events) == 1
    again = client.post("/api/feedback", json={**event, "value": 1}, headers=head)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


def test_metrics_count_requests_by_route(client):
    client.get("/api/recommend/u1")
    text = client.get("/metrics").text
    counted = (
        'foretaste_requests_total{method="GET",route="/api/recommend/{user}",status="200"} 1.0'
    )
    assert counted in text


def test_reasons_and_why_not_are_those_of_the_recommender(client, tenant):
    answer = client.post("/api/recommend", json={"user": "u7", "k": 2, "explain": True}).json()
    first = answer["items"][0]
    expected = tenant.snapshot.bundled.explain("u7", item=first["id"])
    assert [r["item"] for r in first["reasons"]] == expected["item"].head(3).to_list()
    assert first["reasons"][0]["share"] == pytest.approx(expected["share"][0], rel=1e-5)
    why = client.post("/api/explain", json={"user": "u7", "item": first["id"]}).json()
    assert (why["rank"], why["candidates"]) == (
        1,
        tenant.snapshot.bundled.place(Request(user="u7"), first["id"]).candidates,
    )
    seen = client.get("/api/users/u7/feedback").json()["entries"][0]["item"]
    assert (
        "history"
        in client.post("/api/explain", json={"user": "u7", "item": seen}).json()["why_not"]
    )


@pytest.mark.parametrize("name", MODELS)
def test_lists_over_http_are_those_of_the_recommender(name, tmp_path):
    fitted = ft.fit(small(name), synthetic().with_items(films(40)), seed=3, progress=False)
    tenant = Tenant(Store.open(f"sqlite:///{tmp_path / 'db'}"), fitted.save(tmp_path / "bundle"))
    history = {"i1": 5.0, "i9": 1.0, "i4": 4.0}
    sent = [{"item": item, "value": value} for item, value in history.items()]
    with served(tenant) as client:
        for asked, expected in (
            ({"user": "u7", "k": 7}, fitted.recommend("u7", k=7)),
            ({"user": "u9", "where": "year < 1990"}, fitted.recommend("u9", where="year < 1990")),
            ({"history": sent}, fitted.recommend(history=history)),
            ({"history": [{"item": "i2"}]}, fitted.recommend(history=["i2"])),
            ({"user": "u3", "diversity": 0.5}, fitted.recommend("u3", diversity=0.5)),
            ({"user": "u3", "exclude": ["i5"]}, fitted.recommend("u3", exclude=["i5"])),
            ({"user": "u3", "candidates": ["i5"], "exclude_seen": False},
             fitted.recommend("u3", candidates=["i5"], exclude_seen=False)),
        ):  # fmt: skip
            answer = client.post("/api/recommend", json=asked)
            assert listed(answer) == expected["item"].to_list(), asked
            scores = [item["score"] for item in answer.json()["items"]]
            assert scores == pytest.approx(expected["score"].to_list(), rel=1e-5)
        near = client.get("/api/items/i3/similar?k=6")
        expected = fitted.similar("i3", k=6)
        assert listed(near) == expected["item"].to_list()
        scores = [item["score"] for item in near.json()["items"]]
        assert scores == pytest.approx(expected["score"].to_list(), rel=1e-5, abs=1e-6)


def test_requests_that_arrive_together_get_the_lists_they_would_get_alone(tenant):
    asked = [{"user": f"u{n}", "k": 3 + n % 5} for n in range(40)] + [
        {"history": [{"item": f"i{n}"}]} for n in range(20)
    ]

    async def together() -> list[list[str]]:
        transport = httpx.ASGITransport(build(tenant, Rules(needs_key=False)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answers = [client.post("/api/recommend", json=one) for one in asked]
            return [listed(answer) for answer in await asyncio.gather(*answers)]

    with served(tenant) as client:
        alone = [listed(client.post("/api/recommend", json=one)) for one in asked]
    tenant.store = Store.open(tenant.store.url)
    assert asyncio.run(together()) == alone


def test_a_new_item_is_listed_by_a_model_that_knows_its_columns(tmp_path):
    fitted = ft.fit(small("bayesian-mf"), described(), progress=False)
    tenant = Tenant(Store.open(f"sqlite:///{tmp_path / 'db'}"), fitted.save(tmp_path / "bundle"))
    with served(tenant) as client:
        fields = {"title": "A new film", "year": 1999, "genres": "Drama|War", "unheard": 1}
        assert client.put("/api/items/brand%2Fnew", json={"fields": fields}).status_code == 200
        client.put("/api/items/i1", json={"fields": {"title": "Renamed"}})
        tenant.refresh()
        ask = {"user": "u7", "where": "title = 'A new film'", "k": 3}
        (new,) = client.post("/api/recommend", json=ask).json()["items"]
        assert new["id"] == "brand/new"
        assert new["fields"] == {k: v for k, v in fields.items() if k != "unheard"}
        assert 1 <= new["rating"] <= 5
        found = client.get("/api/items", params={"q": "renamed"}).json()["items"]
        assert found[0]["fields"]["year"] == 1961
        client.put("/api/feedback", json={"user": "u7", "item": "brand/new", "value": 5})
        assert listed(client.post("/api/recommend", json=ask)) == []


def test_an_item_the_model_cannot_place_is_not_listed_and_does_no_harm(client, tenant):
    client.put("/api/items/new", json={"fields": {"title": "New"}})
    tenant.refresh()
    client.post("/api/feedback", json={"user": "u7", "item": "new", "value": 5})
    assert len(listed(client.post("/api/recommend", json={"user": "u7"}))) == 10
    answer = client.get("/api/items/new/similar")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
