"""What is served now: a bundle and the store together, so that a user is all that they did."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from foretaste import __version__
from foretaste.bundle import MANIFEST, stamp
from foretaste.data.histories import Histories
from foretaste.errors import ForetasteError, ModelError
from foretaste.models.base import PredictsRatings, RatingPrediction
from foretaste.recommending.answering import Answer
from foretaste.recommending.explaining import reasons
from foretaste.recommending.rating import rate
from foretaste.recommending.request import Entry, Id, Request, check_value, new_user
from foretaste.service.releases import current
from foretaste.service.schemas import Explain, Feedback, Person, Predict, Recommend
from foretaste.service.served import Served
from foretaste.service.store import Event, Past, Store

REASONS = 3  # of each item in a list
P = TypeVar("P", bound=Person)
Resolved = tuple[P, tuple[Histories, list[Id]]]  # a request, a history, ids that were ignored


@dataclass(frozen=True, eq=False)
class Listing:
    """A list of items, best first, and what each would be rated where the model can tell."""

    served: Served
    rows: Sequence[int]
    scores: Sequence[float]
    ratings: Sequence[float] | None = None
    stds: Sequence[float] | None = None
    reasons: Sequence[Sequence[Mapping[str, Any]]] | None = None
    unknown: Sequence[str] = ()

    def json(self, request_id: str | None = None) -> str:
        """The answer as text: the fields of every item were written once, when it was loaded."""
        written = self.served.catalogue.written
        lines = [
            f'{written[row]}, "score": {score!r}, "rank": {n}{self._more(n - 1)}}}'
            for n, (row, score) in enumerate(zip(self.rows, self.scores, strict=True), start=1)
        ]
        asked = "" if request_id is None else f'"request_id": "{request_id}", '
        version = f'"model_version": "{self.served.version}"'
        unknown = f', "unknown": {json.dumps(self.unknown)}' if self.unknown else ""
        return f'{{{asked}{version}, "items": [{", ".join(lines)}]{unknown}}}'

    def _more(self, n: int) -> str:
        more = ""
        if self.ratings is not None:
            std = None if self.stds is None else self.stds[n]
            more += f', "rating": {self.ratings[n]!r}, "std": {json.dumps(std)}'
        if self.reasons is not None:
            more += f', "reasons": {json.dumps(self.reasons[n])}'
        return more


class Live:
    """Answers requests from the bundle that is current and the store."""

    def __init__(self, store: Store, bundle: Path) -> None:
        self.store, self._bundle = store, bundle
        self._stamps = self._now_on_disk()
        self.served = Served.read(current(bundle), store.described("items"))

    def recommend(self, asked: Recommend) -> Listing:
        """Return the best items for a user or for someone new.

        Args:
            asked: The request as it came.
        """
        (answer,) = self.recommend_all([asked])
        if isinstance(answer, ForetasteError):
            raise answer
        return answer

    def recommend_all(self, asked: Sequence[Recommend]) -> list[Listing | ForetasteError]:
        """Return lists for several requests: one question to the store, one to the model.

        Args:
            asked: Requests; where one cannot be answered, the error takes its place.
        """
        served = self.served
        found = self._resolved(served, asked)
        good = [one for one in found if not isinstance(one, ForetasteError)]
        requests = [
            Request(
                histories=histories, k=one.k, where=one.where, exclude=one.exclude,
                candidates=one.candidates, exclude_seen=one.exclude_seen, diversity=one.diversity,
                explain=REASONS if one.explain else 0,
            )
            for one, (histories, _) in good
        ]  # fmt: skip
        answers = iter(zip(good, served.recommender.answer(requests), strict=True))
        listings: list[Listing | ForetasteError] = []
        for one in found:
            if isinstance(one, ForetasteError):
                listings.append(one)
            else:
                (asked_one, (_, ignored)), answer = next(answers)
                listings.append(_listing(served, asked_one, answer, ignored))
        return listings

    def explain(self, asked: Explain) -> dict[str, Any]:
        """Return why an item is listed for someone, or is not.

        Args:
            asked: The request as it came.
        """
        served = self.served
        row = served.row(asked.item)
        histories, _ = self._resolved_one(served, asked)
        request = Request(histories=histories, where=asked.where, exclude=asked.exclude)
        stands = served.recommender.place(request, asked.item)
        weight_h1 = reasons(
            served.recommender.model.score,
            histories,
            torch.tensor([row]),
            len(served.dataset.items),
        )
        return {
            "model_version": served.version, "item": asked.item, "score": stands.score,
            "rank": stands.rank, "candidates": stands.candidates,
            "reasons": served.carried(histories, weight_h1[:, 0], None), "why_not": stands.why,
        }  # fmt: skip

    def predict(self, asked: Predict) -> dict[str, Any]:
        """Return expected ratings of items.

        Args:
            asked: The request as it came; an unknown item is an error.
        """
        served = self.served
        model = served.recommender.model
        if not isinstance(model, PredictsRatings):
            raise ModelError(
                f"{model.name} predicts no ratings.", fix="Serve a model that does: bayesian-mf."
            )
        rows = [served.row(item) for item in asked.items]
        rated = _ratings(model, self._resolved_one(served, asked)[0], rows)
        std = [None] * len(rows) if rated.std_p is None else rated.std_p.tolist()
        lines = zip(asked.items, rated.mean_p.tolist(), std, strict=True)
        return {
            "model_version": served.version,
            "predictions": [{"id": i, "rating": r, "std": s} for i, r, s in lines],
        }

    def similar(self, item: str, k: int) -> Listing:
        """The items nearest to one."""
        served = self.served
        item_k, cosine_k = served.recommender.neighbours(served.row(item), k)
        return Listing(served, item_k.tolist(), cosine_k.tolist())

    def item(self, item: str) -> dict[str, Any]:
        """One item and its fields."""
        row = self.served.row(item)
        return {"id": item, "fields": self.served.catalogue.fields[row]}

    def find(self, text: str, where: str | None, start: int, limit: int) -> dict[str, Any]:
        """Items by words and a condition, and where the next page starts."""
        catalogue = self.served.catalogue
        rows = catalogue.search(text, self.served.recommender.candidates(where))
        page = rows[start : start + limit]
        return {
            "items": [{"id": catalogue.ids[i], "fields": catalogue.fields[i]} for i in page],
            "next": str(start + limit) if start + limit < len(rows) else None,
        }

    def remember(
        self, feedback: Iterable[Feedback], *, overwrite: bool, key: str | None, body: str,
        client: str = "",
    ) -> int:  # fmt: skip
        """Keep what users did: on disk when this returns, and part of their next list."""
        now = _now()
        events = [
            Event(f.user, f.item, self._checked(f), now if f.time is None else f.time, f.request_id)
            for f in feedback
        ]  # fmt: skip
        return self.store.add(events, overwrite=overwrite, key=key, body=body, client=client)

    def refresh(self) -> bool:
        """Serve what is current now, if that changed: whether it did.  Nobody waits meanwhile.

        A bundle that cannot be read changes nothing: BundleError, and the old one is served on.
        """
        stamps, before = self._now_on_disk(), self._stamps
        if stamps == before:
            return False
        if stamps[:-1] == before[:-1]:
            items = self.store.described("items")
            self.served = Served.of(self.served.bundled, self.served.version, items)
        else:
            self.served = Served.read(current(self._bundle), self.store.described("items"))
        self._stamps = stamps
        return True

    def _now_on_disk(self) -> tuple[Any, ...]:
        """Changes whenever another bundle is current, or it was written anew, or an item was."""
        bundle = current(self._bundle)
        written = stamp(bundle) if (bundle / MANIFEST).exists() else None
        return bundle, written, self.store.items_stamp()

    def history(self, user: str) -> list[dict[str, Any]]:
        """What a user did, oldest first: the bundle's and every event since."""
        served = self.served
        past = self.store.past_of([user]).get(user, Past())
        bundled = served.histories_of(user, Past((), past.forgotten))
        newer = {event.item for event in past.events}
        times = [None] * len(bundled.item_h) if bundled.time_h is None else bundled.time_h.tolist()
        entries = [
            {"item": served.catalogue.ids[row], "value": value, "time": at, "source": "bundle"}
            for row, value, at in zip(
                bundled.item_h.tolist(), bundled.value_h.tolist(), times, strict=True
            )
            if served.catalogue.ids[row] not in newer
        ]
        return entries + [
            {"item": e.item, "value": served.liked if e.value is None else e.value,
             "time": e.time, "source": "event"}
            for e in past.events
        ]  # fmt: skip

    def card(self) -> dict[str, Any]:
        """What is served, from what it learned, and how good it is."""
        served = self.served
        r, d = served.recommender, served.recommender.dataset
        return {
            "model": r.model.name, "fields": r.model.hyperparameters(),
            "data": {
                "name": d.name, "users": len(d.users), "items": len(d.items),
                "interactions": len(d), "scale": list(d.scale), "explicit": d.explicit,
                "fingerprint": d.fingerprint,
            },
            "training": r.training, "metrics": r.metrics, "curve": getattr(r.model, "curve_", []),
            "version": __version__, "model_version": served.version, "loaded": served.loaded,
        }  # fmt: skip

    def _checked(self, feedback: Feedback) -> float | None:
        """Return the value of an event; UsageError where it is off the scale."""
        if feedback.value is not None:
            check_value(self.served.dataset, feedback.item, feedback.value, "feedback")
        return feedback.value

    def _resolved(self, served: Served, asked: Sequence[P]) -> list[Resolved[P] | ForetasteError]:
        """Return each request with its history and unknown ids; an error in place of a bad one."""
        users = [one.user for one in asked if one.user is not None]
        pasts = self.store.past_of(users) if users else {}
        found: list[Resolved[P] | ForetasteError] = []
        for one in asked:
            try:
                if one.history is None:
                    past = pasts.get(str(one.user), Past())
                    found.append((one, (served.histories_of(str(one.user), past), [])))
                else:
                    entries = [Entry(e.item, e.value, e.time) for e in one.history]
                    found.append((one, new_user(served.dataset, entries, one.user_features)))
            except ForetasteError as error:
                found.append(error)
        return found

    def _resolved_one(self, served: Served, asked: Person) -> tuple[Histories, list[Id]]:
        (found,) = self._resolved(served, [asked])
        if isinstance(found, ForetasteError):
            raise found
        return found[1]


def _listing(served: Served, asked: Recommend, answer: Answer, ignored: Sequence[Id]) -> Listing:
    """Return an answer as it goes out, with ratings where the model has some."""
    rows = [row for row in answer.lists.item_bk[0].tolist() if row >= 0]
    scores = answer.lists.score_bk[0, : len(rows)].tolist()
    unknown = [str(i) for ids in (ignored, *answer.unknown.values()) for i in ids]
    listing = Listing(served, rows, scores, unknown=list(dict.fromkeys(unknown)))
    model = served.recommender.model
    if rows and isinstance(model, PredictsRatings):
        rated = _ratings(model, answer.histories, rows)
        stds = None if rated.std_p is None else rated.std_p.tolist()
        listing = replace(listing, ratings=rated.mean_p.tolist(), stds=stds)
    if asked.explain:
        listing = replace(listing, reasons=served.reasons(answer, REASONS))
    return listing


def _ratings(model: PredictsRatings, histories: Histories, rows: Sequence[int]) -> RatingPrediction:
    """Return ratings of items for the one user of some histories."""
    item_p = torch.tensor(rows)
    return rate(model, histories, torch.zeros_like(item_p), item_p)


def _now() -> int:
    return time.time_ns() // 1_000_000
