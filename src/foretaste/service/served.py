"""A bundle as it is served: items and users by their ids, and the items described since."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
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
from foretaste.recommending.request import Request
from foretaste.service.search import Catalogue
from foretaste.service.store import Event, Past


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle with the fields of items as they are now: never changed, replaced as a whole.

    bundled: what was in the bundle.  recommender: it, knowing the items described since where its
    model can; they have the rows after the others.  catalogue: its items.
    """

    bundled: Recommender
    recommender: Recommender
    version: str
    catalogue: Catalogue
    loaded: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    @classmethod
    def read(cls, bundle: Path, described: Mapping[str, Mapping[str, Any]]) -> Served:
        """The bundle in a folder, verified, and the fields that items got since."""
        digest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
        recommender = load(bundle)
        return cls.of(recommender, digest[:12], described)

    @classmethod
    def of(
        cls, recommender: Recommender, version: str, described: Mapping[str, Mapping[str, Any]]
    ) -> Served:
        """A recommender with the fields that items got since."""
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
        """Every item at its place."""
        return self.catalogue.places(self.recommender.item_vectors)

    @property
    def dataset(self) -> Dataset:
        """What the bundle learned from, and the items described since."""
        return self.recommender.dataset

    @property
    def liked(self) -> float:
        """The value of an event that came without one."""
        return self.dataset.scale[1] if self.dataset.explicit else 1.0

    def row(self, item: str) -> int:
        """Return the row of an item; UnknownIdError where it is not served.

        Args:
            item: Its id.
        """
        row = self.catalogue.row_of.get(item, -1)
        if row < 0:
            hint = "GET /api/items lists those that are served."
            raise UnknownIdError("item", [item], fix=hint)
        return row

    def histories_of(self, user: str, past: Past) -> Histories:
        """Return the history of one user: the bundle's, and every event since instead or on top.

        Args:
            user: An id; someone the bundle lacks has the events alone.
            past: What the store knows of them.
        """
        dataset = self.dataset
        row = -1 if past.forgotten else int(dataset.users.find([user])[0])
        bundled = histories_of(dataset, np.array([row]), dataset)
        since: dict[str, Event] = {}
        for event in past.events:  # oldest first: of an item's events the last counts
            if event.item in self.catalogue.row_of:
                since.pop(event.item, None)
                since[event.item] = event
        if not since:
            return bundled
        if row >= 0 and dataset.user_table is not None and self.recommender.model.reads_users:
            bundled = replace(bundled, user_features=dataset.user_table[row])
        return bundled.with_events(
            torch.tensor([self.catalogue.row_of[item] for item in since]),
            torch.tensor(
                [self.liked if e.value is None else e.value for e in since.values()],
                dtype=torch.float32,
            ),
            torch.tensor([event.time for event in since.values()]),
        )

    def reasons(self, answer: Answer, n: int | None) -> list[list[dict[str, Any]]]:
        """Return for each listed item the entries of one history that carry it, strongest first.

        Args:
            answer: The answer to a request of one user that asked for reasons.
            n: How many entries; None for all, those that speak against the item too.
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
            histories: Of one user.
            weight_h: What each entry adds, (entries,).
            n: How many entries, of those that speak for the item; None for all.
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


def lines(table: pl.DataFrame, described: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Lines of fields in the columns of a table; a field that does not fit its column is null."""
    key, *columns = table.columns
    cells = {key: list(described)}
    cells |= {name: [fields.get(name) for fields in described.values()] for name in columns}
    return pl.DataFrame(
        {
            name: pl.Series(column, strict=False).cast(table.schema[name], strict=False)
            for name, column in cells.items()
        }
    )
