"""A bundle and a store together: what is served now, and every answer that is made from it.

A user's history is what the bundle holds of them and every event since. This module knows nothing
of HTTP: requests and answers are schemas and JSON values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foretaste import __version__
from foretaste.bundle import MANIFEST, stamp
from foretaste.data.histories import Histories
from foretaste.errors import ForetasteError, ModelError
from foretaste.models.base import PredictsRatings, RatingPrediction
from foretaste.recommending.answering import Answer
from foretaste.recommending.explaining import reasons
from foretaste.recommending.rating import rate
from foretaste.recommending.request import (
    Entry,
    Id,
    Request,
    check_kind,
    check_value,
    event_value,
    new_user,
)
from foretaste.service.records import Event, Past, now_ms
from foretaste.service.releases import current, stamps
from foretaste.service.schemas import Explain, Feedback, Person, Predict, Recommend
from foretaste.service.snapshot import Listing, Snapshot, known_event
from foretaste.service.store import Store

REASONS = 3  # of each item in a list
Resolved = tuple[Histories, list[Id]]  # a history, and ids of the request that were ignored


class Tenant:
    """Answers requests from a bundle and a store.

    An answer is made from one snapshot, which `refresh` replaces as a whole while requests go on.

    Attributes:
        store: The events, the fields of items and users, and the keys.
        snapshot: The bundle that is served, with the fields of items as they are now.
    """

    def __init__(self, store: Store, bundle: Path) -> None:
        """Read the bundle that is current.

        Args:
            store: An open store.
            bundle: The folder of the bundle; another may have been promoted in its name.

        Raises:
            BundleError: The bundle cannot be read.
        """
        self.store, self._bundle = store, bundle
        self._read, self._described = self._current(), store.items_stamp()
        self._broken: tuple[Any, ForetasteError] | None = None
        self.snapshot = Snapshot.read(self._read[0], store.described("items"))

    def recommend(self, asked: Recommend) -> Listing:
        """Return the best items for a user or for someone new.

        Args:
            asked: The request as it came.

        Raises:
            UsageError: A condition or a value of the request is wrong.
        """
        (listing,) = self.recommend_all([asked])
        if isinstance(listing, ForetasteError):
            raise listing
        return listing

    def recommend_all(self, asked: Sequence[Recommend]) -> list[Listing | ForetasteError]:
        """Return the lists of several requests: one question to the store, one to the model.

        Args:
            asked: The requests as they came. Where a history is wrong, its error takes the place of
                its list; a condition that is wrong fails all of them.

        Raises:
            UsageError: A condition is wrong.
        """
        snapshot = self.snapshot
        # The snapshot is read once: `refresh` may put another in its place while this request goes
        # on, and rows of one mean nothing in the other.
        found = self._resolved(snapshot, asked)
        good = {n: one for n, one in enumerate(found) if not isinstance(one, ForetasteError)}
        requests = [_request(asked[n], histories) for n, (histories, _) in good.items()]
        answers = dict(zip(good, snapshot.recommender.answer(requests), strict=True))
        return [
            one
            if isinstance(one, ForetasteError)
            else _listing(snapshot, asked[n], answers[n], ignored=one[1])
            for n, one in enumerate(found)
        ]

    def explain(self, asked: Explain) -> dict[str, Any]:
        """Return where an item stands for someone, why, and what of the history carries it.

        Args:
            asked: The request as it came.

        Raises:
            UnknownIdError: The item is not served.
            UsageError: A condition or a value of the request is wrong.
        """
        snapshot = self.snapshot
        row_k = torch.tensor([snapshot.row(asked.item)])
        histories, _ = self._resolved_one(snapshot, asked)
        request = Request(histories=histories, where=asked.where, exclude=asked.exclude)
        place = snapshot.recommender.place(request, asked.item)
        score = snapshot.recommender.model.score
        weight_h1 = reasons(score, histories, row_k, len(snapshot.dataset.items))
        return {
            "model_version": snapshot.version, "item": asked.item, "score": place.score,
            "rank": place.rank, "candidates": place.candidates,
            "reasons": snapshot.carried(histories, weight_h1[:, 0], None), "why_not": place.why,
        }  # fmt: skip

    def predict(self, asked: Predict) -> dict[str, Any]:
        """Return expected ratings of items, in the order of the request.

        Args:
            asked: The request as it came.

        Raises:
            ModelError: The model predicts no ratings.
            UnknownIdError: An item is not served.
            UsageError: A value of the request is wrong.
        """
        snapshot = self.snapshot
        model = snapshot.recommender.model
        if not isinstance(model, PredictsRatings):
            raise ModelError(
                f"{model.name} predicts no ratings.", fix="Serve a model that does: bayesian-mf."
            )
        rows = [snapshot.row(item) for item in asked.items]
        rated = _ratings(model, self._resolved_one(snapshot, asked)[0], rows)
        std = [None] * len(rows) if rated.std_p is None else rated.std_p.tolist()
        lines = zip(asked.items, rated.mean_p.tolist(), std, strict=True)
        return {
            "model_version": snapshot.version,
            "predictions": [{"id": i, "rating": r, "std": s} for i, r, s in lines],
        }

    def similar(self, item: str, k: int) -> Listing:
        """Return the items nearest to one, by cosine.

        Args:
            item: An id.
            k: Length of the list.

        Raises:
            UnknownIdError: The item is not served.
        """
        snapshot = self.snapshot
        item_k, cosine_k = snapshot.recommender.neighbours(snapshot.row(item), k)
        return Listing(snapshot, item_k.tolist(), cosine_k.tolist())

    def item(self, item: str) -> dict[str, Any]:
        """Return an item and its fields.

        Args:
            item: An id.

        Raises:
            UnknownIdError: The item is not served.
        """
        snapshot = self.snapshot
        return {"id": item, "fields": snapshot.catalogue.fields[snapshot.row(item)]}

    def find(self, text: str, where: str | None, start: int, limit: int) -> dict[str, Any]:
        """Return one page of the items that contain some words and satisfy a condition.

        Args:
            text: Words that must all be in the item's label; "" for every item.
            where: A condition on the item columns; None for none.
            start: How many items come before the page.
            limit: Length of the page.

        Returns:
            The items, and where the next page starts, as text; None after the last page.

        Raises:
            UsageError: The condition is wrong.
        """
        snapshot = self.snapshot
        catalogue = snapshot.catalogue
        rows = catalogue.search(text, snapshot.recommender.candidates(where))
        page = rows[start : start + limit]
        return {
            "items": [{"id": catalogue.ids[i], "fields": catalogue.fields[i]} for i in page],
            "next": str(start + limit) if start + limit < len(rows) else None,
        }

    def remember(
        self, feedback: Iterable[Feedback], *, overwrite: bool, key: str | None, body: str,
        client: str = "",
    ) -> int:  # fmt: skip
        """Keep what users did: it is on disk when this returns, and part of their next list.

        Args:
            feedback: What users did; without a time it happened now.
            overwrite: Whether it replaces the events of the same user, item and kind.
            key: An idempotency key, or None; see `Store.add`.
            body: What the feedback came in.
            client: Whose idempotency key it is.

        Returns:
            How many events were accepted.

        Raises:
            UsageError: A value is off the scale, or the bundle has no such kind of event.
            ConflictError: The client has used the key with another body.
        """
        now, dataset, events = now_ms(), self.snapshot.dataset, []
        for f in feedback:
            if f.value is not None:
                check_value(dataset, f.item, f.value, "feedback")
            check_kind(dataset, f.kind)
            kind = f.kind if f.kind or dataset.kinds is None else dataset.kinds.target
            at = now if f.time is None else f.time
            events.append(Event(f.user, f.item, f.value, at, f.request_id, kind))
        # The store answers before anything is promised: an event that is acknowledged is on its
        # disk.
        return self.store.add(events, overwrite=overwrite, key=key, body=body, client=client)

    def refresh(self) -> bool:
        """Serve what is current now, if that changed; requests do not wait meanwhile.

        A bundle that cannot be read changes nothing. It is read again when one of its files
        changes, not at every call: reading a large bundle takes seconds.

        Returns:
            Whether another bundle, or other fields of items, are served than before.

        Raises:
            BundleError: The bundle that is current cannot be read; the former one is served on.
        """
        # The stamps are taken before the bundle is read. If it is replaced meanwhile, the next call
        # sees other stamps and reads again; the other way round the newer bundle would be missed
        # for good.
        at, described = self._current(), self.store.items_stamp()
        files = at, stamps(at[0])
        if at == self._read:
            self._broken = None
        elif self._broken is None or self._broken[0] != files:
            items = self.store.described("items")
            try:
                # One assignment swaps everything that belongs together; there is no lock for
                # requests to wait at.
                self.snapshot = Snapshot.read(at[0], items)
            except ForetasteError as error:
                self._broken = files, error
            else:
                self._read, self._described, self._broken = at, described, None
                return True
        changed = described != self._described
        if changed:
            items = self.store.described("items")
            self.snapshot = Snapshot.of(self.snapshot.bundled, self.snapshot.version, items)
            self._described = described
        # Raised at every call while the bundle is broken, so that readiness and the log can tell.
        if self._broken is not None:
            raise self._broken[1].with_traceback(None)
        return changed

    def _current(self) -> tuple[Path, Any]:
        """Return the bundle that is current, and a stamp that changes when it is written anew."""
        bundle = current(self._bundle)
        return bundle, stamp(bundle) if (bundle / MANIFEST).exists() else None

    def history(self, user: str) -> list[dict[str, Any]]:
        """Return what a user did, oldest first: what the bundle holds, then every event since.

        Args:
            user: An id, known or not.
        """
        snapshot, dataset = self.snapshot, self.snapshot.dataset
        past = self.store.past_of([user]).get(user, Past())
        bundled = snapshot.histories_of(user, Past((), past.forgotten))
        events = [e for e in (known_event(dataset, one) for one in past.events) if e is not None]
        newer = {(event.item, event.kind) for event in events}
        none = [None] * len(bundled.item_h)
        times = none if bundled.time_h is None else bundled.time_h.tolist()
        names = () if dataset.kinds is None else dataset.kinds.names
        kinds = none if bundled.kind_h is None else [names[k] for k in bundled.kind_h.tolist()]
        held = zip(bundled.item_h.tolist(), bundled.value_h.tolist(), times, kinds, strict=True)
        return [
            {"item": snapshot.catalogue.ids[row], "value": value, "time": at, "source": "bundle",
             "kind": kind}
            for row, value, at, kind in held
            if (snapshot.catalogue.ids[row], kind) not in newer
        ] + [
            {"item": e.item, "value": event_value(dataset, e.kind, e.value), "time": e.time,
             "source": "event", "kind": e.kind}
            for e in events
        ]  # fmt: skip

    def card(self) -> dict[str, Any]:
        """Return what is served, what it learned from, and how good it is."""
        snapshot = self.snapshot
        r, d = snapshot.recommender, snapshot.dataset
        return {
            "model": r.model.name, "fields": r.model.hyperparameters(),
            "data": {
                "name": d.name, "users": len(d.users), "items": len(d.items),
                "interactions": len(d), "scale": list(d.scale), "explicit": d.explicit,
                "fingerprint": d.fingerprint,
                "kinds": None if d.kinds is None else d.kinds.summary(),
            },
            "training": r.training, "metrics": r.metrics, "curve": getattr(r.model, "curve_", []),
            "version": __version__, "model_version": snapshot.version, "loaded": snapshot.loaded,
        }  # fmt: skip

    def _resolved(
        self, snapshot: Snapshot, asked: Sequence[Person]
    ) -> list[Resolved | ForetasteError]:
        """Return the history of each request and its unknown ids, or what is wrong with it."""
        users = [one.user for one in asked if one.user is not None]
        pasts = self.store.past_of(users) if users else {}
        found: list[Resolved | ForetasteError] = []
        for one in asked:
            if one.history is None:
                user = str(one.user)
                found.append((snapshot.histories_of(user, pasts.get(user, Past())), []))
                continue
            entries = [Entry(e.item, e.value, e.time, e.kind) for e in one.history]
            try:
                found.append(new_user(snapshot.dataset, entries, one.user_features))
            except ForetasteError as error:
                found.append(error)
        return found

    def _resolved_one(self, snapshot: Snapshot, asked: Person) -> Resolved:
        """Return the history of one request and its unknown ids."""
        (found,) = self._resolved(snapshot, [asked])
        if isinstance(found, ForetasteError):
            raise found
        return found


def _request(asked: Recommend, histories: Histories) -> Request:
    """Return the Request that the recommender answers."""
    return Request(
        histories=histories, k=asked.k, where=asked.where, exclude=asked.exclude,
        candidates=asked.candidates, exclude_seen=asked.exclude_seen, diversity=asked.diversity,
        explain=REASONS if asked.explain else 0,
    )  # fmt: skip


def _listing(
    snapshot: Snapshot, asked: Recommend, answer: Answer, *, ignored: Sequence[Id]
) -> Listing:
    """Return an answer as it goes out, with ratings where the model has some."""
    rows = [row for row in answer.lists.item_bk[0].tolist() if row >= 0]
    scores = answer.lists.score_bk[0, : len(rows)].tolist()
    unknown = [str(i) for ids in (ignored, *answer.unknown.values()) for i in ids]
    listing = Listing(snapshot, rows, scores, unknown=list(dict.fromkeys(unknown)))
    model = snapshot.recommender.model
    if rows and isinstance(model, PredictsRatings):
        rated = _ratings(model, answer.histories, rows)
        stds = None if rated.std_p is None else rated.std_p.tolist()
        listing = replace(listing, ratings=rated.mean_p.tolist(), stds=stds)
    if asked.explain:
        listing = replace(listing, reasons=snapshot.reasons(answer, REASONS))
    return listing


def _ratings(model: PredictsRatings, histories: Histories, rows: Sequence[int]) -> RatingPrediction:
    """Return ratings of items for the one user of some histories."""
    item_p = torch.tensor(rows)
    return rate(model, histories, torch.zeros_like(item_p), item_p)
