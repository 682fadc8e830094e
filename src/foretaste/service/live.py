"""What is served now: a bundle and the store together, so that a user is all that they did."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foretaste.bundle import MANIFEST, __version__
from foretaste.errors import ModelError, UnknownIdError, UsageError
from foretaste.filtering import matching
from foretaste.models.base import PredictsRatings, UserBatch
from foretaste.ranking import recommend as rank
from foretaste.recommender import Recommender, load
from foretaste.service.catalogue import Catalogue
from foretaste.service.schemas import Feedback, Person, Predict, Rated, Recommend
from foretaste.service.store import Event, Past, Store

PAGE = 20  # items found at a time


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle as it is served: never changed, replaced as a whole."""

    recommender: Recommender
    version: str
    loaded: int

    @classmethod
    def read(cls, bundle: Path) -> Served:
        """The bundle in a folder, verified."""
        recommender = load(bundle)
        digest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
        return cls(recommender, digest[:12], _now())

    @cached_property
    def catalogue(self) -> Catalogue:
        """Its items."""
        return Catalogue(self.recommender.dataset)

    @cached_property
    def row_of_user(self) -> dict[str, int]:
        """The row of each user in the bundle."""
        users = self.recommender.dataset.users.values
        return {str(name): row for row, name in enumerate(users.to_list())}

    @cached_property
    def map(self) -> list[dict[str, Any]]:
        """Every item at its place."""
        return self.catalogue.places(self.recommender.item_vectors)

    @property
    def liked(self) -> float:
        """What an event without a value counts as."""
        dataset = self.recommender.dataset
        return dataset.scale[1] if dataset.explicit else 1.0

    def rows(self, items: Sequence[str]) -> list[int]:
        """Rows of items; UnknownIdError names those that are not here."""
        row_of = self.catalogue.row_of
        rows = [row_of.get(item, -1) for item in items]
        if -1 in rows:
            unknown = [item for item, row in zip(items, rows, strict=True) if row < 0]
            raise UnknownIdError("item", unknown, fix="GET /api/items lists those that are served.")
        return rows

    def allowed(
        self, where: str | None, exclude: Sequence[str], candidates: Sequence[str] | None
    ) -> torch.Tensor | None:
        """The items that may be listed: (items,) bool, or None for all."""
        if where is None and not exclude and candidates is None:
            return None
        allowed_i = np.ones(len(self.catalogue.ids), dtype=bool)
        if candidates is not None:
            allowed_i[:] = False
            allowed_i[self.rows(candidates)] = True
        allowed_i[self.rows(exclude)] = False
        if where is not None:
            allowed_i &= matching(where, self.recommender.dataset)
        return torch.from_numpy(allowed_i)

    def stranger(self, history: Sequence[Rated]) -> UserBatch:
        """The history that came with a request."""
        self.rows([entry.item for entry in history])
        times = [0 if entry.time is None else entry.time for entry in history]
        events = [
            Event("", e.item, self.checked(e.item, e.value), at)
            for e, at in zip(history, times, strict=True)
        ]
        batch = self.known("", Past(events, forgotten=True))
        return batch if all(times) and history else _timeless(batch)

    def known(self, user: str, past: Past) -> UserBatch:
        """The history of a user: the bundle's, and every event since instead or on top."""
        dataset = self.recommender.dataset
        x = dataset.interactions
        row = -1 if past.forgotten else self.row_of_user.get(user, -1)
        entries = slice(*dataset.pointers[row : row + 2]) if row >= 0 else slice(0)
        item_h, value_h = x.item_r[entries].astype(np.int64), x.value_r[entries]
        time_h = None if x.time_r is None else x.time_r[entries]
        row_of = self.catalogue.row_of
        since = {e.item: e for e in past.events if e.item in row_of}  # the last of an item counts
        if since:
            row, latest = -1, sorted(since.values(), key=lambda event: event.time)
            new_h = np.array([row_of[e.item] for e in latest])
            kept_h = ~np.isin(item_h, new_h)
            item_h = np.concatenate([item_h[kept_h], new_h])
            given = [self.liked if e.value is None else e.value for e in latest]
            value_h = np.concatenate([value_h[kept_h], np.array(given, dtype=np.float32)])
            if time_h is not None:
                time_h = np.concatenate([time_h[kept_h], [e.time for e in latest]])
                order = np.argsort(time_h, kind="stable")
                item_h, value_h, time_h = item_h[order], value_h[order], time_h[order]
        return UserBatch(
            torch.tensor([0, len(item_h)]), torch.from_numpy(item_h), torch.from_numpy(value_h),
            None if time_h is None else torch.from_numpy(time_h), torch.tensor([row]),
        )  # fmt: skip

    def checked(self, item: str, value: float | None) -> float | None:
        """A value of an event as it came; UsageError where it is off the scale."""
        dataset = self.recommender.dataset
        low, high = dataset.scale
        if value is not None and dataset.explicit and not low <= value <= high:
            raise UsageError(
                f"item {item!r}: got the value {value:g}.",
                fix=f"Ratings lie in {low:g} to {high:g}.",
            )
        return value


class Live:
    """Answers requests from the bundle that is current and the store."""

    def __init__(self, store: Store, bundle: Path) -> None:
        self.store = store
        self.served = Served.read(bundle)
        self._swap = threading.Lock()

    def recommend(self, asked: Recommend) -> dict[str, Any]:
        """The best items for a user or a stranger."""
        served = self.served
        batch = self._batch(served, asked)
        allowed_i = served.allowed(asked.where, asked.exclude, asked.candidates)
        model = served.recommender.model
        lists = rank(
            model.score, batch, asked.k, n_items=len(served.catalogue.ids),
            exclude_seen=asked.exclude_seen, allowed_i=allowed_i,
        )  # fmt: skip
        rows = [row for row in lists.item_bk[0].tolist() if row >= 0]
        items = _listed(served, rows, lists.score_bk[0].tolist())
        if isinstance(model, PredictsRatings) and rows:
            rated = model.predict(
                batch, torch.zeros(len(rows), dtype=torch.int64), torch.tensor(rows)
            )
            for n, line in enumerate(items):
                line["rating"] = float(rated.mean_p[n])
                line["std"] = None if rated.std_p is None else float(rated.std_p[n])
        return {"model_version": served.version, "items": items}

    def predict(self, asked: Predict) -> dict[str, Any]:
        """Expected ratings of items."""
        served = self.served
        model = served.recommender.model
        if not isinstance(model, PredictsRatings):
            raise ModelError(
                f"{model.name} predicts no ratings.", fix="Serve a model that does: bayesian-mf."
            )
        item_p = torch.tensor(served.rows(asked.items))
        rated = model.predict(self._batch(served, asked), torch.zeros_like(item_p), item_p)
        std = [None] * len(item_p) if rated.std_p is None else rated.std_p.tolist()
        lines = zip(asked.items, rated.mean_p.tolist(), std, strict=True)
        return {
            "model_version": served.version,
            "predictions": [{"id": i, "rating": r, "std": s} for i, r, s in lines],
        }

    def similar(self, item: str, k: int) -> dict[str, Any]:
        """The items nearest to one."""
        served = self.served
        served.rows([item])
        found = served.recommender.similar(item, k)
        rows = served.rows([str(name) for name in found["item"]])
        return {
            "model_version": served.version,
            "items": _listed(served, rows, found["score"].to_list()),
        }

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
        self, feedback: Iterable[Feedback], *, overwrite: bool, key: str | None, body: str
    ) -> int:
        """Keep what users did: on disk when this returns, and part of their next list."""
        now = _now()
        events = [
            Event(f.user, f.item, self.served.checked(f.item, f.value),
                  now if f.time is None else f.time, f.request_id)
            for f in feedback
        ]  # fmt: skip
        return self.store.add(events, overwrite=overwrite, key=key, body=body)

    def history(self, user: str) -> list[dict[str, Any]]:
        """What a user did, oldest first: the bundle's and every event since."""
        served = self.served
        past = self.store.past_of([user]).get(user, Past())
        batch = served.known(user, Past((), past.forgotten))
        newer = {event.item for event in past.events}
        entries = [
            {"item": served.catalogue.ids[row], "value": value, "time": at, "source": "bundle"}
            for row, value, at in zip(
                batch.item_h.tolist(), batch.value_h.tolist(),
                [None] * len(batch.item_h) if batch.time_h is None else batch.time_h.tolist(),
                strict=True,
            )
            if served.catalogue.ids[row] not in newer
        ]  # fmt: skip
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

    def _batch(self, served: Served, asked: Person) -> UserBatch:
        if asked.history is not None:
            return served.stranger(asked.history)
        user = str(asked.user)
        return served.known(user, self.store.past_of([user]).get(user, Past()))


def _listed(served: Served, rows: Sequence[int], scores: Sequence[float]) -> list[dict[str, Any]]:
    ids, fields = served.catalogue.ids, served.catalogue.fields
    return [
        {"id": ids[row], "score": score, "rank": n, "fields": fields[row]}
        for n, (row, score) in enumerate(zip(rows, scores, strict=False), start=1)
    ]


def _timeless(batch: UserBatch) -> UserBatch:
    return UserBatch(batch.pointer_b, batch.item_h, batch.value_h, None, batch.train_row_b)


def _now() -> int:
    return time.time_ns() // 1_000_000
