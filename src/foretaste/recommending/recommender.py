"""The public object: a model with its Dataset. External ids in, tables of recommendations out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from foretaste import __version__, bundle
from foretaste.data.dataset import Dataset
from foretaste.data.reading.items import read_items
from foretaste.errors import ModelError, takes_old_names
from foretaste.models import MODELS
from foretaste.models.base import (
    ComparesItems,
    HasItemVectors,
    Model,
    PlacesNewItems,
    PredictsRatings,
)
from foretaste.models.graph_filter import co_occurrence_vectors
from foretaste.models.newcomers.prior import Prior
from foretaste.recommending.answering import Answer, Answerer, Conditions
from foretaste.recommending.arguments import one_id
from foretaste.recommending.explaining import Place, place, reasons, shares
from foretaste.recommending.export import write_lists
from foretaste.recommending.rating import rate_table
from foretaste.recommending.request import History, Id, IgnoredIdsWarning, K, Request, resolve_user
from foretaste.recommending.retrieval import ItemIndex


@dataclass(eq=False)
class Recommender:
    """A fitted model with the Dataset it learned from; every list comes out of `answer`.

    A Recommender knows nothing of what happened after training: newer events come with a Request.

    Attributes:
        model: The fitted model.
        dataset: What it learned from: ids, histories, columns of items and users.
        training: How it was fitted: seconds, seed, notes, the prior (`models/newcomers/prior.py`).
        metrics: What `evaluate` found, kept with the bundle.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> rows = {"user": [1, 1, 2, 2, 3], "item": [10, 20, 10, 30, 20]}
        >>> recommender = ft.fit(ft.Popularity(), ft.from_frame(pl.DataFrame(rows)))
        >>> recommender.recommend(user=3, k=1)["item"].to_list()
        [10]
    """

    model: Model
    dataset: Dataset
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    # -- lists

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the lists that several requests ask for, in their order.

        This is the only way to a list: the evaluation, the export and the service come here too.

        Args:
            requests: Questions; see `Request`.

        Raises:
            UnknownIdError: Where a user is asked for whom the data lack.
            UsageError: Where a condition or a value is wrong.
            ModelError: Where a score is not a number.
        """
        return self._answerer.answer(requests)

    def candidates(self, where: str | None) -> torch.Tensor | None:
        """Return the items that satisfy a condition, (items,) bool; None without a condition.

        Args:
            where: A condition on the item columns.
        """
        return self._answerer.candidates(Request(users=[], where=where))[0]

    @cached_property
    def _answerer(self) -> Answerer:
        conditions, prior = Conditions(self.dataset), Prior.of(self.training)
        return Answerer(self.model, self.dataset, conditions, lambda: self.item_vectors, prior)

    @takes_old_names(about="user_features")
    def recommend(  # noqa: PLR0913 -- a public door: every way to narrow a list, by name
        self,
        user: Id | None = None,
        *,
        users: Sequence[Id] | None = None,
        history: History | None = None,
        user_features: Mapping[str, Any] | None = None,
        k: int = K,
        where: str | None = None,
        exclude: Sequence[Id] = (),
        candidates: Sequence[Id] | None = None,
        exclude_seen: bool | None = None,
        diversity: float = 0.0,
    ) -> pl.DataFrame:
        """Return the k best items for a user, for several users, or for someone new.

        Args:
            user: A user of the training data.
            users: Several of them.
            history: What a new user did: item ids (liked), ids with ratings, or `Entry`s.
            user_features: What else is known of a new user, by the columns of the user table.
            k: Length of a list.
            where: A condition on the item columns, such as ``year >= 1990``.
            exclude: Items that must not be listed.
            candidates: The only items that may be listed; None for all.
            exclude_seen: Whether items of the history are left out; None: as the data are.
            diversity: From 0 to 1: relevance is traded for lists that repeat themselves less.

        Returns:
            A frame with item, score, rank (from 1) and the item columns, best first; user comes
            first where `users` was given.  An IgnoredIdsWarning names ids that the data lack.

        Raises:
            UnknownIdError: Where the data lack a user.
            UsageError: Where a condition, a value or a number is wrong.
        """
        asked = Request(
            user, users, history, None, user_features, k, where, exclude, candidates, exclude_seen,
            diversity,
        )  # fmt: skip
        (answer,) = self.answer([asked])
        for name, ids in answer.unknown.items():
            shown = ", ".join(map(repr, ids[:5])) + (", ..." if len(ids) > 5 else "")
            warnings.warn(
                f"{name}: unknown items were ignored: {shown}.", IgnoredIdsWarning, stacklevel=2
            )
        return self.frame(answer, with_user=users is not None)

    def frame(self, answer: Answer, *, with_user: bool = False) -> pl.DataFrame:
        """Return an Answer as the table that `recommend` gives.

        Args:
            answer: Of this Recommender.
            with_user: Whether the first column names the user, who must be one of training.
        """
        listed_bk = (answer.lists.item_bk >= 0).numpy()
        table = self._item_columns(answer.lists.item_bk.numpy()[listed_bk]).insert_column(
            1, pl.Series("score", answer.lists.score_bk.numpy()[listed_bk])
        )
        place_bk = np.broadcast_to(np.arange(1, listed_bk.shape[1] + 1), listed_bk.shape)
        table.insert_column(2, pl.Series("rank", place_bk[listed_bk].astype(np.int32)))
        if with_user:
            owner = np.repeat(np.arange(len(listed_bk)), listed_bk.sum(axis=1))
            ids = self.dataset.users[answer.histories.train_row_b.numpy()]
            table.insert_column(0, ids.gather(owner).alias("user"))
        return table

    def export(
        self,
        path: str | Path,
        k: int = K,
        *,
        where: str | None = None,
        exclude: Sequence[Id] = (),
        exclude_seen: bool | None = None,
        diversity: float = 0.0,
        progress: bool | None = None,
    ) -> Path:
        """Write the k best items of every user to a Parquet file: user, item, score, rank.

        Users pass through in chunks, so memory does not grow with their number.  The file takes
        its name once it is complete: an older one stays until then, and two runs do not mix.

        Args:
            path: The file.
            k: Length of a list.
            where: A condition on the item columns.
            exclude: Items that must not be listed.
            exclude_seen: Whether items of a user's history are left out; None: as the data are.
            diversity: From 0 to 1.
            progress: Whether to show a bar on standard error; by default on a terminal.

        Raises:
            DataError: Where the file cannot be written.
            UsageError: Where a condition or a number is wrong.
        """
        asked = Request(
            users=[], k=k, where=where, exclude=exclude, exclude_seen=exclude_seen,
            diversity=diversity,
        )  # fmt: skip
        self._answerer.candidates(asked)  # a wrong condition is refused before anything is written
        return write_lists(self.answer, self.dataset, asked, Path(path), progress)

    # -- ratings

    @takes_old_names(about="user_features")
    def predict(
        self,
        users: Sequence[Id] | None = None,
        items: Sequence[Id] = (),
        *,
        history: History | None = None,
        user_features: Mapping[str, Any] | None = None,
        unknown: Literal["fallback", "error"] | None = None,
    ) -> pl.DataFrame:
        """Return expected ratings of pairs (users[n], items[n]), or of items for someone new.

        Args:
            users: One for each item, or one for all items.
            items: Items.
            history: What a new user did, in place of `users`.
            user_features: What else is known of a new user.
            unknown: What happens with users and items that the data lack: "fallback" gives what
                the model knows without them (an average item, a user without a history) and marks
                the row; "error" refuses the table.  By default a table falls back, and a single
                pair is an error.

        Returns:
            A frame with user, item, rating, std (null where the model has none) and fallback
            (whether the user or the item is unknown).

        Raises:
            ModelError: Where the model does not predict ratings.
            UnknownIdError: Where an id is unknown, as `unknown` says.
            UsageError: Where users and items do not go together.
        """
        model = self._able(PredictsRatings, "predicts ratings")
        return rate_table(model, self.dataset, users, items, history, user_features, unknown)

    # -- reasons

    @takes_old_names(about="user_features")
    def explain(
        self,
        user: Id | None = None,
        *,
        item: Id,
        history: History | None = None,
        user_features: Mapping[str, Any] | None = None,
    ) -> pl.DataFrame:
        """Return which items of a history carry an item: what its score loses without each.

        Args:
            user: A user of the training data.
            item: The item to be explained.
            history: What a new user did, in place of `user`.
            user_features: What else is known of a new user.

        Returns:
            A frame with item, weight (in units of the score), share (of all that speaks for it) and
            the item columns, the strongest first.

        Raises:
            UnknownIdError: Where the user or the item is unknown.
        """
        asked = Request(user, None, history, None, user_features)
        histories, _ = resolve_user(asked, self.dataset)
        row_k = torch.from_numpy(self.dataset.items.rows([one_id(item, "item")]))
        weight_h1 = reasons(self.model.score, histories, row_k, len(self.dataset.items))
        order_h = weight_h1[:, 0].argsort(descending=True, stable=True)
        table = self._item_columns(histories.item_h[order_h].numpy())
        table.insert_column(1, pl.Series("weight", weight_h1[order_h, 0].numpy()))
        return table.insert_column(2, pl.Series("share", shares(weight_h1)[order_h, 0].numpy()))

    def place(self, request: Request, item: Id) -> Place:
        """Return where an item stands in the full list of one user, and why not higher.

        Args:
            request: For whom, and which items may be listed; its length does not count.
            item: The item.

        Raises:
            UnknownIdError: Where the user or the item is unknown.
        """
        histories, _ = resolve_user(request, self.dataset)
        row = int(self.dataset.items.rows([one_id(item, "item")])[0])
        allowed_i, _ = self._answerer.candidates(request)
        seen_h = histories.seen(self.dataset.target_kind).item_h
        return place(self._answerer.ranker.score(histories)[0], row, seen_h, allowed_i)

    # -- items

    @cached_property
    def item_vectors(self) -> torch.Tensor:
        """Items as vectors whose cosine is similarity, (items, d): the model's, or the data's."""
        if isinstance(self.model, HasItemVectors):
            return self.model.item_vectors().float()
        return co_occurrence_vectors(self.dataset)

    @cached_property
    def _nearest(self) -> ItemIndex:
        return ItemIndex(lambda: self.item_vectors)

    def similar(self, item: Id, k: int = K, *, approximate: bool = False) -> pl.DataFrame:
        """Return the k items nearest to one, by cosine of item vectors.

        The vectors are the model's, or where it has none those of who interacted with both.

        Args:
            item: An item.
            k: How many.
            approximate: Whether an index may miss some, among 200,000 items and more.  The first
                call builds it, for many to come.

        Returns:
            A frame with item, score (the cosine), rank and the item columns, the nearest first.

        Raises:
            UnknownIdError: Where the item is unknown.
            UsageError: Where k is less than 1, or the index needs usearch and it is missing.
        """
        Request(users=[], k=k)  # refuses a length that is none
        row = int(self.dataset.items.rows([one_id(item, "item")])[0])
        item_k, cosine_k = self.neighbours(row, k, approximate)
        table = self._item_columns(item_k.numpy())
        table.insert_column(1, pl.Series("score", cosine_k.numpy()))
        return table.insert_column(
            2, pl.Series("rank", np.arange(1, len(table) + 1, dtype=np.int32))
        )

    def neighbours(
        self, row: int, k: int, approximate: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `similar` lists, in item rows: rows and cosines of the k nearest, (k,) each.

        Args:
            row: Row of an item.
            k: How many.
            approximate: As in `similar`.
        """
        cosines = self.model.cosines if isinstance(self.model, ComparesItems) else None
        return self._nearest.of(row, k, cosines, approximate=approximate)

    def with_items(self, items: Any) -> Recommender:
        """Return the same with further items that nobody has interacted with, nothing retrained.

        Args:
            items: A file or a frame of new items, as `read_items` takes it; the model places them
                by their columns.

        Raises:
            ModelError: Where the model cannot tell an item from its columns.
            UsageError: Where an id is there already, or a cell does not fit its column.
        """
        model = self._able(PlacesNewItems, "places new items")
        dataset = self.dataset.add_items(read_items(items))
        new = dataset.item_frame[len(self.dataset.items) :]
        return replace(self, model=model.with_items(new), dataset=dataset)

    def save(self, folder: str | Path) -> Path:
        """Write the bundle; an older one in the same folder is replaced in one step.

        Args:
            folder: Where; it is made, or holds a bundle.

        Raises:
            BundleError: Where the folder holds something else, or cannot be written.
        """
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
