"""The items as people look for them: by words, by columns, on a map."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch

from foretaste.data.interactions import IntArray

MOST_LABELS = 200  # a text column with more distinct words between "|" is free text
NAMES = ("title", "name", "label")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items and their columns.

    ids: as text, in row order.  table: one line for each, first column the id as the data has it.
    item_r: items of interactions.
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
        """The row of each external id."""
        return {name: row for row, name in enumerate(self.ids)}

    @cached_property
    def fields(self) -> list[dict[str, Any]]:
        """The columns of each item, as JSON values."""
        table = self.table.drop(self.table.columns[0])
        readable = table.with_columns(pl.selectors.temporal().dt.to_string("iso"))
        return readable.to_dicts() if table.width else [{}] * len(self.ids)

    @cached_property
    def written(self) -> list[str]:
        """The id and the columns of each item as JSON, but for the closing brace."""
        return [
            json.dumps({"id": name, "fields": fields})[:-1]
            for name, fields in zip(self.ids, self.fields, strict=True)
        ]

    @cached_property
    def label(self) -> pl.Series:
        """What people call each item."""
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
        """Interactions of each item."""
        return np.bincount(self.item_r, minlength=len(self.ids))

    def search(self, text: str, allowed_i: torch.Tensor | None) -> list[int]:
        """Rows of the items that contain every word: those that start with the text first."""
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
        """Every item on the plane that keeps most of the vectors' variance, within -1 to 1."""
        unit_id = torch.nn.functional.normalize(vector_id.float(), dim=1)
        centred_id = unit_id - unit_id.mean(dim=0)
        # two axes at most: of d x d, never of items x items
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
    if series.dtype.is_numeric():
        known = series.drop_nulls()
        ends = {"min": float(known.min()), "max": float(known.max())} if len(known) else {}  # type: ignore[arg-type]
        return {"name": series.name, "kind": "number", **ends}
    if series.dtype == pl.String:
        labels = series.drop_nulls().str.split("|").explode().unique().drop_nulls().sort()
        if len(labels) <= min(MOST_LABELS, max(2, len(series) // 2)):
            return {"name": series.name, "kind": "labels", "labels": labels.to_list()}
    return {"name": series.name, "kind": "text"}
