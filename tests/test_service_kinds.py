"""Kinds of events over HTTP: from the request to the next list, and into the next training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

import foretaste as ft
from foretaste.service.records import Event
from foretaste.service.retraining import compare, retrain
from foretaste.service.store import Store
from foretaste.service.tenant import Tenant
from tests.test_kinds import SHOP_WEIGHTS, shop
from tests.test_service import served


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    data = ft.from_frame(shop(), event_weights=SHOP_WEIGHTS)
    folder = tmp_path_factory.mktemp("kinds") / "bundle"
    return ft.fit(ft.EASE(l2=1), data, progress=False).save(folder)


@pytest.fixture
def tenant(bundle, tmp_path) -> Tenant:
    return Tenant(Store.open(f"sqlite:///{tmp_path / 'events.sqlite'}"), bundle)


@pytest.fixture
def client(tenant) -> Iterator[TestClient]:
    with served(tenant) as client:
        yield client


def listed(client: TestClient, **asked) -> list[str]:
    answer = client.post("/api/recommend", json={"k": 100, **asked})
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_a_view_moves_the_list_and_a_purchase_leaves_it(client):
    before = listed(client, user="u7")
    view = {"user": "u7", "item": before[0], "kind": "view", "value": 30}
    assert client.post("/api/feedback", json=view).json() == {"accepted": 1}
    after = listed(client, user="u7")
    assert set(after) == set(before)
    assert after != before
    client.post("/api/feedback", json={"user": "u7", "item": before[0], "kind": "purchase"})
    assert set(listed(client, user="u7")) == set(before) - {before[0]}
    place = client.post("/api/explain", json={"user": "u7", "item": before[0]}).json()
    assert place["why_not"].startswith("It is in the history")


def test_the_history_says_kinds_and_values(client):
    events = [
        {"user": "new", "item": "i3", "kind": "view", "value": 4, "time": 1},
        {"user": "new", "item": "i3", "kind": "skip", "time": 2},
        {"user": "new", "item": "i3", "time": 3},
        {"user": "new", "item": "i3", "kind": "view", "value": 2, "time": 4},
    ]
    assert client.post("/api/feedback", json=events).status_code == 200
    entries = client.get("/api/users/new/feedback").json()["entries"]
    assert [(e["kind"], e["value"]) for e in entries] == [
        ("view", 4.0), ("skip", -2.0), ("purchase", 5.0), ("view", 2.0)
    ]  # fmt: skip
    client.put("/api/feedback", json=events[3])
    entries = client.get("/api/users/new/feedback").json()["entries"]
    assert [(e["kind"], e["value"]) for e in entries] == [
        ("skip", -2.0), ("purchase", 5.0), ("view", 2.0)
    ]  # fmt: skip
    old = client.get("/api/users/u7/feedback").json()["entries"]
    assert {e["kind"] for e in old} <= set(SHOP_WEIGHTS)


def test_the_last_event_of_an_item_and_a_kind_counts(tenant):
    kinds = [(1.0, "view"), (1.0, "skip"), (7.0, "view"), (1.0, "gone")]
    tenant.store.add(
        [Event("new", "i3", value, n, kind=kind) for n, (value, kind) in enumerate(kinds)]
    )
    histories = tenant.snapshot.histories_of("new", tenant.store.past_of(["new"])["new"])
    names = tenant.snapshot.dataset.kinds.names
    assert [names[k] for k in histories.kind_h.tolist()] == ["skip", "view"]
    assert histories.value_h.tolist() == [-2.0, 7.0]


def test_an_unknown_kind_is_a_400_that_names_the_kinds(client):
    answer = client.post("/api/feedback", json={"user": "u7", "item": "i3", "kind": "buy"})
    assert answer.status_code == 400
    assert answer.json()["error"]["what"] == "there is no kind of event 'buy'."
    assert answer.json()["error"]["fix"] == "Use one of 'cart', 'purchase', 'skip', 'view'."
    history = [{"item": "i3", "kind": "buy"}]
    assert client.post("/api/recommend", json={"history": history}).status_code == 400


def test_a_new_users_history_may_say_kinds(client):
    views = [{"item": "i3", "kind": "view"}, {"item": "i5", "kind": "skip"}]
    ids = listed(client, history=views)
    assert {"i3", "i5"} <= set(ids), "neither was bought"
    assert "i3" not in listed(client, history=[{"item": "i3"}, *views])


def test_a_bundle_without_kinds_refuses_a_kind(tmp_path):
    data = ft.from_frame(shop().drop("event"))
    bundle = ft.fit(ft.EASE(), data, progress=False).save(tmp_path / "bundle")
    tenant = Tenant(Store.open(f"sqlite:///{tmp_path / 'events.sqlite'}"), bundle)
    with served(tenant) as client:
        answer = client.post("/api/feedback", json={"user": "u7", "item": "i3", "kind": "view"})
        assert answer.status_code == 400
        assert "the data have no kinds of events" in answer.json()["error"]["what"]
        assert client.get("/api/card").json()["data"]["kinds"] is None


def test_the_card_says_kinds_weights_and_the_target(client):
    kinds = client.get("/api/card").json()["data"]["kinds"]
    assert dict(zip(kinds["names"], kinds["weights"], strict=True)) == SHOP_WEIGHTS
    assert kinds["target"] == "purchase"


def test_training_again_keeps_kinds_weights_and_every_event(tenant, bundle):
    old = ft.load(bundle)
    assert retrain(old, tenant.store).dataset.fingerprint == old.dataset.fingerprint
    tenant.store.add(
        [Event("new", "i3", 4.0, 5, kind="view"), Event("new", "i3", None, 6, kind="purchase"),
         Event("new", "i4", None, 7), Event("new", "i5", 1.0, 8, kind="unheard of")]
    )  # fmt: skip
    again = retrain(old, tenant.store)
    assert again.dataset.kinds is not None
    assert again.dataset.kinds.by_name == SHOP_WEIGHTS
    assert again.dataset.kinds.target == "purchase"
    rows = again.dataset.frame().filter(user="new")
    assert rows.select("item", "event", "value").rows() == [
        ("i3", "view", 4.0), ("i3", "purchase", 1.0), ("i4", "purchase", 1.0)
    ]  # fmt: skip
    assert len(again.dataset) == len(old.dataset) + 3


def test_fractional_weights_come_back_to_the_bit(tmp_path):
    table = shop()
    seconds = (table["time"] % 97) / 7
    data = ft.from_frame(
        table.with_columns(quantity=seconds),
        event_weights={"view": 0.1, "cart": 0.3, "purchase": 1, "skip": -0.7},
    )
    old = ft.fit(ft.Popularity(), data, progress=False)
    store = Store.open(f"sqlite:///{tmp_path / 'events.sqlite'}")
    assert retrain(old, store).dataset.fingerprint == data.fingerprint


def test_only_events_of_the_target_are_evidence(tenant, bundle):
    old = ft.load(bundle)
    views = [Event(f"n{u}", f"i{i}", 1.0, 10 * u + i, kind="view")
             for u in range(40) for i in range(5)]  # fmt: skip
    tenant.store.add(views)
    assert compare(old, tenant.store).users == 0
    tenant.store.add([Event(f"n{u}", "i9", 1.0, 9_000 + u, kind="purchase") for u in range(40)])
    assert compare(old, tenant.store).users == 40
