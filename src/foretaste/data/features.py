"""Features of items and users: how the columns of a table are read as numbers, learned once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

Column = dict[str, Any]  # JSON: a bundle keeps it

BINS = 16  # of a numeric column, beside its linear effect
LEAST_SHARE, LEAST_LINES = 0.002, 5  # a label must be on so many lines to become a feature


def learn_columns(table: pl.DataFrame | None) -> list[Column]:
    """How to read each column but the ids: as labels split at "|", or as a number.

    Labels on few lines are left out, and with them titles and other free text.
    """
    learned: list[Column] = []
    for series in [] if table is None else table.get_columns()[1:]:
        if series.dtype.is_numeric() or series.dtype.is_temporal() or series.dtype == pl.Boolean:
            x = _numbers(series)
            x = x[np.isfinite(x)]
            if len(x) and x.min() < x.max():
                edges = np.unique(np.quantile(x, np.arange(1, BINS) / BINS)).tolist()
                number = {"mean": float(x.mean()), "std": float(x.std()), "edges": edges}
                learned.append({"name": series.name, **number})
        elif series.dtype in (pl.String, pl.Categorical, pl.Enum):
            least = max(LEAST_LINES, LEAST_SHARE * len(series))
            counts = _labels(series)["label"].value_counts().filter(pl.col("count") >= least)
            if len(counts):
                learned.append({"name": series.name, "labels": counts["label"].sort().to_list()})
    return learned


def encode(table: pl.DataFrame | None, columns: Sequence[Column], rows: int) -> np.ndarray:
    """A table as numbers: (rows, features), float32.

    A line's labels of one column have unit length together; a number is standardised, and one of
    its bins is marked.  Zeros where a value is missing or was never learned.
    """
    parts = [np.zeros((rows, 0), dtype=np.float32)]
    for column in columns:
        if table is None or column["name"] not in table.columns:
            width = len(column["labels"]) if "labels" in column else 2 + len(column["edges"])
            parts.append(np.zeros((rows, width), dtype=np.float32))
        elif "labels" in column:
            parts.append(_encode_labels(table[column["name"]], column))
        else:
            parts.append(_encode_number(table[column["name"]], column))
    return np.concatenate(parts, axis=1)


def _encode_labels(series: pl.Series, column: Column) -> np.ndarray:
    place = {label: c for c, label in enumerate(column["labels"])}
    lines = _labels(series).filter(pl.col("label").is_in(column["labels"]))
    line_n = lines["line"].to_numpy()
    marks = np.zeros((len(series), len(place)), dtype=np.float32)
    marks[line_n, [place[label] for label in lines["label"]]] = 1.0
    return marks / np.sqrt(marks.sum(axis=1, keepdims=True).clip(min=1))


def _encode_number(series: pl.Series, column: Column) -> np.ndarray:
    x, edges = _numbers(series), column["edges"]
    marks = np.zeros((len(series), 2 + len(edges)), dtype=np.float32)
    known = np.isfinite(x)
    marks[known, 0] = (x[known] - column["mean"]) / column["std"]
    marks[known, 1 + np.searchsorted(edges, x[known], side="right")] = 1.0
    return marks


def _numbers(series: pl.Series) -> np.ndarray:
    """The values as float64; NaN for a null."""
    return series.to_physical().cast(pl.Float64, strict=False).to_numpy()


def _labels(series: pl.Series) -> pl.DataFrame:
    """One row for each label of each line: columns line and label."""
    listed = series.cast(pl.String, strict=False).str.split("|")
    lines = pl.DataFrame({"line": np.arange(len(series)), "label": listed})
    return lines.explode("label").drop_nulls().filter(pl.col("label") != "")
