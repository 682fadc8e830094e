"""What is served now: a bundle and the store together, so that a user is all that they did."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from foretaste.bundle import MANIFEST, __version__, stamp
from foretaste.data.histories import Histories
from foretaste.errors import ForetasteError, ModelError
from foretaste.models.base import PredictsRatings, RatingPrediction
from foretaste.recommending.explaining import place
from foretaste.service.releases import current
from foretaste.service.schemas import Explain, Feedback, Person, Predict, Recommend
from foretaste.service.served import Seen, Served, together
from foretaste.service.store import Event, Past, Store

REASONS = 3  # of each item in a list


@dataclass(frozen=True, eq=False)
class Listing:
    """A list of items, best first, and what each would be rated where the model can tell."""

    served: Served
    rows: Sequence[int]
    scores: Sequence[float]
    ratings: Sequence[float] | None = None
    stds: Sequence[float] | None = None
    reasons: Sequence[Sequence[Mapping[str, Any]]] | None = None

    def json(self, request_id: str | None = None) -> str:
        """The answer as text: the fields of every item were written once, when it was loaded."""
        written = self.served.catalogue.written
        lines = [
            f'{written[row]}, "score": {score!r}, "rank": {n}{self._more(n - 1)}}}'
            for n, (row, score) in enumerate(zip(self.rows, self.scores, strict=True), start=1)
        ]
        asked = "" if request_id is None else f'"request_id": "{request_id}", '
        version = f'"model_version": "{self.served.version}"'
        return f'{{{asked}{version}, "items": [{", ".join(lines)}]}}'

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
        """The best items for a user or a stranger."""
        (answer,) = self.recommend_all([asked])
        if isinstance(answer, ForetasteError):
            raise answer
        return answer

    def recommend_all(self, asked: Sequence[Recommend]) -> list[Listing | ForetasteError]:
        """Lists for several at once: one question to the store, one to the model.

        They may differ in whom they are for and in k; the filters are those of the first.
        """
        served, first = self.served, asked[0]
        allowed_i = served.allowed(first.where, first.exclude, first.candidates)
        histories = self._seen(served, asked)
        batch = together([seen for seen in histories if isinstance(seen, Seen)] or [served.nobody])
        lists = served.recommender.lists(
            batch, max(one.k for one in asked), exclude_seen=first.exclude_seen,
            allowed_i=allowed_i, diversity=first.diversity,
        )  # fmt: skip
        answers: list[Listing | ForetasteError] = []
        for one, seen in zip(asked, histories, strict=True):
            if isinstance(seen, ForetasteError):
                answers.append(seen)
                continue
            b = sum(isinstance(before, Listing) for before in answers)
            rows = [row for row in lists.item_bk[b, : one.k].tolist() if row >= 0]
            scores = lists.score_bk[b, : len(rows)].tolist()
            listing = _rated(Listing(served, rows, scores), batch[b : b + 1])
            if one.explain:
                why = served.reasons(batch[b : b + 1], rows, REASONS)
                listing = replace(listing, reasons=why)
            answers.append(listing)
        return answers

    def explain(self, asked: Explain) -> dict[str, Any]:
        """Why an item is listed for someone, or is not."""
        served = self.served
        (row,) = served.rows([asked.item])
        allowed_i = served.allowed(asked.where, asked.exclude, None)
        batch = together([self._seen_one(served, asked)])
        stands = place(served.recommender.model.score(batch)[0], row, batch.item_h, allowed_i)
        (why,) = served.reasons(batch, [row], None)
        return {
            "model_version": served.version, "item": asked.item, "score": stands.score,
            "rank": stands.rank, "candidates": stands.candidates, "reasons": why,
            "why_not": stands.why,
        }  # fmt: skip

    def predict(self, asked: Predict) -> dict[str, Any]:
        """Expected ratings of items."""
        served = self.served
        if served.rater is None:
            raise ModelError(
                f"{served.recommender.model.name} predicts no ratings.",
                fix="Serve a model that does: bayesian-mf.",
            )
        rows = served.rows(asked.items)
        rated = _ratings(served.rater, together([self._seen_one(served, asked)]), rows)
        std = [None] * len(rows) if rated.std_p is None else rated.std_p.tolist()
        lines = zip(asked.items, rated.mean_p.tolist(), std, strict=True)
        return {
            "model_version": served.version,
            "predictions": [{"id": i, "rating": r, "std": s} for i, r, s in lines],
        }

    def similar(self, item: str, k: int) -> Listing:
        """The items nearest to one."""
        served = self.served
        item_k, cosine_k = served.recommender.neighbours(served.rows([item])[0], k)
        return Listing(served, item_k.tolist(), cosine_k.tolist())

    def item(self, item: str) -> dict[str, Any]:
        """One item and its fields."""
        (row,) = self.served.rows([item])
        return {"id": item, "fields": self.served.catalogue.fields[row]}

    def find(self, text: str, where: str | None, start: int, limit: int) -> dict[str, Any]:
        """Items by words and a condition, and where the next page starts."""
        catalogue = self.served.catalogue
        rows = catalogue.search(text, self.served.allowed(where, (), None))
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
            Event(f.user, f.item, self.served.checked(f.item, f.value),
                  now if f.time is None else f.time, f.request_id)
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
        seen = served.known(user, Past((), past.forgotten))
        newer = {event.item for event in past.events}
        times = [None] * len(seen.item_h) if seen.time_h is None else seen.time_h.tolist()
        entries = [
            {"item": served.catalogue.ids[row], "value": value, "time": at, "source": "bundle"}
            for row, value, at in zip(
                seen.item_h.tolist(), seen.value_h.tolist(), times, strict=True
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

    def _seen(self, served: Served, asked: Sequence[Person]) -> list[Seen | ForetasteError]:
        """The history of each; where one cannot be used, the error instead."""
        users = [one.user for one in asked if one.user is not None]
        pasts = self.store.past_of(users) if users else {}
        found: list[Seen | ForetasteError] = []
        for one in asked:
            try:
                if one.history is not None:
                    found.append(served.stranger(one.history, one.user_features))
                else:
                    found.append(served.known(str(one.user), pasts.get(str(one.user), Past())))
            except ForetasteError as error:
                found.append(error)
        return found

    def _seen_one(self, served: Served, asked: Person) -> Seen:
        (seen,) = self._seen(served, [asked])
        if isinstance(seen, ForetasteError):
            raise seen
        return seen


def _rated(listing: Listing, batch: Histories) -> Listing:
    """The list with expected ratings, where the model has some."""
    if listing.served.rater is None or not listing.rows:
        return listing
    rated = _ratings(listing.served.rater, batch, listing.rows)
    stds = None if rated.std_p is None else rated.std_p.tolist()
    return replace(listing, ratings=rated.mean_p.tolist(), stds=stds)


def _ratings(model: PredictsRatings, batch: Histories, rows: Sequence[int]) -> RatingPrediction:
    """Ratings of items for the one user of a batch."""
    item_p = torch.tensor(rows)
    return model.predict(batch, torch.zeros_like(item_p), item_p)


def _now() -> int:
    return time.time_ns() // 1_000_000
