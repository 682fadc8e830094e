"""The service as a client sees it: a real application on a real store, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

import foretaste as ft
from foretaste.service.guard import Rules
from foretaste.service.http import build
from foretaste.service.live import Live
from foretaste.service.store import Store
from tests.conftest import synthetic


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


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service") / "bundle"
    return ft.fit(ft.ALS(n_factors=8), described(), progress=False).save(folder)


@pytest.fixture
def live(bundle, tmp_path) -> Live:
    return Live(Store.open(f"sqlite:///{tmp_path / 'events.sqlite'}"), bundle)


@pytest.fixture
def client(live) -> Iterator[TestClient]:
    with TestClient(build(live, Rules(needs_key=False)), raise_server_exceptions=False) as client:
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


def test_an_event_changes_the_next_list(client):
    before = listed(client.post("/api/recommend", json={"user": "u7", "k": 5}))
    event = {"user": "u7", "item": before[0], "value": 5}
    assert client.post("/api/feedback", json=event).json() == {"accepted": 1}
    after = listed(client.post("/api/recommend", json={"user": "u7", "k": 5}))
    assert before[0] not in after


def test_a_user_the_bundle_never_saw_is_their_events(client, live):
    client.put("/api/feedback", json=[{"user": "new", "item": i, "value": 5} for i in ("i1", "i4")])
    by_user = listed(client.post("/api/recommend", json={"user": "new"}))
    history = [{"item": "i1", "value": 5}, {"item": "i4", "value": 5}]
    assert by_user == listed(client.post("/api/recommend", json={"history": history}))
    expected = live.served.recommender.recommend(history={"i1": 5.0, "i4": 5.0})
    assert by_user == expected["item"].to_list()


def test_filters_hold_before_the_list_is_cut(client):
    found = client.post("/api/recommend", json={"user": "u7", "k": 8, "where": "year >= 1985"})
    assert [item["fields"]["year"] >= 1985 for item in found.json()["items"]] == [True] * 8


def test_a_user_removed_is_gone_from_lists_and_histories(client):
    assert client.get("/api/users/u7/feedback").json()["entries"]
    stranger = listed(client.post("/api/recommend", json={"user": "nobody"}))
    client.post("/api/feedback", json={"user": "u7", "item": "i1"})
    assert client.delete("/api/users/u7").json() == {"removed": 1}
    assert client.get("/api/users/u7/feedback").json()["entries"] == []
    assert listed(client.post("/api/recommend", json={"user": "u7"})) == stranger


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
