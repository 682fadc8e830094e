"""The items as people look for them: by words, by columns, on a map.

A catalogue knows nothing of users and of the model: vectors for the map are handed to it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch

from foretaste.data.interactions import IntArray

MAX_LABELS = 200  # a text column with more distinct words between "|" is free text
NAMES = ("title", "name", "label")  # columns that name an item, where there are such


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items and their columns.

    Attributes:
        ids: Ids as text, in the order of the rows.
        table: One line for each item; the first column is the id as the data have it.
        item_r: Item rows of R interactions, (R,).
    """

    ids: list[str]
    table: pl.DataFrame
    item_r: IntArray

    def prepare(self) -> Catalogue:
        """Build now what would otherwise be built for the first request that needs it.

        Returns:
            The catalogue itself, with every cached property in place.
        """
        for name, attribute in vars(Catalogue).items():
            if isinstance(attribute, cached_property):
                getattr(self, name)
        return self

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each id."""
        return {name: row for row, name in enumerate(self.ids)}

    @cached_property
    def fields(self) -> list[dict[str, Any]]:
        """The columns of each item, as JSON values."""
        table = self.table.drop(self.table.columns[0])
        readable = table.with_columns(pl.selectors.temporal().dt.to_string("iso"))
        return readable.to_dicts() if table.width else [{}] * len(self.ids)

    @cached_property
    def written(self) -> list[str]:
        """The id and the columns of each item as JSON text, but for the closing brace."""
        return [
            json.dumps({"id": name, "fields": fields})[:-1]
            for name, fields in zip(self.ids, self.fields, strict=True)
        ]

    @cached_property
    def label(self) -> pl.Series:
        """The name of each item: its title, or else its first text column, or else its id."""
        text = [name for name in self.table.columns[1:] if self.table.schema[name] == pl.String]
        named = [name for name in text if name.lower() in NAMES]
        chosen = [*named, *(c["name"] for c in self.columns if c["kind"] == "text")]
        ids = pl.Series(self.ids, dtype=pl.String)
        return self.table[chosen[0]].fill_null(ids) if chosen else ids

    @cached_property
    def group(self) -> list[str | None]:
        """The first label of each item, such as its genre; None where items have no labels."""
        lists = [c["name"] for c in self.columns if c["kind"] == "labels"]
        if not lists:
            return [None] * len(self.ids)
        return self.table[lists[0]].str.split("|").list.first().replace("", None).to_list()

    @cached_property
    def columns(self) -> list[dict[str, Any]]:
        """Each item column: name and kind, with its range or its labels."""
        return [_column(series) for series in self.table.get_columns()[1:]]

    @cached_property
    def popularity(self) -> IntArray:
        """The number of interactions of each item."""
        return np.bincount(self.item_r, minlength=len(self.ids))

    def search(self, text: str, allowed_i: torch.Tensor | None) -> list[int]:
        """Return the rows of the items whose label contains every word.

        Labels that start with the text come first, then those in which a word starts with it; among
        equals the popular items come first.

        Args:
            text: Words, in any case; "" for every item.
            allowed_i: The items that may be found, (items,) bool; None for all.
        """
        words = text.lower().split()
        name = self.label.str.to_lowercase()
        found = pl.Series(np.ones(len(name), bool) if allowed_i is None else allowed_i.numpy())
        for word in words:
            found &= name.str.contains(word, literal=True)
        padded = pl.Series([" "], dtype=pl.String) + name.str.replace_all(r"[^\w]+", " ")
        whole = " ".join(words)
        quality = name.str.starts_with(whole).cast(pl.Int8) * 2
        quality += padded.str.contains(" " + whole, literal=True).cast(pl.Int8)
        rows = found.arg_true().to_numpy()
        order = np.lexsort((rows, -self.popularity[rows], -quality.to_numpy()[rows]))
        return rows[order].tolist()

    def places(self, vector_id: torch.Tensor) -> list[dict[str, Any]]:
        """Return a place on the plane for every item, as JSON values; x and y lie in -1 to 1.

        The plane is that of the first two principal components of the unit vectors.

        Args:
            vector_id: Vectors of the items, (items, d).
        """
        unit_id = torch.nn.functional.normalize(vector_id.float(), dim=1)
        centred_id = unit_id - unit_id.mean(dim=0)
        # eigenvectors of a d x d matrix: one of items x items would not fit into memory
        axis_d2 = torch.linalg.eigh(centred_id.T @ centred_id).eigenvectors[:, -2:].flip(1)
        axis_d2 *= torch.sign(axis_d2.gather(0, axis_d2.abs().argmax(dim=0, keepdim=True)))
        place_i2 = centred_id @ axis_d2
        place_i2 = place_i2 / place_i2.abs().amax(dim=0).clamp(min=1e-12)
        lines = zip(self.ids, place_i2.tolist(), self.label, self.group, strict=True)
        return [
            {"id": i, "x": round(xy[0], 4), "y": round(xy[-1], 4), "label": label, "group": group}
            for i, xy, label, group in lines
        ]


def _column(series: pl.Series) -> dict[str, Any]:
    """Return the name and kind of a column, with its range or its labels."""
    if series.dtype.is_numeric():
        known = series.drop_nulls()
        ends = {"min": float(known.min()), "max": float(known.max())} if len(known) else {}  # type: ignore[arg-type]
        return {"name": series.name, "kind": "number", **ends}
    if series.dtype == pl.String:
        labels = series.drop_nulls().str.split("|").explode().unique().drop_nulls().sort()
        if len(labels) <= min(MAX_LABELS, max(2, len(series) // 2)):
            return {"name": series.name, "kind": "labels", "labels": labels.to_list()}
    return {"name": series.name, "kind": "text"}
