"""A bundle as it is served: items and users by their ids, and the items described since.

A snapshot knows nothing of the store: events and descriptions are handed to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from foretaste.bundle import MANIFEST
from foretaste.data.dataset import Dataset, id_table
from foretaste.data.histories import Histories, histories_of
from foretaste.data.interactions import Ids
from foretaste.errors import UnknownIdError
from foretaste.models.base import PlacesNewItems
from foretaste.recommending.answering import Answer
from foretaste.recommending.explaining import shares
from foretaste.recommending.fitting import load
from foretaste.recommending.recommender import Recommender
from foretaste.recommending.request import Request, event_codes, event_value
from foretaste.service.records import Event, Past, now_ms
from foretaste.service.search import Catalogue


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A bundle with the fields of items as they are now: never changed, replaced as a whole.

    Attributes:
        bundled: The recommender of the bundle.
        recommender: The same with the items that were described since, in the rows after the
            others, where its model can place new items.
        version: The first 12 digits of the manifest's SHA-256.
        catalogue: The items of `recommender` and their columns.
        loaded: When it was loaded, in milliseconds since 1970 UTC.
    """

    bundled: Recommender
    recommender: Recommender
    version: str
    catalogue: Catalogue
    loaded: int = field(default_factory=now_ms)

    @classmethod
    def read(cls, bundle: Path, described: Mapping[str, Mapping[str, Any]]) -> Snapshot:
        """Read and verify a bundle, and add the fields that items got since.

        Args:
            bundle: A folder.
            described: Fields of items, by id and then by column.

        Raises:
            BundleError: The bundle cannot be read.
        """
        recommender = load(bundle)
        digest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
        return cls.of(recommender, digest[:12], described)

    @classmethod
    def of(
        cls, recommender: Recommender, version: str, described: Mapping[str, Mapping[str, Any]]
    ) -> Snapshot:
        """Return a recommender with the fields that items got since.

        Args:
            recommender: What the bundle holds.
            version: What names the bundle in answers.
            described: Fields of items, by id and then by column.
        """
        dataset, model = recommender.dataset, recommender.model
        table = id_table(dataset.items, dataset.item_table)
        ids = dataset.items.values.cast(pl.String).to_list()
        known = set(ids)
        older = {name: fields for name, fields in described.items() if name in known}
        newer = {name: fields for name, fields in described.items() if name not in known}
        if older:
            table = table.update(lines(table, older), on=table.columns[0], how="left")
        if newer and isinstance(model, PlacesNewItems):
            new = lines(table, newer)
            model, table, ids = model.with_items(new), pl.concat([table, new]), [*ids, *newer]
        now = replace(dataset, items=Ids(pl.Series("item", ids), "item"), item_table=table)
        fresh = cls(
            recommender, replace(recommender, model=model, dataset=now), version,
            Catalogue(ids, table, dataset.interactions.item_r).prepare(),
        )  # fmt: skip
        # what is built at first use is built here, before any request waits for it
        fresh.recommender.answer([Request(history=[], k=1)])
        fresh.histories_of(str(now.users.values[0]) if len(now.users) else "", Past())
        return fresh

    @cached_property
    def map(self) -> list[dict[str, Any]]:
        """The place of every item on the map, as JSON values."""
        return self.catalogue.places(self.recommender.item_vectors)

    @property
    def dataset(self) -> Dataset:
        """What the model learned from, with the items that were described since."""
        return self.recommender.dataset

    def row(self, item: str) -> int:
        """Return the row of an item.

        Args:
            item: An id.

        Raises:
            UnknownIdError: The item is not served.
        """
        row = self.catalogue.row_of.get(item, -1)
        if row < 0:
            hint = "GET /api/items lists those that are served."
            raise UnknownIdError("item", [item], fix=hint)
        return row

    def histories_of(self, user: str, past: Past) -> Histories:
        """Return the history of one user: what the bundle holds, and every event since.

        An event takes the place of what the bundle holds of the same item and kind, unless the
        bundle keeps repeats. Events with items that are not served, or of kinds that the bundle
        lacks, are left out.

        Args:
            user: An id; a new user has the events alone.
            past: What the store knows of the user.
        """
        dataset = self.dataset
        row = -1 if past.forgotten else int(dataset.users.find([user])[0])
        bundled = histories_of(dataset, np.array([row]), dataset)
        since: dict[tuple[str, str | None, int], Event] = {}
        for n, one in enumerate(past.events):  # oldest first: of an item and a kind the last counts
            event = known_event(dataset, one)
            if event is not None and event.item in self.catalogue.row_of:
                which = event.item, event.kind, n * dataset.keeps_repeats
                since.pop(which, None)
                since[which] = event
        if not since:
            return bundled
        if row >= 0 and dataset.user_table is not None and self.recommender.model.reads_users:
            bundled = replace(bundled, user_features=dataset.user_table[row])
        value_n = [event_value(dataset, e.kind, e.value) for e in since.values()]
        kind_n = event_codes(dataset, [event.kind for event in since.values()])
        return bundled.with_events(
            torch.tensor([self.catalogue.row_of[item] for item, *_ in since]),
            torch.tensor(value_n, dtype=torch.float32),
            torch.tensor([event.time for event in since.values()]),
            None if kind_n is None else torch.from_numpy(kind_n),
            keep=dataset.keeps_repeats,
        )

    def reasons(self, answer: Answer, n: int | None) -> list[list[dict[str, Any]]]:
        """Return for each listed item the entries of one history that carry it, strongest first.

        Args:
            answer: The answer to a request for one user that asked for reasons.
            n: How many entries at most, of those that speak for the item; None for all entries.
        """
        (weight_hk,) = answer.weight_bhk
        return [
            self.carried(answer.histories, weight_hk[:, place], n)
            for place in range(weight_hk.shape[1])
        ]

    def carried(
        self, histories: Histories, weight_h: Tensor, n: int | None
    ) -> list[dict[str, Any]]:
        """Return what entries of a history add to one item's score, as JSON values.

        Args:
            histories: The history of one user.
            weight_h: What each entry adds to the score, (entries,).
            n: How many entries at most, of those that speak for the item; None for all entries.
        """
        share_h = shares(weight_h[:, None])[:, 0]
        rows = histories.item_h.tolist()
        return [
            {
                "item": self.catalogue.ids[rows[h]], "weight": float(weight_h[h]),
                "share": float(share_h[h]), "fields": self.catalogue.fields[rows[h]],
            }
            for h in weight_h.argsort(descending=True, stable=True)[:n].tolist()
            if n is None or weight_h[h] > 0
        ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Listing:
    """A list of K items, best first.

    Attributes:
        snapshot: What was served when the list was made.
        rows: Rows of the items, (K,).
        scores: Their scores, or cosines, (K,).
        ratings: What each would be rated, (K,); None where the model predicts no ratings.
        stds: Standard deviations of the ratings, (K,); None where the model has none.
        reasons: The strongest reasons of each item, as JSON values; None where none were asked for.
        unknown: Ids of the request that were ignored.
    """

    snapshot: Snapshot
    rows: Sequence[int]
    scores: Sequence[float]
    ratings: Sequence[float] | None = None
    stds: Sequence[float] | None = None
    reasons: Sequence[Sequence[Mapping[str, Any]]] | None = None
    unknown: Sequence[str] = ()

    def json(self, request_id: str | None = None) -> str:
        """Return the list as JSON text; the fields of the items were written when it was loaded.

        Args:
            request_id: The id of the request, which comes first in the answer; None for none.
        """
        written = self.snapshot.catalogue.written
        lines = [
            f'{written[row]}, "score": {score!r}, "rank": {n}{self._more(n - 1)}}}'
            for n, (row, score) in enumerate(zip(self.rows, self.scores, strict=True), start=1)
        ]
        asked = "" if request_id is None else f'"request_id": "{request_id}", '
        version = f'"model_version": "{self.snapshot.version}"'
        unknown = f', "unknown": {json.dumps(self.unknown)}' if self.unknown else ""
        return f'{{{asked}{version}, "items": [{", ".join(lines)}]{unknown}}}'

    def _more(self, n: int) -> str:
        """Return what line n has beside the score, as JSON text."""
        more = ""
        if self.ratings is not None:
            std = None if self.stds is None else self.stds[n]
            more += f', "rating": {self.ratings[n]!r}, "std": {json.dumps(std)}'
        if self.reasons is not None:
            more += f', "reasons": {json.dumps(self.reasons[n])}'
        return more


def known_event(dataset: Dataset, event: Event) -> Event | None:
    """Return an event with the kind that a Dataset takes it for; None where it lacks the kind.

    Args:
        dataset: What the bundle holds. Without kinds, the kinds of events do not count.
        event: An event of the store; without a kind it is one of the target.
    """
    kinds = dataset.kinds
    if kinds is None:
        return replace(event, kind=None)
    kind = kinds.target if event.kind is None else event.kind
    return replace(event, kind=kind) if kind in kinds.names else None


def lines(table: pl.DataFrame, described: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Return fields as lines of a table; a field that does not fit its column is null.

    Args:
        table: The table whose columns the lines have; the first holds the id.
        described: Fields by id and then by column. Fields without a column are left out.
    """
    key, *columns = table.columns
    cells = {key: list(described)}
    cells |= {name: [fields.get(name) for fields in described.values()] for name in columns}
    return pl.DataFrame(
        {
            name: pl.Series(column, strict=False).cast(table.schema[name], strict=False)
            for name, column in cells.items()
        }
    )
