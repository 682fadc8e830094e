"""Similarity of content, between the text or labels of an item and those of a history."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import torch
from scipy import sparse
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.features import Column, ItemFeatures, labels_of, parsed
from foretaste.data.histories import Histories
from foretaste.errors import ModelError
from foretaste.models.base import Shape
from foretaste.models.likes import LearnsFromLikes
from foretaste.training.engine import Engine

FACTORS = 64  # of `item_vectors`
CAST = 3  # the first names of a film's cast count


@dataclass(eq=False)
class ContentModel(LearnsFromLikes):
    """Score an item by its mean cosine to what the user liked, in features of unit length.

    It learns from the table of items alone, so that a catalogue without interactions is enough, and
    does not know what other users like, nor how good an item is.
    """

    needs_interactions: ClassVar[bool] = False

    columns_: list[Column] = field(init=False, repr=False)
    pointer_i_: Tensor = field(init=False, repr=False)
    feature_n_: Tensor = field(init=False, repr=False)
    weight_n_: Tensor = field(init=False, repr=False)

    @abstractmethod
    def described(self, table: pl.DataFrame) -> tuple[pl.DataFrame, str]:
        """Return the part of an item table that the model reads.

        Args:
            table: Items: a column of ids, then their other columns.

        Returns:
            The ids and one column, and the kind of that column ("text", "sentence" or "labels").

        Raises:
            ModelError: The table has no such column.
        """

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Encode the table of items."""
        self.learn_likes(train)
        described, kind = self.described(train.item_frame)
        name = described.columns[1]
        self.columns_ = ItemFeatures.learn(described, {name: kind}, least=1).columns
        if not self.columns_:
            raise ModelError(
                f"{self.name}: the column {name!r} says nothing of any item.",
                where=train.name, fix="Join a table of items that does (--items).",
            )  # fmt: skip
        self._keep(ItemFeatures(self.columns_).encode(described))
        return self

    def score(self, histories: Histories) -> Tensor:
        """Return mean cosines weighted by the likes, zero where nothing is liked: (B, items)."""
        X_if, X_fi = self._features
        L_bi = self.likes(histories, X_if.shape[0])
        total_b = np.maximum(L_bi.sum(axis=1).A1, 1e-12).astype(np.float32)
        profile_bf = sparse.diags_array(1 / total_b) @ (L_bi @ X_if)
        return torch.from_numpy((profile_bf @ X_fi).toarray())

    def cosines(self, item: int) -> Tensor:
        """Return the cosines of one item to every item: (items,)."""
        X_if, X_fi = self._features
        return torch.from_numpy((X_if[item : item + 1] @ X_fi).toarray()[0])

    def item_vectors(self) -> Tensor:
        """Return the leading directions of the features (latent semantic analysis): (items, d)."""
        X_if, _ = self._features
        if min(X_if.shape) <= FACTORS:
            return torch.from_numpy(X_if.toarray())
        start = np.ones(min(X_if.shape), dtype=np.float32)  # not drawn, so that vectors repeat
        U_ik, S_k, _ = sparse.linalg.svds(X_if, FACTORS, v0=start)
        return torch.from_numpy(np.ascontiguousarray(U_ik * S_k))

    def with_items(self, table: pl.DataFrame) -> Self:
        """Return a copy that also scores new items, by their column."""
        new_if = ItemFeatures(self.columns_).encode(self.described(table)[0])
        grown = copy.copy(self)
        grown._keep(sparse.vstack([self._features[0], new_if], format="csr"))
        return grown

    @cached_property
    def _features(self) -> tuple[Any, Any]:
        """Return the features of the items (items, f), and their transpose: CSR, single."""
        arrays = (self.weight_n_.numpy(), self.feature_n_.numpy(), self.pointer_i_.numpy())
        shape = (len(self.pointer_i_) - 1, ItemFeatures(self.columns_).width)
        X_if = sparse.csr_matrix(arrays, shape)
        return X_if, X_if.T.tocsr()

    def features_if(self) -> Any:
        """What is known of each item: CSR (items, features), single."""
        return self._features[0]

    def _keep(self, X_if: Any) -> None:
        """Keep a CSR matrix of features as the tensors that it consists of."""
        self.pointer_i_ = torch.from_numpy(X_if.indptr)
        self.feature_n_ = torch.from_numpy(X_if.indices)
        self.weight_n_ = torch.from_numpy(X_if.data)

    def cost(self, shape: Shape) -> Cost:
        """Estimate the reading of a few dozen words of each item."""
        return Cost(seconds=0.5 + 1e-4 * shape.items, memory_bytes=5e7 + 2_000 * shape.items)


@dataclass(eq=False)
class PlotSimilarity(ContentModel):
    """Score an item by the mean cosine of its text to the texts of what the user liked.

    It does not know what other users like.  TF-IDF knows neither synonyms nor the order of words,
    and its stop words are English.

    Args:
        column: Column of the text in the item table.
        encoder: "tfidf" for words by TF-IDF; "sentence" for vectors of a network
            (all-MiniLM-L6-v2, which needs an extra to be installed).

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> plots = ["A detective", "Two friends", "Another detective"]
        >>> films = pl.DataFrame({"item": ["x", "y", "z"], "overview": plots})
        >>> recommender = ft.fit(ft.PlotSimilarity(), ft.items_only(films))
        >>> recommender.recommend(history=["x"], k=1)["item"].item()
        'z'
    """

    name: ClassVar[str] = "plot-similarity"

    column: str = "overview"
    encoder: Literal["tfidf", "sentence"] = "tfidf"

    def described(self, table: pl.DataFrame) -> tuple[pl.DataFrame, str]:
        """Return the column of the text."""
        if self.column not in table.columns:
            raise ModelError(
                f"{self.name} reads the column {self.column!r}, and the items have none.",
                fix=f"Set column to one of {', '.join(table.columns[1:]) or 'theirs'}, or join a "
                "table of items that has it (--items).",
            )
        text = pl.col(self.column).cast(pl.String)
        kind = "text" if self.encoder == "tfidf" else "sentence"
        return table.select(table.columns[0], text), kind

    def cost(self, shape: Shape) -> Cost:
        """Estimate the reading of texts; a network takes some 10 ms for each."""
        cost = super().cost(shape)
        reads = 1e-2 * shape.items if self.encoder == "sentence" else 0.0
        return Cost(cost.seconds + reads, cost.memory_bytes)


@dataclass(eq=False)
class MetadataSimilarity(ContentModel):
    """Score an item by the mean cosine of its labels to the labels of what the user liked.

    It does not know what other users like, and labels that are spelled differently differ.  Of a
    column `crew` only directors count, and of `cast` the first three names.

    Args:
        columns: Columns of labels in the item table; those that it lacks are left out, with a note.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> genres = ["Drama", "Comedy", "Drama"]
        >>> films = pl.DataFrame({"item": ["x", "y", "z"], "genres": genres})
        >>> recommender = ft.fit(ft.MetadataSimilarity(), ft.items_only(films))
        >>> recommender.recommend(history=["x"], k=1)["item"].item()
        'z'
    """

    name: ClassVar[str] = "metadata-similarity"

    columns: tuple[str, ...] = ("keywords", "genres", "cast", "crew")
    notes_: list[str] = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Encode the labels of the items, and note which columns are absent."""
        present = train.item_frame.columns[1:]
        absent = [name for name in self.columns if name not in present]
        if len(absent) == len(self.columns):
            raise ModelError(
                f"{self.name} reads {', '.join(self.columns)}, and the items have none of them.",
                where=train.name, fix="Join a table of items that has (--items), or set columns.",
            )  # fmt: skip
        self.notes_ = [f"{self.name} does without {', '.join(absent)}: no such column."] * bool(
            absent
        )
        return super().fit(train, engine)

    def described(self, table: pl.DataFrame) -> tuple[pl.DataFrame, str]:
        """Return all labels of an item in one column, each after the name of its own column."""
        lines = [self._labels(table[name]) for name in self.columns if name in table.columns]
        label_i = (
            pl.concat(lines, how="vertical")
            .group_by("line")
            .agg("label")
            .join(pl.DataFrame({"line": np.arange(len(table))}), on="line", how="right")
            .sort("line")["label"]
        )
        return pl.DataFrame({"item": table[table.columns[0]], "metadata": label_i}), "labels"

    def _labels(self, series: pl.Series) -> pl.DataFrame:
        """Return the labels of one column, each with its line and after the column's name."""
        name = series.name
        if name == "crew" and series.dtype == pl.String:
            series = pl.Series(name, map(_directors, series), dtype=pl.List(pl.String))
        lines = labels_of(series)
        if name == "cast":
            lines = lines.filter(pl.int_range(pl.len()).over("line") < CAST)
        return lines.with_columns(label=pl.lit(f"{name}: ") + pl.col("label").str.to_lowercase())


def _directors(cell: str | None) -> list[str]:
    """Return the names of the directors in a cell of the column `crew`."""
    return [
        str(person.get("name", ""))
        for person in parsed(cell)
        if isinstance(person, dict) and person.get("job") == "Director"
    ]
