"""The public object: a model with its Dataset. External ids in, tables of recommendations out."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from foretaste import bundle
from foretaste.bundle import __version__
from foretaste.data.dataset import Dataset, from_tables
from foretaste.data.histories import Histories
from foretaste.data.reading import read_items
from foretaste.errors import BundleError, ModelError, UsageError, refuse_fork
from foretaste.models import MODELS
from foretaste.models.base import (
    ComparesItems,
    HasItemVectors,
    Model,
    PlacesNewItems,
    PredictsRatings,
    ScoresByDot,
    configure,
)
from foretaste.models.graph_filter import co_occurrence_vectors
from foretaste.recommending.explaining import Place, place, reasons, shares
from foretaste.recommending.ranking import Lists
from foretaste.recommending.ranking import recommend as rank
from foretaste.recommending.request import History, Id, allowed_items, batch_for, several
from foretaste.recommending.reranking import diversify, pool_size
from foretaste.recommending.retrieval import INDEXED_FROM, ItemFactors, VectorIndex, top_k
from foretaste.training.engine import Engine


@dataclass(eq=False)
class Recommender:
    """A fitted model with the Dataset it learned from.

    training: how it was fitted (seconds, seed, learning curve, ...).  metrics: what `evaluate`
    found, kept with the bundle.
    """

    model: Model
    dataset: Dataset
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def recommend(  # noqa: PLR0913 -- every way to narrow a list, by name
        self, user: Id | None = None, *, users: Sequence[Id] | None = None,
        history: History | None = None, k: int = 10, where: str | None = None,
        exclude: Sequence[Id] = (), candidates: Sequence[Id] | None = None,
        exclude_seen: bool = True, diversity: float = 0.0, user_features: Mapping[str, Any] | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """The k best items for a user, for many users, or for someone described by a history.

        history: item ids, or item ids with ratings; ids alone count as liked (the top of the
        scale).  user_features: what else is known of them, by the columns of the user table.  where: an SQL
        condition on the item columns.  diversity: 0 to 1, see `diversify`.
        Returns item, score, rank and the item columns (user first, where `users` was given).
        Raises UnknownIdError, UsageError.
        """
        batch = batch_for(self.dataset, user, users, history, user_features)
        lists = self.lists(
            batch, k, exclude_seen=exclude_seen, diversity=diversity,
            allowed_i=allowed_items(self.dataset, where, exclude, candidates),
        )  # fmt: skip
        listed_bk = (lists.item_bk >= 0).numpy()
        rows = lists.item_bk.numpy()[listed_bk]
        table = self._item_columns(rows).insert_column(
            1, pl.Series("score", lists.score_bk.numpy()[listed_bk])
        )
        place_bk = np.broadcast_to(np.arange(1, listed_bk.shape[1] + 1), listed_bk.shape)
        table.insert_column(2, pl.Series("rank", place_bk[listed_bk].astype(np.int32)))
        if users is not None:
            owner = np.repeat(np.arange(len(batch)), listed_bk.sum(axis=1))
            ids = self.dataset.users[batch.train_row_b.numpy()]
            table.insert_column(0, ids.gather(owner).alias("user"))
        return table

    def lists(
        self, batch: Histories, k: int, *, exclude_seen: bool = True,
        allowed_i: torch.Tensor | None = None, diversity: float = 0.0,
        probe: Histories | None = None,
    ) -> Lists:  # fmt: skip
        """The lists that are served and evaluated, in item rows: ranked, then diversified.

        allowed_i: (items,) bool.  probe: as there; with diversity its scores are those before.
        """
        _at_least_one(k)
        if not 0 <= diversity <= 1:
            raise UsageError(f"diversity={diversity}.", fix="It goes from 0 (none) to 1.")
        n_items = len(self.dataset.items)
        best = rank(
            self.model, batch, pool_size(k, n_items) if diversity else k, n_items=n_items,
            exclude_seen=exclude_seen, allowed_i=allowed_i, probe=probe, factors=self._factors,
        )  # fmt: skip
        if not diversity:
            return best
        return diversify(best, self.item_vectors, k, diversity)

    def explain(
        self, user: Id | None = None, *, item: Id, history: History | None = None,
        user_features: Mapping[str, Any] | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Which items of the history carry this one: what its score loses without each of them.

        Returns item, weight (in units of the score), share (of all that speaks for it) and the
        item columns, the strongest first.
        """
        batch = batch_for(self.dataset, user, None, history, user_features)
        asked_k = torch.from_numpy(self.dataset.items.rows([item]))
        weight_h1 = reasons(self.model.score, batch, asked_k, len(self.dataset.items))
        order_h = weight_h1[:, 0].argsort(descending=True, stable=True)
        table = self._item_columns(batch.item_h[order_h].numpy())
        table.insert_column(1, pl.Series("weight", weight_h1[order_h, 0].numpy()))
        return table.insert_column(2, pl.Series("share", shares(weight_h1)[order_h, 0].numpy()))

    def place(
        self, user: Id | None = None, *, item: Id, history: History | None = None,
        user_features: Mapping[str, Any] | None = None, where: str | None = None,
    ) -> Place:  # fmt: skip
        """Where an item stands in the full list of a user, and why not higher."""
        batch = batch_for(self.dataset, user, None, history, user_features)
        row = int(self.dataset.items.rows([item])[0])
        allowed_i = allowed_items(self.dataset, where, (), None)
        return place(self.model.score(batch)[0], row, batch.item_h, allowed_i)

    def predict(
        self, users: Sequence[Id] | None = None, items: Sequence[Id] = (), *,
        history: History | None = None, user_features: Mapping[str, Any] | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Expected ratings of pairs (users[n], items[n]), or of items for someone with a history.

        Returns user, item, rating, std (null where the model has none).
        """
        model = self._able(PredictsRatings, "predicts ratings")
        item_p = torch.from_numpy(self.dataset.items.rows(several(items, "items")))
        if (users is None) == (history is None):
            raise UsageError("give either users or a history.", fix="A stranger is a history.")
        if history is not None:
            named, user_p = [None] * len(items), torch.zeros_like(item_p)
            batch = batch_for(self.dataset, history=history, user_features=user_features)
        else:
            named = [] if users is None else several(users, "users")
            if len(named) == 1:
                named *= len(items)
            if len(named) != len(items):
                raise UsageError(
                    f"{len(named)} users and {len(items)} items.",
                    fix="Give one user for each item.",
                )
            batch, user_p = (
                batch_for(self.dataset, users=named, user_features=user_features),
                torch.arange(len(items)),
            )
        rated = model.predict(batch, user_p, item_p)
        std = pl.Series([None] * len(items), dtype=pl.Float32)
        return pl.DataFrame(
            {
                "user": pl.Series(named, dtype=self.dataset.users.values.dtype, strict=False),
                "item": self.dataset.items[item_p.numpy()],
                "rating": rated.mean_p.numpy(),
                "std": std if rated.std_p is None else rated.std_p.numpy(),
            }
        )

    @cached_property
    def item_vectors(self) -> torch.Tensor:
        """Items as vectors whose cosine is similarity: the model's, or the data's: (items, d)."""
        if isinstance(self.model, HasItemVectors):
            return self.model.item_vectors().float()
        return co_occurrence_vectors(self.dataset)

    @cached_property
    def _factors(self) -> ItemFactors | None:
        if isinstance(self.model, ScoresByDot):
            return ItemFactors(self.model.item_factors())
        return None

    @cached_property
    def _exact_index(self) -> VectorIndex:
        return VectorIndex(self.item_vectors)

    @cached_property
    def _graph_index(self) -> VectorIndex:
        return VectorIndex(self.item_vectors, graph=True)

    def similar(self, item: Id, k: int = 10, *, approximate: bool = False) -> pl.DataFrame:
        """The k items nearest to one, by cosine of item vectors: item, score, rank and columns.

        The vectors are the model's, or where it has none those of who interacted with both.
        approximate: of 200,000 items and more, those that an index finds.  The first call builds
        it, for many to come (UsageError without usearch).
        """
        _at_least_one(k)
        item_k, cosine_k = self.neighbours(int(self.dataset.items.rows([item])[0]), k, approximate)
        table = self._item_columns(item_k.numpy())
        table.insert_column(1, pl.Series("score", cosine_k.numpy()))
        return table.insert_column(
            2, pl.Series("rank", np.arange(1, len(table) + 1, dtype=np.int32))
        )

    def neighbours(
        self, row: int, k: int, approximate: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `similar` lists, in item rows: rows and cosines of the k nearest, (k,) each."""
        n_items = len(self.dataset.items)
        if isinstance(self.model, ComparesItems):
            item_1k, score_1k, _ = top_k(self.model.cosines(row)[None], min(k + 1, n_items))
        else:
            graph = approximate and n_items >= INDEXED_FROM
            index = self._graph_index if graph else self._exact_index
            item_1k, score_1k = index.nearest(index.unit_id[row][None], k + 1)
        other = (item_1k[0] >= 0) & (item_1k[0] != row)
        return item_1k[0][other][:k], score_1k[0][other][:k]

    def with_items(self, items: Any) -> Recommender:
        """The same with further items that nobody has interacted with, placed by their columns.

        items: a file or a frame, as `read_items` takes it.  Nothing is trained again.  ModelError
        where the model cannot tell an item from its columns.
        """
        model = self._able(PlacesNewItems, "places new items")
        dataset = self.dataset.add_items(read_items(items))
        new = dataset.item_frame[len(self.dataset.items) :]
        return replace(self, model=model.with_items(new), dataset=dataset)

    def save(self, folder: str | Path) -> Path:
        """Write the bundle; an older one in the same folder is replaced in one step."""
        tensors, learned = self.model.state()
        about, tables = self.dataset.tables()
        values = {
            "foretaste": __version__,
            "model": {
                "name": self.model.name,
                "fields": self.model.hyperparameters(),
                "learned": learned,
            },
            "data": about,
            "training": self.training,
            "metrics": self.metrics,
        }
        return bundle.write(folder, values, tensors, tables)

    def _able(self, ability: type, words: str) -> Any:
        if not isinstance(self.model, ability):
            able = [name for name, model in MODELS.items() if issubclass(model, ability)]
            raise ModelError(
                f"{self.model.name} is no model that {words}.",
                fix=f"Train one of {', '.join(able)}.",
            )
        return self.model

    def _item_columns(self, rows: np.ndarray) -> pl.DataFrame:
        table = self.dataset.item_table
        if table is None:
            return pl.DataFrame({"item": self.dataset.items[rows]})
        clash = {}
        for name in {"score", "rank", "user", "weight", "share"} & set(table.columns):
            clash[name] = f"item_{name}"
            while clash[name] in table.columns:
                clash[name] = f"item_{clash[name]}"
        return table[rows].rename(clash)


def fit(
    model: Model, train: Dataset, *, seed: int = 0, device: str = "auto",
    precision: str = "float32", folder: str | Path | None = None, progress: bool | None = None,
) -> Recommender:  # fmt: skip
    """Fit a model to a Dataset.

    folder: where to keep checkpoints and the run log; called again with the same arguments after a
    crash, training goes on from there exactly.  progress: show a bar on standard error (by default
    on a terminal).
    """
    show = sys.stderr.isatty() if progress is None else progress
    engine = Engine(
        device=device, precision=precision, seed=seed,
        folder=None if folder is None else Path(folder), progress=sys.stderr if show else None,
    )  # fmt: skip
    if model.needs_ratings and not train.explicit:
        raise ModelError(
            f"{model.name} needs ratings, and {train.name} has none.",
            fix="Name the column with --rating-column, or choose a model for clicks: popularity.",
        )
    if model.needs_interactions and not len(train):
        able = [name for name, known in MODELS.items() if not known.needs_interactions]
        raise ModelError(
            f"{model.name} learns from interactions, and {train.name} has items alone.",
            fix=f"Give ratings or clicks, or train one of {', '.join(able)}.",
        )
    refuse_fork()
    started = time.monotonic()
    model.fit(train, engine)
    seconds = time.monotonic() - started
    training: dict[str, Any] = {
        "seed": seed, "precision": precision, "seconds": seconds, "random": bool(engine.drawn)
    }  # fmt: skip
    curve = getattr(model, "curve_", [])
    if curve and curve[-1].get("interrupted"):
        training["interrupted"] = True
    if notes := getattr(model, "notes_", []):
        training["notes"] = notes
    return Recommender(model, train, training)


def load(folder: str | Path) -> Recommender:
    """Read a bundle, every byte verified; BundleError says what is wrong with it."""
    parts = bundle.read(folder)
    try:
        about, data = parts.values["model"], parts.values["data"]
        if about["name"] not in MODELS:
            raise BundleError(
                f"the bundle holds a model {about['name']!r}, which this foretaste does not have.",
                where=folder, fix=f"It has {', '.join(MODELS)}; upgrade, or train again.",
            )  # fmt: skip
        model = configure(MODELS[about["name"]], about["fields"])
        model.restore(parts.tensors, about["learned"])
        dataset = from_tables(data, parts.tables)
        return Recommender(model, dataset, parts.values["training"], parts.values["metrics"])
    except (KeyError, TypeError, RuntimeError, UsageError, pl.exceptions.PolarsError) as error:
        raise BundleError(
            f"a part of the bundle is missing or of the wrong kind ({error}).",
            where=folder, fix="Train again.",
        ) from None  # fmt: skip


def _at_least_one(k: int) -> None:
    if k < 1:
        raise UsageError(f"k={k}.", fix="Ask for at least one item.")
