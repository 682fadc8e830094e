"""A bundle as it is served: items and users by their ids, and the items described since."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from foretaste.bundle import MANIFEST
from foretaste.data.dataset import id_table
from foretaste.data.histories import Histories
from foretaste.data.interactions import FloatArray, Ids, IntArray
from foretaste.errors import UnknownIdError, UsageError
from foretaste.models.base import PlacesNewItems, PredictsRatings
from foretaste.recommending.explaining import reasons, shares
from foretaste.recommending.filters import matching
from foretaste.recommending.recommender import Recommender, load
from foretaste.service.schemas import Rated
from foretaste.service.search import Catalogue
from foretaste.service.store import Event, Past

CONDITIONS = 256  # of them, the items that satisfy each are remembered


@dataclass(frozen=True, eq=False)
class Seen:
    """One history as arrays: item rows, values, times or None; row: in training, else -1.

    user_features: a line of the user table, where it is not that of the row.
    """

    item_h: IntArray
    value_h: FloatArray
    time_h: IntArray | None
    row: int
    user_features: pl.DataFrame | None = None

    def then(self, item_n: IntArray, value_n: FloatArray, time_n: IntArray) -> Seen:
        """This history with newer entries in place of those of the same items."""
        kept_h = ~np.isin(self.item_h, item_n)
        item_h = np.concatenate([self.item_h[kept_h], item_n])
        value_h = np.concatenate([self.value_h[kept_h], value_n])
        if self.time_h is None:
            return Seen(item_h, value_h, None, -1, self.user_features)
        time_h = np.concatenate([self.time_h[kept_h], time_n])
        order = np.argsort(time_h, kind="stable")
        return Seen(item_h[order], value_h[order], time_h[order], -1, self.user_features)


def together(histories: Sequence[Seen]) -> Histories:
    """Histories as one batch: all of them with times, or none of them used."""
    timed = all(seen.time_h is not None for seen in histories)
    times = [seen.time_h for seen in histories if seen.time_h is not None]
    return Histories(
        torch.tensor(np.cumsum([0, *(len(seen.item_h) for seen in histories)])),
        torch.from_numpy(np.concatenate([seen.item_h for seen in histories]).astype(np.int64)),
        torch.from_numpy(np.concatenate([seen.value_h for seen in histories])),
        torch.from_numpy(np.concatenate(times)) if timed else None,
        torch.tensor([seen.row for seen in histories]),
        _lines([seen.user_features for seen in histories]),
    )


def _lines(about_b: Sequence[pl.DataFrame | None]) -> pl.DataFrame | None:
    """Lines of user tables one below the other, empty cells where nothing is known."""
    known = [line for line in about_b if line is not None]
    if known and len(known) < len(about_b):
        nothing = known[0].clear(1)
        known = [nothing if line is None else line for line in about_b]
    return pl.concat(known, how="diagonal") if known else None


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
    _matching: dict[str, np.ndarray] = field(default_factory=dict)

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
        fresh.recommender.lists(together([fresh.nobody]), 1)  # what a model builds at first use
        _ = fresh.row_of_user, fresh.rater, fresh.liked, now.pointers  # before any request waits
        return fresh

    @cached_property
    def row_of_user(self) -> dict[str, int]:
        """The row of each user in the bundle."""
        users = self.recommender.dataset.users.values.cast(pl.String)
        return {name: row for row, name in enumerate(users.to_list())}

    @cached_property
    def map(self) -> list[dict[str, Any]]:
        """Every item at its place."""
        return self.catalogue.places(self.recommender.item_vectors)

    @cached_property
    def rater(self) -> PredictsRatings | None:
        """The model, where it predicts ratings."""
        model = self.recommender.model
        return model if isinstance(model, PredictsRatings) else None

    @cached_property
    def liked(self) -> float:
        """What an event without a value counts as."""
        return self.scale[1] if self.recommender.dataset.explicit else 1.0

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest value of the bundle's data."""
        return self.recommender.dataset.scale

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
            if where not in self._matching:
                matched = matching(where, self.catalogue.table)
                while len(self._matching) >= CONDITIONS:
                    self._matching.pop(next(iter(self._matching)), None)
                self._matching[where] = matched
            allowed_i &= self._matching[where]
        return torch.from_numpy(allowed_i)

    def stranger(self, history: Sequence[Rated], user_features: Mapping[str, Any] | None) -> Seen:
        """The history that came with a request, and what it says of the user."""
        self.rows([entry.item for entry in history])
        told = self.recommender.dataset.user_frame_of(user_features) if user_features else None
        events = [Event("", e.item, self.checked(e.item, e.value), e.time or 0) for e in history]
        seen = self._with(Seen(_NONE, _NO_VALUE, _NONE, -1, told), events)
        timed = bool(history) and all(entry.time is not None for entry in history)
        return seen if timed else replace(seen, time_h=None)

    @property
    def nobody(self) -> Seen:
        """The history of someone of whom nothing is known."""
        return Seen(_NONE, _NO_VALUE, None, -1)

    def known(self, user: str, past: Past) -> Seen:
        """The history of a user: the bundle's, and every event since instead or on top."""
        dataset = self.recommender.dataset
        x = dataset.interactions
        row = -1 if past.forgotten else self.row_of_user.get(user, -1)
        h = slice(*dataset.pointers[row : row + 2]) if row >= 0 else slice(0)
        seen = Seen(x.item_r[h], x.value_r[h], None if x.time_r is None else x.time_r[h], row)
        newer = [e for e in past.events if e.item in self.catalogue.row_of]
        table = dataset.user_table if self.recommender.model.reads_users else None
        if newer and row >= 0 and table is not None:
            seen = replace(seen, user_features=table[row])
        return self._with(seen, newer)

    def _with(self, seen: Seen, events: Sequence[Event]) -> Seen:
        """A history and the events since, oldest first: of an item's, the last counts."""
        since: dict[str, Event] = {}
        for event in events:
            since.pop(event.item, None)
            since[event.item] = event
        if not since:
            return seen
        return seen.then(
            np.array([self.catalogue.row_of[item] for item in since]),
            np.array(
                [self.liked if e.value is None else e.value for e in since.values()], np.float32
            ),
            np.array([e.time for e in since.values()]),
        )

    def reasons(
        self, batch: Histories, rows: Sequence[int], most: int | None
    ) -> list[list[dict[str, Any]]]:
        """For each item the entries of one history that carry it, the strongest first."""
        n_items, catalogue = len(self.catalogue.ids), self.catalogue
        weight_hk = reasons(self.recommender.model.score, batch, torch.tensor(rows), n_items)
        share_hk = shares(weight_hk)
        entries = batch.item_h.tolist()
        carried = []
        for weight_h, share_h in zip(weight_hk.T, share_hk.T, strict=True):
            order = weight_h.argsort(descending=True, stable=True)[:most].tolist()
            carried.append(
                [
                    {
                        "item": catalogue.ids[entries[h]], "weight": float(weight_h[h]),
                        "share": float(share_h[h]), "fields": catalogue.fields[entries[h]],
                    }
                    for h in order
                    if most is None or weight_h[h] > 0
                ]
            )  # fmt: skip
        return carried

    def checked(self, item: str, value: float | None) -> float | None:
        """A value of an event as it came; UsageError where it is off the scale."""
        low, high = self.scale
        explicit = self.recommender.dataset.explicit
        if value is not None and explicit and not low <= value <= high:
            raise UsageError(
                f"item {item!r}: got the value {value:g}.",
                fix=f"Ratings lie in {low:g} to {high:g}.",
            )
        return value


_NONE = np.zeros(0, dtype=np.int64)
_NO_VALUE = np.zeros(0, dtype=np.float32)


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
